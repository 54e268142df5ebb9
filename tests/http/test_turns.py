"""Large bodies take turns client by client, leave room for small ones, and slow ones give theirs up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from postroom.web import upload
from postroom.web.turns import Turns
from postroom.web.upload import Overloaded, Room, TooMuch, TooScattered, Upload, read_in_pieces
from tests.http.rsgi_client import InPieces

LONG_S = 60


async def _in_line(turns: Turns, clients: list[str], served: list[str]) -> list[asyncio.Task[None]]:
    async def wait(client: str) -> None:
        await turns.take(client, LONG_S)
        served.append(client)

    tasks = [asyncio.create_task(wait(client)) for client in clients]
    await asyncio.sleep(0)
    return tasks


def test_each_client_has_its_turn_however_many_another_waits_for() -> None:
    async def main() -> list[str]:
        turns, served = Turns(1), list[str]()
        await turns.take("greedy", LONG_S)
        tasks = await _in_line(turns, ["greedy"] * 5 + ["other"] * 2 + ["third"], served)
        for _ in tasks:
            turns.give_back()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return served

    assert asyncio.run(main()) == [
        "greedy",
        "other",
        "third",
        "greedy",
        "other",
        "greedy",
        "greedy",
        "greedy",
    ]


def test_no_more_turns_are_lent_than_there_are() -> None:
    async def main() -> None:
        turns = Turns(2)
        await turns.take("a", LONG_S)
        await turns.take("b", LONG_S)
        with pytest.raises(TimeoutError):
            await turns.take("c", 0.01)
        turns.give_back()
        await turns.take("c", LONG_S)
        with pytest.raises(TimeoutError):
            await turns.take("d", 0.01)

    asyncio.run(main())


@pytest.mark.parametrize("lent_first", [False, True])
def test_a_turn_of_one_that_has_left_goes_to_the_next(lent_first: bool) -> None:
    async def main() -> None:
        turns, served = Turns(1), list[str]()
        await turns.take("a", LONG_S)
        leaving, _ = await _in_line(turns, ["b", "c"], served)
        if lent_first:
            turns.give_back()
            leaving.cancel()
        else:
            leaving.cancel()
            await asyncio.sleep(0)
            turns.give_back()
        async with asyncio.timeout(LONG_S):
            while served != ["c"]:
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_small_bodies_find_room_beside_large_ones() -> None:
    async def main() -> None:
        room = Room(most=10, within_s=0.01, for_small=4 * upload._SMALL)
        with room.place() as large, room.place() as exempt, room.place() as small, room.place() as other:
            await large.take(10)
            await exempt.take(2 * upload._SMALL)
            with pytest.raises(Overloaded):
                await other.take(upload._SMALL + 1)
            await small.take(upload._SMALL // 2)
            await small.take(upload._SMALL // 2)
            assert small.held == upload._SMALL

    asyncio.run(main())


def _with_one_that_holds_all(
    monkeypatch: pytest.MonkeyPatch, then: Callable[[Room, upload.Place], Awaitable[None]]
) -> bool:
    """Say whether the reading of a body that holds all room was ended, while another one waits."""
    monkeypatch.setattr(upload, "_LOOK_S", 0.01)

    async def main() -> bool:
        room = Room(most=10, within_s=0.3)
        with room.place() as holder, room.place() as exempt, room.place() as waiting:
            try:
                async with asyncio.timeout(LONG_S) as holder.deadline:
                    await holder.take(10)
                    await exempt.take(1)
                    await then(room, holder)
                    with pytest.raises(Overloaded):
                        await waiting.take(1)
            except TimeoutError:
                return True
            return False

    return asyncio.run(main())


async def _nothing(room: Room, holder: upload.Place) -> None:
    pass


async def _is_read(room: Room, holder: upload.Place) -> None:
    holder.has_read()


async def _waits_itself(room: Room, holder: upload.Place) -> None:
    holder.pause()


@pytest.mark.parametrize(
    ("idle_s", "then", "ended"),
    [(0.0, _nothing, True), (LONG_S, _nothing, False), (0.0, _is_read, False), (0.0, _waits_itself, False)],
    ids=["slow", "not slow", "read", "waits itself"],
)
def test_a_slow_body_gives_its_room_to_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
    idle_s: float,
    then: Callable[[Room, upload.Place], Awaitable[None]],
    ended: bool,
) -> None:
    monkeypatch.setattr(upload, "_IDLE_S", idle_s)
    assert _with_one_that_holds_all(monkeypatch, then) is ended


def test_what_came_quickly_at_first_makes_no_slow_body_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[bool]:
        place = upload.Place(Room(), "a")
        place.deadline = asyncio.timeout(LONG_S)
        start = asyncio.get_running_loop().time()
        found = []
        for seconds, held in ((1, 1_000_000), (6, 1_000_000), (12, 1_000_002), (18, 1_000_002 + 7 * 16_384)):
            place.held = held
            found.append(place.is_slow(start + seconds))
        return found

    assert asyncio.run(main()) == [False, False, True, False]


def test_while_others_wait_nobody_has_more_than_half() -> None:
    async def main() -> None:
        room = Room(most=10, within_s=LONG_S)
        with room.place("greedy") as first, room.place("greedy") as second:
            await first.take(6)
            await second.take(4)
            with room.place("greedy") as more, room.place("other") as other:
                waiting = asyncio.create_task(more.take(20))  # nobody else waits: it may go on
                await asyncio.wait_for(waiting, LONG_S)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(second.take(1), 0.01)
                await asyncio.wait_for(other.take(3), LONG_S)  # in place of what has more than half
        assert not room._held_by
        assert not room._waiting_clients

    asyncio.run(main())


def test_no_more_wait_than_can_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_MOST_WAITING", 3)

    async def main() -> None:
        room = Room(most=10, within_s=LONG_S)
        with ExitStack() as stack:
            holder, exempt, *others = [stack.enter_context(room.place()) for _ in range(6)]
            await holder.take(10)
            await exempt.take(1)
            tasks = [asyncio.create_task(place.take(1)) for place in others[:3]]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await others[3].take(1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert not room._waiting_clients

    asyncio.run(main())


@pytest.mark.parametrize(("octets", "ends"), [(2, True), (100, False)])
def test_a_body_in_tiny_chunks_ends(octets: int, ends: bool) -> None:
    async def main() -> None:
        protocol = Endless(b"x" * octets, b"y" * octets)
        with Room().place() as place, pytest.raises(TooScattered if ends else TooMuch):
            await read_in_pieces(Upload(protocol, None), place, 3_000_000)
        assert (protocol.handed_over < 25_000) is ends

    asyncio.run(main())


def test_the_rest_of_a_body_in_tiny_chunks_is_not_read() -> None:
    async def main() -> None:
        protocol = Endless(b"x", b"y")
        await Upload(protocol, None).linger()
        assert protocol.handed_over == upload._MOST_PIECES

    asyncio.run(main())


class Endless(InPieces):
    """granian's side of a body that does not end."""

    def __init__(self, first: bytes, rest: bytes) -> None:
        self._first, self._rest, self.handed_over = first, rest, 0

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> bytes:
        piece = self._rest if self.handed_over else self._first
        self.handed_over += 1
        return piece


