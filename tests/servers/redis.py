"""A redis-server of our own, in memory only."""

from __future__ import annotations

from pathlib import Path

from tests.servers.programs import Daemon, answers


class Redis(Daemon):
    """redis-server on a free port: `with Redis() as redis: redis.uri`."""

    program = "redis-server"

    def command(self, folder: Path) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def ready(self, pid: int) -> bool:
        return answers(self.host, self.port, b"INFO server\r\n", b"\r\nprocess_id:%d\r\n" % pid)

    @property
    def uri(self) -> str:
        return f"redis://{self.host}:{self.port}/0"
