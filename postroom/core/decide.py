"""Decides what an attempt, or a worker's death in it, means: states, next try, events, the account's part. Pure.

The table is docs/design.md §5. The store writes a `Decision`, and the account's breaker carries out its account part;
neither decides anything of its own. What a dead worker has left is decided here too (`decide_abandoned`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from postroom.core import retry
from postroom.core.account import Account
from postroom.core.account_verdict import RESET, TRIPS, AccountVerdict, with_account
from postroom.core.clock import SECOND, Instant
from postroom.core.events import EventKind, NewEvent, sent_again
from postroom.core.job import ClaimedJob, JobRef
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Meaning, Outcome, Reply, Sent

CRASHED: Final = "the worker that was sending it stopped"
POISONED: Final = "set aside: the worker has stopped {} times while it was sending this message"
_AFTER_THE_DOT: Final = f"{CRASHED} after the final dot, before the server's answer was recorded"
_NEIGHBOUR_DAMAGED: Final = "another recipient's stored envelope was altered"
MOST_CRASHES: Final = 3
SUSPECT: Final = MOST_CRASHES - 1  # from so many on a worker has one such job at a time
STEP_BACK: Final = 2 * SECOND
_TOO_MANY: Final = (452, 552)  # recipients (RFC 5321 §4.5.3.1.10)

_KINDS: Final[Mapping[type[Outcome], EventKind]] = {
    Sent: EventKind.SENT,
    Deferred: EventKind.DEFERRED,
    Failed: EventKind.FAILED,
    InDoubt: EventKind.IN_DOUBT,
}
_GRAVITY: Final = (Sent, Deferred, InDoubt, Failed)


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """When an installation tries again: its waits in microseconds, for how long, and a source of [0, 1)."""

    waits: Sequence[int]
    retry_for: int
    random: Callable[[], float]


class DeliveryState(Enum):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


class DeliveryResult(NamedTuple):
    """What one recipient's row is to say."""

    id: int
    state: DeliveryState
    reason: str | None = None
    reply: Reply | None = None
    possible_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class NextTry:
    """When a job that is not over is tried again."""

    due_at: Instant
    counts: bool = True  # the attempt that has just ended
    is_held: bool = False  # it waits for a person instead
    is_behind: bool = False  # it drew a refusal of the account: it waits for that, behind all others


class Decision(NamedTuple):
    """All that one attempt means; `finish` writes it, and nothing else."""

    deliveries: tuple[DeliveryResult, ...]
    events: tuple[NewEvent, ...]
    next_try: NextTry | None  # None: the message has reached its end
    outcome: Outcome | None  # the gravest, for the record of attempts; None: no attempt is recorded
    unused: int  # recipients, reserved of the daily limit, to whom nothing was sent
    account: AccountVerdict | None = None
    is_crash: bool = False  # one more worker died with it in hand

    @property
    def is_over(self) -> bool:
        return self.next_try is None

    @property
    def has_failed(self) -> bool:
        """Whether a recipient has failed in this attempt."""
        return any(result.state is DeliveryState.FAILED for result in self.deliveries)


def decide(
    job: ClaimedJob,
    outcomes: Mapping[int, Outcome],
    account: Account,
    policy: InDoubtPolicy,
    schedule: RetrySchedule,
    now: Instant,
    *,
    sending: bool = True,
) -> Decision:
    """Say what an attempt means that has ended with one Outcome for each delivery id of the job.

    `policy` is the installation's for doubts. Not `sending`: there was no connection, for which the outcomes say why.
    """
    if job.one_recipient and not job.partial:  # most messages end here
        outcome = outcomes[job.deliveries[0].id]
        if isinstance(outcome, Sent):
            return _sent_to_one(job.deliveries[0].id, outcome)
    if all(isinstance(outcome, Sent) for outcome in outcomes.values()):
        return decision_of(job, outcomes, policy, now=now, account=RESET)
    outcomes, verdict = with_account(job, outcomes, account, sending=sending)
    outcomes = {id_: _counted_when_late(job, each, schedule, now) for id_, each in outcomes.items()}
    due_at = _due_at(job, list(outcomes.values()), schedule, now)
    if due_at is None:
        outcomes = {id_: _given_up(outcome, job.in_doubt or policy) for id_, outcome in outcomes.items()}
    return decision_of(
        job,
        outcomes,
        policy,
        now=now,
        due_at=now if due_at is None else due_at,
        account=verdict,
        is_behind=sending and verdict is not None and verdict.move in TRIPS,
    )


