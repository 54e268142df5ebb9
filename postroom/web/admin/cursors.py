"""Cursors of the lists that tenants read: sealed, since a position in tables that tenants share tells of other tenants."""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from pydantic import Field

from postroom.core.errors import MalformedSubmission
from postroom.core.numbers import whole_number
from postroom.web.admin.call import AdminRequest

SealedCursor = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern="^[0-9A-Za-z_.-]*$",
        description="`next` of the page before; without it, the first page",
    ),
]
NO_CURSOR: Final = (
    "is not a cursor: give the `next` of the page before as it is, or leave it out for the first page"
)
_CONTEXT: Final = "cursor of a list"
_MOST_DIGITS: Final = 18
_GROUP: Final = 4  # characters of base64


def sealed_cursor(asked: AdminRequest, list_: str, *position: int) -> str:
    """Return a position in a list as a cursor, encrypted and authenticated (RFC 5297) by the installation's own key.

    It is the same in every process, and after a change of the secret key.
    """
    text = struct.pack(f">{len(position)}q", *position)
    return urlsafe_b64encode(_cipher(asked).encrypt(text, [list_.encode()])).decode().rstrip("=")


def opened_cursor(asked: AdminRequest, list_: str, cursor: str, size: int) -> tuple[int, ...]:
    """Return the position of so many numbers that a cursor stands for. Raises MalformedSubmission.

    A key of the installation may give the numbers themselves, as `next` was before: it sees all tenants.
    """
    numbers = [whole_number(each, _MOST_DIGITS) for each in cursor.split(".")]
    if asked.principal.key.is_of_installation and len(numbers) == size:
        known = tuple(number for number in numbers if number is not None)
        if len(known) == size:
            return known
    try:
        octets = urlsafe_b64decode(cursor + "=" * (-len(cursor) % _GROUP))
        return struct.unpack(f">{size}q", _cipher(asked).decrypt(octets, [list_.encode()]))
    except (ValueError, InvalidTag, struct.error):
        raise MalformedSubmission(
            "`after` is no cursor of this list",
            errors=(
                (
                    "after",
                    NO_CURSOR,
                ),
            ),
        ) from None


def _cipher(asked: AdminRequest) -> AESSIV:
    return AESSIV(asked.shared.vault.own_digest(_CONTEXT))
