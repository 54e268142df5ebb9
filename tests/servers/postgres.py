"""A PostgreSQL cluster of our own, and databases in it that cost little to make."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from tests.servers import logs
from tests.servers.programs import PATH, StartupError, free_port, unavailable
from tests.servers.waiting import eventually

_LAYOUT = Path("/usr/lib/postgresql")
_SETTINGS = {
    "listen_addresses": "'0.0.0.0'",  # where its port is taken there, it ends
    "max_connections": "200",
    "shared_buffers": "128MB",
    "unix_socket_directories": "''",
    "log_checkpoints": "off",
    "autovacuum_naptime": "1s",
}


def binaries() -> Path:
    """Return the folder with initdb, the newest; without one the test is skipped, or fails where it is promised."""
    found = sorted(_LAYOUT.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb", path=PATH)
    if on_path is None:
        unavailable(
            "Debian package missing: postgresql (apt-get install postgresql, or tools/debian-packages.sh)"
        )
    return Path(on_path).parent


class Postgres:
    """A cluster on a free port: `with Postgres() as server: server.create_database()`.

    `durable` False does without flushes, for tests in which nothing is killed. The server does not run as root;
    where we are root it runs as the user that its package has made. It listens on every IPv4 address of its network
    namespace; whoever reaches the port may come in, as `postroom`.
    """

    host = "127.0.0.1"

    def __init__(self, *, durable: bool = False, programs: Path | None = None, **settings: str) -> None:
        self._binaries = programs or binaries()
        self._user = "postgres" if os.getuid() == 0 else None
        self._settings = {**_SETTINGS, **settings}
        if not durable:
            self._settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on"}
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.port = 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            user=self._user,
            cwd=self.folder,
            env={"PATH": PATH, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartupError(f"{program}: {done.stdout}\n{done.stderr}")

    def initialise(self) -> None:
        if self._user is not None:
            shutil.chown(self.folder, self._user)
            self._binaries = self._reachable(self._binaries)
        data = str(self.folder / "data")
        self._run(
            "initdb",
            "-D",
            data,
            "-U",
            "postroom",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        )
        with (self.folder / "data/pg_hba.conf").open("a", encoding="ascii") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        text = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        with (self.folder / "data/postgresql.conf").open("a", encoding="ascii") as file:
            file.write(text)

    def _reachable(self, programs: Path) -> Path:
        """Return the programs, or a copy of them where their folder is closed to others, as one in /root is."""
        if all(path.stat().st_mode & 0o001 for path in (programs / "postgres", *programs.parents)):
            return programs
        copy = self.folder / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        subprocess.run(["chown", "-R", str(self._user), str(copy)], check=True)
        return copy / "bin"

    def start(self) -> None:
        """Start and wait until it answers; the first start picks a port, later ones use the same."""
        if self.port:
            self._start()
            return
        for attempt in range(4):
            self.port = free_port()
            try:
                self._start()
            except StartupError:
                if attempt == 3:
                    raise
            else:
                return

    def _start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", str(self.folder / "data"), "-p", str(self.port)],
                user=self._user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH, "LC_ALL": "C"},
            )
        logs.watch(self.folder / "log")
        try:
            eventually(self._answers, 30, "PostgreSQL to answer")
        except BaseException:
            self.stop(signal.SIGQUIT)
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StartupError((self.folder / "log").read_text(errors="replace")[-3000:])
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT at the end of what is under way, SIGQUIT at once, as a crash would."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Stop every process of it where it stands: connections stay, nothing is answered."""
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: int) -> None:
        assert self._process is not None
        parent = self._process.pid
        os.kill(parent, number)  # first, so that it makes no more children
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        for child in children.split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def url(self, database: str, host: str | None = None) -> str:
        return f"postgresql://postroom@{host or self.host}:{self.port}/{database}"

    def create_database(self, template: str = "template0") -> str:
        """Make a database, a copy of another one; return its name."""
        name = f"test_{next(self._numbers)}"
        self.administer(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, template)
        return name

    def drop_database(self, name: str) -> None:
        self.administer(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def administer(self, statement: sql.SQL, *names: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def terminate_backends(self, database: str) -> int:
        """End every session of a database, and wait until these are gone; return how many there were."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            rows: list[Any] = connection.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
            ).fetchall()
            pids = [pid for pid, _ in rows]
            left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND datname = %s"
            eventually(
                lambda: connection.execute(left, [pids, database]).fetchone() == (0,),
                60,
                "sessions that were ended to go",
            )
        return len(rows)

    def __enter__(self) -> Self:
        try:
            self.initialise()
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


class Standby(Postgres):
    """A hot standby of another cluster, from the same programs."""

    def __init__(self, primary: Postgres) -> None:
        super().__init__(durable=True, programs=primary._binaries)
        self._primary = primary

    def initialise(self) -> None:
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        place = ["-h", self._primary.host, "-p", str(self._primary.port), "-U", "postroom"]
        self._run(
            "pg_basebackup", *place, "-D", str(self.folder / "data"), "-R", "-X", "stream", "-c", "fast"
        )

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-D", str(self.folder / "data"), "-w")
