"""Logs in as accounts at their pace, and sends nothing: `postroom accounts check`, and verify in the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from postroom.accounts.doctor.account import Login
from postroom.core.account import AccountState
from postroom.core.classify import classify_fault, is_refused_login
from postroom.core.clock import SECOND, system_clock
from postroom.core.errors import ConfigError, SMTPFault
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Deferred, Failed
from postroom.core.replies import Circumstances
from postroom.store.accounts import Accounts

if TYPE_CHECKING:
    from postroom.runtime.installation import Service
    from postroom.store.accounts import StoredAccount
    from postroom.store.connections import ConnectionLease
    from postroom.store.transaction import Transaction
    from postroom.store.writer import Work
    from postroom.worker.liveness import Registration
    from postroom.worker.mail.connect import ServerConnector

_AT_ONCE = 10
_LONGEST_WAIT_S = 60.0  # for the account's turn to log in
_WITHIN_S = 45.0  # for the answer of a log-in on request, within the time that an HTTP request has
_SOON_S = 10.0


@dataclass(frozen=True, slots=True)
class _Checker:
    """The parts that a check of one account needs."""

    service: Service
    connector: ServerConnector
    worker_id: int
    longest_wait_s: float
    resumes: bool


async def check_all(
    service: Service,
    chosen: Sequence[StoredAccount],
    tell: Callable[[StoredAccount, bool | None, str], None],
    *,
    longest_wait_s: float = _LONGEST_WAIT_S,
    resumes: bool = False,
) -> list[bool | None]:
    """Log in as each account and tell the result; True where that worked, None where it was not tried.

    With `resumes` an account that works goes on, unless a person has paused it.
    """
    from postroom.inbox.maildrop import FOLDER
    from postroom.runtime import installation
    from postroom.worker.liveness import Registration
    from postroom.worker.mail.connect import connector_for

    connector = connector_for(service.settings, service.store, service.vault, FOLDER)
    registration = Registration(
        service.store, installation.VAR / "workers", system_clock
    )  # connections are lent to workers
    checker = _Checker(service, connector, registration.worker_id, longest_wait_s, resumes)
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(stored: StoredAccount) -> bool | None:
        async with places:
            works, words = await _check(checker, stored)
        tell(stored, works, words)
        return works

    renewing = asyncio.create_task(_renew(registration))
    try:
        return await asyncio.gather(*(one(stored) for stored in chosen))
    finally:
        renewing.cancel()
        registration.leave(InDoubtPolicy.HOLD)


async def _renew(registration: Registration) -> None:
    """Keep the connections that are lent to us for as long as the check takes."""
    from postroom.worker.liveness import RENEW_S

    while True:
        await asyncio.sleep(RENEW_S)
        await asyncio.to_thread(registration.renew)


async def _check(checker: _Checker, stored: StoredAccount) -> tuple[bool | None, str]:
    """Return whether an account can log in, None where that was not tried, and the words for it."""
    from postroom.accounts.csv_sync import password_digests

    account, store = stored.account, checker.service.store
    digests = password_digests(stored, checker.service.vault)
    if store.read(Accounts.refused_password, account.id) in digests:
        reason = (
            account.state_reason
            or store.read(Accounts.last_reason, account.id)
            or "the server refused the log-in"
        )
        once_more = f"postroom accounts resume {quote(account.email)} has it tried once more"
        return None, f"not tried again with the password that was refused ({once_more}): {reason}"
    try:
        lease = await asyncio.to_thread(_lease, checker, stored)
    except _NotSoonError as error:
        return None, str(error)
    if lease is None:
        return None, "all its connections are in use just now"
    try:
        await asyncio.sleep(max(0.0, (lease.login_at - system_clock()) / SECOND))
        return await _log_in(checker, stored, digests)
    finally:
        await asyncio.to_thread(store.write, lambda transaction: transaction.connections.give_back(lease))


class _NotSoonError(Exception):
    """The account's next log-in is allowed too late to wait for it; it is not reserved."""


def _lease(checker: _Checker, stored: StoredAccount) -> ConnectionLease | None:
    """Take one of the account's connections, and its turn to log in; None when all are taken. Raises _NotSoonError."""
    account = stored.account
    most, logins_per_minute = account.connections or 1, account.logins_per_minute
    with suppress(ConfigError):  # the log-in will say what is wrong
        server = checker.connector.server_of(account)
        most, logins_per_minute = server.connections, server.logins_per_minute
    has_login = checker.connector.has_login(stored)

    def work(transaction: Transaction) -> ConnectionLease | None:
        lease = transaction.connections.take(
            account.id,
            checker.worker_id,
            most=most,
            logins_per_minute=logins_per_minute if has_login else None,
            now=(now := system_clock()),
        )
        if lease is not None and (wait := (lease.login_at - now) / SECOND) > checker.longest_wait_s:
            raise _NotSoonError(f"its pace allows the next log-in in {wait:.0f} s")
        return lease

    return checker.service.store.write(work)


async def _log_in(checker: _Checker, stored: StoredAccount, digests: tuple[str, ...]) -> tuple[bool, str]:
    """Log in and out again. A refused password is noted; the note is removed when a password is accepted."""
    id_, store = stored.account.id, checker.service.store
    try:
        connection = await checker.connector.connect(stored)
    except SMTPFault as fault:
        outcome = classify_fault(fault, Circumstances(checker.connector.host_of(stored.account)))
        assert isinstance(outcome, Deferred | Failed)
        if digests and is_refused_login(fault):
            await asyncio.to_thread(
                store.write, lambda transaction: transaction.accounts.note_refused_password(id_, digests[0])
            )
        return False, outcome.reason
    await connection.quit()
    await asyncio.to_thread(store.write, _works(checker, stored, has_logged_in=connection.authenticated))
    if not connection.authenticated:
        return True, f"connected, without a log-in, at {connection.where}"
    return True, f"logged in at {connection.where}{_pause_of(stored, is_resumed=checker.resumes)}"


def _works(checker: _Checker, stored: StoredAccount, *, has_logged_in: bool) -> Work[None]:
    """Return work that writes down what an accepted log-in has shown."""
    id_ = stored.account.id
    worked_with = checker.connector.unnamed_server(stored.account) if checker.resumes else None

    def work(transaction: Transaction) -> None:
        if has_logged_in:
            transaction.accounts.forget_refused_password(id_)
        if checker.resumes:
            transaction.accounts.note_worked(id_, system_clock(), worked_with)

    return work


def _pause_of(stored: StoredAccount, *, is_resumed: bool) -> str:
    account = stored.account
    if account.state is AccountState.ACTIVE or (is_resumed and account.paused_by != "person"):
        return ""
    return f"; it is {account.state.value}: postroom accounts resume {quote(account.email)} lets it go on at once"


def verify(service: Service, stored: StoredAccount) -> Login:
    """Log in as one account, which goes on if it was not a person that paused it. For a thread without a loop."""
    found = Login(False, f"the server has not answered a log-in within {_WITHIN_S:.0f} seconds")

    def tell(_: StoredAccount, works: bool | None, words: str) -> None:
        nonlocal found
        found = Login(works, words)

    async def main() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_WITHIN_S):
                await check_all(service, [stored], tell, longest_wait_s=_SOON_S, resumes=True)

    asyncio.run(main())
    return found
