"""What an attempt's outcomes mean for its account: works, rests, is slowed, paused or refused. Pure.

`AccountBreaker` carries it out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from postroom.core.account import Account
from postroom.core.clock import HOUR
from postroom.core.job import ClaimedJob
from postroom.core.outcome import Blame, Deferred, Failed, Meaning, Outcome, Sent

# With bounds, so that a server's text costs no more than its length: all accounts of the worker wait.
_MAILBOX: Final = re.compile(
    r"""(?:"[^"\n]{1,128}"|[^\s<>()\[\],;:="'/]{1,128})@[^\s<>()\[\],;:"']{0,255}[^\s<>()\[\],;:"'.!?]"""
)
# Refusals of the account by one message, others having passed in between, until it is the message's fault.
_MOST_DRAWN: Final = 3
_MOST_DRAWN_AT_RATE: Final = 6  # where chance decides which one is refused


class AccountMove(Enum):
    """What an attempt does to its account."""

    RESET = "reset"  # a message passed: the account is active, and its pace rises
    PARK = "park"  # it has reached a limit: it rests
    SLOW = "slow"  # it was too fast: it rests for seconds, and goes on at half its pace
    PAUSE = "pause"  # it is at fault: it is tried again after minutes to hours
    REFUSE = "refuse"  # it is at fault and never worked: its messages fail with the reason
    BACK_OFF = "back off"  # no connection could be opened: it is left alone for a while
    NO_PLACE = "no place"  # the server has no connection for us, not even one: ask again soon
    MAKE_DO = "make do"  # it goes on over the connections that are open


TRIPS: Final = frozenset({AccountMove.PARK, AccountMove.SLOW, AccountMove.PAUSE, AccountMove.REFUSE})


@dataclass(frozen=True, slots=True)
class AccountVerdict:
    """What an attempt says of its account: what to do, and the outcome that says why."""

    move: AccountMove
    because: Deferred | Failed | None = None
    rest: int | None = None  # of PARK, in microseconds


RESET: Final = AccountVerdict(AccountMove.RESET)


def reason_for_all(reason: str, own: Collection[str]) -> str:
    """Return why an account rests, as all are told whose messages wait for it: a mailbox of another's message is hidden."""
    known = {mailbox.casefold() for mailbox in own}
    return _MAILBOX.sub(lambda found: found[0] if found[0].casefold() in known else "…", reason)


def judge_connection(outcome: Outcome, account: Account, others: int) -> AccountVerdict:
    """Say what it means for an account that a connection could not be opened; `others` are open."""
    assert isinstance(outcome, Deferred | Failed)
    meaning = outcome.meaning if isinstance(outcome, Deferred) else None
    if others and (outcome.blame is not Blame.ACCOUNT or meaning is Meaning.RATE):
        return AccountVerdict(AccountMove.MAKE_DO, outcome)
    if meaning is Meaning.CONNECTIONS:
        return AccountVerdict(AccountMove.NO_PLACE, outcome)
    if outcome.blame is Blame.ACCOUNT:
        return _trip(outcome, account, sending=False)
    return AccountVerdict(AccountMove.BACK_OFF, outcome)


def with_account(
    job: ClaimedJob, outcomes: Mapping[int, Outcome], account: Account, *, sending: bool
) -> tuple[Mapping[int, Outcome], AccountVerdict | None]:
    """Return what the outcomes mean for the account, and what is left of them for the message."""
    if not sending:
        verdict: AccountVerdict | None = judge_connection(next(iter(outcomes.values())), account, 0)
        return {id_: _kept(outcome, account) for id_, outcome in outcomes.items()}, verdict
    blamed = next((outcome for outcome in outcomes.values() if _is_account_fault(outcome)), None)
    if blamed is not None:
        assert isinstance(blamed, Deferred | Failed)
        if not _is_of_the_message(job, blamed, account):
            kept = {id_: _kept(outcome, account) for id_, outcome in outcomes.items()}
            return kept, _trip(blamed, account, sending=True)
        outcomes = {id_: _as_of_the_message(outcome) for id_, outcome in outcomes.items()}
    passed = any(isinstance(outcome, Sent) for outcome in outcomes.values())
    return outcomes, RESET if passed else None


def _is_account_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred | Failed) and outcome.blame is Blame.ACCOUNT


def _trip(blamed: Deferred | Failed, account: Account, *, sending: bool) -> AccountVerdict:
    if isinstance(blamed, Failed):
        move = AccountMove.REFUSE if account.worked_at is None else AccountMove.PAUSE
        return AccountVerdict(move, blamed)
    if blamed.meaning is Meaning.ACCOUNT:
        return AccountVerdict(AccountMove.PAUSE, blamed)
    if blamed.meaning is Meaning.RATE and sending:
        return AccountVerdict(AccountMove.SLOW, blamed)
    return AccountVerdict(AccountMove.PARK, blamed, min(blamed.period or HOUR, HOUR))


def _is_of_the_message(job: ClaimedJob, blamed: Deferred | Failed, account: Account) -> bool:
    """Whether this message alone draws the refusal: others have passed, and it draws it again and again."""
    most = _MOST_DRAWN_AT_RATE if blamed.meaning is Meaning.RATE else _MOST_DRAWN
    passed_at, drawn_at = account.passed_at, job.drawn_at
    counts = passed_at is not None and drawn_at is not None and drawn_at < passed_at
    return counts and job.drawn + 1 >= most


def _as_of_the_message(outcome: Outcome) -> Outcome:
    """Return what a refusal of the account is where it is the message's: the basic code decides."""
    if not isinstance(outcome, Deferred | Failed) or outcome.blame is not Blame.ACCOUNT:
        return outcome
    if outcome.reply is not None and outcome.reply.permanent:
        return Failed(outcome.reason, Blame.MESSAGE, outcome.reply, outcome.meaning)
    return Deferred(outcome.reason, Blame.MESSAGE, outcome.reply, meaning=outcome.meaning)


def _kept(outcome: Outcome, account: Account) -> Outcome:
    """An account that has worked keeps its messages when it is at fault; one that never has says why they fail."""
    if account.worked_at is not None and isinstance(outcome, Failed) and outcome.blame is Blame.ACCOUNT:
        return Deferred(
            outcome.reason, Blame.ACCOUNT, outcome.reply, burns_attempt=False, meaning=outcome.meaning
        )
    return outcome
