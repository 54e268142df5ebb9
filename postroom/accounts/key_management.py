"""Keys managed at run time: issued, rotated, revoked; each change and its audit entry in one transaction."""

from __future__ import annotations

import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from postroom.accounts.vault import Vault
from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.api_key import (
    AS_IN_THE_FILE,
    LIVE,
    OF_AN_OWNER,
    TEST,
    ApiKey,
    Network,
    Scope,
)
from postroom.core.audit import Actor
from postroom.core.clock import Clock, Instant, system_clock
from postroom.core.errors import Conflict, InvalidSubmission, NotFound, NotPermitted, StoreUnavailable
from postroom.store.issued_keys import ALL, IssuedKey, IssuedKeys
from postroom.store.store import Store
from postroom.store.transaction import Transaction

_RANDOM_OCTETS: Final = 24  # 192 bits
_HINT: Final = 4  # characters
_LONGEST_NAME: Final = 100
_MOST_PATTERNS: Final = 1000


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key as a person wants it, before it is checked."""

    name: str
    scopes: frozenset[Scope] = AS_IN_THE_FILE
    is_test: bool = False
    allowed_recipients: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None
    daily_limit: int | None = None
    expires_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was issued: `text` is the key itself, which is shown this once."""

    text: str
    issued: IssuedKey


