"""Aliases of accounts: further addresses that an account may send as, and whether that was shown to work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun


class Alias(NamedTuple):
    """An address that an account may name as its From. `verified_by`: message or admin; None: not verified."""

    email: str
    verified_at: Instant | None
    verified_by: str | None


class Aliases(Noun):
    def of(self, account_id: int) -> list[Alias]:
        return self._tx.rows(Alias, "aliases_of", account_id=account_id)

    def owners(self, email: str) -> list[int]:
        """Return the accounts that have this alias."""
        return self._tx.column(int, "alias_owners", email=email)

    def replace(self, account_id: int, emails: Iterable[str]) -> None:
        """Let an account have exactly these aliases; those that it had keep what is known of them."""
        wanted = set(emails)
        present = {alias.email for alias in self.of(account_id)}
        for email in sorted(present - wanted):
            self._tx.change("remove_alias", account_id=account_id, email=email)
        for email in sorted(wanted - present):
            self._tx.change("add_alias", account_id=account_id, email=email)

    def verify(self, account_id: int, email: str, *, by: str, now: Instant) -> bool:
        """Note that an alias works, as a message or an admin has shown; False where there is no such alias."""
        return bool(
            self._tx.change("verify_alias", account_id=account_id, email=email, verified_by=by, now=now)
        )
