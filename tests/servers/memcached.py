"""A memcached of our own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.programs import Daemon, answers


class Memcached(Daemon):
    """memcached on a free port: `with Memcached() as memcached: memcached.uri`."""

    program = "memcached"

    def command(self, folder: Path) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        return ["-l", self.host, "-p", str(self.port), "-U", "0", "-m", "16", "-t", "1", *user]

    def ready(self, pid: int) -> bool:
        return answers(self.host, self.port, b"stats\r\n", b"STAT pid %d\r\n" % pid)

    @property
    def uri(self) -> str:
        return f"memcached://{self.host}:{self.port}"
