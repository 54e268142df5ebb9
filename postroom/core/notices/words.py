"""The words of notices: what happened, since when, what it does to messages, and the fix. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from shlex import quote
from typing import Final

from postroom.core.clock import Instant, rfc3339
from postroom.core.notices.kinds import KINDS, Kind
from postroom.core.notices.values import MOST_EXAMPLES, Event, Notice, Trouble
from postroom.core.text import printable, shortened

_LONGEST: Final = 300  # characters of one server's words
_LOOKED_AT: Final = 1000  # of those of which what differs is left out; of hundreds of messages at a look
_MAILBOX: Final = re.compile(r"<?[^\s<>@:;,()\"']{1,128}@[^\s<>@:;,()\"']{1,255}>?")
_NUMBER: Final = re.compile(r"\b(?=[0-9A-Za-z.-]{0,64}[0-9])[0-9A-Za-z.-]{6,}\b")


def alike(reason: str) -> str:
    """Return a reason without what tells one message from another: mailboxes, and ids in which there are digits."""
    return printable(shortened(_NUMBER.sub("…", _MAILBOX.sub("…", reason[:_LOOKED_AT])), _LONGEST))


def one_line(text: str) -> str:
    """Return words of somebody else's on one line of bounded length."""
    return printable(shortened(text, _LONGEST))


def alert(
    kind: Kind, told: Collection[Trouble], all_of_kind: Iterable[Trouble], id_: str, now: Instant
) -> Notice:
    """Return the notice of what is wrong: `told` is new, what else is wrong of the kind was told before."""
    words, first = KINDS[kind], next(iter(told))
    count = len(told) if words.lasts else first.count
    name = first.name if len(told) == 1 else ""
    title = (words.one if count == 1 else words.several).format(name=name, count=count)
    since = min(each.first_at for each in told)
    before = (
        0 if not words.lasts else sum(each.told_at is not None and not each.waits for each in all_of_kind)
    )
    lines = [
        f"What happened: {title}.",
        *(
            [f"Besides, {before} told before {'is' if before == 1 else 'are'} not over yet."]
            if before
            else []
        ),
        f"Since: {rfc3339(since)}",
        f"What it does to the mail: {_common(each.effect for each in told) or words.effect}",
        f"The fix: {_fix(kind, told, name)}",
        *_reasons(told, count),
    ]
    return _notice(Event.ALERT, kind, told, title, lines, since=since, count=count, id_=id_, now=now)


def recovery(
    kind: Kind, over: Collection[Trouble], left: Collection[Trouble], id_: str, now: Instant
) -> Notice:
    """Return the notice of what is over; `left`: what was told and is not over."""
    words, first = KINDS[kind], next(iter(over))
    name = first.name if len(over) == 1 else ""
    title = (words.over_one if len(over) == 1 else words.over_several).format(name=name, count=len(over))
    since = min(each.first_at for each in over)
    lines = [
        f"What happened: {title}.",
        f"It lasted from {rfc3339(since)} to {rfc3339(max(each.ended_at or now for each in over))}.",
        *(f"- {each.name}" for each in list(over)[:MOST_EXAMPLES] if len(over) > 1),
        *([f"Not over yet: {len(left)} told before."] if left else []),
        f"Told before as: {', '.join(sorted({each.notice_id or '' for each in over}))}",
        "Nothing has to be done.",
    ]
    return _notice(Event.RECOVERY, kind, over, title, lines, since=since, count=len(over), id_=id_, now=now)


def test(id_: str, now: Instant) -> Notice:
    """Return the notice of `postroom notify test`."""
    title = "this is a test"
    lines = ["What happened: somebody ran `postroom notify test`.", "Nothing has to be done."]
    return Notice(id_, None, Event.TEST, now, now, 1, f"Postroom: {title}", _text(lines, id_, "test", "test"))


def _notice(
    event: Event,
    kind: Kind,
    troubles: Collection[Trouble],
    title: str,
    lines: list[str],
    *,
    since: Instant,
    count: int,
    id_: str,
    now: Instant,
) -> Notice:
    is_alert = event is Event.ALERT
    urgent = is_alert and any(each.urgent for each in troubles)
    return Notice(
        id_,
        kind,
        event,
        now,
        since,
        count,
        f"Postroom: {one_line(title)}",
        _text(lines, id_, kind.value, event.value),
        urgent=urgent,
        broken_accounts=tuple(sorted({each.account for each in troubles if each.account}))
        if is_alert
        else (),
        nothing_is_sent=urgent,
    )


def _text(lines: Iterable[str], id_: str, kind: str, event: str) -> str:
    return "\n".join([*lines, f"Notice {id_} ({kind}, {event})"])


def _fix(kind: Kind, told: Collection[Trouble], name: str) -> str:
    fix = _common(each.fix for each in told)
    return fix or KINDS[kind].fix.format(name=quote(name) if name else "EMAIL")


def _common(texts: Iterable[str]) -> str:
    """Return what all say alike; nothing where they differ."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""


def _reasons(told: Collection[Trouble], count: int) -> Iterable[str]:
    """Yield the likely cause in common, and some examples."""
    first = next(iter(told))
    if not KINDS[first.kind].lasts:
        yield from _cause(first.causes)
        examples = list(first.examples)
    elif len(told) == 1:
        yield from ([f"The reason: {one_line(first.cause)}"] if first.cause else [])
        examples = []
    else:
        yield from _cause(Counter(alike(each.cause) for each in told if each.cause))
        examples = [f"{each.name}: {each.cause}" if each.cause else each.name for each in told]
    shown = examples[:MOST_EXAMPLES]
    if shown:
        yield f"{len(shown)} of {count}:" if count > len(shown) else "Which:"
        yield from (f"- {one_line(each)}" for each in shown)


def _cause(causes: Mapping[str, int]) -> Iterable[str]:
    if not causes:
        return
    looked_at = sum(causes.values())
    cause, times = max(causes.items(), key=lambda each: each[1])
    if looked_at == 1:
        yield f"The reason: {cause}"
    elif times * 2 > looked_at:
        yield f"The likely cause in common ({times} of {looked_at} looked at): {cause}"
    else:
        yield f"The causes differ; the most frequent ({times} of {looked_at} looked at): {cause}"
