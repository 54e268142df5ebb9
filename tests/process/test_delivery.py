"""A whole installation against a server that misbehaves: what a person sees of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from postroom.core.clock import SECOND, system_clock
from postroom.core.errors import CommitUnknown, StoreError, StoreUnavailable
from postroom.core.message import MessageState, MessageStatus, Submission
from postroom.intake.accept import accept
from postroom.runtime.accounts_file import read_accounts_file
from postroom.runtime.installation import open_service
from postroom.smtp.deliver import deliver
from postroom.store.accounts import Accounts
from postroom.store.attempts import Attempts
from postroom.store.events import Events
from postroom.store.messages import Messages
from postroom.store.queue import Queue
from postroom.store.workers import Workers
from postroom.worker.email_log import EmailLog
from postroom.worker.mail.sender import AccountSender
from postroom.worker.memory import MemoryBudget
from postroom.worker.worker import Worker
from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Drop, Hang, Late, ScriptedServer
from tests.servers.waiting import eventually
from tests.store.database import accepting, new_message


def install(folder: Path, server: ScriptedServer, connections: int = 2, **settings: str) -> Installation:
    rows = [
        "key,email,app_password,host,port,security,connections",
        f"{KEY},me@postroom.example,secret,127.0.0.1,{server.port},none,{connections}",
    ]
    return Installation(folder, rows, **{"POSTROOM_RETRY_SCHEDULE": "300ms", **settings})


def test_a_lost_answer_to_the_dot_is_sent_again_and_says_so(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""), times=1)
    with install(tmp_path, server) as service:
        request_id = service.send()
        service.wait_for(request_id)
        answer = service.client.call("GET", f"/email-status/{request_id}").document
        assert answer == {"request_id": request_id, "status": "sent", "possible_duplicate": True}
        assert len(server.transactions) == 2
        assert server.transactions[0].data == server.transactions[1].data, (
            "a second copy is the same to the byte"
        )
        other = service.send()
        service.wait_for(other)
        answer = service.client.call("GET", f"/email-status/{other}").document
        assert answer == {"request_id": other, "status": "sent"}


def test_a_lost_answer_can_fail_the_mail_instead(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""))
    with install(tmp_path, server, POSTROOM_IN_DOUBT="fail") as service:
        assert "did not say whether it took the message" in service.wait_for(service.send(), "failed")
        assert len(server.transactions) == 1


def test_a_lost_answer_can_hold_the_mail(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""), times=1)
    with install(tmp_path, server, POSTROOM_IN_DOUBT="hold") as service:
        held = service.send()
        service.wait_for(held, "deferred")
        service.wait_for(service.send(), "sent")  # the retry of the first would have come before
        service.wait_for(service.send(), "sent")
        assert service.query("SELECT held FROM job WHERE kind = 'delivery' AND state = 'queued'") == [(1,)]
        assert len(server.transactions) == 3


def test_a_mail_s_own_policy_goes_first_and_a_person_lets_it_go_on(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""), times=1)
    with install(tmp_path, server) as service:
        held = service.send(in_doubt="hold")
        service.wait_for(held, "deferred")
        service.wait_for(service.send(), "sent")
        assert service.query("SELECT held FROM job WHERE kind = 'delivery' AND state = 'queued'") == [(1,)]
        assert "released" in service.command("release", held)
        service.wait_for(held, "sent")
        answer = service.client.call("GET", f"/email-status/{held}").document
        assert answer["possible_duplicate"] is True
        assert len(server.transactions) == 3
        kinds = service.query(
            "SELECT event.kind FROM event JOIN message ON message.id = event.message_id "
            f"WHERE message.request_id = '{held}' ORDER BY event.id"
        )
        assert kinds == [("accepted",), ("in_doubt",), ("released",), ("possible_duplicate",), ("sent",)]


def test_many_mails_use_few_connections_and_logins(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    with install(tmp_path, server, connections=3) as service:
        for request_id in [service.send() for _ in range(60)]:
            service.wait_for(request_id)
    assert len(server.messages) == 60
    assert len(server.connections) <= 3
    assert len(server.logins) <= 3


@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("AUTH", "454 4.7.0 Too many login attempts, please try again later."),
        ("MAIL", "550 5.4.5 Daily user sending limit exceeded."),
        ("DOT", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"),
    ],
)
def test_an_account_at_its_limit_is_parked_and_keeps_its_mail(
    tmp_path: Path, scripted: StartScripted, verb: str, reply: str
) -> None:
    server = scripted()
    server.on(verb, reply=reply)
    with install(tmp_path, server) as service:
        request_id = service.send()
        assert reply[:9] in service.wait_for(request_id, "deferred")
        eventually(lambda: service.query("SELECT state FROM account") == [("parked",)])
        assert service.query("SELECT attempt, state FROM job WHERE kind = 'delivery'") == [(0, "queued")], (
            "it burns no attempt"
        )
        later = service.send()
        assert service.status(later) == "queued"


def test_an_account_sends_no_more_a_day_than_its_limit_and_the_rest_says_when_it_goes(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()

    def rows(limit: int) -> list[str]:
        return [
            "key,email,app_password,host,port,security,daily_limit",
            f"{KEY},me@postroom.example,secret,127.0.0.1,{server.port},none,{limit}",
        ]

    with Installation(tmp_path, rows(3)) as service:

        def waiting(ids: list[str]) -> list[str]:  # not always the last: what was claimed may be put back
            return [request_id for request_id in ids if service.status(request_id) != "sent"]

        ids = [service.send() for _ in range(5)]
        eventually(lambda: len(server.messages) == 3, message="as many as the limit allows")
        eventually(lambda: service.query("SELECT state FROM account") == [("parked",)])
        eventually(lambda: len(waiting(ids)) == 2, message="the three to be recorded")

        def answer_on_the_last() -> dict[str, Any]:
            document = service.client.call("GET", f"/email-status/{waiting(ids)[-1]}").document
            return document if "will_send_at" in document else {}

        # One that is put back makes room for a moment, until the account is parked again.
        answer = eventually(answer_on_the_last, message="the time at which the rest goes")
        assert answer["status"] == "queued"
        wait = datetime.fromisoformat(answer["will_send_at"]) - datetime.now(UTC)
        assert timedelta(hours=23, minutes=50) < wait < timedelta(hours=24, minutes=11)
        assert len(server.messages) == 3
        (tmp_path / "data.csv").write_text("\n".join(rows(5)) + "\n", encoding="utf-8")
        for request_id in ids:
            service.wait_for(request_id)
        assert service.query("SELECT sum(recipients) FROM account_usage") == [(5,)]


def test_what_is_deferred_for_too_long_fails(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply="450 4.2.1 too fast")
    with install(tmp_path, server, POSTROOM_RETRY_FOR="1s") as service:
        status = service.wait_for(service.send(), "failed")
        assert status.startswith("failed (given up after too many tries: 450 4.2.1 too fast")
        eventually(lambda: len(service.log_lines()) == 1)


class InProcess:
    """An installation in `folder` whose worker runs in this process, so that a test can put a fault into it."""

    def __init__(self, folder: Path, rows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        if "POSTROOM_RETRY_SCHEDULE" not in os.environ:
            monkeypatch.setenv("POSTROOM_RETRY_SCHEDULE", "100ms")
        header = "key,email,app_password,host,port,security"
        (folder / "data.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        self._var = folder / "var"
        self.service = open_service(migrate=True)
        read_accounts_file(self.service)

    def accept(self, *recipients: str, account: int = 0, body: str = "A body") -> str:
        sender = self.service.store.read(Accounts.all)[account].account
        submission = Submission(sender, recipients, "A subject", body)
        return accept(self.service.store, submission, most_bytes=10_000).request_id

    def run_until(self, condition: Callable[[], bool]) -> None:
        async def main() -> None:
            worker = Worker(self.service.settings, self.service.store, self.service.vault, var=self._var)
            running = asyncio.create_task(worker.run())
            try:
                await asyncio.to_thread(eventually, condition)
            finally:
                worker.stop()
                await running

        asyncio.run(main())

    def status(self, request_id: str) -> MessageStatus:
        found = self.service.store.read(Messages.status, request_id)
        assert found is not None
        return found

    def is_sent(self, request_id: str) -> bool:
        return self.status(request_id).state is MessageState.SENT

    def are_sent(self, ids: Iterable[str]) -> bool:
        return all(self.is_sent(request_id) for request_id in ids)

    def send_a_mail(self) -> None:
        """Have a first mail sent: the account has worked."""
        first = self.accept("you@x.example")
        self.run_until(lambda: self.is_sent(first))


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., InProcess]]:
    """Make an installation with one account for each server given."""
    made: list[InProcess] = []

    def make(*servers: ScriptedServer) -> InProcess:
        rows = [
            f"key-{number},me{number}@x.example,secret,127.0.0.1,{server.port},none"
            for number, server in enumerate(servers)
        ]
        made.append(InProcess(tmp_path, rows, monkeypatch))
        return made[-1]

    yield make
    for installation in made:
        installation.service.store.close()


def test_a_surprise_of_our_own_costs_one_attempt_and_no_mail(
    in_process: Callable[..., InProcess],
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = scripted()
    installation = in_process(server)
    request_id = installation.accept("you@x.example")
    surprises = [RuntimeError("a bug")]

    async def surprising(*arguments: Any) -> Any:
        if surprises:
            raise surprises.pop()
        return await deliver(*arguments)

    monkeypatch.setattr("postroom.worker.mail.sender.deliver", surprising)
    installation.run_until(lambda: installation.is_sent(request_id))
    kinds = [event.kind for event in installation.service.store.read(Events.of_message, request_id)]
    assert kinds == ["accepted", "deferred", "sent"]
    assert "a fault in Postroom" in capsys.readouterr().err
    assert len(server.messages) == 1


@pytest.mark.parametrize("verb", ["GREETING", "MAIL", "DATA"])
def test_a_stop_while_the_server_hangs_before_the_dot_costs_the_mail_nothing(
    verb: str, in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.worker.worker._DRAIN_S", 0.1)
    server = scripted()
    server.on(verb, do=Hang(), times=3)
    installation = in_process(server)
    request_id = installation.accept("you@x.example")
    for number in range(1, 4):

        def hangs(number: int = number) -> bool:
            return number == (len(server.connections) if verb == "GREETING" else server.verbs.count(verb))

        installation.run_until(hangs)
        events = installation.service.store.read(Events.of_message, request_id)
        assert [event.kind for event in events] == ["accepted"]
        assert str(installation.status(request_id)) == "queued"
    installation.run_until(lambda: installation.is_sent(request_id))
    assert len(server.messages) == 1


def test_a_stop_waits_for_the_answer_to_a_dot_that_is_out(
    in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.worker.worker._DRAIN_S", 0.1)
    late, hanging = scripted(), scripted()
    late.on("DOT", do=Late(1.5), times=1)
    hanging.on("MAIL", do=Hang(), times=1)
    installation = in_process(late, hanging)
    ids = [installation.accept("you@x.example", account=account) for account in (0, 1)]
    installation.run_until(lambda: bool(late.transactions) and "MAIL" in hanging.verbs)
    assert installation.is_sent(ids[0]), "its dot was out"
    assert str(installation.status(ids[1])) == "queued", "its dot was not"
    kinds = [
        [event.kind for event in installation.service.store.read(Events.of_message, each)] for each in ids
    ]
    assert kinds == [["accepted", "sent"], ["accepted"]]
    assert len(late.transactions) == 1


@pytest.mark.parametrize("accounts", [1, 4])
def test_what_is_in_hand_is_bounded_over_all_accounts(
    accounts: int,
    in_process: Callable[..., InProcess],
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postroom.worker.memory.MOST_IN_HAND", 10 * 8000)
    monkeypatch.setattr("postroom.worker.memory._FOR_SMALL", accounts * 8000)
    monkeypatch.setattr("postroom.worker.memory._SMALL", 8000)
    monkeypatch.setattr("postroom.worker.memory._MOST_A_CLAIM", 5 * 8000)
    monkeypatch.setattr("postroom.worker.worker._DRAIN_S", 0.1)
    server = scripted()
    server.on("MAIL", do=Late(0.5))
    installation = in_process(*[server] * accounts)
    ids = [
        installation.accept("you@x.example", account=number % accounts, body="x" * 7000)
        for number in range(48)
    ]
    claims: list[int] = []
    claim = Queue.claim

    @wraps(claim)
    def counting(self: Queue, **rest: Any) -> Any:
        jobs = claim(self, **rest)
        connection: Any = self._tx.connection
        claims.append(
            connection.execute(
                "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'claimed'"
            ).fetchone()[0]
        )
        return jobs

    monkeypatch.setattr(Queue, "claim", counting)
    installation.run_until(lambda: all(map(installation.is_sent, ids)))
    assert max(claims) <= 10 + accounts, "an idle account takes a small one in beyond it"


def test_large_messages_wait_for_memory_that_all_accounts_share(
    in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every account is idle, and each message is larger than any account's share."""
    monkeypatch.setattr("postroom.worker.memory.MOST_IN_HAND", 3 * 8000)
    monkeypatch.setattr("postroom.worker.memory._FOR_SMALL", 0)
    monkeypatch.setattr("postroom.worker.memory.MemoryBudget.__init__", _for_messages_of_8000_bytes)
    server = scripted()
    server.on("MAIL", do=Late(0.1))
    installation = in_process(*[server] * 6)
    ids = [installation.accept("you@x.example", account=number % 6, body="x" * 7000) for number in range(12)]
    in_hand: list[int] = []
    feed = AccountSender.feed

    def watching(self: AccountSender, jobs: list[Any]) -> None:
        feed(self, jobs)
        in_hand.append(self._context.bytes_in_hand)

    monkeypatch.setattr(AccountSender, "feed", watching)
    installation.run_until(lambda: all(map(installation.is_sent, ids)))
    assert max(in_hand) <= 3 * 8000


