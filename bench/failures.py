"""What very many failed messages cost with notices to the admins and without, and whether the notices tell the truth."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import apsw

from bench.drain import rss, sink, watch, worker
from bench.fill import fill_folder, write_accounts
from bench.load import LoadError, run_load
from bench.processes import Program, free_port, running
from bench.section import Options, Section, in_turn, table
from bench.systems import RATE_LIMIT, WARM_UP, environment
from tests.servers.receiver import Receiver

_KEY: Final = f"bench-{1:032d}"  # of the first account
_PARTS: Final = ("web", "worker", "notify")
_NAMES: Final = ("without notices", "with notices")
_SAMPLE_S: Final = 0.5
_PATIENCE_S: Final = 120.0
_LATER_S: Final = 1.0  # so much later or earlier than it was due may a notice be answered
_FAILED: Final = "SELECT count(*) FROM delivery WHERE state = 'failed' AND reason LIKE '%550%5.1.1%'"
_COUNTED: Final = "SELECT coalesce(sum(jobs), 0) FROM job_count WHERE state = 'failed'"
_LOOKED: Final = "SELECT count(*) FROM notice_memory WHERE memory NOT LIKE '%\"failed\": null%'"


@dataclass(slots=True)
class _Found:
    """What the runs of one name have shown, each list in the order of the rounds."""

    posts: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)  # µs of web and worker for a message
    notify: list[float] = field(default_factory=list)  # µs of the process that tells
    drain_cost: list[float] = field(default_factory=list)
    memory: list[Mapping[str, list[int]]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def failures(options: Options) -> Section:
    """Messages that a server refuses with 550 5.1.1: posted while they fail, and as a backlog."""
    count = options.count(100_000, 400)
    window, gather = ("2s", "200ms") if options.quick else ("15s", "5s")
    settings = {"POSTROOM_NOTIFY_WINDOW": window, "POSTROOM_NOTIFY_GATHER": gather}
    found = {name: _Found() for name in _NAMES}

    def run(name: str, work: Callable[..., float]) -> Callable[[Path], float]:
        def one(folder: Path) -> float:
            if name == _NAMES[0]:
                return work(folder, count, {}, None, found[name])
            with Told(float(window.rstrip("s"))) as told:
                notify = {**settings, "POSTROOM_NOTIFY": told.url}
                figure = work(folder, count, notify, told, found[name])
            found[name].told.append(told.summary())
            print(told.summary(), flush=True)
            return figure

        return one

    failed = in_turn({name: run(name, _post) for name in _NAMES}, options, "failures, posts")
    drained = in_turn({name: run(name, _drain) for name in _NAMES}, options, "failures, drain")
    return Section(
        f"{count:,} messages that fail with 550 5.1.1; ratios are medians over the rounds, each within its round",
        tuple(_report(found, failed, drained)),
    )


def _report(
    found: Mapping[str, _Found], failed: Mapping[str, list[float]], drained: Mapping[str, list[float]]
) -> Iterator[str]:
    base = found[_NAMES[0]]
    header = ["", "posts a second", "ratio", "failed a second", "ratio", "drain a second", "ratio"]
    header += ["µs, web and worker", "ratio", "µs in a drain", "ratio", "µs, notifier"]
    rows = []
    for name in _NAMES:
        each, row = found[name], [name]
        for runs, others in (
            (each.posts, base.posts),
            (failed[name], failed[_NAMES[0]]),
            (drained[name], drained[_NAMES[0]]),
            (each.cost, base.cost),
            (each.drain_cost, base.drain_cost),
        ):
            ratio = median(run / other for run, other in zip(runs, others, strict=True))
            row += [f"{median(runs):,.0f}", f"{ratio:.3f}"]
        rows.append([*row, f"{median(each.notify):,.1f}"])
    yield from table(header, rows)
    yield ""
    header = ["MiB resident, while they are posted", "after a tenth", "half-way", "at the end", "most"]
    yield from table(header, [row for name in _NAMES for row in _memory_rows(name, found[name].memory)])
    yield ""
    yield from (f"- {said}" for said in found[_NAMES[1]].told)


def _memory_rows(name: str, runs: list[Mapping[str, list[int]]]) -> Iterator[list[str]]:
    for part in _PARTS:
        sizes = max((run[part] for run in runs), key=lambda run: max(run, default=0))
        if any(sizes):
            figures = sizes[len(sizes) // 10], sizes[len(sizes) // 2], sizes[-1], max(sizes)
            yield [f"{name}: {part}", *(f"{size / 2**20:.1f}" for size in figures)]


def _post(folder: Path, count: int, settings: Mapping[str, str], told: Told | None, found: _Found) -> float:
    """Post while the worker sends; return how many failed a second, from the first post to the last refusal."""
    port = free_port()
    serving = {"PORT": str(port), "POSTROOM_RATE_LIMIT": RATE_LIMIT, **settings}
    with sink(folder, refuse=True) as sink_port:
        write_accounts(folder, [sink_port])
        command = [sys.executable, "-m", "postroom", "serve"]
        with running(command, folder, {**environment(), **serving}) as program:
            program.wait_listening(port)
            _wait_for_first_look(folder, told)
            run_load(key=_KEY, port=port, sink_port=sink_port, count=WARM_UP, clients=32)
            before = _cpu(program)
            with _sampled(program) as memory:
                load = run_load(
                    key=_KEY, port=port, sink_port=sink_port, count=count, clients=32, limit=3600.0
                )
            used = {part: (now - before[part]) / count * 1e6 for part, now in _cpu(program).items()}
            if load.arrived != count:
                raise LoadError(f"{load.arrived} of {count} were refused\n{program.output()}")
            _check(folder, count + WARM_UP, told)
    found.posts.append(count / load.posting)
    found.cost.append(used["web"] + used["worker"])
    found.notify.append(used["notify"])
    found.memory.append(memory)
    return load.throughput


def _drain(folder: Path, count: int, settings: Mapping[str, str], told: Told | None, found: _Found) -> float:
    """Work off a backlog; return how many failed a second, from the first look that saw any to the last."""
    with sink(folder, refuse=True) as port, contextlib.ExitStack() as stack:
        write_accounts(folder, [port])
        fill_folder(folder, {1: count})
        if told is not None:
            notify = [sys.executable, "-m", "postroom", "notify", "run"]
            stack.enter_context(running(notify, folder, {**environment(), **settings}, "notify.txt"))
            _wait_for_first_look(folder, told)
        program = stack.enter_context(worker(folder, settings))
        used: list[float] = []

        def note_first(seen: int) -> None:
            if seen and not used:
                used.append(program.cpu())

        drain = watch(port, count, note_first)
        found.drain_cost.append((program.cpu() - used[0]) / drain.arrived * 1e6)
        _check(folder, count, told)
    return drain.rate


class Told(Receiver):
    """The admins: keeps when each notice has come."""

    def __init__(self, window_s: float) -> None:
        super().__init__()
        self._window_s = window_s
        self._times: dict[tuple[str, str], list[float]] = {}
        self._counts: dict[str, int] = {}  # of notices of failed messages, by their ids

    def take(self, document: dict[str, Any]) -> int:
        kind = str(document["kind"]), str(document["event"])
        self._times.setdefault(kind, []).append(time.monotonic())
        if kind == ("failed", "alert"):
            self._counts[str(document["notice_id"])] = int(document["count"])
        return super().take(document)

    @property
    def failed(self) -> int:
        """How many failed messages the notices have told of."""
        return sum(self._counts.values())

    def check(self) -> None:
        """Raise LoadError where two notices of a kind came within one window, or one came twice."""
        for (kind, event), times in self._times.items():
            nearest = min((after - before for before, after in itertools.pairwise(times)), default=None)
            if nearest is not None and nearest < self._window_s - _LATER_S:
                raise LoadError(f"two notices ({kind}, {event}) came within {nearest:.1f} s")

    def summary(self) -> str:
        """Return how many notices of each kind came, the least time between two, and what they counted."""
        said = []
        for (kind, event), times in self._times.items():
            gaps = [after - before for before, after in itertools.pairwise(times)]
            nearest = f", {min(gaps):.1f} s apart at least" if gaps else ""
            said.append(f"{len(times)} × {kind} {event}{nearest}")
        counts = " + ".join(f"{count:,}" for count in self._counts.values())
        return f"window {self._window_s:g} s: {'; '.join(said)}; failed: {counts} = {self.failed:,}"


def _check(folder: Path, count: int, told: Told | None) -> None:
    """Raise LoadError unless rows, counters and notices say that exactly so many have failed."""
    _wait(lambda: _ask(folder, _FAILED) == count, f"{count} failures in the database")
    if (counted := _ask(folder, _COUNTED)) != count:
        raise LoadError(f"{count} messages have failed, and the counters say {counted}")
    if told is not None:
        _wait(lambda: told.failed >= count, f"notices of {count} failures")
        told.check()
        if told.failed != count:
            raise LoadError(f"{count} messages have failed, and the notices say {told.failed}")


def _wait_for_first_look(folder: Path, told: Told | None) -> None:
    """What has failed before its first look is no news."""
    if told is not None:
        _wait(lambda: _ask(folder, _LOOKED) == 1, "the first look")


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise LoadError(f"waited {_PATIENCE_S:g} s in vain for {what}")
        time.sleep(_SAMPLE_S)


def _ask(folder: Path, sql: str) -> int:
    with closing(apsw.Connection(str(folder / "var/postroom.db"), apsw.SQLITE_OPEN_READONLY)) as connection:
        connection.set_busy_timeout(5000)
        [[number]] = connection.execute(sql)
        return int(str(number))


def _pids(program: Program) -> dict[str, list[int]]:
    """Return the processes of each part by what they were started as, with those that they have forked."""
    found: dict[str, list[int]] = {part: [] for part in _PARTS}
    members = {process.pid: process for process in program.tree()}
    for process in members.values():
        top = process
        while top.parent != program.pid and top.parent in members:
            top = members[top.parent]
        words = top.command.split()
        part = next((part for part in _PARTS if part in words), None)
        if part is not None:
            found[part].append(process.pid)
    return found


def _cpu(program: Program) -> dict[str, float]:
    times = {process.pid: process.cpu for process in program.tree()}
    return {part: sum(times.get(pid, 0.0) for pid in pids) for part, pids in _pids(program).items()}


@contextmanager
def _sampled(program: Program) -> Iterator[dict[str, list[int]]]:
    """Sample what the processes of each part hold, for the length of a `with` block."""
    pids = _pids(program)
    samples: dict[str, list[int]] = {part: [] for part in _PARTS}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            for part in _PARTS:
                samples[part].append(sum(rss(pid) for pid in pids[part]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
