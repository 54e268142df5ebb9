"""What an account may do just now: its limits, its faults, and what they cost it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from postroom.accounts.csv_sync import password_digests
from postroom.accounts.vault import Vault
from postroom.core import pace, retry
from postroom.core.account import Account, AccountState
from postroom.core.clock import HOUR, SECOND, Clock, Instant
from postroom.core.errors import ConfigError
from postroom.core.job import ClaimedJob
from postroom.core.outcome import Blame, Deferred, Failed, Meaning, Outcome
from postroom.core.replies import UNKNOWN, Circumstances
from postroom.providers import LOWEST_DAILY_LIMIT, ServerUndecided
from postroom.settings import Settings
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store, StoredAccount
from postroom.store.transaction import Transaction
from postroom.telemetry.finished_messages import FinishedMessages
from postroom.worker.mail.connect import ServerConnector

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_DRAWN = (
    3  # refusals of the account by one message, others having passed in between: it is the message's
)
_ANY = ()  # trouble of which the log has spoken, whatever comes next
_MOST_DRAWN_AT_RATE = 6  # where chance decides which one is refused
_LONGEST_MEMORY = 60 * SECOND  # of what was sent without a pace
_LONGEST_BLOCK = 60 * SECOND
_SAID_FOR_S = 60.0  # that the password is accepted
# For a server that takes no connection just now.
_PLACE_WAITS = tuple(seconds * SECOND for seconds in (1, 2, 4, 8, 16, 30))
_REFUSED_BLOCK = SECOND  # then a probe has the rest of the mail of an account that never worked fail too
_REFUSED_AT_ONCE = 500  # mails that share the fate of a probe


@dataclass(slots=True)
class Context:
    """What every lane of a worker shares."""

    settings: Settings
    store: Store
    vault: Vault
    async_writer: AsyncWriter
    clock: Clock
    worker_id: int
    var: Path
    connector: ServerConnector
    request_work: Callable[[], None]
    finished: Callable[[], None]
    bytes_in_hand: int = 0
    in_hand: set[int] = field(default_factory=set)  # claim tokens, until what became of each is recorded
    marked: set[int] = field(
        default_factory=set
    )  # claim tokens whose dot was to leave since they were last taken
    finished_messages: FinishedMessages = field(default_factory=FinishedMessages)
    draining: bool = False
    workers: int = 1  # that are alive, this one among them

    def take_marked(self) -> set[int]:
        taken, self.marked = self.marked, set()
        return taken

    async def read(self, call: Callable[[], T]) -> T:
        """Return what `call` reads from the store: at once from a file of this machine, in a thread from a server."""
        return await asyncio.to_thread(call) if self.store.is_remote else call()


class AccountBreaker:
    """One account in the eyes of one worker; what the database says of it comes in by `refresh`."""

    def __init__(self, context: Context, stored: StoredAccount) -> None:
        self._context = context
        self._failures = 0
        self._refused = False  # the last failure was one of an account that never worked, by its own fault
        self._blocked_until = 0.0  # by the loop's clock, which nobody sets
        self._setting_aside: asyncio.Future[None] | None = None
        self._since: Instant | None = None  # when the messages began that are counted
        self._taken = 0
        self._said_accepted_at: float | None = None  # by the loop's clock
        self._trouble: tuple[object, ...] | None = None  # that the log last named, until it works again
        self.stored = stored
        self.most_connections = 1  # over all workers
        self.logins_per_minute: int | None = None
        self.daily_limit: int | None = None
        self.circumstances = UNKNOWN  # of what the server answers before it takes a message
        self._unnamed_server: str | None = None  # which the account keeps where nobody has named one
        self.refresh(stored)

    @property
    def account(self) -> Account:
        return self.stored.account

    def refresh(self, stored: StoredAccount) -> None:
        """Take over what the database says of the account now; new credentials deserve a try at once."""
        if stored.credential != self.stored.credential:
            self._failures, self._refused, self._blocked_until = 0, False, 0.0
            if self._trouble is not None:
                self._trouble = _ANY
        worked_at = stored.account.worked_at or self.account.worked_at  # it may be on its way to the database
        worked_with = stored.account.worked_with or self.account.worked_with
        account = replace(stored.account, worked_at=worked_at, worked_with=worked_with)
        self.stored = replace(stored, account=account)
        self.learn_server()

    def learn_server(self) -> None:
        """Take over what is known of its server now; its MX may just have been asked."""
        account = self.account
        self._unnamed_server = self._context.connector.unnamed_server(account) or account.worked_with
        try:
            server = self._context.connector.server_of(account)
            self.most_connections, self.daily_limit = server.connections, server.daily_limit
            self.logins_per_minute = server.logins_per_minute
            self.circumstances = Circumstances(server.host)
        except ServerUndecided:
            self.most_connections = 1  # until its MX was asked
            self.daily_limit = account.daily_limit or LOWEST_DAILY_LIMIT
            self.logins_per_minute = account.logins_per_minute
        except ConfigError:
            self.most_connections = 1  # the session will fail with the reason

    @property
    def connections(self) -> int:
        """This worker's share of the account's connections; one until it is known that the account works."""
        if self.account.worked_at is None:
            return 1
        return -(-self.most_connections // self._context.workers)

    # -- may it send?

    @property
    def is_active(self) -> bool:
        return self.stored.account.state is AccountState.ACTIVE

    @property
    def is_doubtful(self) -> bool:
        """Its last try failed, or it is set aside and being probed: one mail will tell."""
        return bool(self._failures) or not self.is_active

    @property
    def probe_size(self) -> int:
        """How many mails may try whether it goes on: many where they are to fail without a log-in for each."""
        return _REFUSED_AT_ONCE if self._refused else 1

    def is_closed(self) -> bool:
        """Nothing is to be claimed for it now."""
        if asyncio.get_running_loop().time() < self._blocked_until:
            return True
        # Once it is written down, the database says when it may go on.
        return self._setting_aside is not None and not self._setting_aside.done()

    # -- faults

    def tell_trouble(self, outcome: Outcome) -> None:
        """Have the log say once what keeps the account from sending, and again when it is something else."""
        assert isinstance(outcome, Deferred | Failed)
        reply = outcome.reply
        what = (type(outcome), reply.code, reply.enhanced) if reply else (type(outcome), outcome.reason)
        if what == self._trouble:
            return
        self._trouble = what
        account = self.account
        never = account.worked_at is None
        log.warning(
            "account %s %s: %s", account.email, "has never worked" if never else "cannot send", outcome.reason
        )

    def note_refused_password(self) -> None:
        """Have `postroom accounts check` know that this password was refused."""
        digests, account = password_digests(self.stored, self._context.vault), self.account
        if digests:
            self._context.async_writer.submit_until_recorded(
                lambda transaction: transaction.note_refused_password(account.id, digests[0]),
                f"that the password of {account.email} was refused",
            )
        self._said_accepted_at = None

    def note_logged_in(self) -> None:
        """Have `postroom accounts check` forget a refusal of this password; once a minute is enough."""
        now, account_id = asyncio.get_running_loop().time(), self.account.id
        if self._said_accepted_at is not None and now < self._said_accepted_at + _SAID_FOR_S:
            return
        self._said_accepted_at = now
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.forget_refused_password(account_id),
            f"that the password of {self.account.email} was accepted",
        )

    def _tell_recovery(self) -> None:
        if self._trouble is not None or not self.is_active:
            self._trouble = None
            log.warning("account %s works now", self.account.email)

    def leave_alone(self, seconds: float) -> None:
        self._blocked_until = asyncio.get_running_loop().time() + seconds

    def block(self, longest: int = _LONGEST_BLOCK) -> None:
        """Leave it alone for a while, longer with each failure in a row."""
        self._failures += 1
        self._refused = False
        schedule = self._context.settings.retry_schedule
        wait = min(retry.delay(self._failures, schedule, random.random), longest)
        self.leave_alone(wait / SECOND)

    def wait_for_place(self, full: Outcome) -> None:
        """The server has no connection for us, not even one: ask again soon, each time after twice as long."""
        self._failures += 1
        if self._failures > len(_PLACE_WAITS):  # that is about a minute
            self.tell_trouble(full)
        self._refused = False
        self.leave_alone(retry.delay(self._failures, _PLACE_WAITS, random.random) / SECOND)

    def _refuse(self) -> None:
        """Its own fault, and it never worked: the rest of its mail is to hear of it soon."""
        if self.is_closed() and self._refused:
            return  # mail that was in hand hears the same
        self.block(_LONGEST_BLOCK if self._refused else _REFUSED_BLOCK)
        self._refused = True

    def charge(self, outcome: Outcome) -> Outcome:
        """An account that has worked keeps its mail when it is at fault; one that never has says why it fails."""
        worked = self.stored.account.worked_at is not None
        if worked and isinstance(outcome, Failed) and outcome.blame is Blame.ACCOUNT:
            return Deferred(
                outcome.reason, Blame.ACCOUNT, outcome.reply, burns_attempt=False, meaning=outcome.meaning
            )
        return outcome

    def is_of_the_message(self, job: ClaimedJob, blamed: Outcome) -> bool:
        """Whether this message alone draws the refusal: others have passed, and it draws it again and again."""
        assert isinstance(blamed, Deferred | Failed)
        most = _MOST_DRAWN_AT_RATE if blamed.meaning is Meaning.RATE else _MOST_DRAWN
        passed_at, drawn_at = self.account.passed_at, job.drawn_at
        counts = passed_at is not None and drawn_at is not None and drawn_at < passed_at
        return counts and job.drawn + 1 >= most

    def set_aside(self, blamed: Outcome, tried_at: Instant, *, sending: bool) -> bool:
        """Park or pause the account by its fault; False for one that never worked, whose mail fails instead.

        `tried_at`: when what met with it began. `sending`: a message did, not a log-in.
        """
        assert isinstance(blamed, Deferred | Failed)
        account, now = self.account, self._context.clock()
        if isinstance(blamed, Failed) and account.worked_at is None:
            self.tell_trouble(blamed)
            self._refuse()
            return False
        is_busy = isinstance(blamed, Deferred) and blamed.meaning is not Meaning.ACCOUNT
        state = AccountState.PARKED if is_busy else AccountState.PAUSED
        if self.is_active or (account.state_since or 0) <= tried_at:
            log.warning("account %s is %s: %s", account.email, state.value, blamed.reason)
        self._trouble = _ANY
        self.stored = replace(self.stored, account=replace(account, state=state, state_since=now))
        self._setting_aside = self._context.async_writer.submit_until_recorded(
            self._aside(blamed, tried_at, now, sending=sending), f"that {account.email} is {state.value}"
        )
        return True

    def _aside(
        self, blamed: Deferred | Failed, tried_at: Instant, now: Instant, *, sending: bool
    ) -> Callable[[Transaction], None]:
        id_, reason = self.account.id, blamed.reason
        if isinstance(blamed, Failed) or blamed.meaning is Meaning.ACCOUNT:
            return lambda transaction: transaction.pause_account(
                id_, reason=reason, tried_at=tried_at, now=now
            )
        if blamed.meaning is Meaning.RATE and sending:
            started = pace.first(self._taken * self._context.workers, self._since or tried_at, now)
            gap = self.account.gap or started.gap
            self.stored = replace(self.stored, account=replace(self.account, gap=gap))
            return lambda transaction: transaction.slow_account(
                id_, started, reason=reason, tried_at=tried_at, now=now
            )
        rest = min(blamed.period or HOUR, HOUR)
        return lambda transaction: transaction.park_account(
            id_, reason=reason, rest=rest, tried_at=tried_at, now=now
        )

    def passed(self, began_at: Instant) -> None:
        """A message was sent: the pace rises, and an account that was set aside is active again.

        What began before it was set aside tells nothing of now.
        """
        self._failures = 0
        if self.is_active or began_at >= (self.account.state_since or 0):
            self._tell_recovery()
        self._count_taken(began_at)
        account, now = self.account, self._context.clock()
        if account.gap is not None:
            self._context.async_writer.submit_until_recorded(
                lambda transaction: transaction.quicken_account(account.id, began_at=began_at, now=now),
                f"the pace of {account.email}",
            )
        if self.is_active or began_at < (account.state_since or 0):
            return
        active = replace(account, state=AccountState.ACTIVE, state_since=None, resume_at=None, passed_at=now)
        self.stored = replace(self.stored, account=active)
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.account_passed(account.id, now),
            f"that {account.email} is active again",
        )
        self._context.request_work()

    @property
    def has_worked(self) -> bool:
        """Whether it is written down that the account works, and with which server where nobody has named that."""
        account = self.account
        return account.worked_at is not None and account.worked_with == self._unnamed_server

    def _count_taken(self, began_at: Instant) -> None:
        """Remember how many messages went within the last while, for the first pace."""
        if self._since is None or began_at - self._since > _LONGEST_MEMORY:
            self._since, self._taken = began_at, 0
        self._taken += 1

    def note_worked(self) -> None:
        """Its credentials were accepted, or mail of it, for the first time."""
        now, account, worked_with = self._context.clock(), self.account, self._unnamed_server
        worked = replace(
            account, worked_at=now, worked_with=worked_with, state=AccountState.ACTIVE, state_since=None
        )
        self.stored = replace(self.stored, account=worked)
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.account_worked(account.id, now, worked_with),
            f"that {account.email} works",
        )


def is_account_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred | Failed) and outcome.blame is Blame.ACCOUNT


def is_full(outcome: Outcome) -> bool:
    """The server takes no more connections just now; it says nothing of the account or its messages."""
    return isinstance(outcome, Deferred) and outcome.meaning is Meaning.CONNECTIONS


def is_passing(outcome: Outcome) -> bool:
    """What keeps a new connection from being opened leaves those that are open as they are."""
    return not is_account_fault(outcome) or (
        isinstance(outcome, Deferred) and outcome.meaning is Meaning.RATE
    )


def is_session_over(outcome: Outcome) -> bool:
    """The server takes no more over this connection; over another one it does."""
    return isinstance(outcome, Deferred) and outcome.meaning is Meaning.SESSION


def as_of_the_message(outcome: Outcome) -> Outcome:
    """Return what a refusal of the account is where it is the message's: the basic code decides."""
    if not is_account_fault(outcome):
        return outcome
    assert isinstance(outcome, Deferred | Failed)
    if outcome.reply is not None and outcome.reply.permanent:
        return Failed(outcome.reason, Blame.MESSAGE, outcome.reply, outcome.meaning)
    return Deferred(outcome.reason, Blame.MESSAGE, outcome.reply, meaning=outcome.meaning)
