"""Clients that misbehave beside healthy ones: what these wait for, what they are refused, and what memory it takes.

Everything is on loopback, and each scenario ends by itself within two minutes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.section import Options, Section, table
from bench.service import (
    MIB,
    Answers,
    Held,
    Poster,
    Service,
    chunked,
    document,
    key_of,
    post_for,
    post_one_by_one,
    posting,
    serving,
)
from bench.slow_clients import KINDS
from bench.systems import environment

_SLOW = 10_000
_DESCRIPTORS_KEPT = 1500  # of the hard limit, for the service's own files and the healthy clients
_READY_WITHIN_S = 10.0


def slow(options: Options) -> Section:
    """Slow clients of each kind beside healthy ones that post 1 KiB, 100 KiB and 100 KiB in chunks."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(options.count(_SLOW, 200), hard - _DESCRIPTORS_KEPT)
    seconds = 1.0 if options.quick else 7.0
    rows: list[list[str]] = []
    with serving(options.folder / "slow") as service:
        post_for(seconds / 2, _healthy(service))
        rows.append(_slow_row("nobody else", service, post_for(seconds, _healthy(service))))
        for kind in KINDS:
            service.forget_peaks()
            with _slow_clients(service.port, kind, count) as there:
                service.settle()
                answers = post_for(seconds, _healthy(service))
                rows.append(_slow_row(f"{there:,} {kind}", service, answers))
            print(f"slow: {rows[-1]}", flush=True)
    header = ["beside", "1 KiB: median, p99 ms", "100 KiB", "chunked", "posts", "not 202", *_MEMORY]
    return Section(f"{count:,} slow clients beside three healthy ones", tuple(table(header, rows)))


def tenant(options: Options) -> Section:
    """A key that posts texts of 12 MB with eight clients, beside another key's small posts."""
    seconds = 2.0 if options.quick else 15.0
    rows: list[list[str]] = []
    with serving(options.folder / "tenant", keys=2) as service:
        post_for(1, [_small(service, 1)])
        [quiet] = post_for(seconds, [_small(service, 1)])
        rows.append(_beside_row("nobody else", quiet, quiet, [], service))
        service.forget_peaks()
        large = document(key_of(0), 12_000_000)
        greedy = [Poster(service.port, large, key=key_of(0)) for _ in range(8)]
        with posting(greedy):
            [answers] = post_for(seconds, [_small(service, 1)])
            rows.append(_beside_row("8 clients with 12 MB", answers, quiet, greedy, service))
    return Section("A key with large texts beside another key", tuple(table(_BESIDE, rows)))


def values(options: Options) -> Section:
    """Four clients without a key that post 50 MB of small JSON values, beside a key's small posts."""
    seconds = 2.0 if options.quick else 15.0
    rows: list[list[str]] = []
    with serving(options.folder / "values") as service:
        post_for(1, [_small(service, 0)])
        [quiet] = post_for(seconds, [_small(service, 0)])
        rows.append(_beside_row("nobody else", quiet, quiet, [], service))
        service.forget_peaks()
        body = b'{"subject": [' + b"[]," * (50_000_000 // 3) + b"[]]}"
        strangers = [Poster(service.port, body) for _ in range(4)]
        with posting(strangers):
            [answers] = post_for(seconds, [_small(service, 0)])
            rows.append(_beside_row("4 clients with 50 MB of values", answers, quiet, strangers, service))
    return Section("Small JSON values without a key", tuple(table(_BESIDE, rows)))


def sizes(options: Options) -> Section:
    """What web process and worker hold before, during and after messages of one size, posted one after the other."""
    rows: list[list[str]] = []
    with serving(options.folder / "sizes") as service:
        for size, count in _SIZES:
            post_one_by_one(service, document(key_of(0), 1024), 20)
            service.settle()
            before = service.memory()
            service.forget_peaks()
            number = max(2, count // 20) if options.quick else count
            post_one_by_one(service, document(key_of(0), size), number)
            service.settle(_DRAINED_WITHIN_S)
            for part, after in service.memory().items():
                held = [before[part].now, after.peak, after.now]
                rows.append([f"{number} × {_named(size)}", part, *(f"{each:.0f}" for each in held)])
    header = ["messages", "process", "before: MiB", "most", "after"]
    return Section("Memory by the size of messages", tuple(table(header, rows)))


_SIZES = ((1024, 1000), (61_440, 400), (MIB, 60), (20 * MIB, 12))
_DRAINED_WITHIN_S = 15.0
_MEMORY = ("web: MiB, most", "worker: MiB, most")
_BESIDE = (
    "beside",
    "median ms",
    "p99 ms",
    "p99 against quiet",
    "posts",
    "not 202",
    "the others were answered",
    *_MEMORY,
)


def _named(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def _small(service: Service, number: int) -> Poster:
    return Poster(service.port, document(key_of(number), 500), key=key_of(number), pause_s=0.02)


def _beside_row(
    name: str, answers: Answers, quiet: Answers, others: Sequence[Poster], service: Service
) -> list[str]:
    median, late = answers.percentile(50), answers.percentile(99)
    statuses: dict[str, int] = {}
    for poster in others:
        for status, count in poster.answers.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    answered = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items())) or "-"
    figures = [f"{median:.1f}", f"{late:.1f}", f"{late / quiet.percentile(99):.1f}"]
    return [name, *figures, str(len(answers.milliseconds)), str(answers.bad), answered, *_memory(service)]


def _healthy(service: Service) -> list[Poster]:
    small, large = (document(key_of(0), size) for size in (1024, 102_400))
    return [Poster(service.port, body, pause_s=0.01) for body in (small, large, chunked(large))]


def _slow_row(name: str, service: Service, answers: Sequence[Answers]) -> list[str]:
    times = [_times(each) for each in answers]
    posts, bad = sum(len(each.milliseconds) for each in answers), sum(each.bad for each in answers)
    return [name, *times, str(posts), str(bad), *_memory(service)]


def _times(answers: Answers) -> str:
    return f"{answers.percentile(50):.1f}, {answers.percentile(99):.1f}"


def _memory(service: Service) -> list[str]:
    return [_sizes(held) for held in service.memory().values()]


def _sizes(held: Held) -> str:
    return f"{held.now:.0f}, {held.peak:.0f}"


@contextmanager
def _slow_clients(port: int, kind: str, count: int) -> Iterator[int]:
    """Run the clients of one kind in a process of their own; give how many are there."""
    command = [sys.executable, "-m", "bench.slow_clients", "--kind", kind, "--count", str(count)]
    command += ["--port", str(port), "--within", str(_READY_WITHIN_S)]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as clients:
        assert clients.stdout is not None
        try:
            yield int(clients.stdout.readline().split()[1])
        finally:
            clients.terminate()