class KeyManagement:
    """Issues, rotates and revokes keys for a person or a program (`Actor`)."""

    def __init__(self, store: Store, vault: Vault, clock: Clock = system_clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock

    def issue_for_account(
        self, account_uid: str, wish: KeyWish, actor: Actor, *, source: str = "api"
    ) -> NewKey:
        """Issue a key that acts for an account. Raises InvalidSubmission, NotPermitted, Conflict, NotFound."""
        text, key = self._new(wish, actor, of_an_owner=True)

        def work(transaction: Transaction) -> NewKey:
            if (found := transaction.accounts.by_uid(account_uid)) is not None:
                transaction.accounts.lock(found.account.id)  # its deletion ends the keys that it has by then
            stored = transaction.accounts.by_uid(account_uid)
            if stored is None:
                raise NotFound("there is no account with this id", field="id")
            if stored.account.closing_at is not None:
                raise Conflict(f"{stored.account.email} is being deleted")
            owned = replace(key, account_id=stored.account.id)
            return self._store_new(transaction, text, owned, actor, source, stored.account.email)

        return self._store.write(work)

    def issue_for_pool(self, pool_id: int, wish: KeyWish, actor: Actor, *, source: str = "api") -> NewKey:
        """Issue a key that acts for a pool, by the id of its row. Raises NotFound where it was deleted meanwhile."""
        text, key = self._new(wish, actor, of_an_owner=True)
        owned = replace(key, pool_id=pool_id)

        def work(transaction: Transaction) -> NewKey:
            if not transaction.pools.hold(pool_id):
                raise NotFound("there is no pool with this id", field="id")
            return self._store_new(transaction, text, owned, actor, source, "a pool")

        return self._store.write(work)

    def issue_for_installation(self, wish: KeyWish, actor: Actor, *, source: str = "api") -> NewKey:
        """Issue a key of the installation, which acts on all accounts as far as its scopes go."""
        text, key = self._new(wish, actor, of_an_owner=False)
        return self._store.write(
            lambda transaction: self._store_new(transaction, text, key, actor, source, "the installation")
        )

    def _new(self, wish: KeyWish, actor: Actor, *, of_an_owner: bool) -> tuple[str, ApiKey]:
        self._check(wish, actor, of_an_owner=of_an_owner)
        text = (TEST if wish.is_test else LIVE) + secrets.token_urlsafe(_RANDOM_OCTETS)
        key = ApiKey(
            digest=self._vault.own_digest(text),
            uid=str(uuid.uuid4()),
            name=wish.name.strip(),
            scopes=wish.scopes,
            is_test=wish.is_test,
            allowed_recipients=_patterns(wish.allowed_recipients),
            networks=wish.networks,
            daily_limit=wish.daily_limit,
            expires_at=wish.expires_at,
        )
        return text, key

    def _check(self, wish: KeyWish, actor: Actor, *, of_an_owner: bool) -> None:
        name = wish.name.strip()
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise InvalidSubmission(
                f"give it a name of 1 to {_LONGEST_NAME} printable characters", field="name"
            )
        if not wish.scopes:
            raise InvalidSubmission("give it at least one scope", field="scopes")
        if of_an_owner and not wish.scopes <= OF_AN_OWNER:
            raise InvalidSubmission(
                "`accounts` and `admin` belong to keys of the installation", field="scopes"
            )
        if not actor.is_admin and not wish.scopes <= actor.scopes | OF_AN_OWNER:
            raise NotPermitted("a key makes no key with more scopes than it has itself", field="scopes")
        if wish.daily_limit is not None and not 0 < wish.daily_limit <= 1_000_000_000:
            raise InvalidSubmission("must be between 1 and 1000000000", field="daily_limit")
        if wish.expires_at is not None and wish.expires_at <= self._clock():
            raise InvalidSubmission("must be a time in the future", field="expires_at")

    def _store_new(
        self, transaction: Transaction, text: str, key: ApiKey, actor: Actor, source: str, owner: str
    ) -> NewKey:
        now = self._clock()
        key_id = transaction.issued_keys.issue(key, hint=text[-_HINT:], source=source, now=now)
        told = {"owner": owner, "scopes": sorted(scope.value for scope in key.scopes), "id": key.uid}
        transaction.audit.append(actor, "key.issue", key.name, now, told)
        issued = IssuedKey(replace(key, id=key_id), text[-_HINT:], source, now, None, None)
        return NewKey(text, issued)

    def page(self, most: int, *, before: int = ALL, account_uid: str | None = None) -> list[IssuedKey]:
        """Return keys that were not revoked, newest first; of one account where it is named. Raises NotFound."""

        def look(transaction: Transaction) -> list[IssuedKey]:
            account_id = None
            if account_uid is not None:
                stored = transaction.accounts.by_uid(account_uid)
                if stored is None:
                    raise NotFound("there is no account with this id", field="account")
                account_id = stored.account.id
            return transaction.issued_keys.page(most, before=before, account_id=account_id)

        return self._store.read(look)

    def get(self, uid: str) -> IssuedKey:
        """Return a key that was not revoked. Raises NotFound."""
        return _existing(self._store.read(IssuedKeys.by_uid, uid))

    def revoke(self, uid: str, actor: Actor) -> None:
        """Have a key stop working: no request that begins after this returned succeeds. Raises NotFound, NotPermitted."""

        def work(transaction: Transaction) -> None:
            now = self._clock()
            found = _existing(transaction.issued_keys.by_uid(uid))
            _check_may_touch(found, actor)
            transaction.issued_keys.stop(found.key.id or 0, now)
            transaction.audit.append(actor, "key.revoke", found.key.name, now, {"id": uid})

        self._store.write(work)
        self._wait_for_acceptances()

    def _wait_for_acceptances(self) -> None:
        """Wait for what is being accepted with a stopped key; for a process that hangs, only as long as a lock may take."""
        with suppress(StoreUnavailable):  # retention does it again
            self._store.write(IssuedKeys.revoke_stopped)

    def rotate(self, uid: str, actor: Actor, overlap: int = 0) -> NewKey:
        """Issue a key like an old one, which works for `overlap` microseconds more. Raises NotFound, NotPermitted."""
        found = self.get(uid)
        _check_may_touch(found, actor)
        text = (TEST if found.key.is_test else LIVE) + secrets.token_urlsafe(_RANDOM_OCTETS)
        fresh = replace(found.key, id=None, uid=str(uuid.uuid4()), digest=self._vault.own_digest(text))

        def work(transaction: Transaction) -> NewKey:
            now = self._clock()
            old = _existing(transaction.issued_keys.by_uid(uid))
            if overlap:
                transaction.issued_keys.expire(old.key.id or 0, now + overlap)
            else:
                transaction.issued_keys.stop(old.key.id or 0, now)
            key_id = transaction.issued_keys.issue(fresh, hint=text[-_HINT:], source=old.source, now=now)
            told = {"id": uid, "new": fresh.uid, "overlap_seconds": overlap // 1_000_000}
            transaction.audit.append(actor, "key.rotate", old.key.name, now, told)
            return NewKey(
                text, IssuedKey(replace(fresh, id=key_id), text[-_HINT:], old.source, now, None, None)
            )

        rotated = self._store.write(work)
        if not overlap:
            self._wait_for_acceptances()
        return rotated


def _existing(found: IssuedKey | None) -> IssuedKey:
    if found is None or found.revoked_at is not None or found.source == "admin":
        raise NotFound("there is no key with this id", field="id")
    return found


def _check_may_touch(found: IssuedKey, actor: Actor) -> None:
    """Raise NotPermitted where an actor would rotate or revoke a key with more scopes than it has."""
    if not actor.is_admin and not found.key.scopes <= actor.scopes | OF_AN_OWNER:
        raise NotPermitted("this key has more scopes than yours", field="key")


def _patterns(given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return allowed recipients as they are compared: addresses and `*@domain`, in small letters."""
    if given is None:
        return None
    if not 0 < len(given) <= _MOST_PATTERNS:
        raise InvalidSubmission(
            f"give 1 to {_MOST_PATTERNS} addresses or patterns", field="allowed_recipients"
        )
    return tuple(_pattern(text) for text in given)


def _pattern(text: str) -> str:
    local, at, domain = text.strip().rpartition("@")
    try:
        if at and local == "*":
            return "*@" + parse_mailbox(f"x@{domain}").path.rpartition("@")[2].lower()
        return parse_mailbox(text).path.lower()
    except InvalidAddress:
        raise InvalidSubmission(
            f"{text!r} is neither an address nor a pattern such as *@example.com", field="allowed_recipients"
        ) from None
