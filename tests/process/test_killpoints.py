"""A process killed at every point of a message's way: nothing lost, and every duplicate known.

`POSTROOM_KILLS` says how often each point kills (1 in `make test`, 25 in `make soak`). `make test` takes the engines in
turn and each point in one way; `make soak` takes every point in every way on both engines.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import pytest

from postroom.core.failpoint import POINTS, VARIABLE
from postroom.core.message import Submission
from postroom.intake.accept import accept
from postroom.store.accounts import Accounts
from postroom.store.migrate import SCHEMA, load_migrations
from postroom.store.store import open_store
from tests.conftest import StartScripted
from tests.servers.engines import in_turn
from tests.servers.forked import forker
from tests.servers.installation import KEY, Installation, is_gone
from tests.servers.ledger import Receiving, all_ended, check_ledger, held_mails
from tests.servers.programs import end, unavailable
from tests.servers.scripted import ScriptedServer
from tests.servers.sink import Sink, find_message_id
from tests.servers.waiting import eventually

KILLS = int(os.environ.get("POSTROOM_KILLS", "1"))
SOAK = KILLS > 1
CLIENTS = 4
PAUSE_S = 0.1 if SOAK else 0.02  # or tens of thousands gather while the worker is down again and again
ELSEWHERE = (
    "recover.inside",
    "migrate.inside",
    "move.copied",
    "restore.step",
    "secrets.rotate",
)  # not on a message's way
SESSION = ("session.tls", "session.auth")  # only where there are such steps
SENDING = [point for point in POINTS if point not in (*ELSEWHERE, *SESSION)]

# With one mail at a time, a second copy can only arise between the final dot and the record of its reply.
# `store.commit` is not among these: it may be the commit of a result.
BEFORE_THE_DOT = (
    "claim.committed",
    "send.mail",
    "send.rcpt",
    "send.data",
    "send.body",
    "send.before_mark",
    "send.marked",
)


@dataclass(frozen=True)
class Way:
    """How the mail goes: by so many clients at once or one mail after the other, and by which commands."""

    clients: int = CLIENTS
    one_at_a_time: bool = False
    chunking: bool = False
    pipelining: bool = True

    def rows(self, port: int) -> list[str]:
        connections = "1" if self.one_at_a_time else ""
        return [
            "key,email,app_password,host,port,security,connections,pipelining",
            f"{KEY},me@postroom.example,,127.0.0.1,{port},none,{connections},{'' if self.pipelining else 'no'}",
        ]


CROWD = Way()
SINGLE = Way(clients=1, one_at_a_time=True)
CHUNKED = Way(clients=1, one_at_a_time=True, chunking=True)
STEPWISE = Way(clients=1, one_at_a_time=True, pipelining=False)


class Posting:
    """Clients that post until told to end, and note each id that got its 202."""

    def __init__(self, service: Installation, size: int, way: Way = CROWD) -> None:
        self._service = service
        self._body = "x" * size
        self._one_at_a_time = way.one_at_a_time
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self._threads = [threading.Thread(target=self._post) for _ in range(way.clients)]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while not self._ended.wait(PAUSE_S):
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.accepted.append(self._service.send(body=self._body))
                while self._one_at_a_time and not self._is_over(self.accepted[-1]):
                    pass

    def _is_over(self, request_id: str) -> bool:
        return self._ended.wait(0.01) or self._service.status(request_id) == "sent"


def deaths(note: Path) -> int:
    return len(note.read_text().splitlines()) if note.exists() else 0


def no_more_deaths(note: Path) -> None:
    note.with_name(f"{note.name}.over").touch()


def kill_and_settle(
    point: str, installation: Installation, note: Path, sink: Receiving, posting: Posting
) -> set[str]:
    """Post while a process dies again and again, see that all is sent in the end; return what was sent twice."""
    with installation as service:
        with posting:
            eventually(lambda: posting.accepted, 60, "a first mail")
            early = deaths(note)  # a start commits too: a process may die before it has taken any mail
            eventually(lambda: deaths(note) - early >= KILLS, 60 + 15 * KILLS, f"{KILLS} deaths at {point}")
        if SOAK:  # what the last one left behind is for processes that start afresh
            service.stop()
        no_more_deaths(note)
        if SOAK:
            service.start()
        eventually(lambda: all_ended(service), 60 + 4 * KILLS, "the queue to empty")
        held = held_mails(service)
        assert len(held) <= max(0, deaths(note) - 2), (
            "each death from the third on sets aside one mail at most"
        )
        for request_id in held:
            service.command("release", request_id)
        eventually(lambda: all_ended(service), 60, "what was released to be sent")
        twice = check_ledger(service, sink, posting.accepted)
    print(
        f"{point}: {len(posting.accepted)} mails, {deaths(note)} deaths, {len(twice)} twice, {len(held)} held"
    )
    return twice


def check_kills_at(point: str, way: Way, folder: Path, settings: dict[str, str]) -> None:
    note = folder / "deaths"
    in_pieces = ("send.body", "accept.piece")  # bodies of several blocks, killed between them
    size = 600_000 if point in in_pieces else 500
    # A start makes some ten commits in one process: it is to get beyond them.
    every = {"session.connect": 1, "store.commit": 25}.get(point, 7)
    with Sink(ledger=folder / "ledger", chunking=way.chunking) as sink:
        settings = {**settings, VARIABLE: f"{point}:{every}:{note}"}
        armed = Installation(folder / "service", way.rows(sink.port), **settings)
        twice = kill_and_settle(point, armed, note, sink, Posting(armed, size, way))
    early = point.startswith(("accept.", "session.")) or (way.one_at_a_time and point in BEFORE_THE_DOT)
    assert not (twice and early), f"a kill at {point} sends nothing twice"


CROWDED = [point for point in SENDING if SOAK or point not in BEFORE_THE_DOT]


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * KILLS)
@in_turn("point", CROWDED, both=["store.commit"], soak=SOAK)
def test_a_kill_at(point: str, tmp_path: Path, database_settings: dict[str, str]) -> None:
    check_kills_at(point, CROWD, tmp_path, database_settings)


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * KILLS)
@in_turn("point", BEFORE_THE_DOT, soak=SOAK)
def test_a_kill_before_the_dot_sends_nothing_twice(
    point: str, tmp_path: Path, database_settings: dict[str, str]
) -> None:
    check_kills_at(point, SINGLE, tmp_path, database_settings)


CHUNKED_POINTS = ("send.body", "send.before_mark", "send.marked", "send.dot", "send.replied")
STEPWISE_POINTS = ("send.mail", "send.rcpt")


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * KILLS)
@pytest.mark.parametrize(
    ("point", "way"),
    [
        *((point, CHUNKED) for point in CHUNKED_POINTS if SOAK or point in ("send.body", "send.dot")),
        *((point, STEPWISE) for point in STEPWISE_POINTS),
    ],
    ids=lambda value: value if isinstance(value, str) else "chunked" if value.chunking else "stepwise",
)
def test_a_kill_at_the_commands_of_another_way(point: str, way: Way, tmp_path: Path) -> None:
    check_kills_at(point, way, tmp_path, {})


# --- Several recipients


RECIPIENTS = tuple(f"you{number}@postroom.example" for number in range(5))


@pytest.mark.timeout(300 + 20 * KILLS)
@pytest.mark.parametrize("way", [SINGLE, STEPWISE], ids=["pipelined", "stepwise"])
def test_a_kill_at_a_later_recipient_sends_each_of_them_one_copy(way: Way, tmp_path: Path) -> None:
    """The API takes one recipient a mail: these come in by `accept` itself."""
    with Sink(ledger=tmp_path / "ledger") as sink:
        rows, accepted = way.rows(sink.port), []
        for number in range(KILLS):
            note = tmp_path / f"deaths-{number}"
            nth = 2 + (number + way.pipelining) % 4
            with Installation(tmp_path / "service", rows, **{VARIABLE: f"send.rcpt:{nth}:{note}"}) as service:
                accepted.append(accept_for(service, RECIPIENTS))
                eventually(partial(deaths, note), 30, f"a death at recipient {nth}")
                no_more_deaths(note)  # before a third worker dies with it: then it would be set aside
                service.wait_for(accepted[-1])
                assert service.query("SELECT count(*) FROM delivery WHERE possible_duplicate = 1") == [(0,)]
        copies = sorted(sink.ledger())
        assert {name.partition("@")[0].strip("<") for name, _ in copies} == set(accepted)
        assert len(copies) == len(set(copies)) == len(accepted) * len(RECIPIENTS)


def accept_for(service: Installation, recipients: tuple[str, ...]) -> str:
    store = open_store(f"sqlite:///{service.folder / 'var/postroom.db'}")
    try:
        [stored] = store.read(Accounts.all)
        submission = Submission(stored.account, recipients, "A subject", "A body", is_html=False)
        return accept(store, submission, most_bytes=100_000).request_id
    finally:
        store.close()


# --- While the session is made


class Receiver:
    """A scripted server that keeps a ledger."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def ledger(self) -> list[tuple[str, str]]:
        return [
            (find_message_id(mail.data).decode(), path)
            for mail in self._server.messages
            for path in mail.forward_paths
        ]


