"""What the log tells the operator: each finished message, and each account that stops, never works, or works again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postroom.core.account import AccountState
from postroom.core.message import MessageState
from postroom.runtime.accounts_file import read_accounts_file
from postroom.store.accounts import Accounts
from tests.conftest import StartScripted
from tests.process.test_delivery import InProcess
from tests.servers.scripted import Drop, ScriptedServer

REFUSED = "535 5.7.8 Username and Password not accepted"


class Log:
    """The lines that the service has written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def lines(self, *parts: str) -> list[str]:
        self._text += self._capsys.readouterr().err
        return [line for line in self._text.splitlines() if all(part in line for part in parts)]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., InProcess]]:
    made: list[InProcess] = []

    def make(port: int, host: str = "127.0.0.1", security: str = "none") -> InProcess:
        row = f"key,me@x.example,secret,{host},{port},{security}"
        made.append(InProcess(tmp_path, [row], monkeypatch))
        return made[-1]

    yield make
    for installation in made:
        installation.service.store.close()


def _change_password(installation: InProcess) -> None:
    path = installation.service.settings.accounts_csv
    path.write_text(path.read_text().replace("secret", "another"))
    read_accounts_file(installation.service)


def _sent(installation: InProcess) -> Callable[[], bool]:
    request_id = installation.accept("you@x.example")
    return lambda: installation.is_sent(request_id)


def test_each_finished_message_has_one_line(
    install: Callable[..., InProcess], scripted: StartScripted, log: Log
) -> None:
    server = scripted()
    server.on("RCPT", reply="450 4.2.1 later", times=1)
    server.on("DOT", reply="250 2.0.0 OK queued as 4711")
    installation = install(server.port)
    deferred_once = installation.accept("you@x.example")
    installation.run_until(lambda: installation.is_sent(deferred_once))
    server.on("RCPT", reply="550 5.1.1 no such \x1b[31muser")
    failed = installation.accept("nobody@x.example")
    installation.run_until(lambda: installation.status(failed).state is MessageState.FAILED)
    (line,) = log.lines(deferred_once)
    assert line.endswith(
        f" INFO postroom.messages: {deferred_once} sent: from me@x.example to you@x.example, try 2: "
        "250 2.0.0 OK queued as 4711"
    )
    (line,) = log.lines(failed)
    assert f"{failed} failed: from me@x.example to nobody@x.example, try 1: 550 5.1.1 no such \\x1b" in line


def test_the_lines_of_one_commit_are_written_together(
    install: Callable[..., InProcess],
    scripted: StartScripted,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "postroom.telemetry.finished_messages.log.info", lambda form, text: written.append(form % text)
    )
    installation = install(scripted().port)
    installation.send_a_mail()
    written.clear()
    ids = [installation.accept("you@x.example") for _ in range(100)]
    installation.run_until(lambda: installation.are_sent(ids))
    lines = [line for text in written for line in text.split("\n")]
    assert sorted(line.split()[0] for line in lines) == sorted(ids)


def test_an_account_that_never_worked_is_named_once_and_then_that_it_works(
    install: Callable[..., InProcess], scripted: StartScripted, log: Log
) -> None:
    server = scripted()
    server.on("AUTH", reply=REFUSED)
    installation = install(server.port)
    ids = [installation.accept("you@x.example") for _ in range(3)]
    later: list[str] = []

    def works_at_last() -> bool:
        if not later and all(installation.status(id_).state is MessageState.FAILED for id_ in ids):
            assert not log.lines("works now")
            server.clear()
            _change_password(installation)
            later.extend(installation.accept("you@x.example") for _ in range(2))
        return bool(later) and installation.are_sent(later)

    installation.run_until(works_at_last)
    (line,) = log.lines("WARNING", "account me@x.example has never worked")
    assert REFUSED in line
    assert "app password" in line, "the log names the fix"
    assert len(log.lines("WARNING", "account me@x.example works now")) == 1


def test_an_account_that_stops_and_works_again_is_named_at_each_turn(
    install: Callable[..., InProcess], scripted: StartScripted, log: Log
) -> None:
    server = scripted()
    installation = install(server.port)
    installation.send_a_mail()
    assert not log.lines("WARNING", "me@x.example")
    server.on("AUTH", reply=REFUSED)
    is_mended = False
    waiting = installation.accept("you@x.example")

    def recovers() -> bool:
        nonlocal is_mended
        (stored,) = installation.service.store.read(Accounts.all)
        is_said = log.lines("WARNING", "account me@x.example is paused", REFUSED)
        # The line comes before the commit: a password that is changed between the two resumes nothing.
        if not is_mended and is_said and stored.account.state is AccountState.PAUSED:
            is_mended = True
            server.clear()
            _change_password(installation)
        return installation.is_sent(waiting)

    installation.run_until(recovers)
    assert len(log.lines("WARNING", "account me@x.example works now")) == 1


@pytest.mark.parametrize("has_worked", [False, True])
def test_a_server_that_cannot_be_reached_is_named_once(
    has_worked: bool, install: Callable[..., InProcess], scripted: StartScripted, log: Log
) -> None:
    server: ScriptedServer = scripted()
    installation = install(server.port)
    if has_worked:
        installation.send_a_mail()
    server.on("GREETING", do=Drop(""), times=3)
    installation.run_until(_sent(installation))
    lines = log.lines("WARNING", "account me@x.example")
    what = "cannot send" if has_worked else "has never worked"
    assert [re.sub(r".*account", "account", line) for line in lines] == [
        f"account me@x.example {what}: the server closed the connection (during greeting)",
        "account me@x.example works now",
    ]
