"""The OAuth2 providers: Google, Microsoft, and one by configuration; their endpoints, scopes and the client at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from postroom.core.account import Secret
from postroom.core.errors import ConfigError
from postroom.core.oauth_grant import GrantKind
from postroom.core.replies import provider_of
from postroom.settings import Settings

PROVIDERS: Final = ("google", "microsoft", "custom")
GOOGLE_MAIL: Final = "https://mail.google.com/"  # developers.google.com/gmail/imap/xoauth2-protocol
_MICROSOFT_SEND: Final = "https://outlook.office.com/SMTP.Send"
_MICROSOFT_APPLICATION: Final = "https://outlook.office365.com/.default"
_IDENTITY: Final = "openid email"  # for the words that say which mailbox a token belongs to


@dataclass(frozen=True, slots=True)
class Provider:
    """Where tokens are asked for, and as which client. `secret` is None for a public client."""

    name: str
    client_id: str
    secret: Secret | None = field(repr=False)
    authorize_url: str
    token_url: str
    scope: str
    device_url: str | None = None
    userinfo_url: str | None = None
    application_scope: str = ""  # for client credentials and service accounts
    extra: Mapping[str, str] = field(default_factory=dict)  # parameters of the authorisation request

    def scope_of(self, kind: GrantKind) -> str:
        return self.scope if kind is GrantKind.REFRESH_TOKEN else self.application_scope or self.scope


def provider_named(name: str, settings: Settings) -> Provider:
    """Return a provider with the client of the settings; `client_id` is empty where there is none.

    Raises ConfigError where a custom one lacks an endpoint.
    """
    if name == "google":
        return _google(settings)
    if name == "microsoft":
        return _microsoft(settings)
    return _custom(settings)


def provider_of_host(host: str) -> str:
    """Return the name of the provider whose tokens a mail server takes."""
    known = provider_of(host)
    return known if known in ("google", "microsoft") else "custom"


def may_have_token(provider: str, host: str) -> bool:
    """Whether a token may be shown to this mail server: those of Google and Microsoft go to their own servers alone."""
    return provider not in ("google", "microsoft") or provider_of(host) == provider


def _google(settings: Settings) -> Provider:
    """A refresh token comes only for `access_type=offline`, and a second time only for `prompt=consent`."""
    return Provider(
        name="google",
        client_id=settings.google_client_id or "",
        secret=settings.google_client_secret,
        authorize_url="https://accounts.google.com/o/oauth2/v2/auth",
        token_url="https://oauth2.googleapis.com/token",  # noqa: S106
        scope=f"{GOOGLE_MAIL} {_IDENTITY}",
        userinfo_url="https://openidconnect.googleapis.com/v1/userinfo",
        application_scope=GOOGLE_MAIL,
        extra={"access_type": "offline", "prompt": "consent"},
    )


def _microsoft(settings: Settings) -> Provider:
    base = f"https://login.microsoftonline.com/{settings.microsoft_tenant}/oauth2/v2.0"
    return Provider(
        name="microsoft",
        client_id=settings.microsoft_client_id or "",
        secret=settings.microsoft_client_secret,
        authorize_url=f"{base}/authorize",
        token_url=f"{base}/token",
        scope=f"{_MICROSOFT_SEND} offline_access {_IDENTITY}",
        device_url=f"{base}/devicecode",
        application_scope=_MICROSOFT_APPLICATION,
        extra={"prompt": "select_account"},
    )


def _custom(settings: Settings) -> Provider:
    needed = {
        "POSTROOM_OAUTH_TOKEN_URL": settings.oauth_token_url,
        "POSTROOM_OAUTH_SCOPE": settings.oauth_scope,
    }
    for variable, value in needed.items():
        if not value:
            raise ConfigError(variable, "is needed for a provider other than Google and Microsoft")
    return Provider(
        name="custom",
        client_id=settings.oauth_client_id or "",
        secret=settings.oauth_client_secret,
        authorize_url=settings.oauth_authorize_url or "",
        token_url=settings.oauth_token_url or "",
        scope=settings.oauth_scope or "",
        device_url=settings.oauth_device_url,
        userinfo_url=settings.oauth_userinfo_url,
        extra={"access_type": "offline", "prompt": "consent"},
    )
