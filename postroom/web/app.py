"""The HTTP doorway: a Flask application that turns requests into submissions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from werkzeug.middleware.proxy_fix import ProxyFix

from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.clock import Clock, system_clock
from postroom.intake.disk_share import DiskShares
from postroom.settings import Settings
from postroom.store.store import Store
from postroom.web import front, health, problems, send_email
from postroom.web.api_request import ApiRequest, current
from postroom.web.connections import Connections
from postroom.web.head import take_forwarded_address
from postroom.web.hub import Hub
from postroom.web.rate_limits import SEND, RateLimits
from postroom.web.refusals import Refusals
from postroom.web.rsgi import NO_STORE, RSGIServer

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask.typing import ResponseReturnValue
    from werkzeug.exceptions import HTTPException

_JSON_OVERHEAD = 65_536


class Application(Flask):
    """Flask, with a short way for the one call that is made for every mail.

    Contexts, routing and hooks take more than a quarter of the time before the commit. So it goes through
    the same limits, the same function and the same table of errors without them (docs/decisions/0005).
    """

    limits: RateLimits
    behind_a_proxy: bool

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func  # no view is asynchronous: it need not look, four times a request, whether one is

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.pop(
            "HTTP_UPGRADE", None
        )  # ignored (RFC 9110 §7.8); werkzeug would look for a WebSocket's route
        answer = _unkept(start_response)
        is_send = environ["PATH_INFO"] == "/send-email" and environ["REQUEST_METHOD"] == "POST"
        if not is_send:
            return super().wsgi_app(environ, answer)
        return _begun(self._send_email(environ), answer)

    def handle_http_exception(self, e: HTTPException) -> HTTPException | ResponseReturnValue:
        problems.forget_frames(e)  # a redirection is an error that becomes the answer
        return super().handle_http_exception(e)

    def _send_email(self, environ: WSGIEnvironment) -> Response:
        call = ApiRequest.detached(environ)
        call.max_content_length = self.config["MAX_CONTENT_LENGTH"]
        try:
            self.admit(call, SEND)
            response = send_email.accept_mail(self.extensions["postroom"], call)
        except Exception as error:
            response = problems.answer_to(error)
        return self.settle(call, SEND, response)

    def settle(self, call: ApiRequest, endpoint: str | None, response: Response) -> Response:
        """Do what is done with every answer before it leaves."""
        response = self.limits.settle(call, endpoint, response)
        if isinstance(response, problems.Problem):
            self.extensions["postroom.refusals"].note(call, response)
        return response

    def admit(self, call: ApiRequest, endpoint: str | None) -> None:
        """Look at what stands before every call. Raises Rejected."""
        call.check_headers(behind_a_proxy=self.behind_a_proxy)
        self.limits.admit(call, endpoint)


class _Octets:
    """The body of an answer; to close it is to close the answer."""

    __slots__ = ("_response", "close")

    def __init__(self, response: Response) -> None:
        self._response = response
        self.close = response.close

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_encoded()


def _begun(response: Response, start_response: StartResponse) -> Iterable[bytes]:
    """Begin an answer to POST whose headers and body are as they are to leave.

    To call a response looks after addresses, statuses without a body and HEAD as well, and costs 8 µs.
    """
    start_response(response.status, response.headers.to_wsgi_list())
    return _Octets(response)


def _unkept(start_response: StartResponse) -> StartResponse:
    """Start an answer that no cache may keep, unless it says otherwise: one in front would tell what was true once."""

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        if not any(name == "Cache-Control" for name, _ in headers):
            headers.append(NO_STORE)
        return start_response(status, headers, *error)

    return start


class _Proxied(ProxyFix):
    """Takes over what trusted proxies say; the address by our own reading, for one that is garbled counts too."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        take_forwarded_address(environ, self.x_proto)
        return super().__call__(environ, start_response)


def most_body_bytes(settings: Settings) -> int:
    """Return how large a request may be: JSON may write a character in six bytes; `policy.fits` has the exact limit."""
    return 2 * settings.max_message_bytes + _JSON_OVERHEAD


def _never() -> bool:
    return False


def create_app(
    settings: Settings,
    store: Store,
    vault: Vault,
    clock: Clock = system_clock,
    hub: Hub | None = None,
    is_stopping: Callable[[], bool] = _never,
) -> Flask:
    """Build the application on an open store. It holds no state but caches.

    `is_stopping` tells whether the listener will be closed soon; `/readyz` says so.
    """
    app = Application("postroom", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = most_body_bytes(settings)
    app.behind_a_proxy = bool(settings.trusted_proxies)
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = _Proxied(app.wsgi_app, x_for=0, x_proto=count, x_host=count)  # type: ignore[method-assign]
    app.request_class = ApiRequest
    app.url_map.merge_slashes = False  # an address is what it says: no redirection to another one
    hub = hub or Hub(store)
    keys = ApiKeys(store, vault)
    shares = DiskShares(store, hub.aside)
    app.extensions["postroom"] = send_email.Services(settings, store, keys, clock, hub, shares)
    problems.install(app)
    app.register_blueprint(send_email.blueprint)
    app.register_blueprint(front.blueprint)
    app.extensions["postroom.readiness"] = health.Readiness(is_stopping)
    app.register_blueprint(health.blueprint)
    app.extensions["postroom.refusals"] = Refusals()
    app.limits = RateLimits(settings, keys, hub)
    app.before_request(lambda: app.admit(current(), current().endpoint))
    app.after_request(lambda response: app.settle(current(), current().endpoint, response))
    return app


def create_gateway(
    settings: Settings,
    store: Store,
    vault: Vault,
    is_stopping: Callable[[], bool] = _never,
    on_start: Callable[[AbstractEventLoop], None] = lambda loop: None,
) -> RSGIServer:
    """Build what granian serves: the application, on an event loop. `on_start` is called when the loop is there."""
    hub = Hub(store)
    app = create_app(settings, store, vault, hub=hub, is_stopping=is_stopping)
    connections = Connections(settings.port)
    most = most_body_bytes(settings)
    return RSGIServer(app, hub, most_bytes=most, connections=connections, on_start=on_start)
