"""Two hosts on one PostgreSQL, upgraded one after the other under load, from the last version of the schema before.

The version before comes from git: of a copy without its history the test is skipped. `web` and `worker` are services of
their own on each host, as docs/deployment.md says.
"""

from __future__ import annotations

import http.client
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from postroom.store.migrate import SCHEMA
from tests.servers.installation import ROOT, Client
from tests.servers.ledger import all_ended, copies_at
from tests.servers.postgres import Postgres
from tests.servers.programs import end, free_port
from tests.servers.scrape import database_totals, said_totals, scrape
from tests.servers.sink import Sink
from tests.servers.waiting import eventually
from tests.soak import SOAK

WAITING, SHARE = (100_000, 3000) if SOAK else (500, 150)
_BROKEN = {"BrokenPipeError", "ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected"}
CLIENTS, PAUSE_S = 6, 0.003
TOKEN = "the-admin-token-of-both-hosts-is-long-enough"
MAILBOXES = [f"bench{number}@example.com" for number in (1, 2, 3)]
TAKEN, REFUSED, PAUSED = KEYS = [f"key-of-account-{number}" for number in (1, 2, 3)]


def version_before(folder: Path) -> Path:
    """Unpack the tree before the newest number of the schema came; skip the test where git does not have it."""
    newest = sorted(SCHEMA.glob("0*.sql"))[-1].relative_to(ROOT)
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(newest)).decode().split()
    archive = _git("archive", f"{added[-1]}^") if added else b""
    if not archive:
        pytest.skip("git does not have the version before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False).stdout
    except OSError:
        return b""


@dataclass
class Host:
    """A host with a web process and a worker as services of their own, each of the tree that it was started from."""

    folder: Path
    settings: Mapping[str, str]
    tree: Path
    port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
        return {**own, **self.settings, "PORT": str(self.port), "PYTHONPATH": str(self.tree)}

    def command(self, *words: str, module: str = "postroom") -> str:
        """Run a command of this host's version, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        for word in ("worker", "web"):
            with (self.folder / f"{word}.log").open("ab") as log:
                self.running[word] = subprocess.Popen(
                    [sys.executable, "-m", "postroom", word],
                    cwd=self.folder,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        eventually(self._answers, 60, f"{self.folder.name} to be ready")

    def _answers(self) -> bool:
        assert self.running["web"].poll() is None, (self.folder / "web.log").read_text()[-2000:]
        try:
            return self.ask("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, path: str, **query: str) -> tuple[int, Any]:
        client = Client(self.port)
        try:
            where = f"{path}?{urlencode(query)}" if query else path
            answer = client.call("GET", where, headers={"Authorization": f"Bearer {TOKEN}"})
        finally:
            client.close()
        return answer.status, answer.document

    def found(self, **query: str) -> set[str]:
        """Return the ids of all pages of a list."""
        ids: set[str] = set()
        after: dict[str, str] = {}
        while True:
            status, page = self.ask("/v1/emails", limit="100", **query, **after)
            assert status == 200, page
            ids |= {each["id"] for each in page["data"]}
            if not page["has_more"]:
                return ids
            after = {"after": page["next"]}

    def stop(self) -> None:
        for word in list(self.running):
            end(self.running.pop(word), signal.SIGTERM, timeout=60)


@dataclass(frozen=True)
class Accepted:
    """A message with the phase of the upgrade and the host that accepted it."""

    request_id: str
    number: int
    phase: str
    host: int


class Load:
    """Clients that post to both hosts in turn, at a steady pace, each message to a recipient of its own."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts
        self._over = threading.Event()
        self._mutex = threading.Lock()
        self._number = 0
        self.phase = "before"
        self.accepted: list[Accepted] = []
        self.refused: Counter[tuple[str, int, str]] = Counter()
        self._threads = [threading.Thread(target=self._post_all, args=(each,)) for each in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _post_all(self, each: int) -> None:
        where = each % len(self._hosts)
        client = Client(self._hosts[where].port)
        while not self._over.wait(PAUSE_S):
            with self._mutex:
                self._number += 1
                number, phase = self._number, self.phase
            message = {
                "subject": f"Number n{number}",
                "recipient": f"to{number}@example.org",
                "body": "x" * 200,
                "key": KEYS[number % 3],
            }
            said, request_id = self._post(client, message)
            with self._mutex:
                if request_id is not None:
                    self.accepted.append(Accepted(request_id, number, phase, where))
                else:
                    self.refused[phase, where, said] += 1
        client.close()

    def _post(self, client: Client, message: dict[str, str]) -> tuple[str, str | None]:
        """Return the status, or the name of the error, and the id of what was accepted."""
        try:
            answer = client.call("POST", "/send-email", message)
        except (OSError, http.client.HTTPException) as error:
            time.sleep(0.05)  # it is being upgraded
            return type(error).__name__, None
        return str(answer.status), answer.document["request_id"] if answer.status == 202 else None

    def go_on(self, phase: str, count: int = SHARE) -> None:
        """Enter a phase, and wait until so many messages were accepted in it."""
        self.phase = phase
        eventually(lambda: len(self.of(phase)) >= count, 120, f"{count} messages {phase}")

    def of(self, phase: str, host: int | None = None) -> list[Accepted]:
        with self._mutex:
            return [each for each in self.accepted if each.phase == phase and host in (None, each.host)]


class Database:
    """What the database itself says, as tests.servers.ledger asks it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def log_lines(self) -> list[str]:
        return []


@contextmanager
def two_hosts(folder: Path, url: str, sinks: list[Sink], tree: Path) -> Iterator[list[Host]]:
    """Start both with the version of `tree`, and with messages of a paused account that wait."""
    settings = {
        "DATABASE_URL": url,
        "POSTROOM_SECRET_KEY": "one secret key for both hosts",
        "POSTROOM_ADMIN_TOKEN": TOKEN,
        "POSTROOM_RATE_LIMIT": "",
        "POSTROOM_DRAIN": "0",
        "POSTROOM_RETRY_SCHEDULE": "1s",
    }
    rows = [
        f"{key},{mailbox},secret,127.0.0.1,{sink.port},none"
        for key, mailbox, sink in zip(KEYS, MAILBOXES, sinks, strict=True)
    ]
    hosts = []
    for number in (1, 2):
        host = Host(folder / f"host{number}", settings, tree)
        host.folder.mkdir()
        (host.folder / "data.csv").write_text(
            "\n".join(["key,email,app_password,host,port,security", *rows, ""])
        )
        hosts.append(host)
    hosts[0].command("--account", f"3:{WAITING}", "--size", "200", module="bench.fill")
    hosts[0].command("accounts", "pause", MAILBOXES[2])
    with ExitStack() as stack:
        for host in hosts:
            stack.callback(host.stop)
            host.start()
        yield hosts


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SOAK, reason="it starts two versions of everything: `make soak`")
def test_hosts_that_are_upgraded_in_turn_lose_nothing_and_find_everything(tmp_path: Path) -> None:
    tree = version_before(tmp_path / "before")
    with (
        Postgres(durable=True) as server,
        Sink(ledger=tmp_path / "ledger") as taking,
        Sink(refuse=True) as refusing,
    ):
        url = server.url(server.create_database())
        database = Database(url)
        with two_hosts(tmp_path, url, [taking, refusing, taking], tree) as hosts:
            with Load(hosts) as load:
                load.go_on("before")
                for host, during, behind in (
                    (hosts[0], "first", "one of each"),
                    (hosts[1], "second", "after"),
                ):
                    _upgrade(host, load, during)
                    load.go_on(behind)
                    _check_found_at_once(hosts[0], load, behind)
            hosts[1].command("accounts", "resume", MAILBOXES[2])
            eventually(lambda: all_ended(database), 600, "everything to be sent", pause=0.5)
            _check_ledger(database, taking, load)
            _check_looks(database, hosts, load)
            import shutil

            shutil.copy(server.folder / "log", "/tmp/up/pg.log")


def _upgrade(host: Host, load: Load, phase: str) -> None:
    """Stop a host, migrate, and start it with this version."""
    load.phase = phase
    began = time.monotonic()
    host.stop()
    host.tree = ROOT
    host.command("migrate")
    migrated = time.monotonic()
    host.start()
    print(
        f"{phase}: migrated after {migrated - began:.1f} s, ready after {time.monotonic() - began:.1f} s; meanwhile "
        f"{len(load.of(phase))} accepted, refused {dict(load.refused)}"
    )


def _check_found_at_once(upgraded: Host, load: Load, phase: str) -> None:
    """What the host of the version before accepted a moment ago is in the lists of the one that is upgraded."""
    for each in load.of(phase, host=1)[-5:] + load.of("before")[:5]:
        assert upgraded.found(to=f"to{each.number}@example.org") == {each.request_id}
        assert upgraded.found(subject=f"n{each.number}", account=MAILBOXES[each.number % 3]) >= {
            each.request_id
        }


def _check_ledger(database: Database, sink: Sink, load: Load) -> None:
    copies, accepted = copies_at(sink), {each.request_id for each in load.accepted}
    states = dict(
        database.query(
            "SELECT request_id, account.email || ' ' || job.state FROM message "
            "JOIN job ON job.message_id = message.id JOIN account ON account.id = message.account_id"
        )
    )
    assert accepted <= set(states), "accepted, and not in the database"
    assert set(states.values()) == {
        f"{MAILBOXES[0]} done",
        f"{MAILBOXES[1]} failed",
        f"{MAILBOXES[2]} done",
    }
    [shared] = set(copies) - set(states)  # `bench.fill` renders one message for all that waited
    assert copies.pop(shared) == WAITING
    posted = {
        id_ for (id_,) in database.query("SELECT request_id FROM message WHERE subject LIKE 'Number %'")
    }
    assert set(copies) == {id_ for id_ in posted if states[id_].endswith("done")}
    flagged = database.query("SELECT count(*) FROM delivery WHERE possible_duplicate = 1")
    twice = [id_ for id_, count in copies.items() if count > 1]
    print(
        f"{len(states)} messages, {len(accepted)} by clients: none lost, {len(twice)} twice, {flagged} doubted"
    )
    assert twice == []
    answers = {said for _, _, said in load.refused}
    assert answers <= _BROKEN | {"503"}, answers


def _check_looks(database: Database, hosts: list[Host], load: Load) -> None:
    """Lists, statistics and counters say of all messages what the database's rows do, whichever version wrote them."""
    for host in hosts:
        _check_lists(database, host, load)
        eventually(lambda host=host: _stats(host) == _stats_of_rows(database), 60, "the statistics")  # type: ignore[misc]

        def totals_agree(host: Host = host) -> bool:
            said, rows = said_totals(scrape(host.port, TOKEN)), database_totals(database)
            return all(
                said[name] == rows[name] for name in ("messages_accepted_total", "messages_ended_total")
            )

        eventually(totals_agree, 30, "the counters")


def _check_lists(database: Database, host: Host, load: Load) -> None:
    failed = {id_ for (id_,) in database.query(_OF_STATE.format("failed"))}
    assert host.found(status="failed") == failed
    assert host.found(account=MAILBOXES[1]) == failed
    assert host.found(to="@example.org", status="failed") == failed
    assert not host.found(status="queued")
    for phase in {each.phase for each in load.accepted}:
        for each in load.of(phase)[:: max(1, len(load.of(phase)) // 20)]:
            assert host.found(to=f"to{each.number}@example.org") == {each.request_id}
            assert host.found(subject=f"number n{each.number}", to=f"to{each.number}@example.org")


_OF_STATE = "SELECT request_id FROM message JOIN job ON job.message_id = message.id WHERE job.state = '{}'"


def _stats(host: Host) -> Counter[tuple[str, str]]:
    status, document = host.ask("/v1/stats")
    assert status == 200, document
    said: Counter[tuple[str, str]] = Counter()
    for day in document["data"]:
        for measure in ("accepted", "sent", "failed", "cancelled"):
            said[day["mailbox"], measure] += day[measure]
    return +said


def _stats_of_rows(database: Database) -> Counter[tuple[str, str]]:
    rows = database.query(
        "SELECT email, unnest(ARRAY['accepted', CASE job.state WHEN 'done' THEN 'sent' ELSE job.state END]) AS measure, "
        "count(*) FROM message JOIN job ON job.message_id = message.id JOIN account ON account.id = message.account_id "
        "GROUP BY email, measure"
    )
    return Counter({(email, measure): count for email, measure, count in rows})
