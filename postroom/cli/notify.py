"""`postroom notify`: sends a test to the admins by each way of POSTROOM_NOTIFY, or runs the process that tells them."""

from __future__ import annotations

import json
import sys

import click

from postroom.cli.service_command import ServiceCommand
from postroom.core.text import printable


@click.group()
def notify() -> None:
    """Word to the admins, by the ways of POSTROOM_NOTIFY (docs/notices.md)."""


@notify.command("test")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_command(as_json: bool) -> None:
    """Send a test by each way, and print what each answers; status 1 unless all have taken it."""
    from postroom.notices.process import check_there_is_one, check_ways, try_ways
    from postroom.runtime import installation

    service = installation.open_service()
    check_there_is_one(service.settings)
    check_ways(service.settings)
    answers = list(try_ways(service.settings, service.store))
    if as_json:
        shown = [
            {"way": way.name, "taken": answer.taken, "answer": answer.words, "request_id": answer.request_id}
            for way, answer in answers
        ]
        click.echo(json.dumps(shown, indent=2))
    else:
        for way, answer in answers:
            click.echo(printable(f"{way.name}: {'' if answer.taken else 'not sent: '}{answer.words}"))
    service.store.close()
    sys.exit(0 if all(answer.taken for _, answer in answers) else 1)


@notify.command("run", cls=ServiceCommand)
def run_command() -> None:
    """Run the process that tells the admins alone, beside `web` and `worker`. Under `serve` it is started by itself."""
    from postroom.cli.serve import inherited_lifeline
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.notices.process import check_there_is_one, check_ways, run_notifier
    from postroom.runtime import installation
    from postroom.runtime.memory import tune_memory
    from postroom.telemetry.lifecycle import Lifecycle

    ignore_stray_signals()
    service = installation.open_service(
        serving=True, as_service=True, on_broken=installation.stop_this_process
    )
    lifeline = inherited_lifeline()
    check_there_is_one(service.settings)
    if lifeline is None:  # `serve` has checked them
        check_ways(service.settings)
    tune_memory()
    life = Lifecycle("notify run")
    with life.ending():
        run_notifier(service, lifeline=lifeline, life=life)
    service.close_telemetry()
    service.store.close()