@pytest.mark.timeout(600 + 20 * KILLS)
@in_turn("point", SESSION, soak=SOAK)
def test_a_kill_while_the_session_is_made(
    point: str, tmp_path: Path, scripted: StartScripted, ca_file: Path, database_settings: dict[str, str]
) -> None:
    server, note = scripted(tls=True), tmp_path / "deaths"
    rows = ["key,email,app_password,host,port", f"{KEY},me@postroom.example,secret,localhost,{server.port}"]
    settings = {"POSTROOM_SMTP_CA_FILE": str(ca_file), VARIABLE: f"{point}:1:{note}", **database_settings}
    armed = Installation(tmp_path / "service", rows, **settings)
    twice = kill_and_settle(point, armed, note, Receiver(server), Posting(armed, 500, Way(clients=1)))
    assert twice == set(), f"a kill at {point} sends nothing twice"


# --- Beside a message's way


@pytest.mark.timeout(600 + 20 * KILLS)
def test_a_kill_while_dead_workers_are_buried(tmp_path: Path, database_settings: dict[str, str]) -> None:
    note, folder = tmp_path / "deaths", tmp_path / "service"
    burials = tmp_path / "burials"
    with Sink(ledger=tmp_path / "ledger") as sink:
        rows = CROWD.rows(sink.port)
        with Installation(folder, rows, **database_settings, **{VARIABLE: f"send.marked:5:{note}"}) as armed:
            with Posting(armed, 500) as posting:
                eventually(lambda: deaths(note) >= 1, 60, "a worker's death with mail in its hands")
            armed.stop(9)
        settings = {**database_settings, VARIABLE: f"recover.inside:1:{burials}"}
        with Installation(folder, rows, **settings) as service:
            eventually(lambda: deaths(burials) >= KILLS, 60 + 15 * KILLS, f"{KILLS} deaths at a burial")
            no_more_deaths(burials)
            eventually(lambda: all_ended(service), 60, "the queue to empty")
            check_ledger(service, sink, posting.accepted)


