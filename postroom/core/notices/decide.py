"""Decides which notices are due: from what is remembered and one look at the installation. Pure.

At most one notice of a kind in a window, with all its subjects or with the count of what has happened. It is sent once
nothing more has come for `gather`, or after four times that. The end of a state is told where its beginning was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from postroom.core.clock import Instant
from postroom.core.notices import words
from postroom.core.notices.kinds import KINDS, Kind
from postroom.core.notices.quiet import local_minute
from postroom.core.notices.values import (
    MOST_CAUSES,
    MOST_EXAMPLES,
    Decision,
    Happened,
    Key,
    Look,
    Notice,
    Policy,
    Seen,
    State,
    Told,
    Trouble,
)

_LONGEST_GATHER: Final = 4  # times `gather`


def decide(
    state: State,
    look: Look,
    policy: Policy,
    now: Instant,
    new_id: Callable[[], str],
    minute: Callable[[Instant], int] = local_minute,
) -> Decision:
    """Return the notices that are due now, and the state to remember. The state counts each of them as told."""
    wanted = {key: each for key, each in state.troubles.items() if each.kind in policy.kinds}
    troubles = _note_states(wanted, look, policy, now)
    troubles = _note_happened(troubles, look, policy, now)
    told = dict(state.told)
    quiet = policy.quiet is not None and policy.quiet.holds(minute(now))
    notices: list[Notice] = []
    for kind in sorted(policy.kinds):
        of_kind = [trouble for trouble in troubles.values() if trouble.kind is kind]
        before = told.get(kind, Told())
        alert = _due_alert(kind, of_kind, before, policy, now, quiet=quiet)
        if alert:
            notice = words.alert(kind, alert, of_kind, new_id(), now)
            notices.append(notice)
            told[kind] = before = _noted(before, notice, now)
            troubles = _mark_told(troubles, alert, notice.id, now)
        over = _due_recovery(of_kind, before, policy, now, quiet=quiet)
        if over:
            left = [each for each in of_kind if each.told_at is not None and each.ended_at is None]
            notices.append(words.recovery(kind, over, left, new_id(), now))
            told[kind] = before._replace(recovery_at=now)
            troubles = {key: each for key, each in troubles.items() if each not in over}
    return Decision(State(troubles, told), tuple(notices))


# -- what was seen


def _note_states(
    troubles: Mapping[Key, Trouble], look: Look, policy: Policy, now: Instant
) -> dict[Key, Trouble]:
    """Take over which states are wrong: new ones, those that go on, and those that are over."""
    seen = {(each.kind, each.subject): each for each in look.seen if each.kind in policy.kinds}
    after: dict[Key, Trouble] = {}
    for key, trouble in troubles.items():
        if key in seen:
            after[key] = _goes_on(trouble, seen.pop(key))
        elif trouble.kind not in look.known or not KINDS[trouble.kind].lasts:
            after[key] = trouble
        elif trouble.told_at is not None:
            after[key] = trouble if trouble.ended_at is not None else replace(trouble, ended_at=now)
    for key, each in seen.items():
        after[key] = _begun(each, now)
    return after


def _begun(seen: Seen, now: Instant) -> Trouble:
    return Trouble(
        seen.kind,
        seen.subject,
        first_at=min(seen.since, now),
        noticed_at=now,
        last_at=now,
        name=seen.name,
        cause=seen.cause,
        effect=seen.effect,
        fix=seen.fix,
        urgent=seen.urgent,
        account=seen.account,
    )


def _goes_on(trouble: Trouble, seen: Seen) -> Trouble:
    """A state that is seen again. One that has become urgent since it was told is told once more."""
    worse = seen.urgent and not trouble.urgent and trouble.told_at is not None
    return replace(
        trouble,
        ended_at=None,
        is_worse=trouble.is_worse or worse,
        name=seen.name,
        cause=seen.cause,
        effect=seen.effect,
        fix=seen.fix,
        urgent=seen.urgent,
        account=seen.account,
    )


def _note_happened(
    troubles: dict[Key, Trouble], look: Look, policy: Policy, now: Instant
) -> dict[Key, Trouble]:
    """Add what has happened to what is not told yet; what stays below its threshold for a window is forgotten."""
    for happened in look.happened:
        if happened.kind in policy.kinds and happened.count > 0:
            key = happened.kind, ""
            troubles[key] = _added(troubles.get(key), happened, now)
    return {
        key: trouble
        for key, trouble in troubles.items()
        if KINDS[trouble.kind].lasts
        or trouble.count >= policy.failed
        or now - trouble.noticed_at <= policy.window
    }


def _added(trouble: Trouble | None, happened: Happened, now: Instant) -> Trouble:
    if trouble is None:
        trouble = Trouble(happened.kind, "", min(happened.since, now), now, now, count=0)
    causes = Counter(trouble.causes) + Counter(happened.causes)
    return replace(
        trouble,
        last_at=now,
        count=trouble.count + happened.count,
        causes=dict(causes.most_common(MOST_CAUSES)),
        examples=(*trouble.examples, *happened.examples)[:MOST_EXAMPLES],
    )


# -- what is due


def _due_alert(
    kind: Kind,
    troubles: Iterable[Trouble],
    told: Told,
    policy: Policy,
    now: Instant,
    *,
    quiet: bool,
) -> list[Trouble]:
    """Return what a notice is to tell of now: all of this kind that is not told, or nothing."""
    waiting = [each for each in troubles if each.waits]
    if not waiting or (not KINDS[kind].lasts and waiting[0].count < policy.failed):
        return []
    urgent = any(each.urgent for each in waiting)
    if quiet and not urgent:
        return []
    if not _window_is_over(told.urgent_at if urgent else told.alert_at, policy, now):
        return []
    return waiting if urgent or _has_gathered(waiting, policy, now) else []


def _noted(told: Told, notice: Notice, now: Instant) -> Told:
    """Urgent notices have a window of their own: neither sort delays the other."""
    return told._replace(urgent_at=now) if notice.urgent else told._replace(alert_at=now)


def _has_gathered(waiting: list[Trouble], policy: Policy, now: Instant) -> bool:
    newest = max(each.last_at for each in waiting)
    oldest = min(each.noticed_at for each in waiting)
    return not 0 <= now - newest < policy.gather or not 0 <= now - oldest < _LONGEST_GATHER * policy.gather


def _due_recovery(
    troubles: Iterable[Trouble], told: Told, policy: Policy, now: Instant, *, quiet: bool
) -> list[Trouble]:
    """Return what is over, where that is to be told now."""
    over = [each for each in troubles if each.told_at is not None and each.ended_at is not None]
    if not over or quiet or not _window_is_over(told.recovery_at, policy, now):
        return []
    ended_at = max(each.ended_at for each in over if each.ended_at is not None)
    return over if not 0 <= now - ended_at < policy.gather else []


def _window_is_over(told_at: Instant | None, policy: Policy, now: Instant) -> bool:
    """Whether a kind may be told of again; a clock that was set back delays nothing."""
    return told_at is None or not 0 <= now - told_at < policy.window


def _mark_told(
    troubles: Mapping[Key, Trouble], told: Iterable[Trouble], notice_id: str, now: Instant
) -> dict[Key, Trouble]:
    """Note what was told; what happens, and was told, is counted anew."""
    keys = {(each.kind, each.subject) for each in told}
    marked: dict[Key, Trouble] = {}
    for key, trouble in troubles.items():
        if key not in keys:
            marked[key] = trouble
        elif KINDS[trouble.kind].lasts:
            marked[key] = replace(trouble, told_at=now, is_worse=False, notice_id=notice_id)
    return marked
