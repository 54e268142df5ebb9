"""API keys in the database, stored as digests: granted, revoked, marked as used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun


class FileKey(NamedTuple):
    """A working key of data.csv; `own_digest`: under the installation's own key, None before it was set up."""

    id: int
    digest: bytes
    own_digest: bytes | None
    account_id: int
    used_at: Instant | None


class Keys(Noun):
    def grant(
        self,
        account_id: int,
        digest: bytes,
        *,
        source: str,
        now: Instant,
        own_digest: bytes | None = None,
    ) -> None:
        """Let a key work for an account, under its digests: by the secret key, and by the installation's own key."""
        self._tx.note_keys_changed(account_id=account_id)
        if own_digest is not None and self._tx.change(
            "grant_known_key", account_id=account_id, digest=digest, own_digest=own_digest
        ):
            return
        self._tx.change(
            "grant_key", account_id=account_id, digest=digest, own_digest=own_digest, source=source, now=now
        )

    def note_used(self, digest: bytes, now: Instant) -> None:
        """Note that a key was used with success; only the first time counts."""
        self._tx.change("note_key_used", digest=digest, now=now)

    def revoke_except(self, digests: Iterable[bytes], *, source: str, now: Instant) -> int:
        """Revoke every key of this source that is not among `digests`; return how many."""
        keep = set(digests)
        gone = [
            digest for digest in self._tx.column(bytes, "keys_of_source", source=source) if digest not in keep
        ]
        if gone:
            self._tx.note_keys_changed()
        for digest in gone:
            self._tx.change("revoke_key", digest=digest, now=now)
        return len(gone)

    def owner_of(self, digests: Iterable[bytes]) -> int | None:
        """Return the row of the account that a key of data.csv works for, by any of its digests; None: it does not work."""
        found = (self._tx.value(int, "owner_of_file_key", digest=digest) for digest in digests)
        return next((account_id for account_id in found if account_id is not None), None)

    def count_of_account(self, account_id: int) -> int:
        """Count the working keys of data.csv of an account."""
        return self._tx.value(int, "count_keys_of_account", account_id=account_id) or 0

    def revoke_of_account(self, account_id: int, now: Instant) -> int:
        """Revoke every key of data.csv of an account; return how many."""
        self._tx.note_keys_changed(account_id=account_id)
        return self._tx.count_changed("revoke_keys_of_account", account_id=account_id, now=now)

    def move(self, digest: bytes, own_digest: bytes) -> None:
        """Have a key be known by its digest under the installation's own key too, which outlives the secret key."""
        self._tx.note_keys_changed()
        self._tx.change("move_file_key", digest=digest, own_digest=own_digest)

    def count_unmoved(self) -> int:
        """Count the working keys that are known by the secret key's digest alone."""
        return self._tx.value(int, "count_unmoved_keys") or 0

    def forget_own_digests(self) -> None:
        """Drop what was digested by the installation's own key, which is lost."""
        self._tx.note_keys_changed()
        self._tx.change("forget_own_digests")

    def active(self) -> dict[bytes, int]:
        """Return the digest of every working key with the id of its account."""
        return {row.digest: row.account_id for row in self.working()}

    def working(self) -> list[FileKey]:
        """Return every working key with its digests."""
        return self._tx.rows(FileKey, "active_keys")

    def working_of(self, account_id: int) -> list[FileKey]:
        """Return the working keys of an account."""
        return self._tx.rows(FileKey, "active_keys_of_account", account_id=account_id)

    def works(self, digest: bytes, account_id: int) -> bool:
        """Whether a key, by either digest, works for this account."""
        return bool(self._tx.value(int, "file_key_works", digest=digest, account_id=account_id))

    def is_used(self, digest: bytes) -> bool:
        """Whether there is such a working key, and it has been used with success."""
        return bool(self._tx.value(int, "key_is_used", digest=digest))
