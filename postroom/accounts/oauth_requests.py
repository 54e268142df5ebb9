"""Asks a provider for tokens (RFC 6749, RFC 7523, RFC 8628): the form of each grant, and what the answer says."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_token_request
from authlib.oauth2.rfc7523.assertion import sign_jwt_bearer_assertion
from joserfc.jwk import RSAKey

from postroom import http_client
from postroom.accounts.oauth_refusals import TEMPORARY
from postroom.core.account import Secret
from postroom.core.clock import MINUTE, SECOND, Instant
from postroom.core.errors import OAuthFault, TokenUnavailable
from postroom.core.numbers import whole_number
from postroom.core.text import is_text, printable
from postroom.http_client import HTTPAnswer, HTTPFault
from postroom.smtp.credentials import Credentials

JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_DEFAULT_LIFE_S: Final = 1800  # of a token whose answer names none
_LONGEST_LIFE_S: Final = 24 * 3600
_LONGEST_TOKEN: Final = 16_384
_PASSES: Final = frozenset({408, 425, 429})  # statuses beside 5xx that pass by themselves


class ProviderRefused(OAuthFault):
    """The provider's error answer: RFC 6749 §5.2. `date`: its clock, where it says."""

    def __init__(self, error: str, description: str, date: Instant | None) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error, self.description, self.date = error, description, date


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What a token endpoint gave. `email` is whom the token is for, where the answer says (id_token)."""

    access_token: Secret
    lifetime: int  # microseconds
    refresh_token: Secret | None = None
    grant_lifetime: int | None = None  # microseconds that the refresh token has, where the answer says
    scope: str = ""
    email: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """The client that asks; a public one has no secret."""

    id: str
    secret: Secret | None = field(default=None, repr=False)

    @property
    def form(self) -> dict[str, str]:
        """Return its part of a form (client_secret_post: Google and Microsoft take it)."""
        shown = {"client_id": self.id}
        return shown | ({"client_secret": self.secret.reveal()} if self.secret else {})


def refresh(url: str, client: Client, token: Secret, scope: str) -> TokenAnswer:
    form = prepare_token_request("refresh_token", refresh_token=token.reveal(), scope=scope, **client.form)
    return _ask(url, form, [token, client.secret])


def client_credentials(url: str, client: Client, scope: str) -> TokenAnswer:
    form = prepare_token_request("client_credentials", scope=scope, **client.form)
    return _ask(url, form, [client.secret])


def exchange_code(
    url: str, client: Client, *, code: Secret, verifier: Secret, redirect_uri: str
) -> TokenAnswer:
    """Ask for the tokens of an authorisation code (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
    form = prepare_token_request(
        "authorization_code",
        code=code.reveal(),
        redirect_uri=redirect_uri,
        code_verifier=verifier.reveal(),
        **client.form,
    )
    return _ask(url, form, [code, verifier, client.secret])


def exchange_device_code(url: str, client: Client, code: Secret) -> TokenAnswer:
    form = prepare_token_request(DEVICE_GRANT, device_code=code.reveal(), **client.form)
    return _ask(url, form, [code, client.secret])


def service_account(
    url: str, issuer: str, key: Secret, *, mailbox: str, scope: str, now: Instant
) -> TokenAnswer:
    """Ask as a service account for a token of `mailbox` (Google's domain-wide delegation, RFC 7523).

    Where this machine's clock is wrong, the provider's own counts the second time.
    """
    try:
        return _ask(url, _assertion(url, issuer, key, mailbox, scope, now), [key])
    except ProviderRefused as refused:
        if refused.error != "invalid_grant" or refused.date is None or abs(refused.date - now) < MINUTE:
            raise
        return _ask(url, _assertion(url, issuer, key, mailbox, scope, refused.date), [key])


def _assertion(url: str, issuer: str, key: Secret, mailbox: str, scope: str, now: Instant) -> str:
    assertion = sign_jwt_bearer_assertion(
        RSAKey.import_key(key.reveal()),
        issuer,
        url,
        subject=mailbox,
        issued_at=now // SECOND - 10,  # a clock that is a little ahead is borne
        claims={"scope": scope},
        header={"alg": "RS256", "typ": "JWT"},
    )
    form: str = prepare_token_request(JWT_GRANT, assertion=assertion)
    return form


def ask_json(url: str, form: str) -> dict[str, object]:
    """Post a form and return the JSON object of a good answer. Raises TokenUnavailable, ProviderRefused."""
    return _object(url, _post(url, form), [])


def whose_token(url: str, token: Secret) -> str | None:
    """Return the mailbox that a token belongs to, by the provider's userinfo; None where it does not say."""
    try:
        answer = http_client.request("GET", url, {"Authorization": f"Bearer {token.reveal()}"}, seconds=10.0)
        return _email_in(json.loads(answer.body))
    except (HTTPFault, ValueError, RecursionError):
        return None


def _post(url: str, form: str) -> HTTPAnswer:
    try:
        return http_client.post_form(url, form)
    except HTTPFault as fault:
        raise TokenUnavailable(f"no access token just now: {fault}") from None


def _ask(url: str, form: str, hidden: Sequence[Secret | None]) -> TokenAnswer:
    found = _object(url, _post(url, form), hidden)
    token = found.get("access_token")
    if not isinstance(token, str) or not _is_token(token):
        raise TokenUnavailable(f"no access token just now: {_host(url)} answered without one")
    fresh, scope = found.get("refresh_token"), found.get("scope")
    return TokenAnswer(
        access_token=Secret(token),
        lifetime=_seconds(found.get("expires_in"), _DEFAULT_LIFE_S) * SECOND,
        refresh_token=Secret(fresh) if isinstance(fresh, str) and _is_token(fresh) else None,
        grant_lifetime=_grant_lifetime(found.get("refresh_token_expires_in")),
        scope=scope if isinstance(scope, str) else "",
        email=_email_of(found.get("id_token")),
    )


def _object(url: str, answer: HTTPAnswer, hidden: Sequence[Secret | None]) -> dict[str, object]:
    if answer.status >= 500 or answer.status in _PASSES or 300 <= answer.status < 400:
        raise TokenUnavailable(f"no access token just now: {_host(url)} answered with status {answer.status}")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TokenUnavailable(
            f"no access token just now: {_host(url)} answered with status {answer.status}, and no JSON object"
        )
    error = found.get("error")
    if error is None and answer.status == 200:
        return found
    if not isinstance(error, str) or not error:
        raise TokenUnavailable(f"no access token just now: {_host(url)} answered with status {answer.status}")
    words = [_struck(str(each), hidden) for each in (error, found.get("error_description") or "")]
    if error in TEMPORARY:
        raise TokenUnavailable(f"no access token just now: {_host(url)} says {words[0]}")
    raise ProviderRefused(words[0], words[1], _date(answer))


def _struck(text: str, hidden: Sequence[Secret | None]) -> str:
    """Return a provider's words, printable, without what we sent it."""
    for secret in hidden:
        if secret:
            text = Credentials("", secret.reveal()).strike(text)
    return printable(text)[:400]


def _date(answer: HTTPAnswer) -> Instant | None:
    try:
        return int(parsedate_to_datetime(answer.headers.get("date", "")).timestamp()) * SECOND
    except (ValueError, TypeError, OverflowError):
        return None


def _is_token(text: str) -> bool:
    """Whether a token can stand in a SASL response (RFC 6750 §2.1 allows less)."""
    return 0 < len(text) <= _LONGEST_TOKEN and all("!" <= character <= "~" for character in text)


def _seconds(value: object, default: int) -> int:
    """Return a lifetime; Microsoft's older endpoints send a text."""
    seconds = whole_number(value) if isinstance(value, str) else value
    if not isinstance(seconds, int):
        seconds = default
    return min(max(seconds, 0), _LONGEST_LIFE_S)


def _grant_lifetime(value: object) -> int | None:
    return value * SECOND if isinstance(value, int) and 0 < value < 10**10 else None


def _email_of(id_token: object) -> str | None:
    """Return the mailbox in an id_token's claims: for words alone, so that its signature does not matter."""
    if not isinstance(id_token, str) or id_token.count(".") != 2:
        return None
    payload = id_token.split(".")[1]
    try:
        return _email_in(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
    except (ValueError, RecursionError):
        return None


def _email_in(claims: object) -> str | None:
    if not isinstance(claims, dict):
        return None
    found = next((claims[name] for name in ("email", "preferred_username", "upn") if claims.get(name)), None)
    return printable(found)[:254] if isinstance(found, str) and is_text(found) and "@" in found else None


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
