"""Bytes to replies: what a server says again is read from memory, and reads the same."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from postroom.core.outcome import Reply
from postroom.smtp.stream import _MOST_KNOWN, Wire

lines = st.lists(
    st.sampled_from([b"250-", b"250-first", b"250 2.1.0 Ok", b"250 Ok", b"250 ", b"451 4.3.0 later"]),
    min_size=1,
    max_size=5,
).map(lambda texts: b"".join(text + b"\r\n" for text in texts))


def read(wire: Wire, octets: bytes) -> list[Reply | None]:
    """Return the whole replies in some octets; then None where the server broke off or spoke no SMTP."""

    async def main() -> list[Reply | None]:
        wire.data_received(octets)
        found: list[Reply | None] = []
        while wire._replies:
            found.append(await wire.reply("MAIL", 1.0))
        return [*found, None] if wire.broken else found

    return asyncio.run(main())


@given(lines)
def test_what_was_heard_before_reads_as_it_did(octets: bytes) -> None:
    experienced = Wire()
    read(experienced, b"250 2.1.0 Ok\r\n250 Ok\r\n250 \r\n451 4.3.0 later\r\n250-first\r\n250 Ok\r\n")
    assert experienced._known.keys() == {b"250 2.1.0 Ok", b"250 Ok", b"250 ", b"451 4.3.0 later"}
    assert read(experienced, octets) == read(Wire(), octets)


def test_a_server_that_says_something_new_each_time_takes_no_memory() -> None:
    wire = Wire()
    for number in range(2 * _MOST_KNOWN):
        assert read(wire, b"250 2.0.0 queued as %d\r\n" % number) == [
            Reply(250, f"queued as {number}", "2.0.0")
        ]
    assert len(wire._known) == _MOST_KNOWN
    read(wire, b"250 " + b"x" * 200 + b"\r\n")
    assert len(wire._known) == _MOST_KNOWN