@pytest.mark.timeout(300)
def test_a_kill_inside_retention_leaves_it_to_another_worker(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    note = tmp_path / "deaths"
    with Sink(ledger=tmp_path / "ledger") as sink:
        settings = {**database_settings, VARIABLE: f"retention.inside:1:{note}"}
        with Installation(tmp_path / "service", CROWD.rows(sink.port), **settings) as service:
            eventually(lambda: deaths(note) >= 1, 60, "a death inside retention")
            no_more_deaths(note)
            service.run("release", "--held")  # where it came to three before we looked
            left = "SELECT state, attempt, crashes, held FROM job WHERE kind = 'retention'"
            eventually(lambda: service.query(left) == [("queued", 0, 0, 0)], 90, "retention to be over")
            assert len(service.query("SELECT 1 FROM worker")) > 1


@pytest.mark.timeout(300 + 20 * KILLS)
def test_a_kill_inside_a_migration_leaves_all_of_it_or_nothing(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    note = tmp_path / "deaths"

    def migrate(failpoint: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **database_settings, VARIABLE: failpoint}
        return forker().run("migrate", cwd=tmp_path, environment=environment)

    for number in range(KILLS):  # always in the first: nothing of it is left
        assert migrate(f"migrate.inside:1:{note}").returncode == -9
        assert deaths(note) == number + 1
    for _ in range(len(load_migrations(SCHEMA, "sqlite"))):  # in each that follows: the one before is done
        again = migrate(f"migrate.inside:2:{note}")
        assert again.returncode in (-9, 0), again.stderr
    assert deaths(note) > KILLS
    assert "the database is up to date" in migrate("").stderr


# --- While SQLite folds its log back into the file


@contextlib.contextmanager
def killed_at_write(service: Installation, pids: list[int], nth: int) -> Iterator[None]:
    """Kill the process that comes to its n-th write into the database file itself, which only a checkpoint does."""
    strace = shutil.which("strace")
    if strace is None:
        unavailable("strace is not installed")
    file, fault = service.folder / "var/postroom.db", f"inject=pwrite64:signal=KILL:when={nth}"
    command = [strace, "-f", "-qq", "-P", str(file), "-e", "trace=pwrite64", "-e", fault, "-o", "/dev/null"]
    command += [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: tracer.poll() is not None or all(map(is_traced, pids)), 10, "strace to attach")
        if tracer.poll() is not None:
            unavailable("strace may not attach to a process here")
        yield
    finally:
        end(tracer, signal.SIGKILL)


def is_traced(pid: int) -> bool:
    """Whether each thread of the process has a tracer."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all("TracerPid:\t0" not in status for status in statuses)


def writers(service: Installation) -> list[int]:
    """Return the web process and the worker that are there, once both are: of granian's two, the younger."""
    webs, workers = service.pids("-m", "postroom", "web"), service.pids("-m", "postroom", "worker")
    return [max(webs), *workers] if len(webs) > 1 and workers else []


def any_is_gone(pids: list[int]) -> bool:
    return any(map(is_gone, pids))


@pytest.mark.slow
@pytest.mark.timeout(600 + 90 * KILLS)
def test_a_kill_in_the_midst_of_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of SQLite's is due after 4000 pages: with these mails some hundred."""
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", CROWD.rows(sink.port))
        with service, Posting(service, 200_000) as posting:
            for number in range(KILLS):
                pids = eventually(partial(writers, service), 30, "a web process and a worker")
                with killed_at_write(service, pids, nth=1 + 37 * number):
                    eventually(partial(any_is_gone, pids), 60, "a kill at a write")
            enough = len(posting.accepted) + 10
            eventually(lambda: len(posting.accepted) >= enough, 60, "mail to be taken again")
        with Installation(tmp_path / "service", CROWD.rows(sink.port)) as service:
            eventually(lambda: all_ended(service), 60, "the queue to empty")
            check_ledger(service, sink, posting.accepted)
            connection = apsw.Connection(str(service.folder / "var/postroom.db"))
            assert connection.pragma("integrity_check") == "ok"
            connection.close()
