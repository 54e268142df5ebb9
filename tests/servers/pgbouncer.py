"""A pgbouncer in transaction mode in front of a PostgreSQL: no two transactions need be of one session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.postgres import Postgres
from tests.servers.programs import Daemon


class PgBouncer(Daemon):
    """`with PgBouncer(server) as bouncer: bouncer.url(database)`. It has only two connections to the server."""

    program = "pgbouncer"

    def __init__(
        self, server: Postgres, *, mode: str = "transaction", ignore: str = "extra_float_digits"
    ) -> None:
        super().__init__()
        self._server = server
        self._mode = mode
        self._ignore = ignore

    def command(self, folder: Path) -> list[str]:
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={self._server.port} user=postroom\n"
            "[pgbouncer]\n"
            f"listen_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {self._mode}\n"
            f"default_pool_size = {10 if self._mode == 'session' else 2}\n"
            f"ignore_startup_parameters = {self._ignore}\n"
        )
        if os.getuid() != 0:
            return [str(settings)]
        shutil.chown(folder, "postgres")
        return ["-u", "postgres", str(settings)]

    def ready(self, pid: int) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2, prepare_threshold=None).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str, **_: Any) -> str:
        return f"postgresql://postroom@{self.host}:{self.port}/{database}"
