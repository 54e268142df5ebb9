"""How an account logs in by OAuth2, as a value: the provider, the kind of grant, and its secrets as they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from postroom.core.clock import MINUTE, SECOND, Instant

REFRESH_AHEAD: Final = 5 * MINUTE  # before an access token ends, another one is asked for
USABLE_FOR: Final = 30 * SECOND  # a token that ends sooner is not used for a log-in


class GrantKind(Enum):
    """How a token is asked for (`grant_type`)."""

    REFRESH_TOKEN = "refresh_token"  # noqa: S105  # a person has agreed
    CLIENT_CREDENTIALS = "client_credentials"  # an application of the organisation (Microsoft)
    SERVICE_ACCOUNT = "service_account"  # domain-wide delegation (Google), by RFC 7523


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """A grant of one account; `client_secret`, `grant_secret` and `access_token` are encrypted for its row.

    `grant_secret` is the refresh token, or the service account's private key.
    """

    account_id: int
    provider: str
    kind: GrantKind
    token_endpoint: str
    client_id: str
    scope: str
    client_secret: bytes | None = field(default=None, repr=False)
    grant_secret: bytes | None = field(default=None, repr=False)
    access_token: bytes | None = field(default=None, repr=False)
    expires_at: Instant | None = None  # of the access token
    updated_at: Instant = 0  # when it was last set, refreshed or refused
    refused: str | None = None  # why the provider gives none any more
    granted_at: Instant = 0  # when it was given; 0: that is not known

    def is_usable(self, now: Instant) -> bool:
        """Whether its access token will do for a log-in that begins now."""
        return self.access_token is not None and (self.expires_at or 0) > now + USABLE_FOR

    def is_fresh(self, now: Instant) -> bool:
        """Whether no other access token needs to be asked for yet: of a short-lived one half must be over."""
        expires_at = self.expires_at or 0
        left, life = expires_at - now, expires_at - self.updated_at
        return self.access_token is not None and left > 0 and (left > REFRESH_AHEAD or 2 * left >= life)
