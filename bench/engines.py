"""The two database engines: the same mail through each, and PostgreSQL with a second worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.drain import sink, watch, worker
from bench.fill import fill_folder, write_accounts
from bench.section import Options, Section, in_turn, rate_rows, table
from bench.systems import measure, postroom
from tests.servers.postgres import Postgres

_ACCOUNTS = 4


def engines(options: Options) -> Section:
    """SQLite and PostgreSQL on this machine: from HTTP to the sink, and a backlog of four accounts."""
    posted, queued = options.count(5000, 300), options.count(20_000, 1000)

    def over_http(server: Postgres | None) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with _database(server) as variables:
                system = postroom(1, variables)
                return measure(system, folder / "run", messages=posted, clients=32).load.throughput

        return run

    def drained(server: Postgres | None, workers: int = 1) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with _database(server) as variables, sink(folder) as port:
                write_accounts(folder, [port] * _ACCOUNTS)
                counts = dict.fromkeys(range(1, _ACCOUNTS + 1), queued // _ACCOUNTS)
                fill_folder(folder, counts, database=variables)
                with ExitStack() as stack:
                    for number in range(workers):
                        stack.enter_context(worker(folder, variables, f"worker-{number}"))
                    return watch(port, queued // _ACCOUNTS * _ACCOUNTS).rate

        return run

    with Postgres(durable=True) as server:
        http = in_turn({"SQLite": over_http(None), "PostgreSQL": over_http(server)}, options, "engines-http")
        backlog = in_turn(
            {
                "SQLite": drained(None),
                "PostgreSQL": drained(server),
                "PostgreSQL, two workers": drained(server, 2),
            },
            options,
            "engines-backlog",
        )
    header = ["mails a second", "median", "runs", "against SQLite"]
    lines = [f"One mail a request, {posted} mails:", "", *table(header, rate_rows(http, "SQLite")), ""]
    lines += [f"A backlog of {queued} mails of {_ACCOUNTS} accounts:", ""]
    lines += table(header, rate_rows(backlog, "SQLite"))
    grows = median(backlog["PostgreSQL, two workers"]) / median(backlog["PostgreSQL"])
    lines += [
        "",
        f"A second worker makes it {grows:.2f} times as fast; server, sink and workers share the cores.",
    ]
    return Section("SQLite and PostgreSQL", tuple(lines))


@contextmanager
def _database(server: Postgres | None) -> Iterator[dict[str, str]]:
    """Make a database for one run, and give its settings; none means SQLite."""
    if server is None:
        yield {}
        return
    name = server.create_database()
    yield {"DATABASE_URL": server.url(name)}
    server.drop_database(name)
