"""A lane's connections: when they are opened, when they end, and what waits for them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from postroom.core.account import AccountState
from postroom.core.errors import StoreUnavailable
from postroom.core.message import MessageState
from postroom.store.accounts import Accounts
from postroom.store.connections import Connections
from postroom.store.events import Events
from postroom.store.noun import Noun
from postroom.store.queue import Queue
from tests.conftest import StartScripted
from tests.process.test_delivery import InProcess
from tests.servers.scripted import Drop, Late, ScriptedServer


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., InProcess]]:
    """Make an installation whose account has so many connections at this server."""
    made: list[InProcess] = []

    def make(
        server: ScriptedServer, connections: int, password: str = "secret", **settings: str
    ) -> InProcess:
        settings = {"POSTROOM_SMTP_CONNECTIONS": str(connections), **settings}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        row = f"key,me@x.example,{password},127.0.0.1,{server.port},none"
        made.append(InProcess(tmp_path, [row], monkeypatch))
        return made[-1]

    yield make
    for installation in made:
        installation.service.store.close()


def test_mail_that_comes_while_the_last_connection_says_goodbye_is_sent(
    install: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is slow to answer QUIT, and the account may have no second connection meanwhile."""
    monkeypatch.setattr("postroom.worker.mail.sender._IDLE_S", 0.1)
    server = scripted()
    server.on("QUIT", do=Late(1))
    installation = install(server, connections=1)
    ids = [installation.accept("you@x.example")]

    def sent_in_turn() -> bool:
        """Accept each mail while the connection of the one before it is closing."""
        if server.verbs.count("QUIT") == len(ids) < 4:
            ids.append(installation.accept("you@x.example"))
        return len(ids) == 4 and installation.are_sent(ids)

    installation.run_until(sent_in_turn)
    assert len(server.connections) == 4


def test_a_server_that_takes_fewer_connections_gets_the_mail_over_those(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Late(0.02))
    installation = install(server, connections=16, POSTROOM_RETRY_SCHEDULE="1h")
    installation.send_a_mail()
    server.on("GREETING", "421 4.7.0 too many connections", skip=3)
    ids = [installation.accept("you@x.example") for _ in range(150)]
    installation.run_until(lambda: installation.are_sent(ids))
    assert len(server.connections) < 1 + 20, "it is not asked for more again and again"
    kinds = {
        event.kind
        for request_id in ids
        for event in installation.service.store.read(Events.of_message, request_id)
    }
    assert kinds == {"accepted", "sent"}, "nobody's attempt was spent on it"


@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("EHLO", "421 4.3.2 Too many open connections."),
        ("EHLO", "452 4.3.2 Connection rate limit exceeded."),
        (
            "AUTH",
            "421 4.7.0 Maximum number of connections from user+IP exceeded (mail_max_userip_connections=3)",
        ),
        ("AUTH", "432 4.3.2 Concurrent connections limit exceeded"),
        ("AUTH", "454 4.7.0 Too many login attempts, please try again later."),
    ],
)
def test_connections_that_work_go_on_whatever_keeps_another_from_being_opened(
    verb: str, reply: str, install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Late(0.02))
    installation = install(server, connections=10, POSTROOM_RETRY_SCHEDULE="1h")
    installation.send_a_mail()
    server.on(verb, reply, skip=3)
    ids = [installation.accept("you@x.example") for _ in range(60)]
    installation.run_until(lambda: installation.are_sent(ids))
    kinds = {
        event.kind
        for request_id in ids
        for event in installation.service.store.read(Events.of_message, request_id)
    }
    assert kinds == {"accepted", "sent"}
    [stored] = installation.service.store.read(Accounts.all)
    assert (stored.account.state, stored.account.gap) == (AccountState.ACTIVE, None)


