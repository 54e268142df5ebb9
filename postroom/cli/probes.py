"""`postroom healthy`: are the processes of the service alive?"""

from __future__ import annotations

import http.client
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.core.errors import ConfigError
from postroom.core.text import counted
from postroom.store.workers import Workers

if TYPE_CHECKING:
    from postroom.settings import Settings

_ANSWERS_WITHIN_S = 5.0


@click.command()
@click.argument("which", type=click.Choice(["web", "worker"]))
def healthy(which: str) -> int:
    """Say whether this host's web process, or its workers, are alive: status 0 or 1. For probes of a container.

    A worker that hangs has not renewed its lease. While the database is away this cannot be seen, and a restart
    would not help: then a worker is healthy for as long as its process runs.
    """
    from postroom.settings import load_settings

    is_healthy, said = (_web if which == "web" else _workers)(load_settings())
    click.echo(said, err=not is_healthy)
    return 0 if is_healthy else 1


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWERS_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWERS_WITHIN_S)
        self.sock.connect(str(self._path))


def _web(settings: Settings) -> tuple[bool, str]:
    from postroom.runtime import listen

    path = listen.socket_path(settings)
    try:
        client = _Socket(path) if path else _tcp(listen.address_of(settings), settings.port)
        with closing(client):
            client.request("GET", "/livez")
            status = client.getresponse().status
    except (OSError, http.client.HTTPException, ConfigError) as error:
        return False, f"the web process does not answer: {error}"
    return status == 200, f"the web process answers {status}"


def _tcp(address: str, port: int) -> http.client.HTTPConnection:
    from postroom.runtime import listen

    return http.client.HTTPConnection(listen.ANY.get(address, address), port, timeout=_ANSWERS_WITHIN_S)


def _workers(settings: Settings) -> tuple[bool, str]:
    from postroom.core.clock import system_clock
    from postroom.core.errors import StoreError
    from postroom.runtime import installation
    from postroom.store.store import open_store
    from postroom.worker import liveness

    folder = installation.VAR / "workers"
    running = liveness.running_in(folder)
    if not running:
        return False, "no worker runs here"
    with suppress(StoreError):
        store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
        with closing(store):
            ours = [record for record in store.read(Workers.living) if liveness.belongs_to(record, folder)]
        alive = sum(liveness.was_renewed(record, system_clock()) for record in ours)
        said = f"{alive} of {counted(running, 'worker')} here renewed the lease of late"
        return alive >= running, said
    return True, f"{counted(running, 'worker runs', 'workers run')} here; the database cannot be asked"
