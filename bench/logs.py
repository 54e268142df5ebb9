"""What looking costs: posts and drain with each form of the log, its lines shipped besides, metrics scraped, traces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Event, Thread
from urllib.request import urlopen

from bench.drain import sink, watch, worker
from bench.fill import fill_folder, write_accounts
from bench.processes import Program, free_port, running_sink
from bench.section import Options, Section, in_turn, table
from bench.systems import environment, measure, postroom

_SHIPPED = "ECS, shipped besides"
_SCRAPED = "text, metrics scraped each second"
FORMS: dict[str, dict[str, str]] = {
    "text, warnings alone": {"POSTROOM_LOG_LEVEL": "WARNING"},
    "text": {},
    "ECS": {"POSTROOM_LOG_FORMAT": "ecs"},
    "Datadog": {"POSTROOM_LOG_FORMAT": "datadog"},
    "JSON": {"POSTROOM_LOG_FORMAT": "json"},
    _SHIPPED: {"POSTROOM_LOG_FORMAT": "ecs"},
    _SCRAPED: {},
    **{f"text, traces of {share:.0%}": {"OTEL_TRACES_SAMPLER_ARG": str(share)} for share in (0.1, 1)},
}
_TRACES = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}


def logs(options: Options) -> Section:
    """Posts and drain a second with each form, and the processor time of a message, where others have the cores too."""
    posts, backlog = options.count(5000, 300), options.count(20_000, 1500)
    cost: dict[str, list[float]] = {name: [] for name in FORMS}
    drain_cost: dict[str, list[float]] = {name: [] for name in FORMS}

    def posting(name: str) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with _settings(name, folder) as settings:
                found = measure(postroom(1, settings), folder / "run", messages=posts, clients=32)
            cost[name].append(found.cost("web") + found.cost("worker"))
            return found.load.throughput

        return run

    def draining(name: str) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            with sink(folder) as port, _settings(name, folder) as settings:
                write_accounts(folder, [port])
                fill_folder(folder, {1: backlog})
                with worker(folder, settings) as program:
                    used: list[float] = []
                    found = watch(port, backlog, lambda seen: _note_first(used, seen, program))
                    drain_cost[name].append((program.cpu() - used[0]) / found.arrived * 1e6)
                    return found.rate

        return run

    posted = in_turn({name: posting(name) for name in FORMS}, options, "logs, posts")
    drained = in_turn({name: draining(name) for name in FORMS}, options, "logs, drain")
    base, *_ = FORMS
    rows = [
        [
            name,
            f"{median(posted[name]):,.0f}",
            _paired(posted[name], posted[base]),
            f"{median(drained[name]):,.0f}",
            _paired(drained[name], drained[base]),
            f"{median(cost[name]):,.0f}",
            _paired(cost[name], cost[base]),
            f"{median(drain_cost[name]):,.0f}",
            _paired(drain_cost[name], drain_cost[base]),
        ]
        for name in FORMS
    ]
    header = ["with", "posts a second", "ratio", "drain a second", "ratio"]
    header += ["µs a post, web and worker", "ratio", "µs in a drain", "ratio"]
    return Section(
        f"The cost of looking: {posts} posts, a backlog of {backlog}; ratios are medians over the rounds, each to the "
        f"first line of its own round",
        tuple(table(header, rows)),
    )


def _note_first(used: list[float], seen: int, program: Program) -> None:
    """Note the processor time so far when the first message has come: what the start has taken."""
    if seen and not used:
        used.append(program.cpu())


def _paired(runs: list[float], base: list[float]) -> str:
    return f"{median(run / other for run, other in zip(runs, base, strict=True)):.3f}"


@contextmanager
def _settings(name: str, folder: Path) -> Iterator[Mapping[str, str]]:
    """Lend the settings of a form, with what takes its lines or spans, or reads its metrics, for as long."""
    settings = FORMS[name]
    if name == _SCRAPED:
        with _scraping(free_port()) as port:
            yield {**settings, "POSTROOM_METRICS_PORT": str(port)}
    elif name == _SHIPPED:
        with _intake(folder) as url:
            yield {**settings, "POSTROOM_LOG_SHIP": f"{url}/api/v2/logs", "DD_API_KEY": "bench"}
    elif "OTEL_TRACES_SAMPLER_ARG" in settings:
        with _intake(folder) as url:
            yield {**settings, **_TRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    else:
        yield settings


@contextmanager
def _intake(folder: Path) -> Iterator[str]:
    (folder / "intake").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "bench.logs"]
    with running_sink(command, folder / "intake", environment()) as (_, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _scraping(port: int) -> Iterator[int]:
    """Read the metrics at a port each second, as Prometheus does every fifteen."""
    ended = Event()

    def scrape() -> None:
        while not ended.wait(1):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                answer.read()

    thread = Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        ended.set()
        thread.join()


class _Intake(BaseHTTPRequestHandler):
    """Takes everything at once: what it would cost another machine is not measured."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Intake) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
