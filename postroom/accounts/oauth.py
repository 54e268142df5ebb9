"""Access tokens of accounts: refreshed ahead of their end, by one process at a time, and stored before they are used."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from postroom.accounts import oauth_requests
from postroom.accounts.oauth_providers import provider_named
from postroom.accounts.oauth_refusals import explain_refusal
from postroom.accounts.oauth_requests import Client, ProviderRefused, TokenAnswer
from postroom.accounts.vault import Vault
from postroom.core.account import Account, Secret
from postroom.core.clock import SECOND, Clock, Instant, system_clock
from postroom.core.errors import ConfigError, GrantRefused, StoreUnavailable, TokenUnavailable
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.settings import Settings
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.store import Store

_CLAIM: Final = 60 * SECOND  # longer than a token request takes (http_client), and its storing
_LONGEST_WAIT_S: Final = 65.0  # for another process that refreshes
_POLL_S: Final = (0.05, 0.1, 0.2, 0.5)  # between two looks at what became of it; the last one repeated


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token to log in with. `stored` is its ciphertext, by which it is known in the database."""

    secret: Secret
    stored: bytes
    provider: str
    is_new: bool  # asked for just now


class AccessTokens:
    """The access tokens of all accounts. Safe to share between threads; its calls wait for servers."""

    def __init__(self, store: Store, vault: Vault, settings: Settings, clock: Clock = system_clock) -> None:
        self._store, self._vault, self._settings, self._clock = store, vault, settings, clock
        self._locks: dict[int, threading.Lock] = {}  # of the accounts; one thread of this process refreshes

    def ready(self, account: Account) -> tuple[bool, AccessToken | None]:
        """Return whether the account has a grant, and its token where none needs to be asked for; no server is asked."""
        grant = self._read(account)
        if grant is None or not grant.is_fresh(self._clock()):
            return grant is not None, None
        return True, self._opened(account, grant)

    def get(self, account: Account) -> AccessToken | None:
        """Return a token for a log-in as the account; None where it has no grant.

        Raises GrantRefused, TokenUnavailable, UndecryptableSecret and StoreError.
        """
        has_grant, token = self.ready(account)
        if not has_grant or token is not None:
            return token
        with self._locks.setdefault(account.id, threading.Lock()):
            return self._refreshed(account)

    def reject(self, account: Account, token: AccessToken) -> None:
        """Have a token that the mail server refused not be used again."""
        self._store.write(OAuthGrants.expire_token, account.id, token.stored, self._clock())

    def _read(self, account: Account) -> OAuthGrant | None:
        grant = self._store.read(OAuthGrants.get, account.id)
        if grant is not None and grant.refused is not None:
            raise GrantRefused(grant.refused)
        return grant

    def _opened(self, account: Account, grant: OAuthGrant, *, is_new: bool = False) -> AccessToken:
        assert grant.access_token is not None
        secret = self._vault.open_sealed(grant.access_token, context(account.uid, "access_token"))
        return AccessToken(secret, grant.access_token, grant.provider, is_new)

    def _refreshed(self, account: Account) -> AccessToken | None:
        """Refresh, or wait for the process that does. A token that is still good is used where nothing comes of it."""
        until = time.monotonic() + _LONGEST_WAIT_S
        polls = iter(_POLL_S)
        while True:
            grant, now = self._read(account), self._clock()
            if grant is None or grant.is_fresh(now):
                return None if grant is None else self._opened(account, grant)
            claim = now + _CLAIM
            if self._store.write(OAuthGrants.claim_refresh, account.id, claim, now):
                return self._refresh(account, claim)
            if grant.is_usable(now):
                return self._opened(account, grant)
            if time.monotonic() > until:
                raise TokenUnavailable("another process has asked for an access token and got none yet")
            time.sleep(next(polls, _POLL_S[-1]))

    def _refresh(self, account: Account, claim: Instant) -> AccessToken:
        """Ask for a token with the grant as it is now that we have the claim, and store what came."""
        grant = self._read(account)
        if grant is None:
            raise TokenUnavailable("the grant was removed just now")
        asked_at = self._clock()
        try:
            answer = self._ask(account, grant, asked_at)
        except ProviderRefused as refused:
            now = self._clock()
            reason = explain_refusal(grant, refused.error, refused.description, now=now)
            reason = reason.replace("EMAIL", account.email)
            self._store.write(OAuthGrants.note_refused, account.id, claim, reason, now)
            raise GrantRefused(reason) from None
        except BaseException as error:
            self._store.write(OAuthGrants.release, account.id, claim)
            if isinstance(error, TokenUnavailable) and grant.is_usable(self._clock()):
                return self._opened(account, grant)  # it was to be refreshed ahead of its end
            raise
        return self._keep(account, grant, claim, answer, asked_at)

    def _ask(self, account: Account, grant: OAuthGrant, now: Instant) -> TokenAnswer:
        secret = self._open(account, grant.grant_secret, "grant_secret")
        if grant.kind is GrantKind.SERVICE_ACCOUNT:
            return oauth_requests.service_account(
                grant.token_endpoint,
                grant.client_id,
                secret,
                mailbox=account.username or account.email,
                scope=grant.scope,
                now=now,
            )
        client = Client(grant.client_id, self._client_secret(account, grant))
        if grant.kind is GrantKind.CLIENT_CREDENTIALS:
            return oauth_requests.client_credentials(grant.token_endpoint, client, grant.scope)
        return oauth_requests.refresh(grant.token_endpoint, client, secret, grant.scope)

    def _client_secret(self, account: Account, grant: OAuthGrant) -> Secret | None:
        """Return the account's own, else that of the settings where they name this client at this endpoint."""
        if grant.client_secret is not None:
            return self._open(account, grant.client_secret, "client_secret")
        try:
            provider = provider_named(grant.provider, self._settings)
        except ConfigError:
            return None
        same = (provider.client_id, provider.token_url) == (grant.client_id, grant.token_endpoint)
        return provider.secret if same else None

    def _open(self, account: Account, sealed: bytes | None, name: str) -> Secret:
        return Secret("") if sealed is None else self._vault.open_sealed(sealed, context(account.uid, name))

    def _keep(
        self, account: Account, grant: OAuthGrant, claim: Instant, answer: TokenAnswer, asked_at: Instant
    ) -> AccessToken:
        """Store the answer before it is used; for as long as the claim lasts, where the database is away.

        Its end counts from when it was asked for, by this machine's clock: the provider's does not matter.
        """
        access = self._vault.seal(answer.access_token.reveal(), context(account.uid, "access_token"))
        rotated = None
        if answer.refresh_token is not None and grant.kind is GrantKind.REFRESH_TOKEN:
            rotated = self._vault.seal(answer.refresh_token.reveal(), context(account.uid, "grant_secret"))
        kept = None
        while kept is None:
            try:
                kept = self._store.write(
                    OAuthGrants.store_token,
                    account.id,
                    claim,
                    access_token=access,
                    expires_at=asked_at + answer.lifetime,
                    grant_secret=rotated,
                    now=self._clock(),
                )
            except StoreUnavailable:
                if self._clock() > claim:
                    raise
                time.sleep(_POLL_S[-1])
        if not kept:
            raise TokenUnavailable("the grant was replaced while a token was asked for")
        return AccessToken(answer.access_token, access, grant.provider, is_new=True)


def context(uid: str, name: str) -> str:
    """Return the place that a secret of an account's grant is sealed for (`Vault.seal`)."""
    return f"oauth_grant:{uid}:{name}"
