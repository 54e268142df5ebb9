"""The authorisation of an account by a person: address with PKCE and state, the answer that comes back, and device codes.

RFC 6749 §4.1, RFC 7636 (S256), RFC 8252 §7.3 (loopback), RFC 8628 (device code).
"""

from __future__ import annotations

import html
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from postroom.accounts.oauth_providers import GOOGLE_MAIL, Provider
from postroom.accounts.oauth_requests import (
    Client,
    ProviderRefused,
    TokenAnswer,
    ask_json,
    exchange_code,
    exchange_device_code,
)
from postroom.core.account import Secret
from postroom.core.errors import GrantRefused, TokenUnavailable
from postroom.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_ADDRESS: Final = 16_384
_LONGEST_WAIT_S: Final = 600.0
_PENDING: Final = frozenset({"authorization_pending", "slow_down"})
_PAGE: Final = "<!doctype html><meta charset=utf-8><title>Postroom</title><p>{}"


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorisation that a person is asked for; `url` is the address for their browser."""

    url: str
    redirect_uri: str
    state: str = field(repr=False)
    verifier: Secret = field(repr=False)


def begin(provider: Provider, client: Client, redirect_uri: str, mailbox: str) -> Authorization:
    """Return an authorisation with a state and a verifier of its own."""
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
    url = prepare_grant_uri(
        provider.authorize_url,
        client.id,
        "code",
        redirect_uri=redirect_uri,
        scope=provider.scope,
        state=state,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
        login_hint=mailbox,
        **provider.extra,
    )
    return Authorization(url, redirect_uri, state, Secret(verifier))


def code_in(authorization: Authorization, address: str) -> Secret:
    """Return the code in the address that the provider sent the browser to. Raises GrantRefused."""
    query = parse_qs(urlsplit(address.strip()[:_LONGEST_ADDRESS]).query)
    given = {name: values[0] for name, values in query.items()}
    if not {"code", "error"} & given.keys():
        raise GrantRefused(
            "this is not the address of the page that failed to load: it has no code=… in it. Copy all of the "
            "browser's address line, after you have agreed"
        )
    if not secrets.compare_digest(given.get("state", "").encode(), authorization.state.encode()):
        raise GrantRefused("this address belongs to another authorization (its state differs): begin anew")
    if "error" in given:
        words = printable(f"{given['error']} {given.get('error_description', '')}")[:200]
        raise GrantRefused(f"the provider did not give access: {words}")
    return Secret(given["code"])


def exchange(provider: Provider, client: Client, authorization: Authorization, code: Secret) -> TokenAnswer:
    """Return the tokens for a code. Raises GrantRefused and TokenUnavailable."""
    try:
        return exchange_code(
            provider.token_url,
            client,
            code=code,
            verifier=authorization.verifier,
            redirect_uri=authorization.redirect_uri,
        )
    except ProviderRefused as refused:
        raise GrantRefused(f"the provider gave no token: {refused}") from None


def check_answer(provider: Provider, answer: TokenAnswer) -> None:
    """Raise GrantRefused where the tokens will not do: no refresh token, or not for mail."""
    if answer.refresh_token is None:
        raise GrantRefused(
            "the provider gave no refresh token, so that access would end within the hour; nothing was stored. Google "
            "gives one for access_type=offline and prompt=consent, which Postroom asks for: remove its access at "
            "myaccount.google.com/connections and authorize again. Elsewhere the scope offline_access is needed"
        )
    if provider.name == "google" and answer.scope and GOOGLE_MAIL not in answer.scope.split():
        raise GrantRefused(
            "the permission for mail was not given; nothing was stored. Authorize again, and tick it on Google's page"
        )


# --- the loopback address


class _Redirects(HTTPServer):
    """Takes the provider's redirect on this machine; anything else that comes is 404."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.address: str | None = None
        self.arrived = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    server: _Redirects

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        is_answer = "state" in query and bool({"code", "error"} & query.keys())
        text = "You can close this page and go back to the terminal." if is_answer else "Nothing is here."
        page = _PAGE.format(html.escape(text)).encode()
        self.send_response(200 if is_answer else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page)
        if is_answer:
            self.server.address = self.path
            self.server.arrived.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: the address has the code in it."""


@contextmanager
def listening(port: int = 0) -> Iterator[_Redirects]:
    """Listen for the redirect on 127.0.0.1, for as long as the context lasts."""
    server = _Redirects(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def redirect_uri(provider: Provider, port: int) -> str:
    """Return the loopback address: Microsoft takes any port of `localhost` alone, Google of 127.0.0.1 too."""
    return f"http://{'localhost' if provider.name == 'microsoft' else '127.0.0.1'}:{port}"


def wait_for_address(server: _Redirects, seconds: float = _LONGEST_WAIT_S) -> str:
    """Return the address that the browser was sent to. Raises GrantRefused where none comes."""
    if not server.arrived.wait(seconds) or server.address is None:
        raise GrantRefused(
            f"nobody agreed within {seconds:.0f} seconds; on a server without a browser use --paste"
        )
    return server.address


# --- device codes


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a person enters at the provider's page, on whatever device."""

    url: str
    user_code: str
    code: Secret = field(repr=False)
    interval_s: float
    expires_in_s: float


def begin_device(provider: Provider, client: Client) -> DeviceCode:
    """Ask for a device code. Raises GrantRefused and TokenUnavailable."""
    if provider.device_url is None:
        raise GrantRefused(
            f"{provider.name} allows no device code for mail; on a server without a browser use --paste"
        )
    form = urlencode({"client_id": client.id, "scope": provider.scope})
    try:
        found = ask_json(provider.device_url, form)
    except ProviderRefused as refused:
        raise GrantRefused(f"the provider gave no device code: {refused}") from None
    url = found.get("verification_uri") or found.get("verification_url")
    values = (url, found.get("user_code"), found.get("device_code"))
    if not all(isinstance(value, str) and value for value in values):
        raise TokenUnavailable("the provider's answer holds no device code")
    interval, expires_in = found.get("interval"), found.get("expires_in")
    return DeviceCode(
        printable(str(url)),
        printable(str(values[1])),
        Secret(str(values[2])),
        float(interval) if isinstance(interval, int) and 0 < interval < 60 else 5.0,
        float(expires_in) if isinstance(expires_in, int) and 0 < expires_in < 3600 else 900.0,
    )


def wait_for_device(
    provider: Provider, client: Client, device: DeviceCode, pause: Callable[[float], None] = time.sleep
) -> TokenAnswer:
    """Return the tokens once the person has agreed. Raises GrantRefused."""
    until, interval = time.monotonic() + device.expires_in_s, device.interval_s
    while time.monotonic() < until:
        pause(interval)
        try:
            return exchange_device_code(provider.token_url, client, device.code)
        except TokenUnavailable:
            interval += 5.0
        except ProviderRefused as refused:
            if refused.error not in _PENDING:
                raise GrantRefused(f"the provider did not give access: {refused}") from None
            interval += 5.0 * (refused.error == "slow_down")
    raise GrantRefused("nobody agreed before the code ended")
