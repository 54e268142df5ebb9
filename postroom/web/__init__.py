"""The HTTP doorway: a Flask application that turns requests into submissions."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from postroom.config import Settings
from postroom.model import Clock, system_clock
from postroom.store import Store
from postroom.vault import Vault
from postroom.web import api, body, errors
from postroom.web.auth import Doorkeeper
from postroom.web.call import Call
from postroom.web.limits import install_limits

_JSON_OVERHEAD = 65_536


def create_app(settings: Settings, store: Store, vault: Vault, clock: Clock = system_clock) -> Flask:
    """Build the application on an open store. It holds no state but caches."""
    app = Flask("postroom", static_folder=None)
    # JSON may write one character in six bytes; the exact limit is on the encoded mail (`policy.fits`).
    app.config["MAX_CONTENT_LENGTH"] = 2 * settings.max_message_bytes + _JSON_OVERHEAD
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
    app.request_class = Call
    doorkeeper = Doorkeeper(store, vault)
    app.extensions["postroom"] = api.Services(settings, store, doorkeeper, clock)
    errors.install(app)
    app.after_request(body.drain)
    app.register_blueprint(api.blueprint)
    install_limits(app, settings, doorkeeper)
    return app
