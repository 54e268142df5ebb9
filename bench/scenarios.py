"""What is compared beside the load over HTTP: each scenario runs its systems in turn and gives one section."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TypeAlias

from bench import attacks, relay
from bench.budget import budget
from bench.drain import Counter, drain_postroom, rss, sink, watch, worker
from bench.engines import engines, longtransaction
from bench.failures import failures
from bench.fill import fill_folder, text_of, write_accounts
from bench.load import DOCUMENT_BYTES, LoadError, run_load
from bench.logs import logs
from bench.processes import free_port, running
from bench.reads import reads
from bench.section import Options, Section, in_turn, rate_rows, table
from bench.systems import KEY, ROOT, System, environment, measure, naive, postroom
from bench.wide import accounts
from postroom.core.account import Security
from postroom.core.clock import system_clock
from postroom.smtp.client import Connection
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.transcript import Envelope
from postroom.store.accounts import Accounts
from postroom.store.queue import Queue
from postroom.store.store import open_store
from postroom.store.workers import Workers

Way: TypeAlias = Callable[[int, Path], AbstractContextManager[int]]  # to the sink's port
ROUND_TRIP_S = 0.05
CELERY = ROOT / ".venv-bench/bin/python"
_SUBMISSION_S = 300.0


def peers(options: Options) -> Section:
    """From HTTP (or SMTP, for a relay) to the sink, one mail a request, 32 clients."""
    beside = {"Postroom, two web processes": postroom(2)}
    return _contest("peers", options, options.count(5000, 300), beside=beside)


def large(options: Options) -> Section:
    """The same with mails of 50 KiB."""
    return _contest("large", options, options.count(3000, 100), size=51_200)


def far(options: Options) -> Section:
    """The same with an SMTP server that is 50 ms away; each has as many connections as it opens by itself."""
    beside = {"Postroom, 200 connections": postroom(1, {"POSTROOM_SMTP_CONNECTIONS": "200"})}
    return _contest("far", options, options.count(2000, 100), way=_delayed, beside=beside)


def _contest(
    label: str,
    options: Options,
    count: int,
    *,
    size: int = DOCUMENT_BYTES,
    way: Way = lambda port, folder: nullcontext(port),
    beside: Mapping[str, System] | None = None,
) -> Section:
    def over_http(system: System) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            found = measure(system, folder / "run", messages=count, clients=32, size=size, way=way)
            return found.load.throughput

        return run

    ours = {"thread per mail": naive("granian"), "Postroom": postroom(1), **(beside or {})}
    systems = {name: over_http(system) for name, system in ours.items()}
    if CELERY.exists() and shutil.which("redis-server"):
        systems["Flask, Celery and Redis"] = lambda folder: _bolted_together(folder, count, size, way)
    if relay.available():
        systems["Postfix as a relay"] = lambda folder: _relayed(folder, count, size, way)
    figures = in_turn(systems, options, label)
    header = ["mails a second", "median", "runs", "against thread per mail"]
    lines = table(header, rate_rows(figures, "thread per mail"))
    if relay.available():
        ratio = median(figures["Postroom"]) / median(figures["Postfix as a relay"])
        lines += ["", f"Postroom with one web process moves {ratio:.1f} times as many as Postfix."]
    where = f", {ROUND_TRIP_S * 1000:.0f} ms away" if way is _delayed else ""
    return Section(
        f"One mail a request, {count} mails of {size // 1024} KiB, 32 clients{where}", tuple(lines)
    )


def _bolted_together(folder: Path, count: int, size: int, way: Way) -> float:
    port, redis = free_port(), free_port()
    command = [str(CELERY), "-m", "bench.celery_stack", "--port", str(port), "--redis", str(redis)]
    with sink(folder) as sink_port, way(sink_port, folder) as server_port:
        variables = {**environment(), "STACK_SINK_PORT": str(server_port)}
        with running(command, folder, variables, "stack.txt") as program:
            program.wait_listening(port)
            warming, load = (
                run_load(key=KEY, port=port, sink_port=sink_port, count=number, clients=32, size=size)
                for number in (200, count)
            )
            if warming.arrived + load.arrived != 200 + count:
                raise LoadError(f"{load.arrived} of {count} mails arrived:\n{program.output()[-3000:]}")
    return load.throughput


def _relayed(folder: Path, count: int, size: int, way: Way) -> float:
    """Return mails a second from the first submission to the last arrival."""
    with sink(folder) as port, way(port, folder) as server_port, relay.relay(server_port) as postfix:
        counter = Counter(port)
        began = time.perf_counter()
        submitting = threading.Thread(target=postfix.submit, args=(count, size))
        submitting.start()
        while (seen := counter.count()) < count:
            if time.perf_counter() - began > _SUBMISSION_S:
                raise LoadError(f"{seen} of {count} mails arrived through Postfix")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        submitting.join()
        counter.close()
    return count / seconds


def backlog(options: Options) -> Section:
    """A queue that was filled while nothing was sent, worked off; from the first arrival to the last."""
    count = options.count(20_000, 1500)

    def ours(number: int) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with sink(folder) as port:
                return drain_postroom(folder, count, port, number=number)

        return run

    def postfix(folder: Path) -> float:
        with sink(folder) as port, relay.relay(port, held=True) as held:
            held.submit(count, 1024)
            held.release()
            return watch(port, count).rate

    systems = {"Postroom": ours(1), "Postroom, two workers": ours(2)}
    if relay.available():
        systems = {"Postfix": postfix, **systems}
    figures = in_turn(systems, options, "backlog")
    rows = rate_rows(figures, next(iter(systems)))
    header = ["mails a second", "median", "runs", f"against {next(iter(systems))}"]
    return Section(f"A backlog of {count} mails of 1 KiB", tuple(table(header, rows)))


@contextmanager
def _delayed(port: int, folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.delay", "--to", str(port), "--seconds", str(ROUND_TRIP_S / 2)]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.terminate()


def roundtrip(options: Options) -> Section:
    """One connection to a server that is 50 ms away: what each way of speaking SMTP makes of it."""
    count = options.count(200, 10)
    text = text_of(1024).replace("\n", "\r\n")
    mime = b"From: <bench@example.com>\r\nTo: <ada@example.org>\r\nSubject: x\r\n\r\n" + text.encode()

    def ours(*, pipelining: bool, chunking: bool) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with sink(folder, chunking=chunking) as port, _delayed(port, folder) as proxy:
                where = Endpoint("127.0.0.1", proxy, Security.NONE, pipelining=pipelining, chunking=chunking)
                return asyncio.run(_send(where, mime, count))

        return run

    def standard(folder: Path) -> float:
        with (
            sink(folder) as port,
            _delayed(port, folder) as proxy,
            smtplib.SMTP("127.0.0.1", proxy) as client,
        ):
            client.ehlo()
            began = time.perf_counter()
            for _ in range(count):
                client.sendmail("bench@example.com", ["ada@example.org"], mime)
            return count / (time.perf_counter() - began)

    systems = {
        "smtplib, connection kept": standard,
        "Postroom, neither": ours(pipelining=False, chunking=False),
        "Postroom, PIPELINING": ours(pipelining=True, chunking=False),
        "Postroom, CHUNKING": ours(pipelining=True, chunking=True),
    }
    figures = in_turn(systems, options, "roundtrip")
    rows = [
        [name, f"{median(runs):.1f}", f"{median(runs) / median(figures['smtplib, connection kept']):.2f}"]
        for name, runs in figures.items()
    ]
    title = f"One connection, {ROUND_TRIP_S * 1000:.0f} ms a round trip, {count} mails of 1 KiB"
    return Section(title, tuple(table(["mails a second", "median", "against smtplib"], rows)))


async def _send(where: Endpoint, mime: bytes, count: int) -> float:
    async def nothing() -> None:
        """The mark before the dot is the store's affair, which is not measured here."""

    connection = await Connection.open(where)
    envelope = Envelope("bench@example.com", ("ada@example.org",), mime)
    began = time.perf_counter()
    for _ in range(count):
        transcript = await connection.transact(envelope, nothing)
        if transcript.final is None or not transcript.final.positive:
            raise LoadError(f"the sink refused a mail: {transcript}")
    seconds = time.perf_counter() - began
    await connection.quit()
    return count / seconds