def _sent_to_one(delivery_id: int, sent: Sent) -> Decision:
    """Return what `decision_of` does of a message that was sent to its only recipient, in 2 µs instead of 6."""
    return Decision(
        deliveries=(DeliveryResult(delivery_id, DeliveryState.SENT, None, sent.reply),),
        events=(NewEvent(EventKind.SENT, delivery_id, str(sent.reply)),),
        next_try=None,
        outcome=sent,
        unused=0,
        account=RESET,
    )


def decision_of(
    job: JobRef,
    outcomes: Mapping[int, Outcome],
    policy: InDoubtPolicy,
    *,
    now: Instant,
    due_at: Instant | None = None,
    account: AccountVerdict | None = None,
    is_behind: bool = False,
) -> Decision:
    """Say what outcomes mean for the job and its recipients; `due_at` must be given when one is not final."""
    assert outcomes.keys() == {delivery.id for delivery in job.deliveries}
    policy = job.in_doubt or policy
    next_try: NextTry | None = None
    if not all(_is_final(outcome, policy) for outcome in outcomes.values()):
        assert due_at is not None
        counts = any(_counts(outcome) for outcome in outcomes.values())
        next_try = NextTry(due_at, counts, _is_held(outcomes.values(), policy), is_behind)
    elif job.partial:  # the recipients for whom the limit had no room have their turn
        next_try = NextTry(now, counts=False)
    events: list[NewEvent] = []
    for id_, outcome in outcomes.items():
        events += _events(id_, outcome, policy)
    return Decision(
        deliveries=tuple(_result(id_, outcome, policy) for id_, outcome in outcomes.items()),
        events=tuple(events),
        next_try=next_try,
        outcome=max(outcomes.values(), key=_gravity),
        unused=sum(not isinstance(outcome, Sent | InDoubt) for outcome in outcomes.values()),
        account=account,
    )


# -- the recipients


def kind_of(outcome: Outcome) -> EventKind:
    """Return the kind of event that an outcome is recorded as."""
    return _KINDS[type(outcome)]


def _is_final(outcome: Outcome, policy: InDoubtPolicy) -> bool:
    if isinstance(outcome, InDoubt):
        return policy is InDoubtPolicy.FAIL
    return isinstance(outcome, Sent | Failed)


def _counts(outcome: Outcome) -> bool:
    return not isinstance(outcome, Deferred) or outcome.burns_attempt


def _is_held(outcomes: Collection[Outcome], policy: InDoubtPolicy) -> bool:
    return policy is InDoubtPolicy.HOLD and any(isinstance(outcome, InDoubt) for outcome in outcomes)


def _gravity(outcome: Outcome) -> int:
    return _GRAVITY.index(type(outcome))


def _result(delivery_id: int, outcome: Outcome, policy: InDoubtPolicy) -> DeliveryResult:
    if isinstance(outcome, Sent):
        return DeliveryResult(delivery_id, DeliveryState.SENT, None, outcome.reply)
    if isinstance(outcome, InDoubt):
        if _is_final(outcome, policy):
            return DeliveryResult(delivery_id, DeliveryState.FAILED, outcome.reason)
        return DeliveryResult(delivery_id, DeliveryState.PENDING, outcome.reason, possible_duplicate=True)
    state = DeliveryState.FAILED if isinstance(outcome, Failed) else DeliveryState.PENDING
    return DeliveryResult(delivery_id, state, outcome.reason, outcome.reply)


def _events(delivery_id: int, outcome: Outcome, policy: InDoubtPolicy) -> list[NewEvent]:
    detail = str(outcome.reply) if isinstance(outcome, Sent) else outcome.reason
    events = [NewEvent(kind_of(outcome), delivery_id, detail)]
    if isinstance(outcome, InDoubt) and policy is InDoubtPolicy.RETRY:
        events.append(sent_again(delivery_id))
    return events


# -- the next try


def _due_at(
    job: ClaimedJob, outcomes: Collection[Outcome], schedule: RetrySchedule, now: Instant
) -> Instant | None:
    """Return when to try again; None when that has gone on for long enough."""
    if any(not _counts(outcome) for outcome in outcomes) or _were_too_many(outcomes):
        return now  # the account's own state says when; or another transaction takes the rest
    return retry.next_try(
        job.attempt,
        accepted_at=job.accepted_at,
        now=now,
        schedule=schedule.waits,
        retry_for=schedule.retry_for,
        random=schedule.random,
    )


def _counted_when_late(job: ClaimedJob, outcome: Outcome, schedule: RetrySchedule, now: Instant) -> Outcome:
    """A message for which the server had no place for as long as it is retried ends some day: its tries count."""
    if not isinstance(outcome, Deferred) or outcome.meaning is not Meaning.CONNECTIONS:
        return outcome
    if outcome.blame is Blame.ACCOUNT:
        return outcome
    is_late = now > job.accepted_at + schedule.retry_for
    return Deferred(outcome.reason, outcome.blame, outcome.reply, is_late, outcome.meaning, outcome.period)


