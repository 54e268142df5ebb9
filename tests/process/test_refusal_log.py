"""What a worker does when its server speaks of the account, of this connection, or of one message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postroom.core.account import Account, AccountState
from postroom.core.clock import SECOND, system_clock
from postroom.core.message import MessageState, Submission
from postroom.intake.accept import accept
from postroom.runtime import accounts_file, installation
from postroom.store.accounts import Accounts
from postroom.store.events import Events
from postroom.store.messages import Messages
from postroom.worker.worker import Worker
from tests.conftest import StartScripted
from tests.servers.limited import LimitedServer
from tests.servers.scripted import ScriptedServer
from tests.servers.waiting import eventually

PATIENCE = 60.0
HOUR = 3600 * SECOND


class Office:
    """An installation with one account, whose worker runs in this process by a clock that can be put on."""

    def __init__(
        self, folder: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, more: str
    ) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("POSTROOM_RETRY_SCHEDULE", "100ms")
        monkeypatch.setattr("postroom.worker.dispatch._LOOK_S", 0.02)
        header = "key,email,app_password,host,port,security,connections"
        row = f"key-key-key-key-key,me@corp.example,secret,127.0.0.1,{server.port},none,{more}"
        (folder / "data.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
        self._var = folder / "var"
        self._ahead = 0
        self.service = installation.open_service(migrate=True)
        accounts_file.read_accounts_file(self.service)

    @property
    def account(self) -> Account:
        [stored] = self.service.store.read(Accounts.all)
        return stored.account

    def accept(self, recipient: str = "you@x.example") -> str:
        submission = Submission(self.account, (recipient,), "A subject", "A body")
        return accept(self.service.store, submission, most_bytes=10_000).request_id

    def clock(self) -> int:
        return system_clock() + self._ahead

    def later(self) -> None:
        """Put the clock on to when an account that is set aside is tried again."""
        if self.account.resume_at is not None:
            self._ahead += max(0, self.account.resume_at - self.clock())

    def run_until(self, condition: Callable[[], bool]) -> None:
        async def main() -> None:
            service = self.service
            worker = Worker(service.settings, service.store, service.vault, var=self._var, clock=self.clock)
            running = asyncio.create_task(worker.run())
            try:
                await asyncio.to_thread(eventually, condition, PATIENCE)
            finally:
                worker.stop()
                await running

        asyncio.run(main())

    def is_aside(self, state: AccountState) -> bool:
        return self.account.state is state

    def status(self, request_id: str) -> str:
        return str(self.service.store.read(Messages.status, request_id))

    def are(self, ids: list[str], state: MessageState) -> bool:
        found = [self.service.store.read(Messages.status, request_id) for request_id in ids]
        return all(each is not None and each.state is state for each in found)

    def kinds(self, request_id: str) -> list[str]:
        return [event.kind for event in self.service.store.read(Events.of_message, request_id)]


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Office]]:
    made: list[Office] = []

    def make(server: ScriptedServer, connections: int = 1) -> Office:
        made.append(Office(tmp_path, server, monkeypatch, str(connections)))
        return made[-1]

    yield make
    for each in made:
        each.service.store.close()


@pytest.mark.parametrize(
    ("verb", "reply", "state", "longest"),
    [
        ("DOT", "550 5.7.1 Daily SMTP relay limit exceeded for customer.", AccountState.PARKED, HOUR),
        ("RCPT", "550 5.7.0 hourly sending limit exceeded", AccountState.PARKED, HOUR),
        (
            "DATA",
            "450 4.7.1 sending limit exceeded, try again in 5 minutes",
            AccountState.PARKED,
            300 * SECOND,
        ),
        (
            "MAIL",
            "550 Sender address <me@corp.example> is not owned by you",
            AccountState.PAUSED,
            300 * SECOND,
        ),
        ("DOT", "554 5.7.1 Your account is suspended", AccountState.PAUSED, 300 * SECOND),
    ],
)
def test_all_messages_of_an_account_wait_and_none_is_charged(
    verb: str,
    reply: str,
    state: AccountState,
    longest: int,
    office: Callable[..., Office],
    scripted: StartScripted,
) -> None:
    server = scripted()
    server.on(verb, reply=reply)
    here = office(server)
    ids = [here.accept() for _ in range(5)]
    here.run_until(lambda: here.is_aside(state))
    account = here.account
    assert account.resume_at is not None
    assert account.resume_at - here.clock() <= longest
    assert reply[:30] in (account.state_reason or "")
    assert len(server.acted_at) == 1, "one message has told"
    server.clear()
    here.later()
    here.run_until(lambda: here.are(ids, MessageState.SENT))
    assert here.account.state is AccountState.ACTIVE
    assert sorted(len(here.kinds(each)) for each in ids) == [2, 2, 2, 2, 3]
    assert server.messages[0].data != b""
    drew = next(each for each in ids if "deferred" in here.kinds(each))
    assert drew == ids[0]


def test_another_message_tries_than_the_one_that_drew_the_reply(
    office: Callable[..., Office], scripted: StartScripted
) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.4.5 Daily user sending limit exceeded.", match="<quotes@")
    here = office(server)
    first = here.accept("quotes@x.example")
    others = [here.accept() for _ in range(3)]
    here.run_until(lambda: here.is_aside(AccountState.PARKED))
    assert server.messages == []
    here.later()
    here.run_until(lambda: here.are(others, MessageState.SENT))
    assert here.status(first).startswith("deferred (550 5.4.5 Daily")


def test_what_one_message_alone_draws_again_and_again_is_charged_to_it(
    office: Callable[..., Office], scripted: StartScripted
) -> None:
    """A body that quotes a provider's words must not park an account for ever."""
    server = scripted()
    server.on("RCPT", reply="550 5.4.5 Daily user sending limit exceeded.", match="<quotes@")
    here = office(server)
    poison = here.accept("quotes@x.example")
    for _ in range(2):
        here.run_until(lambda: here.is_aside(AccountState.PARKED))
        other = here.accept()
        here.later()
        here.run_until(lambda other=other: here.are([other], MessageState.SENT))  # type: ignore[misc]
    here.run_until(lambda: here.are([poison], MessageState.FAILED))
    assert here.status(poison).startswith("failed (550 5.4.5 Daily user sending limit exceeded.")
    assert here.account.state is AccountState.ACTIVE
    assert len(server.acted_at) == 3