def connections(options: Options) -> Section:
    """A backlog through so many connections, to a sink that is near and to one that is 50 ms away."""
    near, far = options.count(5000, 500), options.count(2000, 200)
    rows = []
    for number in (1, 16) if options.quick else (1, 16, 64, 256):
        cells = [str(number)]
        for count, delayed in ((near, False), (min(far, 40 * number), True)):

            def run(folder: Path, number: int = number, count: int = count, delayed: bool = delayed) -> float:
                with sink(folder, chunking=delayed) as port:  # as the large providers offer it
                    if not delayed:
                        return drain_postroom(folder, count, port, connections=number)
                    with _delayed(port, folder) as proxy:
                        return drain_postroom(folder, count, port, through=proxy, connections=number)

            label = f"connections {number} {'far' if delayed else 'near'}"
            [runs] = in_turn({"Postroom": run}, options, label).values()
            cells.append(f"{median(runs):,.0f}")
        rows.append(cells)
    header = ["connections", "mails a second, near", f"mails a second, {ROUND_TRIP_S * 1000:.0f} ms away"]
    return Section("A backlog through many connections", tuple(table(header, rows)))


def claim(options: Options) -> Section:
    """The time of one claim of eight jobs with so many queued behind them."""
    sizes = (1_000, 5_000) if options.quick else (1_000, 100_000, 1_000_000)
    times = {size: _claim_time(options.folder / f"claim-{size}", size) for size in sizes}
    rows = [
        [f"{size:,}", f"{value * 1e6:.0f}", f"{value / times[sizes[0]]:.2f}"] for size, value in times.items()
    ]
    return Section(
        "A claim of eight jobs", tuple(table(["queued", "µs (median of 200)", "against the shortest"], rows))
    )