def test_many_that_wait_for_room_look_for_slow_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of thousands would look at all others, once a second."""
    looks = 0

    def is_slow(place: upload.Place, now: float) -> bool:
        nonlocal looks
        looks += 1
        return False

    monkeypatch.setattr(upload.Place, "is_slow", is_slow)
    monkeypatch.setattr(upload, "_LOOK_S", 60.0)

    async def main() -> None:
        room = Room(most=10, within_s=0.05)
        with ExitStack() as stack:
            holder, exempt, *waiting = [stack.enter_context(room.place()) for _ in range(102)]
            await holder.take(10)
            await exempt.take(1)
            ended = await asyncio.gather(*(place.take(1) for place in waiting), return_exceptions=True)
            assert {type(each) for each in ended} == {Overloaded}
            assert not room._waiting, "nothing is kept of those that have given up"

    asyncio.run(main())
    assert looks <= 102


@pytest.mark.parametrize(
    ("first", "rest", "stops_early"),
    [
        (b"[", b"[]," * 10_000, True),
        (b'{"body": "', b"a" * 30_000, False),
        (b'{"subject": "', b"a" * 30_000, False),
    ],
    ids=["many values", "a text", "a subject"],
)
def test_a_document_of_many_values_is_not_read_to_its_end(
    first: bytes, rest: bytes, stops_early: bool
) -> None:
    async def main() -> None:
        protocol = Endless(first, rest)
        with Room().place() as place:
            reading = read_in_pieces(Upload(protocol, None), place, 30_000 * 100)
            if stops_early:
                assert len(await reading) < 30_000 * 6
            else:
                with pytest.raises(TooMuch):
                    await reading
        assert (protocol.handed_over < 10) is stops_early

    asyncio.run(main())
