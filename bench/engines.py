"""The two database engines: the same mail through each, and PostgreSQL with a second worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import psycopg

from bench.drain import sink, watch, workers
from bench.fill import fill_folder, messages, write_accounts
from bench.load import DOCUMENT_BYTES
from bench.section import Options, Section, in_turn, rate_rows, table
from bench.systems import measure, postroom
from postroom.core.clock import system_clock
from postroom.core.decide import decision_of
from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy, NewMessage
from postroom.core.outcome import Reply, Sent
from postroom.store.accounts import Accounts
from postroom.store.queue import Queue
from postroom.store.store import open_store
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers
from tests.servers.postgres import Postgres

_ACCOUNTS = 4


def engines(options: Options) -> Section:
    """SQLite and PostgreSQL on this machine: from HTTP to the sink, and a backlog of four accounts."""
    posted, queued, large = options.count(5000, 300), options.count(20_000, 1000), options.count(3000, 100)

    def over_http(
        server: Postgres | None, messages: int = posted, size: int = DOCUMENT_BYTES
    ) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with _database(server) as variables:
                system = postroom(1, variables)
                measured = measure(system, folder / "run", messages=messages, clients=32, size=size)
                return measured.load.throughput

        return run

    def drained(server: Postgres | None, number: int = 1) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with _database(server) as variables, sink(folder) as port:
                write_accounts(folder, [port] * _ACCOUNTS)
                counts = dict.fromkeys(range(1, _ACCOUNTS + 1), queued // _ACCOUNTS)
                fill_folder(folder, counts, database=variables)
                with workers(folder, number, variables):
                    return watch(port, queued // _ACCOUNTS * _ACCOUNTS).rate

        return run

    with Postgres(durable=True) as server:
        http = in_turn({"SQLite": over_http(None), "PostgreSQL": over_http(server)}, options, "engines-http")
        http_large = in_turn(
            {
                "SQLite": over_http(None, large, 51_200),
                "PostgreSQL": over_http(server, large, 51_200),
            },
            options,
            "engines-large",
        )
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
    lines += [
        f"The same with {large} mails of 50 KiB:",
        "",
        *table(header, rate_rows(http_large, "SQLite")),
        "",
    ]
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


_FINISHED = """
WITH message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at)
    SELECT 'finished-' || number, 1, 'bench@example.com', 'x', 100, 0, number FROM generate_series(1, %(count)s) AS number
    RETURNING id
), delivery AS (
    INSERT INTO delivery (message_id, forward_path, state, finished_at) SELECT id, 'ada@example.org', 'sent', 1 FROM message
)
INSERT INTO job (kind, lane, message_id, state, due_at, finished_at)
SELECT 'delivery', 1, id, 'done', 1, 1 FROM message
"""


def longtransaction(options: Options) -> Section:
    """Claims on PostgreSQL, behind many finished rows, while another session holds an old snapshot."""
    finished, mails = (20_000, 1000) if options.quick else (1_000_000, options.count(30_000, 1000))
    rows = []
    with Postgres(durable=True) as server:
        for held in (False, True):
            name = server.create_database()
            times = _claims(server.url(name), options.folder / f"long-{held}", finished, mails, held=held)
            cells = [f"{quantiles(times, n=100)[at] * 1000:.1f}" for at in (49, 98)]
            rows.append(
                ["a snapshot is held" if held else "nothing is held", *cells, f"{max(times) * 1000:.0f}"]
            )
            server.drop_database(name)
    header = ["", "p50 (ms)", "p99 (ms)", "longest (ms)"]
    title = f"A claim of eight on PostgreSQL, {finished:,} finished rows, {mails:,} mails sent meanwhile"
    return Section(title, tuple(table(header, rows)))


def _claims(url: str, folder: Path, finished: int, mails: int, *, held: bool) -> list[float]:
    """Accept, claim and finish mails; return how long each claim took, in seconds."""
    folder.mkdir(parents=True)
    write_accounts(folder, [9])
    fill_folder(folder, {1: 8}, size=200, database={"DATABASE_URL": url})
    store = open_store(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_FINISHED, {"count": finished})
        connection.execute("VACUUM ANALYZE")
    account = store.read(Accounts.all)[0].account
    now = system_clock()
    worker_id = store.write(Workers.register, host="bench", pid=0, lock_file="-", now=now, lease_until=now)
    source, times = messages(account, 200), []
    with psycopg.connect(url) as other:
        if held:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT count(*) FROM account")
        for _ in range(mails // 8):
            batch = [next(source) for _ in range(8)]
            store.write_all([partial(_accept, message) for message in batch])
            began = time.perf_counter()
            jobs = store.write(
                Queue.claim,
                account_id=account.id,
                worker_id=worker_id,
                most=8,
                most_bytes=1 << 20,
                now=system_clock(),
            )
            times.append(time.perf_counter() - began)
            for settled in store.write_all([partial(_finish, job, worker_id) for job in jobs]):
                settled.unwrap()
        other.rollback()
    store.close()
    return times


def _accept(message: NewMessage, transaction: Transaction) -> None:
    transaction.acceptance.accept(message)


def _finish(job: ClaimedJob, worker_id: int, transaction: Transaction) -> None:
    now, reply = system_clock(), Reply(250, "queued", "2.0.0")
    decision = decision_of(job, {job.deliveries[0].id: Sent(reply)}, InDoubtPolicy.RETRY, now=now)
    transaction.attempts.finish(job, decision, worker_id=worker_id, started_at=now, now=now)
