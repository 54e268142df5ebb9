"""`postroom serve`, `web` and `worker`: starts the service, or one process of it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.cli.service_command import ServiceCommand
from postroom.core.clock import SECOND
from postroom.core.errors import ConfigError
from postroom.core.log_options import LogFormat
from postroom.core.text import printable, printable_lines

if TYPE_CHECKING:
    from postroom.runtime.installation import Service

log = logging.getLogger(__name__)

_STANDARD_ERROR = 2


@click.command(cls=ServiceCommand)
@click.option("--host", envvar="HOST", metavar="NAME", help="Where HTTP listens, instead of HOST.")
@click.option("--port", envvar="PORT", metavar="NUMBER", help="And on which port, instead of PORT.")
def serve(host: str | None, port: str | None) -> None:
    """Run everything: HTTP, delivery and the built-in inbox.

    Prepares the database, reads data.csv (and writes a first one where there is none), then
    serves until Ctrl-C or SIGTERM, which lets messages that are being sent finish. A process that
    dies is started again.
    """
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import accounts_file, installation, listen
    from postroom.runtime.notice_accounts import unknown_senders
    from postroom.runtime.supervisor import DRAIN, LOG

    ignore_stray_signals()
    os.environ.update({name: value for name, value in (("HOST", host), ("PORT", port)) if value})
    _check_notices()
    service = installation.open_service(migrate=True, as_service=True)
    listen.check(service.settings)
    key = accounts_file.write_demo_accounts(service)
    accounts_file.read_accounts_file(service)
    installation.warn_of_oversights(service.settings)
    for unknown in unknown_senders(service.settings, service.store):
        log.warning("POSTROOM_NOTIFY: %s", unknown)
    _greet(service, key)
    settings = service.settings
    options = [f"{DRAIN}{settings.drain / SECOND}", f"{LOG}{settings.log_options.text()}"]
    commands = [*options, *installation.child_commands(service)]
    service.store.close()
    if service.log is not None:  # what it ships is not lost with this program
        service.log.close()
    # This process becomes the supervisor: it lives as long as the service, so it should be small.
    try:
        os.execv(sys.executable, [sys.executable, "-m", "postroom.runtime.supervisor", *commands])  # noqa: S606
    except OSError as error:  # which names no file
        raise ConfigError(
            "PYTHON", f"cannot run {sys.executable}: {error.strerror}; install it anew"
        ) from error


def _check_notices() -> None:
    """Raise ConfigError for a way to the admins that cannot be used. Apprise goes with this process's image."""
    from postroom.settings import load_settings

    settings = load_settings()
    if settings.notify:
        from postroom.notices.process import check_ways

        check_ways(settings)


def _program() -> str:
    """Return how to call this program from here, as a person would type it."""
    beside = Path(sys.executable).parent / "postroom"
    if shutil.which("postroom") == str(beside) or not beside.exists():
        return "postroom"
    shown = os.path.relpath(beside)
    return shown if not shown.startswith("..") else str(beside)


def _home_option() -> str:
    home = os.environ.get("POSTROOM_HOME")
    return f" --home {home}" if home else ""


def _greet(service: Service, key: str | None) -> None:
    from postroom.runtime import listen
    from postroom.telemetry.lifecycle import Lifecycle
    from postroom.telemetry.log import is_kept_log

    settings = service.settings
    Lifecycle("serve").start(listen.described(settings))
    if key is None:
        return
    if settings.log_format is not LogFormat.TEXT:
        log.info("%s was written, with a key in it for the built-in inbox", settings.accounts_csv)
        return
    if is_kept_log(_STANDARD_ERROR):  # sys.stderr is None where it is closed
        path = printable(str(settings.accounts_csv))
        click.echo(f"{path} was written, with a key in it for the built-in inbox", err=True)
        return
    body = '{"subject": "Hello", "recipient": "you@example.com", "body": "It works.", "key": "%s"}' % key  # noqa: UP031
    example = (
        f"\n{settings.accounts_csv} was written, with a key whose messages go to the built-in inbox. Try it:\n\n"
        f"  {listen.curl(settings)}/send-email -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
        f"  {_program()}{_home_option()} inbox show latest\n"
    )
    click.echo(printable_lines(example), err=True)


@click.command(cls=ServiceCommand)
def web() -> None:
    """Run the HTTP process alone. The database must be prepared (`postroom migrate`)."""
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import installation, listen
    from postroom.runtime.web_process import run_web
    from postroom.telemetry import service_log

    ignore_stray_signals()
    settings, lifeline = installation.check_service(), inherited_lifeline()
    if lifeline is None:  # under `serve`, the former web process may still be ending after a kill
        listen.check(settings)
    try:
        run_web(settings, lifeline)
    finally:
        service_log.close_current()


@click.command(cls=ServiceCommand)
def worker() -> None:
    """Run one delivery process alone. The database must be prepared (`postroom migrate`)."""
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import installation
    from postroom.runtime.memory import tune_memory
    from postroom.telemetry.lifecycle import Lifecycle
    from postroom.worker.worker import run_worker

    ignore_stray_signals()
    service = installation.open_service(
        serving=True, as_service=True, on_broken=installation.stop_this_process
    )
    installation.strike(service.store, service.settings, service.vault)
    tune_memory()
    life = Lifecycle("worker")
    try:
        with life.ending():
            run_worker(
                service.settings,
                service.store,
                service.vault,
                var=installation.VAR,
                lifeline=inherited_lifeline(),
                life=life,
            )
    finally:
        service.close_telemetry()
    service.store.close()


def inherited_lifeline() -> int | None:
    """Return the pipe that is closed when the process that started this one dies; None where there is none."""
    from postroom.core.lifeline import LIFELINE

    fd = os.environ.pop(LIFELINE, None)
    return int(fd) if fd else None
