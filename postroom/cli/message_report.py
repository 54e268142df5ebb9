"""Prints the history of a message so that one screen says why it has not arrived: `postroom status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from postroom.core.clock import SECOND, Instant, rfc3339
from postroom.core.dialogue import Spoken
from postroom.core.events import EventKind
from postroom.core.message_history import AttemptHistory, MessageHistory
from postroom.core.outcome import Reply
from postroom.core.status_word import StatusWord
from postroom.core.text import counted, printable

if TYPE_CHECKING:
    from postroom.runtime.installation import Service

SCREEN: Final = 24  # lines, of a terminal of so many columns
COLUMNS: Final = 100
_MOST_RECIPIENTS: Final = 3
_MOST_EVENTS: Final = 4
_MOST_BRIEF: Final = 2  # attempts before the last one, a line each
_WAITING: Final = frozenset(
    {StatusWord.SCHEDULED, StatusWord.QUEUED, StatusWord.DEFERRED, StatusWord.SENDING}
)


def report(history: MessageHistory, now: Instant, findings: Sequence[str], *, whole: bool) -> list[str]:
    """Return the lines; with `whole` every attempt with its dialogue, however many lines that takes."""
    lines = [*_head(history, now), *(f"  {each}" for each in findings), *_recipients(history, now)]
    first = printable(f"{lines[0]} {history.status.reason or ''}")
    lines += _events(history, first, whole=whole)
    if not history.attempts:
        return lines
    *brief, last = history.attempts
    if whole:
        for each in brief:
            lines += [*_attempt(each, first), *_dialogue(each.dialogue, None)]
        return [*lines, *_attempt(last, first), *_dialogue(last.dialogue, None)]
    left_out = len(brief) - _MOST_BRIEF
    if left_out > 0:
        lines.append(f"  {counted(left_out, 'earlier attempt')}: --dialogue shows all")
    lines += [_brief(each) for each in brief[-_MOST_BRIEF:]]
    lines += _attempt(last, first)
    return [*lines, *_dialogue(last.dialogue, SCREEN - sum(-(-len(line) // COLUMNS) for line in lines))]


def _head(history: MessageHistory, now: Instant) -> Iterator[str]:
    status = history.status
    word = status.word(now).value
    reason = _without_explanation(history)
    said = f"{word} ({reason})" if reason else word
    marks = [
        mark
        for mark, holds in (("test", status.is_test), ("possible duplicate", status.possible_duplicate))
        if holds
    ]
    yield printable(f"{status.request_id}  {said}{''.join(f' ({mark})' for mark in marks)}")
    to = history.recipients[0].address if history.recipients else ""
    more = f" and {len(history.recipients) - 1} more" if len(history.recipients) > 1 else ""
    through = "" if history.account == status.sender else f", through {history.account}"
    yield printable(
        f"  from {status.sender} to {to}{more}{through}, {history.size:,} octets{_subject(history)}"
    )
    waits_for = history.waits_for(now)
    if waits_for is not None:
        yield printable(f"  waits for {_unless_said(waits_for, status.reason or '')}")


def _without_explanation(history: MessageHistory) -> str | None:
    """Return the reason without what the last attempt, which is shown below, has in a line of its own."""
    reason, last = history.status.reason, history.attempts[-1] if history.attempts else None
    if reason is None or last is None or last.reply is None or not last.explanation:
        return reason
    return reason.replace(f" [{last.explanation}]", "")


def _subject(history: MessageHistory) -> str:
    if history.subject:
        return f": {history.subject}"
    was_erased = any(event.kind == EventKind.ERASED.value for event in history.events)
    return "; its content and subject are erased" if was_erased else ", without a subject"


def _unless_said(waits_for: str, said: str) -> str:
    """Leave out a reason that the first line has."""
    what, _, why = waits_for.partition(": ")
    return what if why and why in said else waits_for


def _recipients(history: MessageHistory, now: Instant) -> Iterator[str]:
    """Yield what became of each, where there are several."""
    if len(history.recipients) < 2:
        return
    of_message = history.status.word(now)
    for each in history.recipients[:_MOST_RECIPIENTS]:
        yield f"  {each.word(of_message).value:9}  {printable(each.address)}"
    left_out = len(history.recipients) - _MOST_RECIPIENTS
    if left_out > 0:
        yield f"  … {counted(left_out, 'recipient')} more: --json has all"


def _events(history: MessageHistory, first: str, *, whole: bool) -> Iterator[str]:
    left_out = 0 if whole else len(history.events) - _MOST_EVENTS
    for number, event in enumerate(history.events):
        if 0 < number <= left_out:
            if number == 1:
                yield f"  … {counted(left_out, 'event')} left out: --json has all"
            continue
        detail = printable(event.detail) if event.detail else None
        if detail and detail in first:
            detail = None  # the first line has it
        words = (rfc3339(event.at), event.kind, event.recipient and printable(event.recipient), detail)
        yield "  " + "  ".join(word for word in words if word)


def _brief(attempt: AttemptHistory) -> str:
    seconds = max(attempt.finished_at - attempt.started_at, 0) / SECOND
    at = f" at {attempt.phase}" if attempt.phase and attempt.outcome != "sent" else ""
    blame = f", by the {attempt.blame}" if attempt.blame else ""
    return f"  attempt {attempt.number}  {rfc3339(attempt.started_at)}  {seconds:.3f} s  {attempt.outcome}{at}{blame}"


def _attempt(attempt: AttemptHistory, first: str) -> Iterator[str]:
    yield _brief(attempt)
    if attempt.reply is not None:
        yield f"    {attempt.phase or 'server'}: {_said(attempt.reply)}"
    explanation = printable(attempt.explanation or "")
    if attempt.reply is None and attempt.reason and (reason := printable(attempt.reason)) in first:
        explanation = explanation.removeprefix(reason).lstrip("; ")  # the first line has it
    if explanation:
        yield f"    {explanation}"


def _said(reply: Reply) -> str:
    return printable(str(reply))


def _dialogue(dialogue: Sequence[Spoken] | None, room: int | None) -> Iterator[str]:
    """Yield the lines of a dialogue, the middle left out where there is no room for all."""
    lines = [f"    {line.ms:>6} ms  {line.speaker.value} {printable(line.text)}" for line in dialogue or ()]
    if room is None or len(lines) <= room:
        yield from lines
        return
    shown = max(room - 1, 2)
    first = shown // 2
    yield from lines[:first]
    yield f"    … {counted(len(lines) - shown, 'line')} left out: --dialogue shows all"
    yield from lines[len(lines) - (shown - first) :]


def findings_of(service: Service, history: MessageHistory, now: Instant) -> list[str]:
    """Return what the doctor finds of the installation, as far as it keeps a message from being sent."""
    from postroom.accounts.doctor.finding import Severity
    from postroom.runtime.examination import about_disk, about_workers
    from postroom.store.workers import Workers

    if history.status.word(now) not in _WAITING:
        return []
    store = service.store
    found = (
        about_workers(store.read(Workers.living), now),
        about_disk(store.free_bytes(), service.settings.disk_reserve),
    )
    troubles = (each for each in found if each.severity in (Severity.WARNING, Severity.ERROR))
    return [printable("; ".join(filter(None, (each.summary, each.detail, each.fix)))) for each in troubles]
