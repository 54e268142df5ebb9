"""Shipping to stand-ins of both intakes: down, slow, 413, 429, 400 for a line. What is not counted as dropped arrives."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from postroom.core.account import Secret
from postroom.core.log_ship import Destination, parse_log_ship
from postroom.http_client import HTTPAnswer
from postroom.telemetry.lines import LogLine
from postroom.telemetry.shipping import intake as intakes_of_ours
from postroom.telemetry.shipping.datadog import Datadog as ToDatadog
from postroom.telemetry.shipping.elasticsearch import Elasticsearch as ToElasticsearch
from postroom.telemetry.shipping.shipper import Shipper
from tests.servers import intakes
from tests.servers.intakes import KEY, POISON, Held, Intake
from tests.servers.waiting import eventually

MEBIBYTE = 1024 * 1024
Start: TypeAlias = Callable[..., Shipper]
KINDS = [intakes.Elasticsearch, intakes.Datadog]


@pytest.fixture(params=KINDS, ids=["elasticsearch", "datadog"])
def server(request: pytest.FixtureRequest) -> Iterator[Intake]:
    with request.param() as started:
        yield started


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Shipper] = []

    def start(
        server: Intake, most_octets: int = MEBIBYTE, *, key: str = KEY, flush_s: float = 5.0
    ) -> Shipper:
        ours: intakes_of_ours.Intake
        if isinstance(server, intakes.Datadog):
            ours = ToDatadog(Secret(key), "datadoghq.com", server.url)
        else:
            ours = ToElasticsearch(server.url, None, Secret(key))
        made.append(Shipper(ours, most_octets, gather_s=0.01, first_wait_s=0.01, flush_s=flush_s))
        return made[-1]

    yield start
    for shipper in made:
        shipper.close()


def lines(count: int, of: str = "line", size: int = 0) -> list[LogLine]:
    made = []
    for number in range(count):
        document = {"message": f"{of} {number}", "event": {"id": f"{of}-{number}"}, "x": "x" * size}
        made.append(LogLine(f"{of}-{number}", json.dumps(document).encode()))
    return made


def wait_for(shipper: Shipper, arrived: int) -> None:
    eventually(lambda: shipper.shipped >= arrived, 30, f"{arrived} lines to arrive")


def expected(count: int, of: str = "line") -> list[str]:
    return sorted(f"{of} {number}" for number in range(count))


def test_lines_arrive_compressed_and_in_batches(server: Intake, start: Start) -> None:
    shipper = start(server)
    shipper.put(lines(2500))
    wait_for(shipper, 2500)
    assert sorted(server.messages()) == expected(2500)
    assert server.answers.total() <= 5
    assert (shipper.dropped, shipper.octets) == (0, 0)


def test_while_it_is_down_lines_wait_and_arrive_afterwards(
    server: Intake, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    shipper = start(server)
    shipper.put(lines(10, "before"))
    wait_for(shipper, 10)
    server.stop()
    with caplog.at_level(logging.WARNING):
        shipper.put(lines(10, "meanwhile"))
        eventually(lambda: "cannot ship the log just now" in caplog.text, 30, "the outage to be said")
        server.start()
        wait_for(shipper, 20)
        eventually(lambda: "again" in caplog.messages[-1], 30, "its end to be said")
    assert sorted(server.messages()) == sorted(expected(10, "before") + expected(10, "meanwhile"))
    assert shipper.dropped == 0


@pytest.mark.parametrize("status", [429, 500, 503, 408, 401, 302])
def test_what_may_pass_is_tried_again(status: int, server: Intake, start: Start) -> None:
    server.then.extend([status, status])
    shipper = start(server)
    shipper.put(lines(5))
    wait_for(shipper, 5)
    assert server.answers[status] == 2
    assert sorted(server.messages()) == expected(5)
    assert shipper.dropped == 0


def test_a_batch_that_is_too_large_goes_in_halves(server: Intake, start: Start) -> None:
    server.most_lines = 30
    shipper = start(server)
    shipper.put(lines(100))
    wait_for(shipper, 100)
    assert server.answers[413] >= 3
    assert sorted(server.messages()) == expected(100)
    assert shipper.dropped == 0


def test_a_line_that_is_too_large_alone_is_dropped_and_counted(server: Intake, start: Start) -> None:
    server.most_octets = 2000
    shipper = start(server)
    shipper.put([*lines(3), *lines(1, "large", 5000), *lines(3, "after")])
    wait_for(shipper, 6)
    eventually(lambda: shipper.dropped == 1, 30, "it to be dropped")
    assert sorted(server.messages()) == sorted(expected(3) + expected(3, "after"))


def test_one_line_that_is_refused_is_dropped_and_said_and_all_others_arrive(
    server: Intake, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    shipper = start(server)
    with caplog.at_level(logging.WARNING):
        shipper.put([*lines(50), *lines(1, POISON), *lines(50, "after")])
        wait_for(shipper, 100)
        eventually(lambda: shipper.dropped == 1, 30, "it to be dropped")
        eventually(lambda: "1 line of it dropped" in caplog.text, 30, "that to be said")
    assert sorted(server.messages()) == sorted(expected(50) + expected(50, "after"))
    assert shipper.octets == 0


def test_memory_is_bounded_and_nobody_waits_while_it_does_not_answer(server: Intake, start: Start) -> None:
    held = Held()
    server.then.append(held)
    shipper = start(server, 100_000)
    shipper.put(lines(5))
    assert held.has_come.wait(30)
    most = 0
    for number in range(200):
        shipper.put(lines(10, f"batch {number}", 200))  # it returns, while the one request is held
        most = max(most, shipper.octets)
    assert not server.answers, "nothing was answered meanwhile"
    assert 90_000 < most <= 100_000
    assert shipper.dropped > 1000
    held.release()
    wait_for(shipper, 2005 - shipper.dropped)
    arrived = Counter(server.messages())
    assert len(arrived) == 2005 - shipper.dropped
    assert set(arrived.values()) == {1}
    assert shipper.octets == 0


def test_dropped_lines_are_said_once_it_answers_again(
    server: Intake, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    shipper = start(server, 10_000)
    with caplog.at_level(logging.WARNING):
        shipper.put(lines(1))
        eventually(lambda: "cannot ship" in caplog.text, 30, "the outage to be said")
        shipper.put(lines(500, "more"))
        dropped = shipper.dropped
        server.start()
        wait_for(shipper, 501 - dropped)
        eventually(lambda: f"{dropped} lines of it dropped" in caplog.text, 30, "the number to be said")
    assert KEY not in caplog.text


def test_at_the_end_what_waits_is_shipped(server: Intake, start: Start) -> None:
    shipper = start(server)
    shipper.put(lines(1500))
    shipper.close()
    assert sorted(server.messages()) == expected(1500)
    shipper.put(lines(1, "late"))
    assert len(server.messages()) == 1500


def test_the_end_waits_for_no_intake_and_says_what_is_lost(
    server: Intake, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    shipper = start(server, flush_s=0.1)
    with caplog.at_level(logging.WARNING):
        shipper.put(lines(7))
        shipper.close()
    assert shipper.dropped == 7
    assert "could not be shipped to 127.0.0.1" in caplog.text
    assert "7 lines of it dropped" in caplog.text


def test_a_wrong_key_is_named_and_not_shown(
    server: Intake, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    shipper = start(server, key="a-wrong-secret", flush_s=0.1)
    with caplog.at_level(logging.WARNING):
        shipper.put(lines(1))
        eventually(lambda: "it does not take the key" in caplog.text, 30, "the refusal")
    assert "a-wrong-secret" not in caplog.text


def test_a_child_of_the_process_ships_nothing_of_its_parents(server: Intake, start: Start) -> None:
    held = Held()
    server.then.append(held)
    shipper = start(server)
    shipper.put(lines(3))
    assert held.has_come.wait(30)
    shipper.put(lines(3, "waiting"))
    with warnings.catch_warnings():  # of a fork beside threads, which is what this is about
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        shipper.put(lines(1, "the child's"))
        shipper.close()
        os._exit(0 if threading.active_count() == 1 and not shipper.dropped else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release()
    wait_for(shipper, 6)
    assert sorted(server.messages()) == sorted(expected(3) + expected(3, "waiting"))


class TestElasticsearch:
    def test_a_line_that_comes_twice_is_there_once(self, start: Start) -> None:
        with intakes.Elasticsearch() as server:
            one, other = start(server), start(server)
            one.put(lines(20))
            wait_for(one, 20)
            other.put(lines(20))
            wait_for(other, 20)
            assert server.statuses == {201: 20, 409: 20}
            assert sorted(server.messages()) == expected(20)
            assert other.dropped == 0

    def test_an_answer_that_was_lost_makes_no_second_line(self, start: Start) -> None:
        with intakes.Elasticsearch() as server:
            shipper = start(server)
            server.lost = 1
            shipper.put(lines(20))
            wait_for(shipper, 20)
            assert server.statuses == {201: 20, 409: 20}

    def test_a_line_for_which_it_is_busy_is_tried_again_alone(self, start: Start) -> None:
        with intakes.Elasticsearch(busy=7) as server:
            shipper = start(server)
            shipper.put(lines(20))
            wait_for(shipper, 20)
            assert server.statuses == {429: 7, 201: 20}
            assert sorted(server.messages()) == expected(20)

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"{}", b'{"items": [1]}', b'{"items": []}', b"[]", b"[" * 200_000],
        ids=["empty", "a page", "no items", "no statuses", "too few", "a list", "deep"],
    )
    def test_what_does_not_answer_so_has_taken_nothing(self, body: bytes) -> None:
        ours = ToElasticsearch("http://127.0.0.1:1/_bulk")
        verdict = ours.read(HTTPAnswer(200, {}, body), lines(2))
        assert len(verdict.again) == 2
        assert verdict.fault == "127.0.0.1:1 does not answer as Elasticsearch does"

    def test_credentials_stand_in_a_header_alone(self) -> None:
        chosen = parse_log_ship("https://el%40stic:p%3Aw@es.example:9200/_bulk")
        assert chosen.url == "https://es.example:9200/logs-postroom-default/_bulk"
        assert "p:w" not in repr(chosen)
        assert chosen.basic is not None
        batch = ToElasticsearch(chosen.url, chosen.basic).batch(lines(1))
        assert batch.headers["Authorization"] == "Basic ZWxAc3RpYzpwOnc="
        assert "p%3Aw" not in batch.url


class TestDatadog:
    def test_the_site_is_chosen(self) -> None:
        ours = ToDatadog(Secret("k"), "datadoghq.eu")
        assert ours.batch(lines(1)).url == "https://http-intake.logs.datadoghq.eu/api/v2/logs"

    def test_its_limits_are_kept(self, start: Start) -> None:
        with intakes.Datadog() as server:
            shipper = start(server, 16 * MEBIBYTE)
            shipper.put(lines(1200, size=9000))
            wait_for(shipper, 1200)
            assert max(server.bodies) <= 5_000_000
            assert len(server.bodies) >= 3
            assert not server.answers[413]

    def test_a_wait_that_it_asks_for_is_heard(self) -> None:
        ours = ToDatadog(Secret("k"), "datadoghq.com")
        assert ours.read(HTTPAnswer(429, {"retry-after": "7"}, b""), lines(1)).wait_s == 7.0
        assert ours.read(HTTPAnswer(429, {"retry-after": "soon"}, b""), lines(1)).wait_s is None


@pytest.mark.parametrize(
    ("text", "to", "url"),
    [
        ("datadog:", Destination.DATADOG, None),
        ("https://intake.example/api/v2/logs", Destination.DATADOG, "https://intake.example/api/v2/logs"),
        ("https://es.example/mail/_bulk", Destination.ELASTICSEARCH, "https://es.example/mail/_bulk"),
        (
            "http://[::1]:9200/a/_bulk?pipeline=p",
            Destination.ELASTICSEARCH,
            "http://[::1]:9200/a/_bulk?pipeline=p",
        ),
    ],
)
def test_where_it_goes(text: str, to: Destination, url: str | None) -> None:
    assert (parse_log_ship(text).to, parse_log_ship(text).url) == (to, url)


@pytest.mark.parametrize(
    "text",
    [
        "https://elastic/canary@es.example/_bulk",
        "https://canary/w@es.example/api/v2/logs",
        "https://elastic:canary/w@es.example/_bulk",
        "https://elastic:9200/canary@es.example/_bulk",
    ],
)
def test_no_part_of_a_password_is_taken_for_the_host(text: str) -> None:
    with pytest.raises(ValueError, match="%2F") as error:
        parse_log_ship(text)
    assert "canary" not in str(error.value)


def test_a_key_in_the_query_is_not_shown() -> None:
    assert "canary" not in repr(parse_log_ship("https://u:canary@es.example/_bulk?key=canary"))
