"""`postroom status`, `release` and `cancel`: show a message, and decide about held ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from postroom.cli.completion import request_ids
from postroom.core.clock import system_clock
from postroom.core.errors import InvalidSubmission, NotFound
from postroom.core.text import counted
from postroom.store.holds import Holds
from postroom.store.messages import Messages

if TYPE_CHECKING:
    from postroom.runtime.installation import Service
    from postroom.store.transaction import Transaction

_DECIDED_AT_ONCE = 500  # messages in one transaction


@click.command()
@click.argument("request_id", shell_complete=request_ids)
@click.option("--json", "as_json", is_flag=True, help="Print the document of GET /v1/emails/{id}.")
@click.option("--dialogue", is_flag=True, help="Print the whole SMTP dialogue of every attempt.")
def status(request_id: str, as_json: bool, dialogue: bool) -> None:
    """Show the state of a message, why it has it, and what was said in its attempts. Status 1 when it failed.

    The beginning of an id is enough where only one message's id begins with it.
    """
    from postroom.runtime import installation

    service = installation.open_service()
    print_history(service, _whole_id(service, request_id), as_json=as_json, whole=dialogue)


_ID_FORM, _LEAST_OF_AN_ID = "0" * 8 + "-0000-0000-0000-" + "0" * 12, 4


def _whole_id(service: Service, given: str) -> str:
    """Return the id of the only message whose id begins so. Raises NotFound."""
    text = given.strip().lower()
    rest = _ID_FORM[len(text) :]
    whole = text + rest
    if len(text) < _LEAST_OF_AN_ID or not re.fullmatch(_ID_FORM.replace("0", "[0-9a-f]"), whole):
        raise NotFound(f"there is no message with the id {given!r}")
    found = service.store.read(Messages.ids_between, whole, text + rest.replace("0", "f"), 3)
    if len(found) > 1:
        raise NotFound(
            f"several messages begin with {text}: {', '.join(found[:2])}{', …' if len(found) > 2 else ''}"
        )
    if not found:
        raise NotFound(f"there is no message with the id {given!r}")
    return found[0]


_held_option = click.option("--held", is_flag=True, help="All messages that are held, instead of one.")


@click.command()
@click.argument("request_id", required=False, shell_complete=request_ids)
@_held_option
def release(request_id: str | None, held: bool) -> None:
    """Send a held message: one in doubt, one whose worker crashed with it, or one that a restore held."""
    now = system_clock()
    _decide(
        request_id,
        held,
        lambda transaction, id_: transaction.holds.release(id_, now),
        "released",
        "it is not held",
        also=lambda transaction: transaction.chores.release(now),
    )


@click.command()
@click.argument("request_id", required=False, shell_complete=request_ids)
@_held_option
def cancel(request_id: str | None, held: bool) -> None:
    """Cancel a message that waits. Recipients who have received it are not affected."""
    now = system_clock()
    why = "only a message that waits can be cancelled"
    _decide(request_id, held, lambda transaction, id_: transaction.holds.cancel(id_, now), "cancelled", why)


def _decide(
    request_id: str | None,
    held: bool,
    move: Callable[[Transaction, str], bool],
    done: str,
    why_not: str,
    also: Callable[[Transaction], int] | None = None,
) -> None:
    """Release or cancel one message, or all that are held; with these `also` what is held and no message."""
    from postroom.runtime import installation

    if held == (request_id is not None):
        raise click.UsageError("give the id of one message, or --held for all that are held")
    service = installation.open_service()
    if request_id is not None:
        whole = _whole_id(service, request_id)
        if not service.store.write(lambda transaction: move(transaction, whole)):
            raise InvalidSubmission(f"{why_not}: {whole} is {service.store.read(Messages.status, whole)}")
        print_history(service, whole)
        return
    moved = 0
    waiting = service.store.read(Holds.held_messages)
    for start in range(0, len(waiting), _DECIDED_AT_ONCE):
        some = waiting[start : start + _DECIDED_AT_ONCE]
        moved += service.store.write(partial(_move_all, move, some))
    if also is not None:
        service.store.write(also)
    service.store.close()
    click.echo(f"{counted(moved, 'message is', 'messages are')} {done}")


def _move_all(move: Callable[[Transaction, str], bool], ids: Sequence[str], transaction: Transaction) -> int:
    return sum(move(transaction, request_id) for request_id in ids)


def print_history(service: Service, request_id: str, *, as_json: bool = False, whole: bool = False) -> None:
    """Print all that is known of a message: on one screen, whole, or as the API's document."""
    from postroom.cli.message_report import findings_of, report
    from postroom.core.message import MessageState
    from postroom.store.histories import Histories

    history, now = service.store.read(Histories.of, request_id), system_clock()
    if history is None:
        raise NotFound(f"there is no message with the id {request_id!r}")
    if as_json:
        from postroom.web.admin.emails import document_of

        click.echo(json.dumps(document_of(history, now).model_dump(mode="json", by_alias=True)))
    else:
        for line in report(history, now, findings_of(service, history, now), whole=whole):
            click.echo(line)
    service.store.close()
    if history.status.state is MessageState.FAILED:
        sys.exit(1)