def _claim_time(folder: Path, queued: int) -> float:
    folder.mkdir(parents=True)
    write_accounts(folder, [9])
    fill_folder(folder, {1: queued}, size=200)
    store = open_store(f"sqlite:///{folder / 'var/postroom.db'}", create=False)
    [stored] = store.read(Accounts.all)
    now = system_clock()
    worker_id = store.write(Workers.register, host="bench", pid=0, lock_file="-", now=now, lease_until=now)
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        jobs = store.write(
            Queue.claim,
            account_id=stored.account.id,
            worker_id=worker_id,
            most=8,
            most_bytes=1 << 20,
            now=system_clock(),
        )
        seconds.append(time.perf_counter() - began)
        for job in jobs:
            store.write(lambda transaction, job=job: transaction.queue.release(job, system_clock()))  # type: ignore[misc]
    store.close()
    return median(seconds)


def memory(options: Options) -> Section:
    """The worker's resident memory over a long drain, after its first tenth."""
    count = options.count(50_000, 1000)
    folder = options.folder / "memory"
    folder.mkdir(parents=True)
    samples: list[tuple[int, int]] = []
    with sink(folder) as port:
        write_accounts(folder, [port])
        fill_folder(folder, {1: count})
        with worker(folder) as program:
            watch(port, count, lambda seen: samples.append((seen, rss(program.pid))))
    later = [size for seen, size in samples if seen > count // 10 and size]
    mib = 1024 * 1024
    text = (
        f"{count} mails: {later[0] / mib:.0f} MiB after the first tenth, {later[-1] / mib:.0f} MiB at the end, "
        f"{max(later) / mib:.0f} MiB at most."
    )
    return Section("The worker's memory", (text,))


def fairness(options: Options) -> Section:
    """Four accounts' throughput alone, beside an account with a long queue, and beside one whose server never answers.

    Once with servers next door, where the processor is what they share, and once with all of them a round trip away.
    """
    lines: list[str] = []
    for count, far in ((options.count(1500, 200), False), (options.count(600, 60), True)):
        systems = {
            name: (
                lambda folder, fifth=fifth, count=count, far=far: _share(folder, fifth, count, far, options)
            )
            for name, fifth in (
                ("alone", "alone"),
                ("beside a server that never answers", "silent"),
                ("beside an account with a long queue", "busy"),
            )
        }
        label = "fairness, far" if far else "fairness"
        figures = in_turn(systems, options, label)
        where = f"{ROUND_TRIP_S * 1000:.0f} ms away" if far else "near"
        header = [f"mails a second of the four, {where}", "median", "runs", "against alone"]
        lines += [*table(header, rate_rows(figures, "alone")), ""]
    return Section("Four accounts and a fifth", tuple(lines))


def _share(folder: Path, fifth: str, count: int, far: bool, options: Options) -> float:
    """Return the mails a second of four accounts beside a fifth, which has far more mail than there is time for."""
    (folder / "other").mkdir()
    with ExitStack() as stack:
        port, other = stack.enter_context(sink(folder)), stack.enter_context(sink(folder / "other"))
        hole = stack.enter_context(_black_hole())
        near_or_far = [stack.enter_context(_delayed(each, folder)) if far else each for each in (port, other)]
        ports = [near_or_far[0]] * 4 + {"alone": [], "busy": [near_or_far[1]], "silent": [hole]}[fifth]
        write_accounts(folder, ports, 4)
        counts = dict.fromkeys(range(1, 5), count)
        if fifth != "alone":
            counts[5] = options.count(30_000, 1000)
        fill_folder(folder, counts)
        with worker(folder):
            return watch(port, 4 * count).rate


@contextmanager
def _black_hole() -> Iterator[int]:
    """Listen, and never answer."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield listener.getsockname()[1]


SCENARIOS: dict[str, Callable[[Options], Section]] = {
    "peers": peers,
    "large": large,
    "far": far,
    "budget": budget,
    "backlog": backlog,
    "engines": engines,
    "longtransaction": longtransaction,
    "roundtrip": roundtrip,
    "connections": connections,
    "claim": claim,
    "memory": memory,
    "fairness": fairness,
    "accounts": accounts,
    "logs": logs,
    "failures": failures,
    "reads": reads,
    "slow": attacks.slow,
    "tenant": attacks.tenant,
    "values": attacks.values,
    "sizes": attacks.sizes,
}
