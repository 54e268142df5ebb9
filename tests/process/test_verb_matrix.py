"""The matrix of tests/smtp/test_verbs.py through a whole installation, on both engines: what is recorded and shown.

Every second cell on SQLite and the others on PostgreSQL; `make soak` takes all of them on both.
One account for each cell, all on one installation, so that the cells' deadlines run at the same time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from postroom.core.outcome import Deferred, Failed, InDoubt, Outcome, Sent
from tests.conftest import StartScripted
from tests.servers.engines import ENGINES
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Action, Also, Drip, Drop, ScriptedServer
from tests.servers.waiting import eventually
from tests.smtp.test_verbs import CELLS, Cell, expected, misbehave

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
# The text of these mails is over before a server can speak during it, and an idle session says QUIT after a minute only.
WALKED = [cell for cell in CELLS if cell.verb not in ("BODY", "QUIT")]
SLOW = Drip("250 " + "x" * 1000, every=0.02)  # slower than the deadline

# What is in the database: the job's state, whether it waits for a person, and the delivery's state.
RECORDED: dict[tuple[str, bool, str], type[Outcome]] = {
    ("done", False, "sent"): Sent,
    ("queued", False, "pending"): Deferred,
    ("failed", False, "failed"): Failed,
    ("queued", True, "pending"): InDoubt,
}
SHOWN = {Sent: "sent", Deferred: "deferred (", Failed: "failed (", InDoubt: "deferred ("}


@dataclass(frozen=True)
class Desk:
    """A cell, the server that misbehaves so, and the key of the account that sends through it."""

    cell: Cell
    server: ScriptedServer

    @property
    def key(self) -> str:
        return f"key-{self.cell}"

    @property
    def row(self) -> str:
        pipelining = "" if self.cell.pipelining else "no"
        return (
            f"{self.key},{self.key.lower()}@postroom.example,secret,localhost,{self.server.port},{pipelining}"
        )


def desk(scripted: StartScripted, cell: Cell) -> Desk:
    server = scripted(tls=True, chunking=cell.verb == "BDAT")
    if cell.how == "drip":
        misbehave_slowly(server, cell)
    else:
        misbehave(server, cell)
    return Desk(cell, server)


def misbehave_slowly(server: ScriptedServer, cell: Cell) -> None:
    if cell.verb == "RSET":
        server.on("RCPT", "550 5.1.1 unknown")
    server.on(cell.name, do=SLOW, tls=cell.in_tls)


def recorded(service: Installation) -> dict[str, tuple[str, bool, str]]:
    """Return what is recorded of each mail that is not under way, by its id."""
    rows = service.query(
        "SELECT request_id, job.state, held, delivery.state FROM message JOIN job ON job.message_id = message.id "
        "JOIN delivery ON delivery.message_id = message.id WHERE job.state <> 'claimed' "
        "AND (attempt > 0 OR reason IS NOT NULL)"  # not every try is counted
    )
    return {request_id: (job, bool(held), delivery) for request_id, job, held, delivery in rows}


def doubted(service: Installation) -> set[str]:
    rows = service.query(
        "SELECT request_id FROM event JOIN message ON message.id = event.message_id WHERE kind = 'in_doubt'"
    )
    return {request_id for (request_id,) in rows}


@pytest.mark.slow
def test_every_cell_is_recorded_and_shown_as_the_design_says(
    tmp_path: Path, scripted: StartScripted, ca_file: Path, database_settings: dict[str, str]
) -> None:
    engine = ENGINES.index("postgres" if database_settings else "sqlite")
    desks = [desk(scripted, cell) for cell in (WALKED if SOAK else WALKED[engine :: len(ENGINES)])]
    rows = ["key,email,app_password,host,port,pipelining", *(each.row for each in desks)]
    settings = {
        "POSTROOM_SMTP_CA_FILE": str(ca_file),
        "POSTROOM_SMTP_TIMEOUT": "5s",
        "POSTROOM_SMTP_DOT_TIMEOUT": "5s",
        "POSTROOM_RETRY_SCHEDULE": "1h",
        "POSTROOM_IN_DOUBT": "hold",
        **database_settings,
    }
    with Installation(tmp_path, rows, **settings) as service:
        sent = {service.send(key=each.key): each for each in desks}
        eventually(lambda: len(recorded(service)) == len(desks), 60, "an end of every first try", 0.2)
        found, in_doubt = recorded(service), doubted(service)
        wrong = []
        for request_id, each in sent.items():
            outcome = RECORDED[found[request_id]]
            status = service.status(request_id)
            with contextlib.suppress(AssertionError):
                check(each, outcome, status, in_doubt=request_id in in_doubt)
                continue
            wrong.append((str(each.cell), outcome.__name__, status, request_id in in_doubt))
        assert wrong == []


def check(each: Desk, outcome: type[Outcome], status: str, *, in_doubt: bool) -> None:
    cell, server = each.cell, each.server
    kinds = {kind for kind, _ in expected(cell.verb, cell.how)}
    if cell.verb == "BDAT" and cell.how not in ("4xx", "5xx", "421"):
        kinds.add(Sent)  # with DATA, once it has been asked again
    if cell.verb == "BDAT" and cell.how == "421":
        # Its first chunk is not the last to a server that has not shown that it takes them.
        kinds = {Deferred}
    assert outcome in kinds
    assert status.startswith(SHOWN[outcome])
    assert in_doubt == (outcome is InDoubt)
    assert not in_doubt or cell.verb in ("DOT", "BDAT", "DATA")
    assert len(server.messages) == (outcome is Sent) or in_doubt
    assert not server.auth_in_plain_text


@pytest.mark.parametrize("action", [Drop(None), Also("421 4.3.2 closing")], ids=["leaves", "says so"])
def test_a_server_that_is_gone_once_it_has_let_us_in_costs_a_try_and_not_a_storm_of_log_ins(
    action: Action, tmp_path: Path, scripted: StartScripted, ca_file: Path
) -> None:
    server = scripted(tls=True)
    server.on("AUTH", do=action)
    rows = ["key,email,app_password,host,port", f"{KEY},me@postroom.example,secret,localhost,{server.port}"]
    settings = {"POSTROOM_SMTP_CA_FILE": str(ca_file), "POSTROOM_RETRY_SCHEDULE": "1h"}
    with Installation(tmp_path, rows, **settings) as service:
        service.wait_for(service.send(), "deferred")
        assert len(server.logins) <= 2, "once more, since it might have been for the commands in one write"
