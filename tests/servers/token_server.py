"""A small authorisation server (OAuth2): authorize, token, device, userinfo and introspection, on loopback.

It does as Google and Microsoft do, by its switches: `rotates` hands out a new refresh token with each refresh
(Microsoft), `asks_for_offline` gives a refresh token only for `access_type=offline` and `prompt=consent` (Google).
`person` is who is logged in at the browser. `refusal` and `answer` take the place of the proper answer of /token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT_ID, CLIENT_SECRET = "postroom-tests.apps.example", "a client's secret, not to be seen"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Given:
    """Whom a code or token is for, and for what."""

    email: str
    scope: str = "mail"
    until: float = float("inf")
    challenge: str = ""
    redirect_uri: str = ""
    offline: bool = True
    agreed: bool = True


class Refused(Exception):
    """An error of RFC 6749 §5.2."""


@dataclass
class TokenServer:
    """Use as a context manager; `url` is its address. What each request to /token said is in `token_requests`."""

    person: str = "alice@postroom.example"
    rotates: bool = False
    asks_for_offline: bool = False
    lifetime: int = 3600
    scope: str = "mail"
    refusal: dict[str, str] | None = None
    answer: tuple[int, bytes] | None = None  # in place of all of /token's answers
    before_answer: threading.Event | None = None  # what /token waits for
    client_secret: str = CLIENT_SECRET
    token_requests: list[dict[str, str]] = field(default_factory=list)
    authorize_requests: list[dict[str, str]] = field(default_factory=list)
    access: dict[str, Given] = field(default_factory=dict)
    refresh: dict[str, Given] = field(default_factory=dict)
    codes: dict[str, Given] = field(default_factory=dict)
    devices: dict[str, Given] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                server._get(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                server._post(self, {name: values[0] for name, values in parse_qs(body).items()})

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._httpd.server_address[1]}"

    # -- what a test does by hand

    def give(self, email: str, scope: str = "mail", *, lifetime: float | None = None, size: int = 40) -> str:
        """Hand out an access token."""
        token = f"at.{secrets.token_urlsafe(size)}"
        seconds = self.lifetime if lifetime is None else lifetime
        with self.lock:
            self.access[token] = Given(email, scope, time.time() + seconds)
        return token

    def give_refresh(self, email: str) -> str:
        """Hand out a refresh token."""
        token = f"rt.{secrets.token_urlsafe(40)}"
        with self.lock:
            self.refresh[token] = Given(email, self.scope)
        return token

    def revoke_all(self) -> None:
        """Let no token be good any more."""
        with self.lock:
            self.access.clear()
            self.refresh.clear()

    # -- routes

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/authorize":
            self._authorize(request, query)
        elif address.path == "/userinfo":
            token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
            given = self.access.get(token)
            _send(request, 200 if given else 401, {"email": given.email} if given else {})
        elif address.path == "/away":
            request.send_response(302)
            request.send_header("Location", f"{self.url}/userinfo")
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            _send(request, 404, {})

    def _authorize(self, request: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        """The person who is logged in agrees at once."""
        offline = query.get("access_type") == "offline" and query.get("prompt") == "consent"
        code = secrets.token_urlsafe(24)
        with self.lock:
            self.authorize_requests.append(query)
            self.codes[code] = Given(
                self.person,
                query["scope"],
                challenge=query["code_challenge"] if query["code_challenge_method"] == "S256" else "",
                redirect_uri=query["redirect_uri"],
                offline=offline or not self.asks_for_offline,
            )
        request.send_response(302)
        answer = urlencode({"code": code, "state": query["state"]})
        request.send_header("Location", f"{query['redirect_uri']}?{answer}")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _post(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        if request.path == "/introspect":
            given = self.access.get(form.get("token", ""))
            active = given is not None and given.until > time.time()
            _send(request, 200, {"active": active, "username": given.email if given else "", "scope": "mail"})
        elif request.path == "/device":
            with self.lock:
                code = secrets.token_urlsafe(24)
                self.devices[code] = Given(self.person, form["scope"], agreed=False)
            page = {"verification_uri": f"{self.url}/enter", "user_code": "WXYZ-1234", "interval": 1}
            _send(request, 200, {"device_code": code, "expires_in": 60, **page})
        elif request.path == "/token":
            self._token(request, form)
        else:
            _send(request, 404, {})

    def _token(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        with self.lock:
            self.token_requests.append(form)
        if self.before_answer is not None:
            self.before_answer.wait(30)
        if self.answer is not None:
            status, body = self.answer
            _send_bytes(request, status, body)
            return
        if self.refusal is not None:
            _send(request, 400, dict(self.refusal))
            return
        try:
            with self.lock:
                answer = self._grant(form)
        except Refused as error:
            _send(request, 400, {"error": str(error)})
        else:
            _send(request, 200, answer)

    def _grant(self, form: dict[str, str]) -> dict[str, object]:
        kind = form.get("grant_type", "")
        if kind != JWT_GRANT and form.get("client_id") != CLIENT_ID:
            raise Refused("invalid_client")
        if kind in ("refresh_token", "authorization_code", "client_credentials") and (
            form.get("client_secret", "") != self.client_secret
        ):
            raise Refused("invalid_client")
        find = {
            "refresh_token": self._by_refresh_token,
            "authorization_code": self._by_code,
            "client_credentials": lambda form: Given(self.person, form["scope"], offline=False),
            JWT_GRANT: self._by_assertion,
            DEVICE_GRANT: self._by_device,
        }.get(kind)
        if find is None:
            raise Refused("unsupported_grant_type")
        return self._answer(find(form), keeps=kind == "refresh_token" and not self.rotates)

    def _answer(self, given: Given, *, keeps: bool) -> dict[str, object]:
        token = f"at.{secrets.token_urlsafe(40)}"
        self.access[token] = Given(given.email, given.scope, time.time() + self.lifetime)
        claims = base64.urlsafe_b64encode(json.dumps({"email": given.email}).encode()).decode().rstrip("=")
        answer: dict[str, object] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "scope": given.scope,
            "id_token": f"e30.{claims}.c2ln",
        }
        if given.offline and not keeps:
            fresh = f"rt.{secrets.token_urlsafe(40)}"
            self.refresh[fresh] = Given(given.email, given.scope)
            answer["refresh_token"] = fresh
        return answer

    def _by_refresh_token(self, form: dict[str, str]) -> Given:
        token = form.get("refresh_token", "")
        given = self.refresh.pop(token, None) if self.rotates else self.refresh.get(token)
        if given is None:
            raise Refused("invalid_grant")
        return given

    def _by_code(self, form: dict[str, str]) -> Given:
        given = self.codes.pop(form.get("code", ""), None)
        verifier = form.get("code_verifier", "")
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        if given is None or given.challenge != digest or given.redirect_uri != form.get("redirect_uri"):
            raise Refused("invalid_grant")
        return given

    def _by_assertion(self, form: dict[str, str]) -> Given:
        """A service account's assertion; its `sub` is the mailbox. The signature is the tests' own to check."""
        payload = form["assertion"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Given(claims["sub"], claims["scope"], offline=False)

    def _by_device(self, form: dict[str, str]) -> Given:
        given = self.devices.get(form.get("device_code", ""))
        if given is None:
            raise Refused("expired_token")
        if not given.agreed:
            given.agreed = True  # by the next time that it is asked
            raise Refused("authorization_pending")
        return given


def _send(request: BaseHTTPRequestHandler, status: int, body: dict[str, object]) -> None:
    _send_bytes(request, status, json.dumps(body).encode())


def _send_bytes(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
