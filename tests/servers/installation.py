"""A whole Postroom installation in a folder of its own: `postroom serve` and its HTTP client."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import psycopg

from tests.servers import logs
from tests.servers.forked import forker
from tests.servers.programs import Process, end, free_port
from tests.servers.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-for-the-tests"
FORKED = os.environ.get("POSTROOM_SOAK") != "1" and os.environ.get("POSTROOM_KILLS", "1") == "1"
_KEPT_S = 20.0  # the server closes a connection that is not used for longer


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, headers in lower case, and the JSON document."""

    status: int
    headers: Mapping[str, str]
    document: Any


class Client:
    """A keep-alive HTTP client; one for each thread."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 30) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        self._used = time.monotonic()

    def call(
        self, method: str, path: str, document: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request. Raises OSError or HTTPException when the connection breaks."""
        body = None if document is None else json.dumps(document)
        if time.monotonic() - self._used > _KEPT_S:
            self._connection.close()  # the next request opens it anew
        try:
            self._connection.request(
                method, path, body, {"Content-Type": "application/json", **(headers or {})}
            )
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        self._used = time.monotonic()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, answered, json.loads(text) if text else None)

    def close(self) -> None:
        self._connection.close()


class Installation:
    """`postroom serve` in `folder`, whose data.csv holds `rows` (header first)."""

    forked = FORKED

    def __init__(self, folder: Path, rows: Sequence[str], **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = {"POSTROOM_RATE_LIMIT": "", "POSTROOM_DRAIN": "0", **settings}
        self._process: Process | None = None
        self._local = threading.local()
        self._clients: list[Client] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    # -- life

    @property
    def environment(self) -> dict[str, str]:
        """What the service's processes are started with."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")},
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.port),
            **self._settings,
        }

    def start(self) -> None:
        self._process = self._run("serve.log", "serve", strict=True)
        logs.watch(self.folder / "serve.log")
        try:
            eventually(self._answers, 30, "serve to answer")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def spawn_worker(self) -> Process:
        """Start one more worker, which nobody restarts."""
        return self.spawn("worker")

    def spawn(self, word: str) -> Process:
        """Start a `web` or a `worker` that nobody restarts."""
        return self._run("spawned.log", word)

    def _run(self, log: str, word: str, *, strict: bool = False) -> Process:
        with (self.folder / log).open("ab") as file:
            if self.forked:
                return forker().start(
                    "postroom",
                    word,
                    cwd=self.folder,
                    environment=self.environment,
                    stdout=file.fileno(),
                    stderr=file.fileno(),
                    strict=strict,
                )
            return subprocess.Popen(
                [sys.executable, *(("-W", "error") if strict else ()), "-m", "postroom", word],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.client.call("GET", "/email-status/none").status == 404
        except (OSError, http.client.HTTPException):
            return False

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the service; return its exit status."""
        for client in self._clients:
            client.close()
        return self.halt(how)

    def halt(self, how: int = signal.SIGTERM) -> int:
        """End the service while its clients go on and find it gone; return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        return end(process, how, timeout=40)

    def command(self, *words: str) -> str:
        """Run `postroom WORDS` as a person would, which must succeed; return what it prints."""
        ended = self.run(*words)
        assert ended.returncode == 0, ended
        return ended.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `postroom WORDS`, which may fail."""
        return forker().run(*words, cwd=self.folder, environment=self.environment)

    def log(self) -> str:
        path = self.folder / "serve.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()

    # -- processes

    @property
    def pid(self) -> int:
        """The pid of `postroom serve` itself."""
        assert self._process is not None
        return self._process.pid

    def pids(self, *words: str) -> list[int]:
        """Return the pids of the service's processes whose command line ends with `words`."""
        assert self._process is not None
        return descendants(self._process.pid, *words)

    # -- use

    @property
    def client(self) -> Client:
        """This thread's client."""
        if not hasattr(self._local, "client"):
            self._local.client = Client(self.port)
            self._clients.append(self._local.client)
        client: Client = self._local.client
        return client

    def post(self, **fields: Any) -> Answer:
        document = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
        return self.client.call("POST", "/send-email", document | fields)

    def send(self, **fields: Any) -> str:
        """Post a mail that must be accepted; return its id."""
        answer = self.post(**fields)
        assert answer.status == 202, answer
        request_id: str = answer.document["request_id"]
        return request_id

    def status(self, request_id: str) -> str:
        answer = self.client.call("GET", f"/email-status/{request_id}")
        assert answer.status == 200, answer
        status: str = answer.document["status"]
        return status

    def wait_for(self, request_id: str, status: str = "sent", timeout: float = 20) -> str:
        """Wait until the mail's status begins with `status`; return all of it."""
        found = ""

        def reached() -> bool:
            nonlocal found
            found = self.status(request_id)
            return found.startswith(status)

        try:
            eventually(reached, timeout)
        except AssertionError as error:
            raise AssertionError(
                f"{request_id} is {found!r}, not {status!r}\n{self.log()[-3000:]}"
            ) from error
        return found

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        if "DATABASE_URL" in self._settings:
            with psycopg.connect(self._settings["DATABASE_URL"], autocommit=True) as server:
                return server.execute(sql.encode()).fetchall()
        connection = apsw.Connection(str(self.folder / "var/postroom.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5000)
            return list(connection.execute(sql))
        finally:
            connection.close()

    def contents(self) -> dict[str, bytes]:
        """Return what is stored of each message, by request id."""
        found = {
            request_id: bytes(mime)
            for request_id, mime in self.query(
                "SELECT request_id, mime FROM message JOIN content ON content.message_id = message.id"
            )
        }
        for request_id, octets in self.query(
            "SELECT request_id, octets FROM message JOIN pieced_content ON message_id = message.id "
            "JOIN content_piece ON content_piece.upload = pieced_content.upload ORDER BY request_id, number"
        ):
            found[request_id] = found.get(request_id, b"") + bytes(octets)
        return found

    def change(self, sql: str) -> None:
        """Change the database itself, past the service."""
        if "DATABASE_URL" in self._settings:
            with psycopg.connect(self._settings["DATABASE_URL"], autocommit=True) as server:
                server.execute(sql.encode())
            return
        connection = apsw.Connection(str(self.folder / "var/postroom.db"))
        try:
            connection.set_busy_timeout(5000)
            connection.execute(sql)
        finally:
            connection.close()

    @contextmanager
    def stopped(self, worker: int) -> Iterator[None]:
        """Stop a worker (SIGSTOP) while it has no transaction open that writes: then nobody else could write."""
        eventually(lambda: self._stop(worker), 20, "the worker to be stopped while it writes nothing")
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def _stop(self, worker: int) -> bool:
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: _is_stopped(worker), message="the worker to stop")
        if self._is_writing():
            os.kill(worker, signal.SIGCONT)
            return False
        return True

    def _is_writing(self) -> bool:
        if "DATABASE_URL" in self._settings:
            [[count]] = self.query(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in tr%'"
            )
            return bool(count)
        with (self.folder / "var/postroom.db-lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def log_lines(self) -> list[str]:
        path = self.folder / "email_log.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


class StartedInstallation(Installation):
    """One that is started by `python -m postroom serve`, as a person would."""

    forked = False


def account_rows(port: int, key: str = KEY) -> list[str]:
    """Return a data.csv for one account whose server is an open sink on loopback."""
    return ["key,email,app_password,host,port,security", f"{key},me@postroom.example,,127.0.0.1,{port},none"]


def descendants(pid: int, *words: str) -> list[int]:
    """Return the pids of the processes below `pid` whose command line ends with `words`; without any, all."""
    return [each for each in _descendants(pid) if not words or _command(each)[-len(words) :] == list(words)]


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found, frontier = [], [pid]
    while frontier:
        children = [child for child, parent in parents.items() if parent in frontier]
        found += children
        frontier = children
    return found


def _command(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        if "tests.servers.forked" in words:  # what it is since says its name
            words = ["-m", *Path(f"/proc/{pid}/comm").read_text(encoding="ascii").split()]
    except OSError:
        return []
    return words


def _is_stopped(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def kill(pid: int) -> bool:
    """Send SIGKILL; False when the process had gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def is_gone(pid: int) -> bool:
    """Whether a process and all its threads have ended, so that it holds no file any more."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except OSError:
        return True