def _for_messages_of_8000_bytes(self: MemoryBudget, largest: int) -> None:
    self._largest = 8000
    self._passed_over, self._permitted = {}, set()


def test_a_result_that_cannot_be_recorded_ends_the_worker_and_leaves_the_mail_in_doubt(
    in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = in_process(scripted())
    request_id = installation.accept("you@x.example")
    finish, faults = Attempts.finish, [StoreError("a constraint is violated")]

    @wraps(finish)
    def faulty(self: Attempts, *arguments: Any, **rest: Any) -> Any:
        if faults:
            raise faults.pop()
        return finish(self, *arguments, **rest)

    monkeypatch.setattr(Attempts, "finish", faulty)
    with pytest.raises(CommitUnknown):
        installation.run_until(lambda: not faults and not installation.service.store.read(Workers.living))
    assert installation.status(request_id).state is MessageState.DEFERRED
    installation.run_until(lambda: installation.is_sent(request_id))
    assert installation.status(request_id).possible_duplicate


def test_a_line_that_another_process_kept_from_the_log_is_written_when_it_is_done(
    in_process: Callable[..., InProcess], scripted: StartScripted, tmp_path: Path
) -> None:
    installation = in_process(scripted())
    lines = tmp_path / "email_log.txt"
    lock = (tmp_path / "var/email_log.lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    request_id = installation.accept("you@x.example")
    looks: list[int | None] = []
    project = EmailLog.project

    def looking(self: EmailLog) -> int | None:
        looks.append(project(self))
        return looks[-1]

    def written() -> bool:
        if not lock.closed and installation.is_sent(request_id) and len(looks) > 3:
            lock.close()
        return lines.exists() and request_id in lines.read_text(encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmailLog, "project", looking)
        installation.run_until(written)
    assert None in looks


def test_a_claim_that_fails_takes_no_other_accounts_claim_with_it(
    in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are claimed in one commit; what the second got must reach its lane, or nobody would ever send it."""
    installation = in_process(scripted(), scripted())
    ids = [installation.accept("you@x.example", account=account) for account in (0, 1)]
    claim, faults = Queue.claim, [StoreUnavailable("for a moment")]

    @wraps(claim)
    def faulty(self: Queue, *, account_id: int, **rest: Any) -> Any:
        if account_id == 1 and faults:
            raise faults.pop()
        return claim(self, account_id=account_id, **rest)

    monkeypatch.setattr(Queue, "claim", faulty)
    installation.run_until(lambda: installation.are_sent(ids))
    assert not faults


def test_an_account_at_fault_keeps_its_mail_for_every_recipient(
    in_process: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    installation = in_process(server)
    installation.send_a_mail()
    server.on("MAIL", reply="530 5.7.0 Authentication required")
    both = installation.accept("you@x.example", "other@x.example")
    installation.run_until(
        lambda: installation.status(both).state not in (MessageState.QUEUED, MessageState.SENDING)
    )
    assert installation.status(both).state is MessageState.DEFERRED
    kinds = [event.kind for event in installation.service.store.read(Events.of_message, both)]
    assert kinds == ["accepted", "deferred", "deferred"], "the account has worked: nobody's mail is given up"


@pytest.mark.parametrize("reply", ["452 4.5.3 Error: too many recipients", "552 Too many recipients"])
def test_recipients_that_were_too_many_for_one_transaction_go_in_the_next_at_once(
    in_process: Callable[..., InProcess],
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    reply: str,
) -> None:
    monkeypatch.setenv("POSTROOM_RETRY_SCHEDULE", "1h")
    server = scripted()
    server.on("RCPT", reply=reply, skip=2, times=3)
    server.on("RCPT", reply=reply, skip=4, times=1)  # the first two count here too
    installation = in_process(server)
    people = [f"you{number}@x.example" for number in range(5)]
    request_id = installation.accept(*people)
    installation.run_until(lambda: installation.is_sent(request_id))
    assert [transaction.forward_paths for transaction in server.transactions] == [
        people[:2], people[2:4], people[4:]
    ]  # fmt: skip
    assert not installation.status(request_id).possible_duplicate


def test_a_full_mailbox_waits_for_its_next_try(
    in_process: Callable[..., InProcess], scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTROOM_RETRY_SCHEDULE", "1h")
    server = scripted()
    server.on("RCPT", reply="452 4.2.2 The mailbox is full", match="full@")
    installation = in_process(server)
    request_id = installation.accept("you@x.example", "full@x.example")
    installation.run_until(lambda: installation.status(request_id).state is MessageState.DEFERRED)
    status = installation.status(request_id)
    assert status.will_send_at is not None
    assert status.will_send_at > time.time() * SECOND
    assert len(server.transactions) == 1


def test_the_inbox_may_be_the_configured_server(tmp_path: Path) -> None:
    rows = ["key,email,app_password", f"{KEY},me@postroom.example,abcd efgh ijkl mnop"]
    with Installation(tmp_path, rows, POSTROOM_SMTP_HOST="inbox") as service:
        service.wait_for(service.send())


def test_what_is_over_is_pruned(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server = scripted()
    rows = [
        "key,email,app_password,host,port,security",
        f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none",
    ]
    settings = {"POSTROOM_KEEP_BODIES": "100ms", "POSTROOM_KEEP_HISTORY": "10m", **database_settings}
    with Installation(tmp_path, rows, **settings) as service:
        request_id = service.send()
        service.wait_for(request_id)
        service.stop()
        service.start()  # a worker prunes when it starts, and then every minute
        eventually(lambda: service.query("SELECT count(*) FROM content") == [(0,)])
        assert service.status(request_id) == "sent"
        service.stop()
    settings["POSTROOM_KEEP_HISTORY"] = "100ms"
    with Installation(tmp_path, rows, **settings) as service:
        eventually(lambda: service.query("SELECT count(*) FROM message") == [(0,)])
        assert service.client.call("GET", f"/email-status/{request_id}").status == 404


def test_the_time_for_retries_of_a_scheduled_message_begins_when_it_may_go(
    in_process: Callable[..., InProcess], scripted: StartScripted
) -> None:
    """Both were accepted five days ago; one was not to go before now."""
    server = scripted()
    server.on("RCPT", "451 4.3.0 later")
    installation = in_process(server)
    store, [stored] = installation.service.store, installation.service.store.read(Accounts.all)
    now = system_clock()
    old, scheduled = (
        new_message(stored.account.id, at=now - 5 * 86_400 * SECOND, not_before=not_before)
        for not_before in (None, now)
    )
    store.write_all([accepting(old), accepting(scheduled)])

    def is_tried_more_often() -> bool:
        tries = sum(event.kind == "deferred" for event in store.read(Events.of_message, scheduled.request_id))
        return installation.status(old.request_id).state is MessageState.FAILED and tries > 5

    installation.run_until(is_tried_more_often)
    assert installation.status(scheduled.request_id).state is MessageState.DEFERRED