def _were_too_many(outcomes: Collection[Outcome]) -> bool:
    """The server took the message for some recipients, and the rest is for another transaction (RFC 5321 §4.5.3.1.10)."""
    rest = [outcome for outcome in outcomes if not isinstance(outcome, Sent | Failed)]
    too_many = all(
        isinstance(outcome, Deferred)
        and outcome.reply is not None
        and outcome.reply.code in _TOO_MANY
        and outcome.reply.enhanced in (None, "4.5.3", "5.5.3")
        for outcome in rest
    )
    return bool(rest) and too_many and any(isinstance(outcome, Sent) for outcome in outcomes)


def _given_up(outcome: Outcome, policy: InDoubtPolicy) -> Outcome:
    if isinstance(outcome, Deferred):
        return Failed(f"given up after too many tries: {outcome.reason}", outcome.blame, outcome.reply)
    if isinstance(outcome, InDoubt) and policy is not InDoubtPolicy.HOLD:
        return Failed(f"given up; it may have been sent: {outcome.reason}", Blame.CONNECTION)
    return outcome


# -- what was not sent


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended that had a job in hand."""

    has_crashed: bool  # rather than signed off
    is_suspect: bool  # it may have died of this job
    dot_has_left: bool
    crashes: int  # earlier ones with this job in hand


def decide_abandoned(job: JobRef, end: WorkerEnd, policy: InDoubtPolicy, now: Instant) -> Decision:
    """Say what becomes of a job whose worker is gone: a plain retry, or, where its dot may have left, a doubt.

    A job that workers die with steps back, lest it be in hand whenever a worker that has just started is killed;
    after three deaths it waits for a person.
    """
    is_suspect = end.has_crashed and end.is_suspect
    due_at = now + STEP_BACK if is_suspect and end.crashes + 1 >= SUSPECT else now
    if end.dot_has_left:
        doubts = {delivery.id: InDoubt(_AFTER_THE_DOT) for delivery in job.deliveries}
        decision = decision_of(job, doubts, policy, now=now, due_at=due_at)
    else:
        crashed = (NewEvent(EventKind.CRASHED, None, CRASHED),) if end.has_crashed else ()
        next_try = NextTry(due_at, counts=end.has_crashed)
        decision = Decision((), crashed, next_try, outcome=None, unused=len(job.deliveries))
    if is_suspect and decision.next_try is not None:
        return _charged_with_a_crash(job, decision, decision.next_try, end.crashes + 1)
    return decision


def decide_abandoned_chore(end: WorkerEnd, now: Instant) -> Decision:
    """Say what becomes of a job without a message whose worker is gone: the same, and nobody is told of it."""
    is_suspect = end.has_crashed and end.is_suspect
    next_try = NextTry(
        now + STEP_BACK if is_suspect and end.crashes + 1 >= SUSPECT else now,
        counts=end.has_crashed,
        is_held=is_suspect and end.crashes + 1 >= MOST_CRASHES,
    )
    return Decision((), (), next_try, outcome=None, unused=0, is_crash=is_suspect)


def _charged_with_a_crash(job: JobRef, decision: Decision, next_try: NextTry, crashes: int) -> Decision:
    poisoned = crashes >= MOST_CRASHES
    deliveries, events = decision.deliveries, decision.events
    if poisoned:
        reason = POISONED.format(crashes)
        was_doubted = {result.id for result in deliveries if result.possible_duplicate}
        deliveries = tuple(
            DeliveryResult(each.id, DeliveryState.PENDING, reason, None, each.id in was_doubted)
            for each in job.deliveries
        )
        events = (*events, NewEvent(EventKind.HELD, None, reason))
    return Decision(
        deliveries=deliveries,
        events=events,
        next_try=NextTry(next_try.due_at, next_try.counts, poisoned or next_try.is_held),
        outcome=decision.outcome,
        unused=decision.unused,
        is_crash=True,
    )


def decide_damaged(
    job: JobRef, damage: Mapping[int, Failed], policy: InDoubtPolicy, now: Instant
) -> Decision:
    """Say what becomes of a job of which content or envelopes were altered in the database: the others go on at once."""
    spared = Deferred(_NEIGHBOUR_DAMAGED, Blame.MESSAGE)
    outcomes = {delivery.id: damage.get(delivery.id, spared) for delivery in job.deliveries}
    return decision_of(job, outcomes, policy, now=now, due_at=now)


def decide_released(job: JobRef, now: Instant) -> Decision:
    """Say what becomes of a job of which nothing was sent and that its worker gives back: the attempt does not count."""
    return Decision((), (), NextTry(now, counts=False), outcome=None, unused=len(job.deliveries))
