"""The table of metrics: names and units as Prometheus recommends, the documentation, and what processes tell each other."""

from __future__ import annotations

import fcntl
import json
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric as Family

from postroom.core.errors import ConfigError
from postroom.core.log_options import LogFormat, LogOptions
from postroom.core.measures import Histogram, Measures, bounds_of
from postroom.telemetry.lines import LogLine
from postroom.telemetry.metrics.neighbours import Neighbours
from postroom.telemetry.metrics.port import MetricsPort, check_port
from postroom.telemetry.metrics.process import own_values
from postroom.telemetry.metrics.table import METRICS
from postroom.telemetry.metrics.values import Page, Value, families, read, written
from postroom.telemetry.service_log import ServiceLog
from tests.servers.installation import ROOT
from tests.servers.programs import free_port
from tests.servers.waiting import eventually

DOCUMENT = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(postroom_\w+|process_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", re.MULTILINE)
UNITS = ("_seconds", "_bytes", "_ratio", "_messages", "_recipients", "_works", "_info", "_fds")


def test_the_documentation_lists_what_there_is() -> None:
    there = [
        (each.full_name, each.type, ", ".join(f"`{label}`" for label in each.all_labels), each.meaning)
        for is_own in (False, True)
        for each in METRICS
        if each.is_own == is_own
    ]
    assert ROW.findall(DOCUMENT) == there


def test_names_are_as_prometheus_recommends() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"(postroom|process)_[a-z_]+", metric.full_name)
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert metric.type != "histogram" or metric.name.endswith(UNITS), metric.name
        assert metric.meaning.endswith("."), metric.name


def test_values_come_to_another_process_as_they_are() -> None:
    measures = Measures()
    measures.count("http_refusals_total", "too-large", amount=3)
    measures.observe("commit_works", 5)
    measures.observe("commit_duration_seconds", 0.004)
    measures.gauge("http_requests_in_progress", lambda: 2)
    own = list(own_values(measures, "web-0", database="SQLite"))
    said = read(written(own))
    assert _texts(families(said.values)) == _texts(families(own))


def _texts(found: Iterator[Family]) -> list[tuple[str, list[object]]]:
    return [(family.name, list(family.samples)) for family in found]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({"values": [1]}).encode(),
        json.dumps({"values": [["of_another_version", [], 1]]}).encode(),
        json.dumps({"values": [["queue_messages", [], 1]]}).encode(),
        json.dumps({"values": [["commit_works", ["web-0"], [[1], 2]]]}).encode(),
        json.dumps({"values": [["commit_works", ["web-0"], 1]]}).encode(),
        json.dumps({"values": [["build_info", ["a", "b", "c", "d"], [[1], 2]]]}).encode(),
    ],
)
def test_what_another_version_says_is_left_out(said: bytes) -> None:
    assert read(said).values == []


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram(bounds_of("commit_works"))
    for number in (1, 2, 3, 1000):
        histogram.observe(number)
    [family] = families([Value("commit_works", ("web-0",), histogram)])
    buckets = {each.labels["le"]: each.value for each in family.samples if each.name.endswith("_bucket")}
    assert (buckets["1"], buckets["2"], buckets["4"], buckets["256"], buckets["+Inf"]) == (1, 2, 3, 3, 4)
    assert [each.value for each in family.samples if each.name.endswith(("_sum", "_count"))] == [4, 1006]


@contextmanager
def neighbour(folder: Path, kind: str, says: bytes) -> Iterator[Neighbours]:
    one = Neighbours(folder, kind)
    one.start(lambda: says)
    try:
        yield one
    finally:
        one.close()


def test_processes_have_names_and_tell_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("metrics")  # as `var/metrics` is: the name of a socket may have some 100 octets
    with neighbour(folder, "web", b"A") as first, neighbour(folder, "web", b"B") as second:
        with neighbour(folder, "worker", b"C") as third:
            assert [one.name for one in (first, second, third)] == ["web-0", "web-1", "worker-0"]
            assert [list(one.ask()) for one in (first, second, third)] == [
                [b"B", b"C"],
                [b"A", b"C"],
                [b"A", b"B"],
            ]
        assert list(first.ask()) == [b"B"]
        (folder / "worker-0.sock").touch()  # of one that was killed there is a socket left
        assert list(first.ask()) == [b"B"]
        with neighbour(folder, "worker", b"D") as after:
            assert after.name == "worker-0"
            assert list(first.ask()) == [b"B", b"D"]


def got(port: int, path: str = "/metrics") -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return None


def _saying(body: bytes) -> Callable[[str], Page]:
    return lambda accept: Page("text/plain", body)


def test_the_port_is_taken_over_when_its_process_ends() -> None:
    number = free_port()
    ports = [MetricsPort("127.0.0.1", number, _saying(body)) for body in (b"1", b"2")]
    ports[0].start()
    assert eventually(lambda: got(number)) == b"1"
    assert got(number, "/other") is None
    ports[1].start()
    ports[0].close()
    assert eventually(lambda: got(number) == b"2")
    ports[1].close()


def test_a_client_that_never_ends_its_request_loses_its_turn() -> None:
    """Eight of them would keep every scrape out, and nobody would be told of anything any more."""
    number = free_port()
    port = MetricsPort("127.0.0.1", number, _saying(b"1"), within_s=0.2)
    port.start()
    eventually(lambda: _listens(number))
    with socket.create_connection(("127.0.0.1", number), timeout=0.05) as client:
        eventually(lambda: _is_ended(client))
    port.close()


def _listens(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) == 0


def _is_ended(client: socket.socket) -> bool:
    """Send another octet of a head without an end, and hear whether the connection is still there."""
    try:
        client.sendall(b"G")
        return client.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_one_process_tries_a_port_that_is_taken_and_warns_with_setting_and_fix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        lock = tmp_path / "port.lock"
        ports = [MetricsPort("127.0.0.1", number, _saying(b""), lock) for _ in range(3)]
        for port in ports:
            port.start()
        eventually(lambda: caplog.messages)
        assert eventually(lambda: not _is_free(lock))
    eventually(lambda: got(number) is not None)
    for port in ports:
        port.close()
    [said] = [message for message in caplog.messages if "cannot be served" in message]
    assert said == (
        f"POSTROOM_METRICS_PORT: metrics cannot be served on 127.0.0.1:{number}: Address already in use; "
        "end the program that has it, or choose another port"
    )


def test_a_host_that_is_not_here_names_its_own_setting() -> None:
    with pytest.raises(ConfigError, match=r"POSTROOM_METRICS_HOST: .* name an address of this machine"):
        check_port("192.0.2.1", free_port())


def _is_free(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


class _Shipping:
    """What has shipped some lines, and dropped one."""

    shipped, dropped, octets = 7, 1, 250

    def put(self, lines: Sequence[LogLine]) -> None:
        """Take nothing more."""

    def close(self) -> None:
        """Nothing is open."""


def test_what_became_of_shipped_lines_is_told() -> None:
    measures = Measures()
    log = ServiceLog(LogOptions(format=LogFormat.JSON), [(LogFormat.JSON, _Shipping())])
    log.measure(measures)
    log.close()
    found = {value.name: value.value for value in own_values(measures, "web-0", database="SQLite")}
    assert found["log_lines_shipped_total"] == 7
    assert found["log_lines_dropped_total"] == 1
    assert found["log_waiting_bytes"] == 250
