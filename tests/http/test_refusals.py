"""What the log says of refused requests, and how much of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

import pytest
from flask import Flask

from postroom.web import refusals
from postroom.web.api_request import ApiRequest
from postroom.web.head import Head
from postroom.web.problems import problem
from postroom.web.refusals import Refusals
from tests.http.test_send_email import JSON_TYPE, MAIL
from tests.servers.waiting import eventually

Lines = Callable[[], list[str]]


@pytest.fixture
def all_lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return the lines that were logged of refusals."""
    caplog.set_level(logging.INFO, refusals.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == refusals.__name__]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, all_lines: Lines) -> Lines:
    """Return those of this thread: a minute after an earlier test, what it held back is said by a thread of its own."""
    here = threading.get_ident()
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == refusals.__name__ and record.thread == here
    ]


def _post(app: Flask, document: object, address: str = "192.0.2.7", path: str = "/send-email") -> int:
    environ = {"REMOTE_ADDR": address}
    answer = app.test_client().post(path, data=json.dumps(document), headers=JSON_TYPE, environ_base=environ)
    return answer.status_code


def test_a_refusal_names_client_path_status_account_and_field(app: Flask, alice: str, lines: Lines) -> None:
    assert _post(app, {**MAIL, "key": alice, "recipient": "nobody"}) == 422
    (line,) = lines()
    start = "refused 422 POST /send-email from 192.0.2.7, account alice@example.com, recipient: "
    assert line.startswith(start)
    assert alice not in line


def test_a_refusal_of_a_stranger_names_no_account_and_no_key(app: Flask, lines: Lines) -> None:
    assert _post(app, {**MAIL, "key": "secret-guess"}) == 401
    assert _post(app, MAIL, path="/no\x1bwhere" + "x" * 1000) == 404
    first, second = lines()
    assert first == "refused 401 POST /send-email from 192.0.2.7, key: this key is not known here"
    assert second.startswith("refused 404 POST /no\\x1bwherexxx")
    assert len(second) < 450


def test_what_is_accepted_leaves_no_line(app: Flask, alice: str, lines: Lines) -> None:
    assert _post(app, {**MAIL, "key": alice}) == 202
    assert lines() == []


def request_from(address: str) -> ApiRequest:
    return ApiRequest(Head("POST", "/send-email", {}, remote=address), bytes)


def test_a_fault_of_our_own_is_no_refusal(lines: Lines) -> None:
    Refusals().note(request_from("192.0.2.7"), problem(500, "internal_error", "No", "no"))
    assert lines() == []


@pytest.mark.parametrize("status", [429, 503])
def test_what_is_refused_to_all_alike_is_said_once_and_counted(
    app: Flask, alice: str, lines: Lines, status: int
) -> None:
    """To each account, and to each network of strangers."""
    noted, answer = Refusals(), problem(status, "too_much", "No", "no")
    known, stranger = request_from("192.0.2.7"), request_from("198.51.100.9")
    known.account = "alice@example.com"
    for _ in range(50):
        noted.note(known, answer)
        noted.note(stranger, answer)
    assert [line.split()[:2] for line in lines()] == [["refused", str(status)]] * 2
    noted.note(known, problem(422, "invalid", "No", "no"))
    assert len(lines()) == 3, "other refusals are still heard"
    noted.end_period()
    assert lines()[3:] == [
        f"refused 49 more requests from alice@example.com ({status}) within 60 s",
        f"refused 49 more requests from 198.51.100.0/24 ({status}) within 60 s",
    ]


@pytest.mark.parametrize(
    ("addresses", "network"),
    [
        ([f"192.0.2.{number}" for number in range(30)], "192.0.2.0/24"),
        ([f"2001:db8:1:{number:x}::1" for number in range(30)], "2001:db8:1::/48"),
    ],
)
def test_strangers_of_one_network_have_five_lines_a_minute_and_are_counted(
    app: Flask, lines: Lines, addresses: list[str], network: str
) -> None:
    for address in addresses:
        assert _post(app, {**MAIL, "key": "guess"}, address) == 401
    assert len(lines()) == 5
    assert _post(app, {**MAIL, "key": "guess"}, "198.51.100.1") == 401
    assert len(lines()) == 6, "others are still heard"
    app.extensions["postroom"].refusals.end_period()
    assert lines()[6:] == [f"refused 25 more requests from {network} within 60 s"]
    assert _post(app, {**MAIL, "key": "guess"}, addresses[0]) == 401
    assert len(lines()) == 8


def test_an_account_is_heard_while_strangers_make_noise(app: Flask, alice: str, lines: Lines) -> None:
    for number in range(10):
        assert _post(app, {**MAIL, "key": "guess"}) == 401
        assert _post(app, {**MAIL, "key": alice, "recipient": f"nobody {number}"}) == 422
    assert sum("account alice@example.com" in line for line in lines()) == 10


def test_all_strangers_together_are_bounded_in_lines_and_memory(lines: Lines) -> None:
    noted = Refusals()
    answer = problem(401, "not_authenticated", "No", "no", errors=[("key", "no")])
    for number in range(5000):
        address = ".".join(str(octet) for octet in ((10 << 24) + (number << 8)).to_bytes(4, "big"))
        noted.note(request_from(address), answer)
    assert len(lines()) == 100
    assert len(noted._lines) <= 1001
    noted.end_period()
    said = lines()[100:]
    assert len(said) <= 11
    assert sum(int(line.split()[1]) for line in said) == 4900


def test_the_count_is_said_although_nothing_more_comes(all_lines: Lines) -> None:
    noted = Refusals(period=0.05)
    answer = problem(401, "not_authenticated", "No", "no")
    for _ in range(2000):
        noted.note(request_from("192.0.2.1"), answer)
    eventually(lambda: any("more requests from 192.0.2.0/24" in line for line in all_lines()))
