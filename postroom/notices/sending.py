"""Sends notices by their ways: each in a thread with a deadline, so that no way delays another one or the looks."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from postroom.core.clock import SECOND, Clock
from postroom.core.errors import PostroomError
from postroom.core.notices.values import Notice
from postroom.core.notices.ways import Way
from postroom.notices.answer import Answer
from postroom.notices.by_message import send_by_message
from postroom.notices.by_url import send_by_url
from postroom.settings import Settings
from postroom.store.store import Store

log = logging.getLogger(__name__)

DEADLINE_S: Final = 30.0
_WAITS_S: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # the last one again and again
GIVE_UP: Final = 6 * 3600 * SECOND  # older notices are not sent any more


class Answered(NamedTuple):
    """What a way has said to a notice."""

    notice_id: str
    way: Way
    answer: Answer


class Sender:
    """Hands a notice to a way."""

    def __init__(self, settings: Settings, store: Store | None, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock

    def send(self, way: Way, notice: Notice) -> Answer:
        """Return what the way answers; whatever goes wrong is an answer too."""
        try:
            if not way.is_message:
                return send_by_url(way, notice)
            if self._store is None:
                return Answer(False, "the database cannot be used, so no message can be sent")
            return send_by_message(way, notice, self._settings, self._store, self._clock)
        except (PostroomError, OSError) as error:
            return Answer(False, str(error))
        except Exception as error:  # of one of Apprise's hundred services
            log.debug("a way of notices has failed", exc_info=True)
            return Answer(False, f"a fault in this way: {type(error).__name__}")


@dataclass(slots=True)
class _UnderWay:
    """A notice that a thread is handing to a way."""

    notice_id: str
    until: float
    is_over: bool = False  # its deadline has passed, and its thread goes on


@dataclass(slots=True)
class _Tries:
    count: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Sending:
    """The notices that are handed to their ways just now, and when each may be tried again."""

    send: Callable[[Way, Notice], Answer]
    wake: Callable[[], None] = lambda: None
    deadline_s: float = DEADLINE_S
    _under_way: dict[str, _UnderWay] = field(default_factory=dict)  # by the way's name
    _tries: dict[tuple[str, str], _Tries] = field(default_factory=dict)
    _answers: queue.SimpleQueue[Answered] = field(default_factory=queue.SimpleQueue)

    def start(self, notice: Notice, way: Way) -> bool:
        """Begin to hand a notice to a way, unless the way is busy or this was tried a moment ago."""
        tries = self._tries.setdefault((notice.id, way.name), _Tries())
        now = time.monotonic()
        if way.name in self._under_way or now < tries.not_before:
            return False
        tries.not_before = now + self.deadline_s + _WAITS_S[min(tries.count, len(_WAITS_S) - 1)]
        tries.count += 1
        self._under_way[way.name] = _UnderWay(notice.id, now + self.deadline_s)
        thread = threading.Thread(
            target=self._run, args=(notice, way), name=f"notice {way.name}", daemon=True
        )
        thread.start()
        return True

    def _run(self, notice: Notice, way: Way) -> None:
        self._answers.put(Answered(notice.id, way, self.send(way, notice)))
        self.wake()

    def answers(self) -> Iterable[Answered]:
        """Return what has been answered, and the deadlines that have passed, each once.

        A way whose thread still runs after its deadline stays busy; a late answer counts.
        """
        now = time.monotonic()
        while not self._answers.empty():
            answered = self._answers.get()
            self._under_way.pop(answered.way.name, None)
            if not answered.answer.taken and (
                tries := self._tries.get((answered.notice_id, answered.way.name))
            ):
                tries.not_before = now + _WAITS_S[min(tries.count - 1, len(_WAITS_S) - 1)]
            yield answered
        for name, under_way in self._under_way.items():
            if now >= under_way.until and not under_way.is_over:
                under_way.is_over = True
                log.warning(
                    "notice %s: %s gives no answer within %.0f s", under_way.notice_id, name, self.deadline_s
                )

    def forget(self, notice_id: str) -> None:
        """Forget a notice that is sent, or given up."""
        for key in [key for key in self._tries if key[0] == notice_id]:
            del self._tries[key]

    @property
    def is_idle(self) -> bool:
        return not self._under_way
