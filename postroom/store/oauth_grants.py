"""OAuth2 grants of accounts: one process at a time refreshes a token, and what it got is stored before it is used."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.oauth_grant import REFRESH_AHEAD, GrantKind, OAuthGrant
from postroom.store.noun import Noun


class _Row(NamedTuple):
    """The columns of a grant, as `oauth_grant_columns` in sql/oauth_grants.sql names them."""

    account_id: int
    provider: str
    kind: str
    token_endpoint: str
    client_id: str
    scope: str
    client_secret: bytes | None
    grant_secret: bytes | None
    access_token: bytes | None
    expires_at: Instant | None
    updated_at: Instant
    refused: str | None
    granted_at: Instant


class OAuthGrants(Noun):
    def get(self, account_id: int) -> OAuthGrant | None:
        row = self._tx.row(_Row, "read_oauth_grant", account_id=account_id)
        return None if row is None else OAuthGrant(**(row._asdict() | {"kind": GrantKind(row.kind)}))

    def set(self, grant: OAuthGrant, now: Instant) -> None:
        """Store a grant in place of the account's former one; a refresh of that one that is under way counts no more."""
        self._tx.change(
            "write_oauth_grant",
            account_id=grant.account_id,
            provider=grant.provider,
            kind=grant.kind.value,
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            client_secret=grant.client_secret,
            scope=grant.scope,
            grant_secret=grant.grant_secret,
            access_token=grant.access_token,
            expires_at=grant.expires_at,
            now=now,
        )

    def forget(self, account_id: int) -> bool:
        return bool(self._tx.change("remove_oauth_grant", account_id=account_id))

    def claim_refresh(self, account_id: int, until: Instant, now: Instant) -> bool:
        """Take the right to ask for a token, until a time, unless another process has it or there is a fresh token.

        `until` is the claim's name too: a later claim has another one.
        """
        return bool(
            self._tx.change(
                "claim_oauth_refresh",
                account_id=account_id,
                until=until,
                now=now,
                fresh_until=now + REFRESH_AHEAD,
            )
        )

    def store_token(
        self,
        account_id: int,
        claim: Instant,
        *,
        access_token: bytes,
        expires_at: Instant,
        grant_secret: bytes | None,
        now: Instant,
    ) -> bool:
        """Store what a refresh got, with the new refresh token where there is one; False where the claim is lost."""
        return bool(
            self._tx.change(
                "store_oauth_token",
                account_id=account_id,
                claim=claim,
                access_token=access_token,
                expires_at=expires_at,
                grant_secret=grant_secret,
                now=now,
            )
        )

    def note_refused(self, account_id: int, claim: Instant, reason: str, now: Instant) -> bool:
        """Record that the provider gives no token any more, and why."""
        return bool(
            self._tx.change("refuse_oauth_grant", account_id=account_id, claim=claim, reason=reason, now=now)
        )

    def release(self, account_id: int, claim: Instant) -> None:
        """Give the right to refresh back: nothing came of it."""
        self._tx.change("release_oauth_refresh", account_id=account_id, claim=claim)

    def expire_token(self, account_id: int, access_token: bytes, now: Instant) -> bool:
        """Have a token that the mail server refused not be used again; another one that came meanwhile stays."""
        return bool(
            self._tx.change("expire_oauth_token", account_id=account_id, access_token=access_token, now=now)
        )
