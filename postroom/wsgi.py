"""The application for a WSGI server other than ours: `mail_server:app`, `postroom.wsgi:app`.

It is the whole of Flask's application, without the event loop: each request takes a thread of that server.
Messages are sent by `postroom worker`, which runs beside it in the same folder.
"""

from __future__ import annotations

import atexit
import os
from functools import cache, partial

from flask import Flask
from werkzeug.local import LocalProxy


def application() -> Flask:
    """Return this process's application, opened on first use: a fork shares no database with its parent."""
    return _open(os.getpid())


@cache
def _open(_pid: int) -> Flask:
    from postroom.runtime import accounts_file, installation
    from postroom.runtime.account_login import verify
    from postroom.web.app import create_app

    service = installation.open_service(
        migrate=True, as_service=True, on_broken=installation.stop_this_process
    )
    atexit.register(service.store.close)
    accounts_file.write_demo_accounts(service)
    accounts_file.read_accounts_file(service)
    atexit.register(service.close_telemetry)
    return create_app(
        service.settings,
        service.store,
        service.vault,
        verify=partial(verify, service),
        begin_trace=None if service.traces is None else service.traces.begin,
    )


app = LocalProxy(application)
