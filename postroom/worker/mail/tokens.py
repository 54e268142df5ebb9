"""Access tokens for a worker's log-ins: asked for in threads of their own, and their errors as SMTP faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, TypeVar

from postroom.accounts.oauth import AccessToken, AccessTokens
from postroom.accounts.oauth_providers import may_have_token
from postroom.accounts.vault import UndecryptableSecret
from postroom.core.account import Account
from postroom.core.errors import FaultKind, GrantRefused, SMTPFault, TokenUnavailable
from postroom.core.reply_rows.row import Place

T = TypeVar("T")
_THREADS: Final = 8  # that ask for tokens; a provider that does not answer keeps one for 20 seconds


class LoginTokens:
    """The access tokens of all accounts of a process, for coroutines."""

    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens
        self._asking = ThreadPoolExecutor(_THREADS, thread_name_prefix="oauth")
        self._granted: set[int] = set()  # accounts that were last seen with a grant

    def has_grant(self, account: Account) -> bool:
        """Whether the account had a grant when its token was last asked for."""
        return account.id in self._granted

    async def get(self, account: Account, host: str) -> AccessToken | None:
        """Return a token for a log-in at `host`; None where the account has no grant. Raises SMTPFault, StoreError."""
        has_grant, token = await self._run(None, lambda: self._tokens.ready(account))
        if not has_grant:
            self._granted.discard(account.id)
            return None
        self._granted.add(account.id)
        token = token or await self._run(self._asking, lambda: self._tokens.get(account))
        if token is not None and not may_have_token(token.provider, host):
            raise not_for(token.provider, host)
        return token

    async def replace(self, account: Account, host: str, refused: AccessToken) -> AccessToken | None:
        """Return another token in place of one that the mail server refused. Raises SMTPFault, StoreError."""
        await self._run(None, lambda: self._tokens.reject(account, refused))
        return await self.get(account, host)

    async def _run(self, executor: Executor | None, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, call)
        except GrantRefused as refused:
            raise SMTPFault(FaultKind.GRANT_REFUSED, "AUTH", str(refused)) from refused
        except TokenUnavailable as fault:
            raise SMTPFault(FaultKind.NO_TOKEN, "AUTH", str(fault)) from fault
        except UndecryptableSecret as error:
            raise SMTPFault(FaultKind.UNDECRYPTABLE, "AUTH", str(error)) from error


def is_refused_token(fault: SMTPFault) -> bool:
    """Whether the mail server has refused an access token for good."""
    refused = fault.kind is FaultKind.REFUSED and Place.of(fault.verb) is Place.BEARER
    return refused and fault.reply is not None and fault.reply.permanent


def not_for(provider: str, host: str) -> SMTPFault:
    message = (
        f"a token of {provider} is for its own mail servers, and {host} is none of them; nothing was sent to it. "
        "Set the account's host, or authorize the account again: postroom accounts authorize EMAIL --provider custom"
    )
    return SMTPFault(FaultKind.UNSUPPORTED, "AUTH", message)
