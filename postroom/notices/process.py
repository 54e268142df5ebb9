"""The process that tells the admins (`postroom notify run`), the check of its ways at a start, and a test of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from postroom.core.clock import Clock, system_clock
from postroom.core.errors import ConfigError
from postroom.core.heartbeat import report_ready, report_stopping
from postroom.core.lifeline import stop_signals, watch_lifeline
from postroom.core.notices import words
from postroom.core.notices.ways import Way
from postroom.intake.request_id import new_request_id
from postroom.notices.answer import Answer
from postroom.notices.by_url import check_url
from postroom.notices.notifier import Notifier
from postroom.notices.sending import DEADLINE_S, Sender
from postroom.runtime import installation
from postroom.settings import Settings
from postroom.store.store import Store
from postroom.telemetry.lifecycle import Lifecycle


def check_ways(settings: Settings) -> None:
    """Raise ConfigError for a URL of POSTROOM_NOTIFY that Apprise does not take. Imports Apprise where there is a URL."""
    for way in settings.notify or ():
        if not way.is_message:
            check_url(way)


def check_there_is_one(settings: Settings) -> None:
    """Raise ConfigError where there is no way to the admins."""
    if not settings.notify:
        raise ConfigError("POSTROOM_NOTIFY", "is empty: name a way to the admins, as docs/notices.md shows")


def run_notifier(service: installation.Service, *, lifeline: int | None, life: Lifecycle) -> None:
    """Tell the admins until a signal ends it."""
    notifier = Notifier(service.settings, service.store, installation.VAR)

    def stop(number: int, _: object) -> None:
        life.because_of_signal(number)
        notifier.stop()

    for number in stop_signals():
        signal.signal(number, stop)
    if lifeline is not None:
        watch_lifeline(lifeline)
    report_ready()
    life.start()
    notifier.run()
    report_stopping()


def try_ways(
    settings: Settings, store: Store | None, clock: Clock = system_clock
) -> Iterator[tuple[Way, Answer]]:
    """Send a test by each way at once; yield what each answers, in their order."""
    notice = words.test(new_request_id(clock()), clock())
    sender = Sender(settings, store, clock)
    answers: list[tuple[Way, SimpleQueue[Answer]]] = []
    for way in settings.notify or ():
        answer: SimpleQueue[Answer] = SimpleQueue()
        answers.append((way, answer))
        threading.Thread(
            target=lambda way=way, answer=answer: answer.put(sender.send(way, notice)), daemon=True
        ).start()
    for way, answer in answers:
        try:
            yield way, answer.get(timeout=DEADLINE_S)
        except Empty:
            yield way, Answer(False, f"no answer within {DEADLINE_S:.0f} s")