@pytest.mark.parametrize("has_worked", [True, False])
@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("GREETING", "421 Too many concurrent SMTP connections; please try again later."),
        ("GREETING", "421 4.3.2 Service not available, closing transmission channel"),
        ("EHLO", "452 4.3.2 Connection rate limit exceeded."),
        ("AUTH", "421 4.7.0 Maximum number of connections from user+IP exceeded"),
    ],
)
def test_an_account_that_finds_no_place_at_its_server_waits_for_one_uncounted(
    verb: str,
    reply: str,
    has_worked: bool,
    install: Callable[..., InProcess],
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postroom.worker.mail.breaker._PLACE_WAITS", (50_000,))
    server = scripted()
    installation = install(server, connections=1, POSTROOM_RETRY_SCHEDULE="1h")
    if has_worked:
        installation.send_a_mail()
    server.on(verb, reply, times=4)
    ids = [installation.accept("you@x.example") for _ in range(20)]
    installation.run_until(lambda: installation.are_sent(ids))
    events = [
        event
        for request_id in ids
        for event in installation.service.store.read(Events.of_message, request_id)
    ]
    assert {event.kind for event in events} == {"accepted", "deferred", "sent"}
    assert [event.kind for event in events].count("deferred") <= 4, "one message says it for all"
    [stored] = installation.service.store.read(Accounts.all)
    assert stored.account.state is AccountState.ACTIVE


def test_a_server_that_never_has_a_place_is_given_up_in_the_end(
    install: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.worker.mail.breaker._PLACE_WAITS", (50_000,))
    server = scripted()
    server.on("GREETING", "421 Too many concurrent SMTP connections; please try again later.")
    installation = install(server, connections=1, POSTROOM_RETRY_SCHEDULE="100ms", POSTROOM_RETRY_FOR="300ms")
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: installation.status(request_id).state is MessageState.FAILED)
    assert "Too many concurrent" in str(installation.status(request_id))


def test_a_server_that_takes_fewer_connections_is_asked_for_one_more_at_a_time(
    install: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.worker.mail.connections._TURNED_AWAY_S", 0.2)
    server = scripted()
    server.on("DOT", do=Late(0.05))
    installation = install(server, connections=16)
    installation.send_a_mail()
    server.on("GREETING", "421 4.7.0 too many connections", skip=3)
    began = time.monotonic()
    ids = [installation.accept("you@x.example") for _ in range(150)]
    installation.run_until(lambda: installation.are_sent(ids))
    pauses = (time.monotonic() - began) / 0.2
    assert pauses > 5, "so that it makes a difference"
    assert 1 + 16 < len(server.connections) < 1 + 20 + pauses


def test_a_server_that_takes_more_connections_again_gets_all_of_them(
    install: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.worker.mail.connections._TURNED_AWAY_S", 0.2)
    server = scripted()
    installation = install(server, connections=16)
    installation.send_a_mail()
    server.on("DOT", do=Late(0.3))
    server.on("GREETING", "421 4.7.0 too many connections", skip=3, times=20)
    ids = [installation.accept("you@x.example") for _ in range(150)]
    most = 0

    def all_sent() -> bool:
        nonlocal most
        most = max(most, server.open_connections)
        return installation.are_sent(ids)

    installation.run_until(all_sent)
    assert most == 16


def test_an_account_without_a_password_has_worked_once_mail_of_it_was_sent(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    installation = install(server, connections=1, password="")
    installation.send_a_mail()
    server.on("GREETING", "554 5.3.2 no service for you")
    kept = installation.accept("you@x.example")
    installation.run_until(lambda: installation.status(kept).state is MessageState.DEFERRED)
    [stored] = installation.service.store.read(Accounts.all)
    assert stored.account.state is AccountState.PAUSED


def test_all_mail_of_an_account_that_never_worked_fails_soon_and_with_few_log_ins(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted(users={"me@x.example": "another secret"})
    installation = install(server, connections=16, POSTROOM_RETRY_SCHEDULE="1h")
    ids = [installation.accept("you@x.example") for _ in range(200)]
    installation.run_until(
        lambda: all(installation.status(request_id).state is MessageState.FAILED for request_id in ids)
    )
    assert "535 5.7.8 Authentication failed" in str(installation.status(ids[-1]))
    assert len(server.logins) <= 3


def test_an_account_that_works_has_all_its_connections_soon_after_its_first_log_in(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("AUTH", do=Late(0.5))
    server.on("DOT", do=Late(0.5))
    installation = install(server, connections=8)
    ids = [installation.accept("you@x.example") for _ in range(40)]
    most = 0

    def all_sent() -> bool:
        nonlocal most
        most = max(most, server.open_connections)
        if not any(login.accepted for login in server.logins):
            assert len(server.connections) <= 1, "nobody knows yet whether the password is right"
        return installation.are_sent(ids)

    installation.run_until(all_sent)
    assert most == 8


OLD_SETTINGS = {"POSTROOM_RETRY_FOR": "1ms", "POSTROOM_RETRY_SCHEDULE": "1ms"}  # everything is too old


def test_mail_that_is_too_old_by_its_account_s_fault_is_not_given_up(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("MAIL", "550 5.4.5 Daily user sending limit exceeded.")
    installation = install(server, connections=1, **OLD_SETTINGS)
    kept = installation.accept("you@x.example")
    installation.run_until(lambda: installation.status(kept).reason is not None)
    assert installation.status(kept).state is MessageState.DEFERRED


def test_why_an_account_rests_names_nobody_of_another_s_message(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    """Each message that waits for the account says so, also to another key of a pool."""
    server = scripted()
    server.on("RCPT", "550 5.4.5 Daily limit of me@x.example exceeded: <you@x.example>")
    installation = install(server, connections=1)
    installation.accept("you@x.example")

    def reason() -> str | None:
        [stored] = installation.service.store.read(Accounts.all)
        return stored.account.state_reason

    installation.run_until(lambda: reason() is not None)
    assert "Daily limit of me@x.example exceeded: <…>" in str(reason())


def test_mail_in_doubt_that_a_person_is_to_decide_on_is_not_given_up_for_its_age(
    install: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""))
    installation = install(server, connections=1, POSTROOM_IN_DOUBT="hold", **OLD_SETTINGS)
    held = installation.accept("you@x.example")
    installation.run_until(lambda: installation.status(held).reason is not None)
    assert installation.status(held).state is MessageState.DEFERRED
    assert installation.status(held).possible_duplicate


@pytest.mark.parametrize(("noun", "move"), [(Queue, "mark_dot"), (Connections, "take")])
def test_a_database_that_is_away_for_a_moment_is_not_the_account_s_fault(
    install: Callable[..., InProcess],
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    noun: type[Noun],
    move: str,
) -> None:
    """It goes on in a second; an account that failed would rest for half a minute."""
    right, faults = getattr(noun, move), [StoreUnavailable("for a moment")]

    @wraps(right)
    def faulty(self: Noun, *arguments: Any, **rest: Any) -> Any:
        if faults:
            raise faults.pop()
        return right(self, *arguments, **rest)

    monkeypatch.setattr(noun, move, faulty)
    installation = install(scripted(), connections=1, POSTROOM_RETRY_SCHEDULE="1h")
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: installation.is_sent(request_id))
    assert not faults
