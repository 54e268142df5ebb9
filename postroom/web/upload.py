"""Reads request bodies: whole or refused, bounded in time and in memory, also over all requests.

granian ends a body that was cut off as it ends any other when it is read in pieces. It hands over an
empty piece for each of three things: an error, a trailer section, and the end. So octets are counted against
Content-Length, and a chunked body is whole only where the end alone was empty.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from postroom.web.strict_json import begins_too_large

if TYPE_CHECKING:
    from postroom.web.rsgi_types import Exchange

_LINGER_S = 10.0
_LINGER_BYTES = 128 * 1024 * 1024
_HEED_S = 1.0  # a client that waits for 100 (Continue) reads the answer meanwhile
_ROOM_BYTES = 32 * 1024 * 1024
ROOM_FOR_SMALL = 8 * 1024 * 1024  # beyond it, so that large bodies keep no small one waiting
_SMALL = 1024 * 1024
_IDLE_S = 5.0  # a body that has come for so long with fewer octets a second than
_SLOWEST = 16_384  # this gives its room to one that waits for it
_LOOKED_AT = 131_072  # octets after which it can be seen that a document has too much besides its text
_LOOK_S = 1.0
_MOST_WAITING = 500  # bodies; all of them are woken by each that goes
_MOST_PIECES = 20_000  # of a body in chunks whose chunks have fewer octets than this on average:
_SMALLEST_PIECE = 64
_JOINED_AFTER = 1000  # pieces, each of which takes some 50 octets beside its own
_ROOM_WITHIN_S = 25.0  # a proxy whose upload stands still for a minute gives it up


class CutOff(Exception):
    """The body ended before its end."""


class TooScattered(CutOff):
    """Its chunks are so small that they cost many times their octets."""

    def __init__(self) -> None:
        super().__init__(
            f"the body comes in chunks of fewer than {_SMALLEST_PIECE} octets on average; send larger ones"
        )


class TooSlow(Exception):
    """The body did not arrive in time."""


class Overloaded(Exception):
    """Too much is under way for this request to be answered in time."""


class TooMuch(Exception):
    """The body is larger than this service takes."""


class Upload:
    """The body of one request: `length` octets, or chunks where that is None."""

    def __init__(self, protocol: Exchange, length: int | None, *, is_awaited: bool = False) -> None:
        self.length = length
        self.is_over = length == 0
        self.received = 0
        self._protocol = protocol
        self._is_awaited = is_awaited  # by a client that sends it after 100 (Continue)
        self._pieces: AsyncIterator[bytes] | None = None
        self._empty_pieces = 0
        self._is_lost = False

    async def read_at_once(self) -> bytes:
        """Return a body of known length. Raises CutOff."""
        if self.is_over:
            return b""
        self._is_lost = True  # until it has come: what was asked for in one piece cannot be asked for again
        try:
            body = bytes(await self._protocol())
        except ProtocolClosed:
            body = b""
        self.is_over = True
        self.received = len(body)
        self._check()
        return body

    async def next_piece(self) -> bytes:
        """Return the next octets, none at the end. Raises CutOff."""
        if self._pieces is None:
            self._pieces = self._protocol.__aiter__()
        while not self.is_over:
            try:
                piece = bytes(await self._pieces.__anext__())
            except StopAsyncIteration:
                self.is_over = True
                self._check()
                break
            self.received += len(piece)
            if piece:
                return piece
            self._empty_pieces += 1
        return b""

    def _check(self) -> None:
        if self.length is not None and self.received != self.length:
            raise CutOff(
                f"the body was cut off: {self.received} of the {self.length} octets of Content-Length came"
            )
        if self.length is None and self._empty_pieces != 1:
            raise CutOff(
                "the body was cut off before its last chunk, has a broken chunk, or ends with trailer fields, "
                "which are not taken"
            )

    async def linger(self) -> None:
        """Read on and keep nothing, so that a client that sends first and reads then sees the answer (RFC 9112 §9.6)."""
        if self.is_over or self._is_lost:
            return
        if self._is_awaited:
            await asyncio.sleep(_HEED_S)
        most = self.received + _LINGER_BYTES
        with suppress(TimeoutError, CutOff):
            async with asyncio.timeout(_LINGER_S):
                for _ in range(_MOST_PIECES):
                    if self.received >= most or not await self.next_piece():
                        break


class Room:
    """The memory that all large bodies in hand may take together.

    One of those that found none may go on all the same, so that what fills the room comes to an end. While others
    wait, nobody takes more than half of it.
    """

    def __init__(
        self, most: int = _ROOM_BYTES, within_s: float = _ROOM_WITHIN_S, *, for_small: int = 0
    ) -> None:
        self._most = most
        self._for_small = for_small
        self._within_s = within_s
        self._held = 0
        self._exempt: Place | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._waiting_clients: Counter[str] = Counter()
        self._held_by: Counter[str] = Counter()
        self._places: set[Place] = set()
        self._looked_at = -math.inf  # by the loop's clock: for bodies that come too slowly

    @contextmanager
    def place(self, client: str = "") -> Iterator[Place]:
        """Lend a place for one body of a client, until its request is answered."""
        place = Place(self, client)
        self._places.add(place)
        try:
            yield place
        finally:
            self._places.discard(place)
            self._held -= place.held
            self._held_by[client] -= place.held
            if not self._held_by[client]:
                del self._held_by[client]
            if self._exempt is place:
                self._exempt = None
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def take(self, place: Place, octets: int) -> None:
        """Wait for room for so many more octets. Raises Overloaded."""
        if not self._can_hold(place, octets):
            await self._wait(place, octets)
        self._held += octets
        self._held_by[place.client] += octets
        place.held += octets
        place.go_on()

    async def _wait(self, place: Place, octets: int) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise Overloaded
        place.pause()
        self._waiting_clients[place.client] += 1
        try:
            async with asyncio.timeout(self._within_s):
                while not self._can_hold(place, octets):
                    self._give_up_slow_ones()
                    await self._change()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._waiting_clients[place.client] -= 1
            if not self._waiting_clients[place.client]:
                del self._waiting_clients[place.client]

    async def _change(self) -> None:
        """Wait until a place has become free, or it is time to look for slow bodies again."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=_LOOK_S)
        finally:
            self._waiting.discard(future)

    def _give_up_slow_ones(self) -> None:
        """Look once a second, however many wait."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for place in self._places:
            if place.is_slow(now):
                place.give_up()

    def _can_hold(self, place: Place, octets: int) -> bool:
        more = self._for_small if place.held + octets <= _SMALL else 0
        if self._has_its_share(place.client, octets):
            return False
        if self._held + octets <= self._most + more:
            return True
        if self._exempt is None or self._has_its_share(self._exempt.client, 0):
            self._exempt = place
        return self._exempt is place

    def _has_its_share(self, client: str, octets: int) -> bool:
        """Whether a client that takes so many more would have more than half, while others wait."""
        others_wait = len(self._waiting_clients) > (client in self._waiting_clients)
        return others_wait and self._held_by[client] + octets > self._most // 2


class Place:
    """What one body holds of the room, in octets."""

    __slots__ = ("_paused_at", "_room", "_seen", "_seen_at", "client", "deadline", "held")

    def __init__(self, room: Room, client: str) -> None:
        self._room = room
        self.client = client
        self._seen_at, self._seen = asyncio.get_running_loop().time(), 0  # when how much of it had come
        self._paused_at: float | None = None
        self.held = 0
        self.deadline: asyncio.Timeout | None = None  # of the reading, while it goes on

    def is_slow(self, now: float) -> bool:
        """Whether the body is still being read, and has come so slowly of late that it is not to keep others waiting.

        What came quickly before does not count.
        """
        seconds = now - self._seen_at
        if seconds < _IDLE_S or self._paused_at is not None:
            return False
        is_slow = self.held - self._seen < seconds * _SLOWEST
        self._seen_at, self._seen = now, self.held
        return is_slow and self.deadline is not None

    def pause(self) -> None:
        """The body waits for room, and its client for us."""
        self._paused_at = asyncio.get_running_loop().time()

    def go_on(self) -> None:
        """The body has come further."""
        if self._paused_at is not None:
            self._seen_at += asyncio.get_running_loop().time() - self._paused_at
            self._paused_at = None

    def give_up(self) -> None:
        """End the reading as if its time were over."""
        if self.deadline is not None:
            self.deadline.reschedule(asyncio.get_running_loop().time())
            self.deadline = None

    def has_read(self) -> None:
        self.deadline = None

    async def take(self, octets: int) -> None:
        await self._room.take(self, octets)


async def read_in_pieces(upload: Upload, place: Place, most: int) -> bytes:
    """Return the whole body, or a beginning that is refused for what it holds.

    Raises CutOff, Overloaded, or TooMuch as soon as it is clear.
    """
    if upload.length is not None and upload.length > most:
        raise TooMuch
    pieces: list[bytes] = []
    fresh: list[bytes] = []
    has_looked = False
    count = 0
    while piece := await upload.next_piece():
        count += 1
        if upload.received > most:
            raise TooMuch
        if count > _MOST_PIECES and upload.received < count * _SMALLEST_PIECE:
            raise TooScattered
        await place.take(len(piece))
        fresh.append(piece)
        must_look = not has_looked and upload.received > _LOOKED_AT
        if must_look or len(fresh) == _JOINED_AFTER:
            pieces.append(b"".join(fresh))
            fresh.clear()
        if must_look:
            has_looked = True
            if begins_too_large(b"".join(pieces)):
                break
    return b"".join([*pieces, *fresh])
