"""Where the processor time of one mail goes, stage by stage.

What a whole run costs is read from its processes. The stages are then run alone, in this process and on
one thread, many times over; what they do not explain is the server, Flask, and the change of threads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

from limits import parse_many

from bench.drain import sink
from bench.fill import fill_folder, messages, write_accounts
from bench.section import Options, Section, table
from bench.systems import measure, postroom
from postroom.core.account import Account, Security
from postroom.core.clock import system_clock
from postroom.core.decide import decision_of
from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy, NewMessage, Submission
from postroom.core.outcome import Reply, Sent
from postroom.intake.prepare import prepare
from postroom.intake.request_id import new_request_id
from postroom.settings import RateLimitFallback
from postroom.smtp.client import Connection
from postroom.smtp.deliver import deliver
from postroom.smtp.endpoint import Endpoint
from postroom.store.accounts import Accounts
from postroom.store.queue import Queue
from postroom.store.store import Store, open_store
from postroom.store.workers import Workers
from postroom.web.rate_limiter import RateLimiter
from postroom.web.schemas import read_send_request
from postroom.web.waits import AtOnce, at_once

_BATCH = 13  # what a commit carries under 32 clients
_CLAIM = 32


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a mail's way, and its processor time in microseconds."""

    process: str
    name: str
    cost: float


def budget(options: Options) -> Section:
    """The µs of a mail in web process and worker: measured whole, and its stages alone."""
    count = options.count(5000, 300)
    runs = [
        measure(postroom(1), options.folder / f"budget-{number}", messages=count, clients=32)
        for number in range(1 if options.quick else options.rounds)
    ]
    stages = list(_stages(options.folder / "budget", options.count(3900, 260)))
    rows = []
    for process in ("web", "worker"):
        whole = median(run.cost(process) for run in runs)
        known = [stage for stage in stages if stage.process == process]
        rows += [[process, stage.name, f"{stage.cost:.0f}"] for stage in known]
        rest = {
            "web": "granian, the way to the doorway, hand-over to the writer",
            "worker": "asyncio, threads, chores",
        }
        rows.append([process, rest[process], f"{whole - sum(stage.cost for stage in known):.0f}"])
        rows.append([process, "**in all**", f"**{whole:.0f}**"])
    rows += [[part, "in all", f"{median(run.cost(part) for run in runs):.0f}"] for part in ("load", "sink")]
    header = ["process", "stage", "µs"]
    lines = ["| " + " | ".join(header) + " |", "| --- | --- | ---: |", *table(header, rows)[2:]]
    return Section("Processor time of one mail of 1 KiB", tuple(lines))


def _cost(work: Callable[[], object], times: int, mails: int = 1) -> float:
    """Return the processor time of one mail in µs, where one call of `work` is for so many."""
    work()
    began = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - began) / (times * mails) * 1e6


def _stages(folder: Path, count: int) -> Iterator[Stage]:
    folder.mkdir(parents=True)
    with sink(folder) as port:
        write_accounts(folder, [port])
        fill_folder(folder, {1: 1})
        store = open_store(f"sqlite:///{folder / 'var/postroom.db'}", create=False)
        [stored] = store.read(Accounts.all)
        yield from _web_stages(store, stored.account, count)
        yield from asyncio.run(_worker_stages(store, stored.account, port, count))
        store.close()


def _web_stages(store: Store, account: Account, count: int) -> Iterator[Stage]:
    text = "x" * 900
    body = json.dumps({"subject": "A subject", "recipient": "ada@example.org", "body": text, "key": "k" * 32})
    yield Stage(
        "web", "read and validate the JSON", _cost(lambda: read_send_request(json.loads(body)), count)
    )
    limiter, waits = RateLimiter("memory://", RateLimitFallback.COUNT), AtOnce(store)
    limits = parse_many("1000000000/minute")

    def counted() -> None:
        at_once(limiter.hit(waits, limits, "key", "somebody"))

    yield Stage("web", "the rate limiter", _cost(counted, count))
    submission = Submission(account, ("ada@example.org",), "A subject", text)

    def prepared() -> None:
        now = system_clock()
        prepare(submission, most_bytes=1 << 20, request_id=new_request_id(now), now=now)

    yield Stage("web", "check and render (MIME)", _cost(prepared, count))
    source = messages(account, 1024)
    inserted = _cost(lambda: _accept(store, [next(source) for _ in range(_BATCH)]), count // _BATCH, _BATCH)
    made = _cost(lambda: list(islice(source, _BATCH)), count // _BATCH, _BATCH)
    yield Stage("web", f"insert and commit, {_BATCH} at a time", inserted - made)


def _accept(store: Store, batch: list[NewMessage]) -> None:
    works = [lambda transaction, message=message: transaction.acceptance.accept(message) for message in batch]
    for settled in store.write_all(works):
        settled.unwrap()


async def _worker_stages(store: Store, account: Account, port: int, count: int) -> list[Stage]:
    now = system_clock()
    worker = store.write(Workers.register, host="bench", pid=0, lock_file="-", now=now, lease_until=now)
    claimed: list[ClaimedJob] = []

    def claim() -> None:
        claimed.extend(
            store.write(
                Queue.claim,
                account_id=account.id,
                worker_id=worker,
                most=_CLAIM,
                most_bytes=1 << 24,
                now=system_clock(),
            )
        )

    rounds = count // _CLAIM - 2
    stages = [Stage("worker", f"claim, {_CLAIM} at a time", _cost(claim, rounds, _CLAIM))]

    def in_batches(each: Callable[[ClaimedJob], Callable[..., object]]) -> float:
        batches = [claimed[at : at + _BATCH] for at in range(0, len(claimed), _BATCH)]
        began = time.thread_time()
        for batch in batches:
            for settled in store.write_all([each(job) for job in batch]):
                settled.unwrap()
        return (time.thread_time() - began) / len(claimed) * 1e6

    mark = in_batches(lambda job: lambda transaction: transaction.queue.mark_dot(job, system_clock()))
    stages.append(Stage("worker", f"mark of the dot, {_BATCH} at a time", mark))
    stages.append(Stage("worker", "SMTP", await _smtp(claimed, port)))
    reply = Reply(250, "2.0.0 queued", "2.0.0")

    def finish(job: ClaimedJob) -> Callable[..., object]:
        decision = decision_of(job, {job.deliveries[0].id: Sent(reply)}, InDoubtPolicy.RETRY, now=now)
        return lambda transaction: transaction.attempts.finish(
            job, decision, worker_id=worker, started_at=now, now=system_clock()
        )

    stages.append(Stage("worker", f"finish, {_BATCH} at a time", in_batches(finish)))
    return stages


async def _smtp(jobs: list[ClaimedJob], port: int) -> float:
    async def marked() -> None:
        """The mark is a stage of its own."""

    connection = await Connection.open(Endpoint("127.0.0.1", port, Security.NONE))
    began = time.thread_time()
    for job in jobs:
        await deliver(connection, job, marked)
    cost = (time.thread_time() - began) / len(jobs) * 1e6
    await connection.quit()
    return cost
