"""The registry of secrets at rest: where encrypted values stand, what each is called, and the row that it is bound to.

Code that stores another kind of secret adds its place to `Place` (store/sealed_values.py) and here: rotation, its
status and the check at a start go by this list. A test compares it with the columns of the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from postroom.accounts.csv_sync import password_context
from postroom.accounts.digest_key import CONTEXT
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.failpoint import hit
from postroom.store.sealed_values import Place, SealedValue, SealedValues
from postroom.store.store import Store
from postroom.store.transaction import Transaction

_BATCH: Final = 20  # values re-sealed in one transaction
_PAGE: Final = 500  # values read at once
_BEFORE_THE_FIRST: Final = -1

WORDS: Final[Mapping[Place, str]] = {
    Place.CREDENTIAL: "passwords of accounts",
    Place.CLIENT_SECRET: "OAuth2 client secrets",
    Place.GRANT_SECRET: "OAuth2 refresh tokens and private keys",
    Place.ACCESS_TOKEN: "OAuth2 access tokens",
    Place.DIGEST_KEY: "the key that digests API keys",
}


def oauth_context(uid: str, place: Place) -> str:
    """Return the place that a secret of an account's OAuth2 grant is sealed for (`Vault.seal`)."""
    return f"oauth_grant:{uid}:{place.value.partition('.')[2]}"


def context_of(place: Place, uid: str) -> str:
    """Return the context that a value of this place and account is sealed with."""
    match place:
        case Place.CREDENTIAL:
            return password_context(uid)
        case Place.DIGEST_KEY:
            return CONTEXT
        case _:
            return oauth_context(uid, place)


def reseal_all(store: Store, vault: Vault) -> int:
    """Seal every value that opens by the primary key; return how many were not sealed by it before.

    A value that is changed meanwhile stays as it was changed. Killed at any step, it goes on at the next call.
    """
    return sum(_reseal_place(store, vault, place) for place in Place)


def _reseal_place(store: Store, vault: Vault, place: Place) -> int:
    done, after = 0, _BEFORE_THE_FIRST
    while page := store.read(SealedValues.stale, place, vault.beginning, after=after, most=_BATCH):
        hit("secrets.rotate")
        done += store.write(_reseal, vault, place, page)
        hit("secrets.rotate")
        after = page[-1].row_id
    return done


def _reseal(transaction: Transaction, vault: Vault, place: Place, values: list[SealedValue]) -> int:
    values_in = SealedValues(transaction)
    done = 0
    for value in values:
        context = context_of(place, value.uid)
        try:
            text = vault.open_sealed(value.token, context)
        except UndecryptableSecret:
            continue
        done += values_in.replace(place, value, vault.seal(text.reveal(), context))
        hit("secrets.rotate")
    return done


def needing(
    store: Store, vault: Vault, is_wanted: Callable[[bytes], bool], places: Iterable[Place] = Place
) -> dict[Place, list[int]]:
    """Return the rows of the values that are not sealed by the primary key and for which `is_wanted` is true, by place."""
    return {place: _rows_of(store, vault, is_wanted, place) for place in places}


def _rows_of(store: Store, vault: Vault, is_wanted: Callable[[bytes], bool], place: Place) -> list[int]:
    found: list[int] = []
    after = _BEFORE_THE_FIRST
    while page := store.read(SealedValues.stale, place, vault.beginning, after=after, most=_PAGE):
        found += [value.row_id for value in page if is_wanted(bytes(value.token))]
        after = page[-1].row_id
    return found


def needing_former(store: Store, vault: Vault) -> dict[Place, int]:
    """Count the values of each place that the primary key does not open."""
    return {place: len(rows) for place, rows in needing(store, vault, vault.needs_former_key).items()}


def needing_missing(store: Store, vault: Vault) -> dict[Place, list[int]]:
    """Return the rows of values that need a key that is not among the present ones.

    One query, as long as every value is sealed by a present key; what an earlier version encrypted is tried.
    """
    places = {
        Place(found.place)
        for found in store.read(SealedValues.by_key)
        if not vault.has_key_of(bytes(found.begins))
    }
    return needing(store, vault, vault.needs_missing_key, places) if places else {}
