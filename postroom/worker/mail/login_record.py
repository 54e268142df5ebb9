"""Records an account's log-ins: a refused password, an accepted one, and that the account works."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from postroom.accounts.csv_sync import password_digests
from postroom.core.account import AccountState
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context

_SAID_FOR_S = 60.0  # that the password is accepted


class LoginRecord:
    """Records for one account what its server says to its log-ins."""

    def __init__(self, context: Context, breaker: AccountBreaker) -> None:
        self._context = context
        self._breaker = breaker
        self._accepted_at: float | None = None  # by the loop's clock: when that was last recorded

    def note_refused_password(self) -> None:
        """Have `postroom accounts check` know that this password was refused."""
        account = self._breaker.account
        digests = password_digests(self._breaker.stored, self._context.vault)
        if digests:
            self._context.async_writer.submit_until_recorded(
                lambda transaction: transaction.accounts.note_refused_password(account.id, digests[0]),
                f"that the password of {account.email} was refused",
            )
        self._accepted_at = None

    def note_logged_in(self) -> None:
        """Have `postroom accounts check` forget a refusal of this password; once a minute is enough."""
        now, account = asyncio.get_running_loop().time(), self._breaker.account
        if self._accepted_at is not None and now < self._accepted_at + _SAID_FOR_S:
            return
        self._accepted_at = now
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.accounts.forget_refused_password(account.id),
            f"that the password of {account.email} was accepted",
        )

    @property
    def has_worked(self) -> bool:
        """Whether it is written down that the account works, and with which server where nobody has named that."""
        account = self._breaker.account
        return account.worked_at is not None and account.worked_with == self._breaker.server.unnamed

    def note_worked(self) -> None:
        """Its credentials were accepted, or a message of it, for the first time."""
        now, account = self._context.clock(), self._breaker.account
        worked_with = self._breaker.server.unnamed
        self._breaker.note(
            replace(
                account, worked_at=now, worked_with=worked_with, state=AccountState.ACTIVE, state_since=None
            )
        )
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.accounts.note_worked(account.id, now, worked_with),
            f"that {account.email} works",
        )
