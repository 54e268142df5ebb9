"""Word to the admins, end to end: real processes, a real receiver of notices, and something that breaks and is put right."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from bench.load import run_load
from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation, account_rows, kill
from tests.servers.postgres import Postgres
from tests.servers.receiver import Receiver
from tests.servers.scripted import Hang
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

REFUSED = "535 5.7.8 Username and Password not accepted"
HEADER = "key,email,app_password,host,port,security"
SOON = {
    "POSTROOM_NOTIFY_GATHER": "200ms",
    "POSTROOM_NOTIFY_WINDOW": "30s",
    "POSTROOM_NOTIFY_AWAY": "1s",
    "POSTROOM_NOTIFY_STUCK": "2s",
    "POSTROOM_RETRY_SCHEDULE": "200ms",
}


def installation(folder: Path, rows: list[str], *ways: str, **settings: str) -> Installation:
    return Installation(folder, rows, **{**SOON, "POSTROOM_NOTIFY": " ".join(ways), **settings})


def notifiers(service: Installation) -> list[int]:
    """Return the processes that tell the admins; one that was forked has no room for all of its name."""
    return service.pids("postroom", "notify", "run") or service.pids("postroom", "notify")


def alive(service: Installation) -> list[int]:
    """Return the workers that nobody has found dead, by their process ids."""
    return [pid for (pid,) in service.query("SELECT pid FROM worker WHERE gone_at IS NULL")]


def kill_the_worker(service: Installation) -> None:
    """Kill the worker, and wait until the one that is started in its place has found it dead."""
    [pid] = eventually(lambda: pids if len(pids := alive(service)) == 1 else [], 20, "one worker")
    kill(pid)
    eventually(lambda: pid not in alive(service), 20, "its death to be seen")


def kill_the_notifier(service: Installation) -> bool:
    return any(kill(pid) for pid in notifiers(service))


def test_a_password_that_breaks_is_told_once_with_its_fix_and_so_is_its_end(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    rows = [HEADER, f"{KEY},me@postroom.example,secret,127.0.0.1,{server.port},none"]
    own = "mailto:ops@postroom.example?account=me@postroom.example"
    with Receiver() as receiver, installation(tmp_path, rows, receiver.url, own) as service:
        service.wait_for(service.send())
        server.on("AUTH", reply=REFUSED, times=None)
        server.on("MAIL", reply="421 4.7.0 Log in again", times=1)
        waiting = service.send()
        told = receiver.wait_for("paused", "alert")
        assert told["title"] == "Postroom: account me@postroom.example is paused"
        assert told["type"] == "warning"
        assert "postroom accounts resume me@postroom.example" in told["message"]
        assert REFUSED in told["message"]
        assert f"Notice {told['notice_id']} (paused, alert)" in told["message"]
        server.clear()
        service.command("accounts", "resume", "me@postroom.example")
        service.wait_for(waiting)
        over = receiver.wait_for("paused", "recovery")
        assert over["type"] == "success"
        assert told["notice_id"] in over["message"]
        # The account that broke told nothing of that by itself, and told of its end.
        eventually(lambda: len(server.messages) == 3, message="the message that tells of the end")
        assert len(receiver.documents("paused")) == 2


def test_a_server_that_is_gone_is_told_though_all_is_due_later(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    with (
        Receiver() as receiver,
        installation(tmp_path, rows, receiver.url, POSTROOM_RETRY_SCHEDULE="1h") as service,
    ):
        service.wait_for(service.send())
        server.stop()
        service.wait_for(service.send(), "deferred")
        told = receiver.wait_for("stuck", "alert")
        assert "cannot connect" in told["message"]
        server.start()
        service.wait_for(service.send())
        receiver.wait_for("stuck", "recovery")
        assert [each["event"] for each in receiver.documents("stuck")] == ["alert", "recovery"]


def test_a_server_that_says_nothing_is_told(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    with Receiver() as receiver, installation(tmp_path, rows, receiver.url) as service:
        service.wait_for(service.send())
        server.on("MAIL", do=Hang(), times=None)
        sent = [service.send() for _ in range(50)]
        told = receiver.wait_for("stuck", "alert")
        assert told["title"] == "Postroom: messages of me@postroom.example are due and are not sent"
        server.clear()
        server.stop()  # what hangs ends
        server.start()
        for each in sent:
            service.wait_for(each)
        receiver.wait_for("stuck", "recovery")
        assert [each["event"] for each in receiver.documents("stuck")] == ["alert", "recovery"]


def test_many_failures_are_one_notice(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server = scripted()
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    slow = {"POSTROOM_NOTIFY_GATHER": "2s", "POSTROOM_NOTIFY_KINDS": "failed", **database_settings}
    with Receiver() as receiver, installation(tmp_path, rows, receiver.url, **slow) as service:
        service.wait_for(service.send())
        server.on("RCPT", reply="550 5.1.1 No such user", times=None)
        for number in range(200):
            service.send(recipient=f"nobody{number}@postroom.example")
        told = receiver.wait_for("failed", "alert", 60)
        assert told["count"] == "200"
        assert told["message"].count("\n- ") == 3
        assert re.search(r"The likely cause in common \(.+\): 550 5\.1\.1 No such user", told["message"])
        assert len(receiver.documents()) == 1


def test_thousands_of_failures_are_one_notice_a_window_with_right_counts_whichever_notifier_is_killed(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    count, parts, window_s = 2000, 4, 1
    soon = {"POSTROOM_NOTIFY_WINDOW": f"{window_s}s", "POSTROOM_NOTIFY_KINDS": "failed, share"}
    with Sink(refuse=True) as sink, Receiver() as receiver:
        rows = [HEADER, f"{KEY},me@postroom.example,secret,127.0.0.1,{sink.port},none"]
        with installation(tmp_path, rows, receiver.url, **soon, **database_settings) as service:
            looked = "SELECT * FROM notice_memory WHERE memory NOT LIKE '%\"failed\": null%'"
            eventually(lambda: service.query(looked), message="the first look")
            began = time.monotonic()
            for _ in range(parts):
                run_load(key=KEY, port=service.port, sink_port=sink.port, count=count // parts, clients=16)
                eventually(lambda: kill_the_notifier(service), 20, "the notifier to be killed")
            told = eventually(lambda: _failures_told(receiver, count), 60, "all failures to be told")
            most = 1 + int((time.monotonic() - began) / window_s)
        assert sum(told.values()) == count
        assert len(told) <= most
        assert len({each["notice_id"] for each in receiver.documents("share", "alert")}) <= most
        failed = "SELECT count(*) FROM delivery WHERE state = 'failed' AND reason LIKE '550 5.1.1 %'"
        counted = "SELECT CAST(sum(jobs) AS BIGINT) FROM job_count WHERE state = 'failed'"
        assert service.query(failed) == service.query(counted) == [(count,)]


def _failures_told(receiver: Receiver, count: int) -> dict[str, int]:
    """Return the counts of failed messages by the ids of their notices, once they are as many."""
    told = {each["notice_id"]: int(each["count"]) for each in receiver.documents("failed", "alert")}
    return told if sum(told.values()) >= count else {}


def test_a_disk_that_fills_is_told_and_so_is_its_end(tmp_path: Path) -> None:
    everything = {"POSTROOM_DISK_RESERVE": str(1 << 50)}
    with Receiver() as receiver, Sink() as sink:
        with installation(tmp_path, account_rows(sink.port), receiver.url, **everything) as service:
            told = receiver.wait_for("disk", "alert")
            assert told["type"] == "failure"
            assert "POSTROOM_DISK_RESERVE" in told["message"]
            assert service.post().status == 503
        with installation(
            tmp_path, account_rows(sink.port), receiver.url
        ):  # with room: what was told is over
            receiver.wait_for("disk", "recovery")
    assert [each["event"] for each in receiver.documents("disk")] == ["alert", "recovery"]


def test_a_worker_that_keeps_dying_is_told_while_it_is_started_again(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Sink() as sink,
        installation(tmp_path, account_rows(sink.port), receiver.url, POSTROOM_NOTIFY_DEATHS="2") as service,
    ):
        for _ in range(2):
            kill_the_worker(service)
        told = eventually(
            lambda: [each for each in receiver.documents("worker", "alert") if "keep dying" in each["title"]],
            20,
            "the deaths to be told",
        )
        assert len(told) == 1
        assert "2 deaths" in told[0]["title"]


def test_that_no_worker_runs_is_told_though_all_messages_wait(tmp_path: Path) -> None:
    own = "mailto:ops@postroom.example?account=me@postroom.example"
    with (
        Receiver() as receiver,
        Sink(tmp_path / "ledger") as sink,
        installation(tmp_path, account_rows(sink.port), own, receiver.url) as service,
    ):
        eventually(lambda: service.query("SELECT * FROM worker"), message="the worker")
        [worker] = service.pids("postroom", "worker")
        with service.stopped(worker):  # its lock is held: it is no worker that is missing
            assert receiver.documents("worker") == []
        # A supervisor that is stopped starts no other one.
        os.kill(service.pid, signal.SIGSTOP)
        try:
            kill(worker)
            told = receiver.wait_for("worker", "alert")
            assert told["title"] == "Postroom: no worker runs"
        finally:
            os.kill(service.pid, signal.SIGCONT)
        receiver.wait_for("worker", "recovery")
        sink.wait_for(1)  # of the end alone: a message could not have told of the beginning
        assert len(service.query("SELECT * FROM message")) == 1


def test_a_limit_that_is_nearly_used_up_is_told(tmp_path: Path) -> None:
    with Sink() as sink, Receiver() as receiver:
        rows = [f"{HEADER},daily_limit", f"{KEY},me@postroom.example,,127.0.0.1,{sink.port},none,5"]
        with installation(tmp_path, rows, receiver.url) as service:
            for _ in range(4):
                service.wait_for(service.send())
            told = receiver.wait_for("limit", "alert", 40)
            assert "4 of 5 recipients used" in told["message"]


def test_a_kill_between_sending_and_storing_repeats_the_notice_with_its_id(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.1.1 No such user", times=None)
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    killed = tmp_path / "killed"
    kills = {"POSTROOM_FAILPOINT": f"notice.sent:1:{killed}"}
    with Receiver() as receiver, installation(tmp_path, rows, receiver.url, **kills) as service:
        service.wait_for(service.send(), "failed")
        eventually(killed.exists, 20, "the kill")
        Path(f"{killed}.over").touch()
        stored = "SELECT count(*) FROM notice_to_send"
        eventually(lambda: service.query(stored) == [(0,)], 20, "it to be stored as sent")
        first, *again = receiver.documents()
        assert again, "it was not sent again"
        assert all(each == first for each in again)


def test_the_failure_of_a_notice_is_no_news(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.1.1 No such user", times=None)
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    own = "mailto:ops@postroom.example?account=me@postroom.example"
    with (
        Receiver() as receiver,
        installation(
            tmp_path, rows, own, receiver.url, POSTROOM_NOTIFY_WINDOW="1s", POSTROOM_NOTIFY_KINDS="failed"
        ) as service,
    ):
        service.wait_for(service.send(), "failed")
        receiver.wait_for("failed", "alert")
        failed = "SELECT count(*) FROM job WHERE state = 'failed'"
        eventually(lambda: service.query(failed) == [(2,)], message="the notice to fail")
        eventually(lambda: service.query("SELECT * FROM notice_message") == [], message="that to be seen")
        service.wait_for(service.send(), "failed")  # a window later: one more, and not two
        eventually(lambda: len(receiver.documents("failed")) == 2, message="the second notice")
        assert [each["count"] for each in receiver.documents("failed")] == ["1", "1"]


def test_a_way_that_does_not_answer_delays_no_other_and_is_tried_again(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.1.1 No such user", times=None)
    rows = [HEADER, f"{KEY},me@postroom.example,,127.0.0.1,{server.port},none"]
    with Receiver() as hangs, Receiver() as refuses, Receiver() as receiver:
        hangs.status, refuses.status = None, 500
        with installation(tmp_path, rows, hangs.url, refuses.url, receiver.url) as service:
            service.wait_for(service.send(), "failed")
            told = receiver.wait_for("failed", "alert")
            refuses.wait_for("failed", "alert")
            refuses.status = 200
            eventually(lambda: len(refuses.documents()) == 2, 20, "another try")
            assert {each["notice_id"] for each in refuses.documents()} == {told["notice_id"]}
            assert "hook" not in service.log()


def test_notify_test_says_what_each_way_answers(tmp_path: Path) -> None:
    own = "mailto:ops@postroom.example?account=me@postroom.example"
    with Receiver() as receiver, Receiver() as refuses, Sink() as sink:
        refuses.status = 404
        with installation(tmp_path, account_rows(sink.port), receiver.url, own) as service:
            said = service.command("notify", "test").splitlines()
            assert said[0] == "1 (json): taken"
            assert said[1].startswith("2 (mailto): accepted as ")
            service.wait_for(said[1].rpartition(" ")[2])
            [document] = receiver.documents("test")
            assert document["event"] == "test"
        service = installation(
            tmp_path, account_rows(sink.port), refuses.url, "mailto:a@b.example?account=no@b.example"
        )
        ended = service.run("notify", "test", "--json")
        assert ended.returncode == 1
        first, second = json.loads(ended.stdout)
        assert (first["way"], first["taken"]) == ("1 (json)", False)
        assert "404" in first["answer"]
        assert second["answer"] == "there is no account no@b.example"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://canary@host/path", "the URL 1 (nosuch) names a service that Apprise does not know"),
        ("slack://canary", "the URL 1 (slack) cannot be used: its Slack (second) Token is missing or wrong"),
        ("", "POSTROOM_NOTIFY: is empty"),
    ],
)
def test_a_url_that_cannot_be_used_ends_the_start_and_is_not_repeated(
    tmp_path: Path, url: str, said: str
) -> None:
    service = installation(tmp_path, account_rows(1), url)
    service.command("migrate")
    for words in [("notify", "run"), ("notify", "test"), *([("serve",)] if url else [])]:
        ended = service.run(*words)
        assert ended.returncode == 78, ended
        assert said in ended.stderr
        assert "canary" not in ended.stdout + ended.stderr


def test_that_the_database_is_away_is_told_from_memory(tmp_path: Path) -> None:
    with Postgres() as server, Sink() as sink, Receiver() as receiver:
        url = server.url(server.create_database())
        with installation(tmp_path, account_rows(sink.port), receiver.url, DATABASE_URL=url) as service:
            sent = "SELECT beat FROM notice_memory"
            eventually(lambda: service.query(sent), message="the first look")
            server.stop(signal.SIGQUIT)
            told = receiver.wait_for("database", "alert")
            assert (told["title"], told["type"]) == ("Postroom: the database cannot be used", "failure")
            server.start()
            receiver.wait_for("database", "recovery")
            assert [each["event"] for each in receiver.documents("database")] == ["alert", "recovery"]


def test_without_a_way_there_is_no_process_for_it(tmp_path: Path) -> None:
    with Sink() as sink, Installation(tmp_path, account_rows(sink.port)) as service:
        assert notifiers(service) == []


def test_its_death_ends_nothing(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Sink() as sink,
        installation(tmp_path, account_rows(sink.port), receiver.url) as service,
    ):
        first = eventually(lambda: notifiers(service), message="the notifier")
        kill(first[0])
        eventually(lambda: (pids := notifiers(service)) and pids != first, message="another one")
        service.wait_for(service.send())
