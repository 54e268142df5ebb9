"""Builds the applications: the Flask application for any WSGI server, and the server that granian runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from postroom.accounts.keys import ApiKeys
from postroom.accounts.pool_accounts import PoolAccounts
from postroom.accounts.vault import Vault
from postroom.core.clock import Clock, system_clock
from postroom.core.measures import Measures
from postroom.intake.disk_share import DiskShares
from postroom.settings import Settings
from postroom.store.store import Store
from postroom.telemetry.metrics.exposition import Metrics
from postroom.web import docs, flask_views, front, health, metrics, problems
from postroom.web.access_log import ROUTE, AccessLog, Write
from postroom.web.admin import views
from postroom.web.answers import ProblemResponse
from postroom.web.api_request import request_of
from postroom.web.connections import Connections
from postroom.web.doorway import Doorway
from postroom.web.doorways.send_email import SEND_EMAIL
from postroom.web.head import head_in
from postroom.web.loop import RequestLoop
from postroom.web.rate_limits import RateLimits
from postroom.web.refusals import Refusals
from postroom.web.rsgi import NO_STORE, RSGIServer
from postroom.web.services import BeginTrace, Services, Verify, services

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask.typing import ResponseReturnValue
    from werkzeug.exceptions import HTTPException

_JSON_OVERHEAD = 65_536
DOORWAYS: tuple[Doorway, ...] = (SEND_EMAIL,)


class Application(Flask):
    """Flask, whose errors are problem documents and whose answers no cache may keep."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func  # no view is asynchronous: it need not look, four times a request, whether one is

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Ignored (RFC 9110 §7.8); werkzeug would look for a WebSocket's route.
        environ.pop("HTTP_UPGRADE", None)
        measures: Measures = self.extensions["postroom"].store.measures
        return super().wsgi_app(environ, metrics.measured(environ, _unkept(start_response), measures))

    def handle_http_exception(self, e: HTTPException) -> HTTPException | ResponseReturnValue:
        problems.forget_frames(e)  # a redirection is an error that becomes the answer
        return super().handle_http_exception(e)


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
        head = head_in(environ)
        head.take_forwarded_address(self.x_proto)
        environ["REMOTE_ADDR"] = head.remote
        return super().__call__(environ, start_response)


def _check_headers() -> None:
    request_of(request).check_headers(behind_a_proxy=services().settings.trusted_proxies > 0)


def _note_refusal(response: Response) -> Response:
    if isinstance(response, ProblemResponse):
        services().refusals.note(request_of(request), response.problem)
    return response


def _note_route(response: Response) -> Response:
    if request.url_rule is not None:
        request.environ[ROUTE] = request.url_rule.rule
    return response


def most_body_bytes(settings: Settings) -> int:
    """Return how large a request may be: JSON may write a character in six bytes; `check_size` has the exact limit."""
    return 2 * settings.max_message_bytes + _JSON_OVERHEAD


def _never() -> bool:
    return False


def _register_views(app: Flask) -> None:
    app.extensions["postroom.readiness"] = health.Readiness()
    problems.install(app)
    for blueprint in (
        flask_views.views(DOORWAYS),
        views.views(),
        docs.blueprint,
        front.blueprint,
        health.blueprint,
        metrics.blueprint,
    ):
        app.register_blueprint(blueprint)
    app.before_request(_check_headers)
    app.after_request(_note_refusal)
    app.after_request(_note_route)


def create_app(
    settings: Settings,
    store: Store,
    vault: Vault,
    clock: Clock = system_clock,
    is_stopping: Callable[[], bool] = _never,
    verify: Verify | None = None,
    told: Metrics | None = None,
    begin_trace: BeginTrace | None = None,
) -> Flask:
    """Build the application on an open store. It holds no state but caches.

    `is_stopping` tells whether the listener will be closed soon; `/readyz` says so. `verify` logs in as an account;
    `told` is what `/metrics` answers with; `begin_trace` is given the traceparent of each request to send.
    """
    app = Application("postroom", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = most_body_bytes(settings)
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = _Proxied(app.wsgi_app, x_for=0, x_proto=count, x_host=count)  # type: ignore[method-assign]
    app.url_map.merge_slashes = False  # an address is what it says: no redirection to another one
    keys = ApiKeys(store, vault)
    app.extensions["postroom"] = Services(
        settings=settings,
        store=store,
        vault=vault,
        keys=keys,
        pools=PoolAccounts(store, settings, keys.account_of, clock),
        clock=clock,
        shares=DiskShares(store),
        limits=RateLimits(settings, keys),
        refusals=Refusals(measures=store.measures),
        is_stopping=is_stopping,
        metrics=told or Metrics(settings, store),
        verify=verify,
        begin_trace=begin_trace,
    )
    _register_views(app)
    return app


def create_server(
    settings: Settings,
    store: Store,
    vault: Vault,
    is_stopping: Callable[[], bool] = _never,
    on_start: Callable[[AbstractEventLoop], None] = lambda loop: None,
    verify: Verify | None = None,
    told: Metrics | None = None,
    write_answered: Write | None = None,
    begin_trace: BeginTrace | None = None,
) -> RSGIServer:
    """Build what granian serves, on an event loop. `on_start` is called when the loop is there.

    `write_answered` takes the requests of the access log, where that is asked for.
    """
    app = create_app(
        settings,
        store,
        vault,
        is_stopping=is_stopping,
        verify=verify,
        told=told,
        begin_trace=begin_trace,
    )
    return RSGIServer(
        app,
        DOORWAYS,
        RequestLoop(store),
        most_bytes=most_body_bytes(settings),
        connections=Connections(settings.port),
        access_log=AccessLog(write_answered) if settings.access_log and write_answered else None,
        on_start=on_start,
    )
