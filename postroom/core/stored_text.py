"""The text of a large message, read from the database in pieces while it is sent, with its checksum."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from zlib import crc32

from postroom.core.errors import ContentDamaged

PIECE = 524_288
"""Octets of a piece as it is stored."""

ReadPiece = Callable[[int], Awaitable[bytes]]


class StoredText:
    """A text of `size` octets with the CRC-32 `checksum` (None: unknown), whose pieces `read` returns by number.

    A text has at least one piece; there is none where `read` returns no octets.
    """

    def __init__(self, size: int, checksum: int | None, read: ReadPiece) -> None:
        self._size = size
        self._checksum = checksum
        self._read = read

    def __len__(self) -> int:
        return self._size

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces. Raises ContentDamaged before the last one where the text differs from the accepted one.

        Whatever `read` raises passes through.
        """
        number = size = checksum = 0
        while size < self._size:
            octets = await self._read(number)
            number, size, checksum = number + 1, size + len(octets), crc32(octets, checksum)
            is_whole = size == self._size and self._checksum in (None, checksum)
            if not octets or (size >= self._size and not is_whole):
                raise ContentDamaged
            yield octets
