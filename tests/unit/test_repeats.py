"""Log lines that repeat."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest

from postroom.telemetry.repeats import Repeats, quieten, unquieten
from tests.servers.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A logger under `postroom.worker`, and what comes out of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.clock = Clock()
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self.repeats = Repeats(["postroom.worker"], self.handler.handle, period=60.0, clock=self.clock)
        self.handler.addFilter(self.repeats)

    def say(
        self, message: str, *args: object, name: str = "postroom.worker.mail.sender", level: int = 30
    ) -> None:
        self.handler.handle(logging.LogRecord(name, level, "", 1, message, args, None))

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def log() -> Log:
    return Log()


def test_the_first_is_said_at_once_and_the_rest_after_a_minute_with_their_count(log: Log) -> None:
    for _ in range(17):
        log.say("account %s makes do", "ann")
    assert log.taken() == ["account ann makes do"]
    log.clock.now = 59.0
    log.repeats.say_what_is_due()
    assert log.taken() == []
    log.clock.now = 60.0
    log.repeats.say_what_is_due()
    assert log.taken() == ["account ann makes do (16 times more within 60 s)"]
    log.say("account %s makes do", "ann")
    assert log.taken() == [], "a minute begins with what was said last"
    log.clock.now = 120.0
    log.repeats.say_what_is_due()
    assert log.taken() == ["account ann makes do (once more within 60 s)"]
    log.clock.now = 200.0
    log.say("account %s makes do", "ann")
    assert log.taken() == ["account ann makes do"], "it is news again"


def test_what_differs_is_said(log: Log) -> None:
    log.say("account %s makes do", "ann")
    log.say("account %s makes do", "bob")
    log.say("account %s makes do", "ann", level=logging.ERROR)
    log.say("account %s makes do", "ann", name="postroom.worker.mail.breaker")
    assert len(log.taken()) == 4


def test_the_id_of_a_message_makes_no_difference(log: Log) -> None:
    first, last = uuid4(), uuid4()
    for each in (first, uuid4(), last):
        log.say("message %s is in doubt: %s", each, "the line broke")
    assert log.taken() == [f"message {first} is in doubt: the line broke"]
    log.clock.now = 60.0
    log.repeats.say_what_is_due()
    assert log.taken() == [f"message {last} is in doubt: the line broke (2 times more within 60 s)"]


def test_others_and_what_is_critical_pass(log: Log) -> None:
    for _ in range(3):
        log.say("refused", name="postroom.web.problems")
        log.say("the disk failed", level=logging.CRITICAL)
    assert len(log.taken()) == 6


def test_what_was_held_back_is_said_at_the_end(log: Log) -> None:
    log.say("again")
    log.say("again")
    log.repeats.say_what_is_due(all_of_it=True)
    assert log.taken() == ["again", "again (once more within 60 s)"]


def test_many_kinds_are_bounded_and_none_that_is_held_back_is_forgotten(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.telemetry.repeats._MOST_KINDS", 10)
    log.say("held back")
    log.say("held back")
    for number in range(50):
        log.say("kind %d", number)
    assert len(log.repeats._kinds) == 10
    log.repeats.say_what_is_due(all_of_it=True)
    assert log.taken()[-1] == "held back (once more within 60 s)"


def test_the_count_comes_by_itself() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(Repeats(["postroom.worker"], handler.handle, period=0.1))

    def counted() -> bool:
        """Say it twice, whatever the machine makes of the time in between, and look for a count of earlier ones."""
        for _ in range(2):
            handler.handle(logging.LogRecord("postroom.worker", 30, "", 1, "again", (), None))
        return any(line.startswith("again (") for line in lines)

    eventually(counted, 60, "a count")


def test_a_handler_can_be_quietened() -> None:
    handler = logging.NullHandler()
    quieten(handler, "postroom.worker")
    [added] = handler.filters
    assert isinstance(added, Repeats)


def test_a_handler_that_another_replaces_writes_nothing_more_by_itself() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    quieten(handler, "postroom.worker")
    [former] = handler.filters
    assert isinstance(former, Repeats)
    for _ in range(3):
        handler.handle(logging.LogRecord("postroom.worker", 30, "", 1, "again", (), None))
    timer = former._timer
    assert timer is not None
    quieten(logging.NullHandler(), "postroom.worker")
    timer.join(60)  # one that was not cancelled waits for a minute, and then writes
    assert not timer.is_alive()
    former.say_what_is_due(all_of_it=True)
    assert lines == ["again"]
    unquieten()
