"""Who is calling: the key in the header or the body, and the account that it belongs to."""

from __future__ import annotations

from typing import Any

from flask import Request

from postroom.accounts.csv_sync import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import Account
from postroom.core.errors import MalformedSubmission, NotAuthenticated, StoreUnavailable
from postroom.store.store import Store
from postroom.web.hub import Hub

_WHERE = "give it as `key` in the body, as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`"


class Doorkeeper:
    """Knows the keys. Its answers say nothing about how close a wrong key was."""

    def __init__(self, store: Store, vault: Vault, hub: Hub) -> None:
        self._ring = ApiKeys(store, vault)
        self._hub = hub

    def account(self, key: str | None) -> Account:
        """Return the key's account. Raises NotAuthenticated."""
        if not key:
            raise NotAuthenticated(f"there is no key in this request: {_WHERE}", field="key")
        self._refresh()
        account = self._ring.account_of(key)
        if account is None:
            raise NotAuthenticated("this key is not known here", field="key")
        return account

    def is_used(self, key: str) -> bool:
        """Whether the key works and has been used with success before."""
        self._refresh()
        return self._ring.is_used(key)

    def is_used_elsewhere(self, key: str) -> bool:
        """The same, asked of the database: another process may know more. It takes as long for every key."""
        try:
            return self._hub.read(lambda: self._ring.is_used_elsewhere(key))
        except StoreUnavailable:
            return False

    def never_used(self, key: str | None) -> bytes | None:
        """Return the digest of a working key that has not been used with success, else None."""
        return self._ring.never_used(key) if key else None

    def note_used(self, digest: bytes) -> None:
        """Remember that a key was used with success, once the database knows."""
        self._ring.note_used(digest)

    def _refresh(self) -> None:
        if not self._ring.is_fresh:
            self._hub.read(self._ring.refresh)

    def bucket(self, key: str) -> str:
        """Return a name for the key that a rate limiter's storage may see."""
        return self._ring.digest(key).hex()


def header_key(request: Request) -> str | None:
    """Return the key given in a header, or None. Raises MalformedSubmission for two that differ."""
    bearer = None
    authorization = request.headers.get("Authorization", "")
    if authorization[:6].lower() == "bearer":
        bearer = authorization[6:].strip(" ") or None
        if bearer is not None and (authorization[6] != " " or "\t" in bearer):
            message = "must be `Bearer KEY`, with one space"
            raise MalformedSubmission(
                f"the header Authorization {message}", errors=(("Authorization", message),)
            )
    given = request.headers.get("X-API-Key") or None
    return _one(bearer, given)


def presented_key(request: Request, document: dict[str, Any]) -> str | None:
    """Return the key of a request that has a JSON body. Raises MalformedSubmission for two that differ, or no string."""
    in_body = document.get("key")
    if in_body is not None and not isinstance(in_body, str):
        raise MalformedSubmission("the key must be a string", errors=(("key", "must be a string"),))
    return _one(header_key(request), in_body or None)


def _one(first: str | None, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        message = "two different keys were given; send only one"
        raise MalformedSubmission(message, errors=(("key", message),))
    return first if first is not None else second