def test_a_connection_that_has_done_enough_makes_way_for_a_new_one(
    office: Callable[..., Office], scripted: StartScripted
) -> None:
    server = scripted()
    for connection in range(4):
        server.on("MAIL", reply="452 4.5.3 Too many messages per session", skip=5, connection=connection)
    here = office(server)
    ids = [here.accept() for _ in range(20)]
    here.run_until(lambda: here.are(ids, MessageState.SENT))
    assert [len(each.transactions) for each in server.connections] == [5, 5, 5, 5]
    assert here.account.state is AccountState.ACTIVE


@pytest.fixture
def small_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute becomes a fifth of a second."""
    monkeypatch.setattr("postroom.core.pace._FIRST_REST", SECOND // 300)
    monkeypatch.setattr("postroom.core.pace._BURST", SECOND // 50)
    monkeypatch.setattr("postroom.core.pace._FREE", 100)


@pytest.mark.usefixtures("small_times")
def test_a_server_that_admits_so_many_in_a_time_gets_all_and_few_are_refused(
    office: Callable[..., Office],
) -> None:
    with LimitedServer(20, 1.0) as server:
        here = office(server, 10)
        ids = [here.accept() for _ in range(60)]
        here.run_until(lambda: here.are(ids, MessageState.SENT))
        assert len(server.messages) == 60
        assert server.refused <= 60
        kinds = [here.kinds(each) for each in ids]
        assert all(each[0] == "accepted" and each[-1] == "sent" for each in kinds)
        assert sum(each.count("deferred") for each in kinds) == server.refused


@pytest.mark.usefixtures("small_times")
def test_the_pace_holds_over_a_restart_and_is_shown(office: Callable[..., Office]) -> None:
    with LimitedServer(5, 1000.0) as server:
        here = office(server)
        ids = [here.accept() for _ in range(10)]
        here.run_until(lambda: server.refused > 0 and here.account.gap is not None)
        before = here.account.gap
        assert before is not None
        refused = server.refused
        here.run_until(lambda: server.refused > refused)
        assert (here.account.gap or 0) > before
        assert here.account.state is AccountState.PARKED
        assert [here.status(each) for each in ids].count("sent") == 5


def test_a_log_in_that_is_refused_for_its_pace_leaves_the_pace_of_messages(
    office: Callable[..., Office], scripted: StartScripted
) -> None:
    server = scripted(users={"me@corp.example": "secret"})
    server.on("AUTH", reply="454 4.7.0 Too many login attempts, please try again later", times=1)
    here = office(server)
    only = here.accept()
    here.run_until(lambda: here.is_aside(AccountState.PARKED))
    assert here.account.gap is None
    here.later()
    here.run_until(lambda: here.are([only], MessageState.SENT))
