"""Postroom on many machines: web and worker hosts, each a network namespace, around one PostgreSQL."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.servers import logs
from tests.servers.installation import ROOT, Client, descendants, kill
from tests.servers.netns import CENTRE, Host
from tests.servers.programs import PATH, end
from tests.servers.waiting import eventually

PORT = 5000
KEYS = [f"key-of-account-{number}" for number in range(8)]
SECRET = "one secret key for every machine of the fleet"


@dataclass(slots=True)
class Machine:
    """One host with a supervisor and what it keeps running, `web` or `worker`."""

    host: Host
    role: str
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def pids(self) -> list[int]:
        """Return the pids of the processes that do the work."""
        assert self.process is not None
        return descendants(self.process.pid, "-m", "postroom", self.role)

    def log_lines(self) -> list[str]:
        path = self.folder / "email_log.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")


class Fleet:
    """`webs` and `workers` machines on one database. `sink_port` is here, on every address."""

    def __init__(
        self, folder: Path, url: str, sink_port: int, *, webs: int, workers: int, **settings: str
    ) -> None:
        self._url = url
        self._sink_port = sink_port
        self._settings = settings
        roles = ["web"] * webs + ["worker"] * workers
        self.machines = [
            Machine(Host(number), role, folder / f"{number}-{role}") for number, role in enumerate(roles, 1)
        ]

    @property
    def webs(self) -> Sequence[Machine]:
        return [machine for machine in self.machines if machine.role == "web"]

    @property
    def workers(self) -> Sequence[Machine]:
        return [machine for machine in self.machines if machine.role == "worker"]

    def _start(self, machine: Machine) -> None:
        host, folder = machine.host, machine.folder
        folder.mkdir(parents=True)
        # All reach the sink by one address, whatever the cable: the accounts are the same on every machine.
        (folder / "data.csv").write_text(
            "key,email,app_password,host,port,security,connections\n"
            + "".join(f"{key},{key}@postroom.example,,{CENTRE},{self._sink_port},none,2\n" for key in KEYS)
        )
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")},
            "PATH": PATH,
            "PYTHONPATH": str(ROOT),
            "HOST": "0.0.0.0",
            "PORT": str(PORT),
            "DATABASE_URL": self._url,
            "POSTROOM_SECRET_KEY": SECRET,
            "POSTROOM_RATE_LIMIT": "",
            "POSTROOM_DRAIN": "0",
            "POSTROOM_SMTP_ALLOW_PLAINTEXT": "true",
            **self._settings,
        }
        command = [sys.executable, "-m", "postroom.runtime.supervisor", f"postroom {machine.role}"]
        with (folder / "log").open("ab") as log:
            machine.process = subprocess.Popen(
                host.command(command, folder.with_name(f"{host.name}.id")),
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        logs.watch(folder / "log")

    def __enter__(self) -> Self:
        try:
            for machine in self.machines:
                self._start(machine)
            for machine in self.webs:
                self._wait_for(machine)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_for(self, machine: Machine) -> None:
        eventually(lambda: self._answers(machine), 60, f"{machine.folder.name} to be ready")

    def _answers(self, machine: Machine) -> bool:
        assert machine.process is not None
        assert machine.process.poll() is None, machine.log()
        client = Client(PORT, machine.host.address)
        try:
            return client.call("GET", "/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            client.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in self.machines:
            if machine.process is not None:
                end(machine.process, timeout=40)

    # -- what is done to it

    def kill_one(self, chance: random.Random) -> bool:
        pids = [pid for machine in self.machines for pid in machine.pids()]
        return bool(pids) and kill(chance.choice(pids))

    # -- what became of it

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def log_lines(self) -> list[str]:
        return [line for machine in self.machines for line in machine.log_lines()]

    def log(self) -> str:
        return "\n".join(f"== {machine.folder.name}\n{machine.log()[-2000:]}" for machine in self.machines)
