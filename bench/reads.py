"""What a long query costs clients that post: eight of them, alone and beside a query over a million rows.

`python -m bench.reads` is a web process with one more view, `/heavy`, which makes that query as a dashboard would.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import apsw

from bench.drain import sink
from bench.fill import write_accounts
from bench.processes import free_port, running
from bench.section import Options, Section, table
from bench.service import Answers, Poster, document, post_for
from bench.systems import RATE_LIMIT, environment

if TYPE_CHECKING:
    from postroom.web.rsgi import RSGIServer

_CLIENTS: Final = 8
_ROWS: Final = 1_000_000
_KEY: Final = f"bench-{1:032d}"
_FILL: Final = """
CREATE TABLE bench_row AS
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows})
    SELECT n, n % 1000 AS account, hex(randomblob(8)) AS text FROM number
"""
_QUERY: Final = "SELECT account, count(*), max(text) FROM bench_row GROUP BY account ORDER BY 2 DESC LIMIT 10"


def reads(options: Options) -> Section:
    """The p99 of a post with and without a long query, in turn."""
    seconds, rows = (2.0, 20_000) if options.quick else (10.0, _ROWS)
    found: dict[str, list[Answers]] = {"no query": [], "a query again and again": []}
    queries = 0
    with _serving(options.folder / "reads", rows) as port:
        posters = [Poster(port, document(_KEY, 900)) for _ in range(_CLIENTS)]
        post_for(seconds / 4, posters)
        for _ in range(1 if options.quick else options.rounds):
            for name, answers in found.items():
                posters = [Poster(port, document(_KEY, 900)) for _ in range(_CLIENTS)]
                with _asking(port) if name != "no query" else nullcontext([0]) as asked:
                    answers.append(_joined(post_for(seconds, posters)))
                queries += asked[0]
                print(f"reads: {name} {answers[-1].percentile(99):.1f} ms", flush=True)
    cells = [
        [
            name,
            *(f"{median(each.percentile(percent) for each in answers):.1f}" for percent in (50, 99)),
            str(sum(len(each.milliseconds) for each in answers)),
            str(sum(each.bad for each in answers)),
        ]
        for name, answers in found.items()
    ]
    lines = table(["beside", "median ms", "p99 ms", "posts", "not 202"], cells)
    alone, beside = (median(each.percentile(99) for each in answers) for answers in found.values())
    more = (
        f"The p99 is {beside / alone:.2f} times that without; {queries} queries over {rows:,} rows were made."
    )
    return Section(f"{_CLIENTS} clients that post beside long queries", (*lines, "", more))


def _joined(answers: list[Answers]) -> Answers:
    whole = Answers()
    for each in answers:
        whole.milliseconds += each.milliseconds
        for status, count in each.statuses.items():
            whole.statuses[status] = whole.statuses.get(status, 0) + count
    return whole


@contextmanager
def _serving(folder: Path, rows: int) -> Iterator[int]:
    """Run a web process with the view, whose database has so many rows to count."""
    folder.mkdir(parents=True)
    with sink(folder) as sink_port:
        write_accounts(folder, [sink_port, sink_port])
        port = free_port()
        variables = {**environment(), "PORT": str(port), "POSTROOM_RATE_LIMIT": RATE_LIMIT}
        with running([sys.executable, "-m", "bench.reads"], folder, variables) as program:
            program.wait_listening(port)
            connection = apsw.Connection(str(folder / "var/postroom.db"))
            connection.execute(_FILL.format(rows=rows)).fetchall()
            connection.close()
            yield port


@contextmanager
def _asking(port: int) -> Iterator[list[int]]:
    """Ask for the query again as soon as it is answered; yield how often."""
    asked, is_over = [0], threading.Event()

    def ask() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not is_over.is_set():
            client.request("GET", "/heavy")
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            asked[0] += 1
        client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        is_over.set()
        thread.join()


def application() -> RSGIServer:
    """Build the server with the view; called by granian in its worker."""
    from postroom.runtime import accounts_file, installation
    from postroom.web.app import create_server

    service = installation.open_service(migrate=True)
    accounts_file.read_accounts_file(service)
    server = create_server(service.settings, service.store, service.vault)

    def heavy() -> str:
        with service.store._engine.reading() as transaction:
            connection: Any = transaction.connection
            return str(list(connection.execute(_QUERY)))

    server._app.add_url_rule("/heavy", view_func=heavy)
    return server


def main() -> None:
    from granian.constants import Interfaces
    from granian.server import Server

    from postroom.settings import load_settings

    argparse.ArgumentParser(prog="python -m bench.reads", description=__doc__).parse_args()
    port = load_settings().port
    Server("bench.reads:application", port=port, interface=Interfaces.RSGI, factory=True).serve()


if __name__ == "__main__":
    main()
