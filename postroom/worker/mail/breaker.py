"""The circuit breaker of an account (closed, open, half open): parks, pauses, slows and resumes it.

What an attempt says of the account is decided in `core/account_verdict.py`; here it is carried out. Closed: the
account sends. Half open: its last try failed, or it was parked or paused and is due again; one message will tell.
Open: nothing is claimed for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final

from postroom.core import pace, retry
from postroom.core.account import Account, AccountState
from postroom.core.account_verdict import AccountMove, AccountVerdict, reason_for_all
from postroom.core.clock import SECOND, Instant
from postroom.core.outcome import Deferred, Failed
from postroom.store.accounts import StoredAccount
from postroom.store.transaction import Transaction
from postroom.worker.mail.account_server import AccountServer
from postroom.worker.mail.context import Context

log = logging.getLogger(__name__)

_ANY: Final = ()  # trouble of which the log has spoken, whatever comes next
_LONGEST_MEMORY = 60 * SECOND  # of what was sent without a pace
_LONGEST_BACK_OFF = 60 * SECOND
# For a server that takes no connection just now.
_PLACE_WAITS = tuple(seconds * SECOND for seconds in (1, 2, 4, 8, 16, 30))
_REFUSED_BACK_OFF = (
    SECOND  # then a probe has the rest of the messages of an account that never worked fail too
)
_REFUSED_AT_ONCE = 500  # messages that share the fate of a probe


class BreakerState(Enum):
    CLOSED = "closed"
    HALF_OPEN = "half open"
    OPEN = "open"


class AccountBreaker:
    """One account in the eyes of one worker; what the database says of it comes in by `refresh`."""

    def __init__(self, context: Context, stored: StoredAccount) -> None:
        self._context = context
        self._failures = 0
        self._refused = False  # the last failure was one of an account that never worked, by its own fault
        self._open_until = 0.0  # by the loop's clock, which nobody sets
        self._tripping: asyncio.Future[None] | None = None
        self._since: Instant | None = None  # when the messages began that are counted
        self._taken = 0
        self._trouble: tuple[object, ...] | None = None  # that the log last named, until it works again
        self.stored = stored
        self.server = AccountServer(context, stored.account)

    @property
    def account(self) -> Account:
        return self.stored.account

    def refresh(self, stored: StoredAccount) -> None:
        """Take over what the database says of the account now; new credentials deserve a try at once."""
        if stored.credential != self.stored.credential:
            self._failures, self._refused, self._open_until = 0, False, 0.0
            if self._trouble is not None:
                self._trouble = _ANY
        worked_at = stored.account.worked_at or self.account.worked_at  # it may be on its way to the database
        worked_with = stored.account.worked_with or self.account.worked_with
        account = replace(stored.account, worked_at=worked_at, worked_with=worked_with)
        self.stored = replace(stored, account=account)
        self.server.learn(account)

    def note(self, account: Account) -> None:
        """Take over a change of the account that is on its way to the database."""
        self.stored = replace(self.stored, account=account)

    # -- may it send?

    @property
    def state(self) -> BreakerState:
        """Open: claim nothing. Half open: claim what will tell (`probe_size`)."""
        if asyncio.get_running_loop().time() < self._open_until:
            return BreakerState.OPEN
        if self._tripping is not None and not self._tripping.done():
            return BreakerState.OPEN  # once it is written down, the database says when it may go on
        return BreakerState.HALF_OPEN if self._failures or not self.is_active else BreakerState.CLOSED

    @property
    def is_active(self) -> bool:
        """Whether the account is neither parked nor paused."""
        return self.account.state is AccountState.ACTIVE

    @property
    def connections(self) -> int:
        """This worker's share of the account's connections; one until it is known that the account works."""
        if self.account.worked_at is None:
            return 1
        return -(-self.server.most_connections // self._context.workers)

    @property
    def probe_size(self) -> int:
        """How many messages may try whether it goes on: many where they are to fail without a log-in for each."""
        return _REFUSED_AT_ONCE if self._refused else 1

    # -- verdicts

    def apply(self, verdict: AccountVerdict, began_at: Instant) -> None:
        """Carry out what an attempt says of the account that began at `began_at`."""
        because = verdict.because
        if verdict.move is AccountMove.RESET:
            self.reset(began_at)
            return
        assert because is not None
        match verdict.move:
            case AccountMove.PARK | AccountMove.SLOW | AccountMove.PAUSE:
                self.trip(verdict, because, began_at)
            case AccountMove.REFUSE:
                self._tell_trouble(because)
                self._refuse()
            case AccountMove.NO_PLACE:
                self._wait_for_place(because)
            case AccountMove.BACK_OFF:
                self._tell_trouble(because)
                self.back_off()

    def open_for(self, seconds: float) -> None:
        """Claim nothing for it for so long."""
        self._open_until = asyncio.get_running_loop().time() + seconds

    def back_off(self, longest: int = _LONGEST_BACK_OFF) -> None:
        """Open for a while, longer with each failure in a row."""
        self._failures += 1
        self._refused = False
        schedule = self._context.settings.retry_schedule
        wait = min(retry.delay(self._failures, schedule, random.random), longest)
        self.open_for(wait / SECOND)

    def _wait_for_place(self, because: Deferred | Failed) -> None:
        """The server has no connection for us, not even one: ask again soon, each time after twice as long."""
        self._failures += 1
        if self._failures > len(_PLACE_WAITS):  # that is about a minute
            self._tell_trouble(because)
        self._refused = False
        self.open_for(retry.delay(self._failures, _PLACE_WAITS, random.random) / SECOND)

    def _refuse(self) -> None:
        """Its own fault, and it never worked: the rest of its messages are to fail soon."""
        if self.state is BreakerState.OPEN and self._refused:
            return  # messages that were in hand fail for the same reason
        self.back_off(_LONGEST_BACK_OFF if self._refused else _REFUSED_BACK_OFF)
        self._refused = True

    def trip(self, verdict: AccountVerdict, because: Deferred | Failed, tried_at: Instant) -> None:
        """Park, slow or pause the account. `tried_at`: when the attempt began that met with its fault."""
        account, now = self.account, self._context.clock()
        state = AccountState.PAUSED if verdict.move is AccountMove.PAUSE else AccountState.PARKED
        if self.is_active or (account.state_since or 0) <= tried_at:
            log.warning("account %s is %s: %s", account.email, state.value, because.reason)
        self._trouble = _ANY
        self.note(replace(account, state=state, state_since=now))
        reason = reason_for_all(because.reason, (account.email, account.username or ""))
        self._tripping = self._context.async_writer.submit_until_recorded(
            self._trip_work(verdict, reason, tried_at, now), f"that {account.email} is {state.value}"
        )

    def _trip_work(
        self, verdict: AccountVerdict, reason: str, tried_at: Instant, now: Instant
    ) -> Callable[[Transaction], None]:
        id_, rest = self.account.id, verdict.rest
        if verdict.move is AccountMove.PAUSE:
            return lambda transaction: transaction.accounts.pause(
                id_, reason=reason, tried_at=tried_at, now=now
            )
        if verdict.move is AccountMove.SLOW:
            started = pace.first(self._taken * self._context.workers, self._since or tried_at, now)
            self.note(replace(self.account, gap=self.account.gap or started.gap))
            return lambda transaction: transaction.pace.slow(
                id_, started, reason=reason, tried_at=tried_at, now=now
            )
        assert rest is not None
        return lambda transaction: transaction.accounts.park(
            id_, reason=reason, rest=rest, tried_at=tried_at, now=now
        )

    def reset(self, began_at: Instant) -> None:
        """Close: a message was sent. The pace rises, and an account that was parked or paused is active again.

        What began before it was parked or paused tells nothing of now.
        """
        self._failures = 0
        account = self.account
        is_old = not self.is_active and began_at < (account.state_since or 0)
        if not is_old and (self._trouble is not None or not self.is_active):
            self._trouble = None
            log.warning("account %s works now", account.email)
        self._count_taken(began_at)
        self._quicken(began_at)
        if self.is_active or is_old:
            return
        now = self._context.clock()
        active = AccountState.ACTIVE
        self.note(replace(account, state=active, state_since=None, resume_at=None, passed_at=now))
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.accounts.note_passed(account.id, now),
            f"that {account.email} is active again",
        )
        self._context.request_work()

    def _quicken(self, began_at: Instant) -> None:
        account = self.account
        if account.gap is None:
            return
        now = self._context.clock()
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.pace.quicken(account.id, began_at=began_at, now=now),
            f"the pace of {account.email}",
        )

    def _count_taken(self, began_at: Instant) -> None:
        """Remember how many messages went within the last while, for the first pace."""
        if self._since is None or began_at - self._since > _LONGEST_MEMORY:
            self._since, self._taken = began_at, 0
        self._taken += 1

    def _tell_trouble(self, because: Deferred | Failed) -> None:
        """Have the log say once why the account cannot send, and again when it is for another reason."""
        reply = because.reply
        what = (type(because), reply.code, reply.enhanced) if reply else (type(because), because.reason)
        if what == self._trouble:
            return
        self._trouble = what
        account = self.account
        never = account.worked_at is None
        log.warning(
            "account %s %s: %s", account.email, "has never worked" if never else "cannot send", because.reason
        )
