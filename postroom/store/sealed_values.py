"""Encrypted values, wherever they stand: listed by the key that they need, and replaced by compare-and-set."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from postroom.store.noun import Noun

BEGINNING: Final = 9  # octets of a sealed value: its mark and the id of its key
DIGEST_KEY: Final = "digest_key"  # setting: the installation's own key, sealed, in hexadecimal digits


class Place(Enum):
    """Where encrypted values stand: every column, and every setting."""

    CREDENTIAL = "account.credential"
    CLIENT_SECRET = "oauth_grant.client_secret"  # noqa: S105
    GRANT_SECRET = "oauth_grant.grant_secret"  # noqa: S105
    ACCESS_TOKEN = "oauth_grant.access_token"  # noqa: S105
    DIGEST_KEY = "setting.digest_key"


class SealedValue(NamedTuple):
    """An encrypted value: the id of its row, the `uid` of its account, and the value as it is stored."""

    row_id: int
    uid: str
    token: bytes


class SealedCount(NamedTuple):
    """How many values of a place begin with the same octets."""

    place: str
    begins: bytes
    number: int


class SealedValues(Noun):
    def by_key(self) -> list[SealedCount]:
        """Count the values of each place by their first octets, which name the key of a sealed one."""
        digest_key = self._digest_key()
        found = [] if digest_key is None else [SealedCount(Place.DIGEST_KEY.value, digest_key[:BEGINNING], 1)]
        return found + self._tx.rows(SealedCount, "sealed_values_by_key")

    def stale(self, place: Place, current: bytes, *, after: int, most: int) -> list[SealedValue]:
        """Return values of a place that do not begin with `current`, in the order of their rows, from behind `after`."""
        if place is Place.DIGEST_KEY:
            token = self._digest_key()
            is_stale = token is not None and token[:BEGINNING] != current and after < 0
            return [SealedValue(0, "", token)] if is_stale and token is not None else []
        return self._tx.rows(
            SealedValue, "stale_sealed_values", place=place.value, current=current, after=after, most=most
        )

    def replace(self, place: Place, value: SealedValue, sealed: bytes) -> bool:
        """Store a value sealed anew; False, with nothing changed, where it is not what was read any more."""
        row_id, former = value.row_id, bytes(value.token)
        match place:
            case Place.CREDENTIAL:
                return bool(self._tx.change("reseal_credential", row_id=row_id, former=former, sealed=sealed))
            case Place.CLIENT_SECRET:
                return bool(
                    self._tx.change("reseal_client_secret", row_id=row_id, former=former, sealed=sealed)
                )
            case Place.GRANT_SECRET:
                return bool(
                    self._tx.change("reseal_grant_secret", row_id=row_id, former=former, sealed=sealed)
                )
            case Place.ACCESS_TOKEN:
                return bool(
                    self._tx.change("reseal_access_token", row_id=row_id, former=former, sealed=sealed)
                )
            case Place.DIGEST_KEY:
                return bool(
                    self._tx.change(
                        "replace_setting", name=DIGEST_KEY, former=former.hex(), value=sealed.hex()
                    )
                )

    def _digest_key(self) -> bytes | None:
        stored = self._tx.settings.get(DIGEST_KEY)
        return None if stored is None else bytes.fromhex(stored)
