"""One run in which a password breaks, a server hangs, a limit is reached, workers die and a disk fills up.

Each is told once, and its end too; its alert fires on a real Prometheus; one screen explains a message that it concerns
(kept in the test's folder); each line of the log has its format's fields; and no line, notice or metric has a secret.

`POSTROOM_SOAK=1` waits for the notices, leases and ages that the settings have by themselves, and has workers keep dying.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.process.test_canaries import codings
from tests.process.test_disk import MIB, fill, small_disk
from tests.process.test_json_logs import WHY_IT_ENDED
from tests.process.test_notices import SOON, kill_the_worker
from tests.servers import intakes
from tests.servers.installation import Installation, descendants, kill
from tests.servers.netns import INSIDE, among_hosts
from tests.servers.postfix import Postfix
from tests.servers.programs import free_port
from tests.servers.prometheus import Prometheus
from tests.servers.receiver import Receiver
from tests.servers.waiting import eventually
from tests.unit import datadog, ecs

pytestmark = pytest.mark.postfix

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
KEPT = "TESTS_KEEP_SCREENS_IN"
CANARY = "canary-of-the-run"
PASSWORD = f"{CANARY}-password"
ALICE, BOB, CAROL = (f"{name}@postroom.example" for name in ("alice", "bob", "carol"))
LIMIT = 10
RESERVE = 8 * MIB
MINUTE = 60_000_000
SCREEN = 24  # lines, of so many columns
COLUMNS = 100
# A window that is over soon: what is told once is so since it was told, and not since the window lasts.
SETTINGS = (
    {"POSTROOM_NOTIFY_WINDOW": "60s"}
    if SOAK
    else {**SOON, "POSTROOM_NOTIFY_AWAY": "2s", "POSTROOM_NOTIFY_WINDOW": "1s"}
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that outlives the namespaces."""
    if os.environ.get(INSIDE):
        return Path(os.environ[KEPT])
    monkeypatch.setenv(KEPT, str(tmp_path))
    return tmp_path


@dataclass(slots=True)
class Fault:
    """Something that is broken: the kind of its notice, words of it, and when it began."""

    kind: str
    about: str
    begun: datetime
    notice_id: str = ""


def decided_at(notice: dict[str, Any]) -> datetime:
    """Return when a notice was made: its id is a UUID of version 7, which begins with the time."""
    return datetime.fromtimestamp(int(notice["notice_id"].replace("-", "")[:12], 16) / 1000, tz=UTC)


@dataclass(slots=True)
class Run:
    """The service, what it talks to, and what was found."""

    service: Installation
    provider: Postfix
    other: Postfix
    receiver: Receiver
    prometheus: Prometheus
    intake: intakes.Datadog
    metrics_port: int
    kept: Path
    scraped: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def send(self, name: str) -> str:
        text = {"subject": f"{CANARY} subject", "body": f"{CANARY} body", "key": key_of(name)}
        return self.service.send(**text)

    def begins(self, kind: str, about: str) -> Fault:
        """Note that a fault begins; what was told before, of a machine that is slow, is not it."""
        now = datetime.now(tz=UTC)
        fault = Fault(kind, about, now.replace(microsecond=now.microsecond // 1000 * 1000))
        self.faults.append(fault)
        return fault

    def alerts(self, fault: Fault) -> list[dict[str, Any]]:
        return [
            each
            for each in self.receiver.documents(fault.kind, "alert")
            if fault.about in each["message"] and datetime.fromisoformat(each["since"]) >= fault.begun
        ]

    def told(self, fault: Fault) -> None:
        """Wait for the notice of a fault."""
        notice = eventually(lambda: self.alerts(fault), 60, f"the notice of {fault.about}")[0]
        fault.notice_id = notice["notice_id"]
        took = (decided_at(notice) - fault.begun).total_seconds()
        print(f"{fault.kind}: {notice['title']!r}, {took:.1f} s after the fault")

    def fires(self, alert: str) -> None:
        eventually(lambda: alert in self.prometheus.firing(), 90, f"{alert} to fire")
        print(f"{alert} fires")
        self.scrape()

    def recoveries(self, fault: Fault) -> list[dict[str, Any]]:
        """Return the notices that name the one of the fault as what is over."""
        return [
            each
            for each in self.receiver.documents(fault.kind, "recovery")
            if fault.notice_id in each["message"]
        ]

    def over(self, *faults: Fault) -> None:
        for fault in faults:
            notice = eventually(lambda fault=fault: self.recoveries(fault), 60, f"the end of {fault.kind}")[0]  # type: ignore[misc]
            print(f"{fault.kind}: {notice['title']!r}")

    def scrape(self) -> None:
        def answered() -> bool:
            url = f"http://127.0.0.1:{self.metrics_port}/metrics"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
                self.scraped.append(answer.read().decode())
                return True
            return False

        eventually(answered, 20, "a scrape")  # the port goes from one process to another

    def explains(self, name: str, request_id: str, *words: str) -> None:
        """Keep what `postroom status` shows of a message, once it has these words; it fits one screen."""
        screen = ""

        def has_all() -> bool:
            nonlocal screen
            screen = self.service.run("status", request_id).stdout
            return all(word in screen for word in words)

        try:
            eventually(has_all, 20, f"the screen of {name}")
        except AssertionError as error:
            raise AssertionError(f"not all of {words} in:\n{screen}") from error
        file = self.kept / f"status-{name}.txt"
        file.write_text(screen, encoding="utf-8")
        print(f"{file}:\n{screen}")
        assert sum(-(-len(line) // COLUMNS) for line in screen.splitlines()) <= SCREEN, screen
        assert CANARY not in screen.replace(f"{CANARY} subject", "")


def key_of(mailbox: str) -> str:
    return f"{CANARY}-key-{mailbox.partition('@')[0]}-0123456789"


@pytest.fixture
def run(tmp_path: Path, kept: Path, ca: trustme.CA) -> Iterator[Run | None]:
    if not os.environ.get(INSIDE):
        yield None
        return
    users = dict.fromkeys((ALICE, BOB, CAROL), PASSWORD)
    port = free_port()
    with contextlib.ExitStack() as stack:
        provider, other = (stack.enter_context(Postfix(ca, users)) for _ in range(2))
        receiver, intake = stack.enter_context(Receiver()), stack.enter_context(intakes.Datadog())
        disk = stack.enter_context(small_disk(tmp_path / "disk", 128))
        servers = {ALICE: (provider, ""), BOB: (other, ""), CAROL: (provider, str(LIMIT))}
        rows = [
            f"{key_of(name)},{name},{PASSWORD},{server.host},{server.port},starttls,{limit}"
            for name, (server, limit) in servers.items()
        ]
        settings = {
            **SETTINGS,
            "POSTROOM_NOTIFY": receiver.url,
            "POSTROOM_DISK_RESERVE": str(RESERVE),
            "POSTROOM_METRICS_PORT": str(port),
            "POSTROOM_LOG_FORMAT": "ecs",
            "POSTROOM_ACCESS_LOG": "true",
            "POSTROOM_LOG_SHIP": intake.url,
            "DD_API_KEY": intakes.KEY,
            "POSTROOM_SMTP_CA_FILE": str(provider.ca_file),
        }
        header = "key,email,app_password,host,port,security,daily_limit"
        installation = Installation(disk / "service", [header, *rows], **settings)
        log = kept / "lines"
        log.touch()
        (installation.folder / "serve.log").symlink_to(log)  # what collects the log has a disk of its own
        service = stack.enter_context(installation)
        prometheus = stack.enter_context(Prometheus([f"127.0.0.1:{port}"]))
        yield Run(service, provider, other, receiver, prometheus, intake, port, kept)


@among_hosts
@pytest.mark.timeout(1800 if SOAK else 300)
def test_each_fault_is_told_shown_explained_and_its_end_told(run: Run) -> None:
    service = run.service
    service.command("accounts", "import", "data.csv")
    for name in (ALICE, BOB, CAROL):
        service.wait_for(run.send(name))
    eventually(lambda: run.prometheus.query("postroom_messages_ended_total == 3"), 30, "a scrape")
    eventually(lambda: run.prometheus.firing() == set(), 30, "no alert to fire")
    accounts_in_trouble(run)
    no_worker(run)
    if SOAK:
        dying_workers(run)
    full_disk(run)
    eventually(lambda: run.prometheus.firing() == set(), 60, "the alerts to end")
    run.scrape()
    service.stop()
    for fault in run.faults:
        assert (len(run.alerts(fault)), len(run.recoveries(fault))) == (1, 1), fault
    check_lines(run)


def accounts_in_trouble(run: Run) -> None:
    """A password is changed at the provider, another server falls silent, and a third account reaches its limit."""
    service, provider = run.service, run.provider
    password, silence, limit = (
        run.begins(kind, about) for kind, about in (("paused", ALICE), ("stuck", BOB), ("limit", CAROL))
    )
    provider.take_password_away(ALICE, "another password")
    refused = run.send(ALICE)
    with frozen(run.other):
        silent = [run.send(BOB) for _ in range(3)]
        limited = [run.send(CAROL) for _ in range(LIMIT)]
        for fault in password, limit, silence:
            run.told(fault)
        if not SOAK:  # what five minutes would do
            service.change(f"UPDATE job SET due_at = due_at - {10 * MINUTE} WHERE finished_at IS NULL")
        for alert in "PostroomAccountPaused", "PostroomLimitNearlyUsed", "PostroomQueueStuck":
            run.fires(alert)
        run.explains("password", refused, "AUTH", "535 5.7.8", "paused")
        run.explains("silence", silent[-1], "waits for its server: a worker has had it in hand since")
        run.explains("limit", limited[-1], f"limit of {LIMIT} recipients")
    provider.set_password(ALICE, PASSWORD)
    service.command("accounts", "resume", ALICE)
    service.command("accounts", "set", CAROL, "--daily-limit", "1000")
    for request_id in (refused, *silent, *limited):
        service.wait_for(request_id, timeout=60)
    run.over(password, silence, limit)


@contextlib.contextmanager
def frozen(server: Postfix) -> Iterator[None]:
    """Have every process of a server stand still: the kernel takes connections, and nothing answers."""
    os.kill(server.pid, signal.SIGSTOP)  # it starts no more
    pids = [server.pid, *descendants(server.pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def no_worker(run: Run) -> None:
    """The worker is killed, and the supervisor stands still, so that it starts no other one."""
    service = run.service
    [worker] = service.pids("postroom", "worker")
    fault = run.begins("worker", "no worker runs")
    os.kill(service.pid, signal.SIGSTOP)
    try:
        kill(worker)
        waiting = run.send(ALICE)
        if not SOAK:  # what half a minute without a renewal would do
            service.change(f"UPDATE worker SET lease_until = lease_until - {MINUTE} WHERE gone_at IS NULL")
        run.told(fault)
        run.fires("PostroomNoWorkerAlive")
        run.explains("worker", waiting, "no worker runs", "postroom serve")
    finally:
        os.kill(service.pid, signal.SIGCONT)
    service.wait_for(waiting, timeout=60)
    run.over(fault)


def dying_workers(run: Run) -> None:
    fault = run.begins("worker", "workers keep dying")
    for _ in range(3):
        kill_the_worker(run.service)
    run.told(fault)
    run.over(fault)


def full_disk(run: Run) -> None:
    """What was accepted waits, since what becomes of it could not be stored."""
    service, disk = run.service, run.service.folder.parent
    run.provider.kill()
    waiting = run.send(ALICE)
    service.wait_for(waiting, "deferred")
    fault = run.begins("disk", "free where the database is")
    with contextlib.suppress(OSError):  # the service itself may take the last of it
        fill(disk, 0)
    run.provider.start()
    run.told(fault)
    run.fires("PostroomDiskNearlyFull")
    eventually(lambda: service.post(key=key_of(ALICE)).status == 503, 20, "a refusal")
    run.explains("disk", waiting, "0 MiB are free where the database is", "and none is sent; make room there")
    (disk / "ballast").unlink()
    service.wait_for(waiting, timeout=60)
    run.over(fault)


def check_lines(run: Run) -> None:
    """Each line has the fields of its format; and no secret is in any line, notice or metric."""
    said = [line for line in run.service.log().splitlines() if not line.startswith(WHY_IT_ENDED)]
    written = [json.loads(line) for line in said]
    shipped = run.intake.documents()
    assert not [(fault, line) for line in written for fault in ecs.faults(line)]
    assert not [(fault, line) for line in shipped for fault in datadog.faults(line)]
    for action in ("accepted", "deferred", "sent"):
        assert any(each["event"].get("action") == action for each in written), action
        assert any(each["event"].get("action") == action for each in shipped), action
    print(f"{len(written)} lines of ECS and {len(shipped)} of Datadog, none with a fault")
    for place, text in {
        "a line": run.service.log(),
        "a shipped line": repr(shipped),
        "a notice": repr(run.receiver.documents()),
        "a metric": "".join(run.scraped),
    }.items():
        assert text
        assert not [each for each in codings(CANARY) if each in text.encode()], place
