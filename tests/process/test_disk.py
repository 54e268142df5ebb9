"""Disks that fail and disks that are full: nothing that was accepted is lost, and the service says what it cannot do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.servers.installation import Installation, account_rows, is_gone, kill
from tests.servers.ledger import all_ended, check_ledger, copies_at
from tests.servers.netns import in_namespace
from tests.servers.programs import end, unavailable
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

MIB = 1024 * 1024
SOAK = os.environ.get("POSTROOM_SOAK") == "1"


@contextlib.contextmanager
def failing_disk(
    pid: int, first: int, calls: str = "fdatasync,fsync", error: str = "EIO"
) -> Iterator[subprocess.Popen[bytes]]:
    """Let these calls of a process fail, from the `first` on: its flushes, or its writes to the database."""
    strace = shutil.which("strace")
    if strace is None:
        unavailable("strace is not installed")
    fault = f"inject={calls}:error={error}:when={first}+"
    command = [str(strace), "-f", "-qq", "-e", f"trace={calls}", "-e", fault, "-o", "/dev/null"]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: tracer.poll() is not None or traced(pid), 10, "strace to attach")
        if tracer.poll() is not None:
            unavailable("strace may not attach to a process here")
        yield tracer
    finally:
        end(tracer)


def traced(pid: int) -> bool:
    """Whether each thread of the process has a tracer."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all("TracerPid:\t0" not in status for status in statuses)


def serving(service: Installation, name: str) -> int:
    """Return the process that opens the database for the web or the worker: of granian's, the youngest."""
    return service.pids(name)[-1]


def integrity(service: Installation) -> str:
    connection = apsw.Connection(str(service.folder / "var/postroom.db"))
    try:
        return str(connection.pragma("integrity_check"))
    finally:
        connection.close()


SPILLING = (
    20 * MIB
)  # more than the page cache holds: it is written before the commit, by the statement itself


@pytest.mark.parametrize(
    ("calls", "first", "size"),
    [
        ("fdatasync,fsync", 1, 100),
        ("fdatasync,fsync", 5, 100),
        ("pwrite64", 2, 100),
        ("pwrite64", 50, 100),
        ("pwrite64", 1, SPILLING),
        *((("fdatasync,fsync", 2, 100), ("pwrite64", 1, 100), ("pwrite64", 7, 100)) if SOAK else ()),
    ],
)
def test_a_disk_that_fails_under_the_web_process(tmp_path: Path, calls: str, first: int, size: int) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        accepted = [service.send() for _ in range(3)]
        pid = serving(service, "web")
        with failing_disk(pid, first, calls):
            while (answer := service.post(body="x" * size)).status == 202:
                accepted.append(answer.document["request_id"])
            assert answer.status == 503
            assert answer.document["type"] == "urn:problem:postroom:store-unavailable"
            eventually(lambda: is_gone(pid), 10, "the process to stop")
        answers = []

        def answered() -> bool:
            with contextlib.suppress(OSError):
                answers.append(service.post())
            return bool(answers) and answers[-1].status == 202

        eventually(answered, 20, "a new process to accept mail")
        accepted.append(answers[-1].document["request_id"])
        eventually(lambda: all_ended(service), 20)
        check_ledger(service, sink, accepted)
        assert integrity(service) == "ok"
        assert "the disk failed" in service.log()


@pytest.mark.parametrize("size", [100, SPILLING])
def test_a_write_that_finds_no_room_is_a_503_and_the_process_lives_on(tmp_path: Path, size: int) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        accepted = [service.send() for _ in range(3)]
        pid = serving(service, "web")
        with failing_disk(pid, 1, "pwrite64", "ENOSPC"):
            assert service.post(body="x" * size).status == 503
            assert service.post().status == 503
        assert "cannot be written just now: No space left on device" in service.log()
        assert "disk I/O error" not in service.log()
        accepted.append(service.send())
        assert serving(service, "web") == pid
        eventually(lambda: all_ended(service), 20)
        check_ledger(service, sink, accepted)
        assert integrity(service) == "ok"


@pytest.mark.parametrize(
    ("calls", "first"),
    [
        ("fdatasync,fsync", 1),
        ("fdatasync,fsync", 3),
        ("pwrite64", 2),
        ("pwrite64", 50),
        *((("fdatasync,fsync", 2), ("fdatasync,fsync", 6), ("pwrite64", 1), ("pwrite64", 7)) if SOAK else ()),
    ],
)
def test_a_disk_that_fails_under_the_worker(tmp_path: Path, calls: str, first: int) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        accepted = [service.send()]
        service.wait_for(accepted[0])
        pid = serving(service, "worker")
        with failing_disk(pid, first, calls):
            accepted += [service.send() for _ in range(20)]
            eventually(lambda: is_gone(pid), 15, "the process to stop")
        eventually(lambda: all_ended(service), 30)
        check_ledger(service, sink, accepted)
        assert integrity(service) == "ok"


# --- A full disk, in a file system of the test's own


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, leave: int) -> Path:
    """Take up the room of a file system but for so many bytes; return the file that does."""
    ballast = folder / "ballast"
    with ballast.open("ab") as file:
        while free(folder) > leave:
            file.write(b"x" * min(MIB, free(folder) - leave))
            file.flush()
    return ballast


WAL = 16 * MIB  # what the write-ahead log grows to before SQLite puts it into the database


@in_namespace
def test_a_disk_that_fills_up_refuses_in_time_records_what_it_sent_and_heals(tmp_path: Path) -> None:
    # Sending ends below a quarter of the reserve. What is accepted within the second in which the room counts as just
    # looked at, and what is written of sending it, are to fit in between.
    reserve = 4 * WAL
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        small_disk(tmp_path / "disk", 128) as disk,
        Installation(
            disk / "service", account_rows(sink.port), POSTROOM_DISK_RESERVE=str(reserve)
        ) as service,
    ):
        accepted = [service.send() for _ in range(5)]
        ballast = fill(disk, reserve - 4 * MIB)
        eventually(lambda: service.post().status == 503, 5, "a refusal")
        answer = service.post()
        assert answer.document["title"] == "The disk of this service is nearly full"
        assert int(answer.headers["retry-after"]) >= 1
        eventually(lambda: all_ended(service), 20)  # what was accepted before goes out all the same
        assert service.status(accepted[0]) == "sent"
        ballast.unlink()
        eventually(lambda: service.post().status == 202, 5, "mail to be accepted again")
        eventually(lambda: all_ended(service), 20)
        ids = [row[0] for row in service.query("SELECT request_id FROM message")]
        check_ledger(service, sink, ids)
        assert set(accepted) < set(ids)


@in_namespace
def test_nothing_is_sent_that_might_not_be_recorded(tmp_path: Path) -> None:
    sink = Sink(ledger=tmp_path / "ledger")
    with sink:
        port = sink.port  # which stays its own
    with (
        small_disk(tmp_path / "disk", 48) as disk,
        Installation(
            disk / "service",
            account_rows(port),
            POSTROOM_DISK_RESERVE=str(16 * MIB),
            POSTROOM_RETRY_SCHEDULE="500ms",
        ) as service,
    ):
        waiting = [service.send() for _ in range(5)]
        service.wait_for(waiting[-1], "deferred")
        ballast = fill(disk, 2 * MIB)
        eventually(lambda: "the disk is full: no message is sent" in service.log(), 10)
        claimed = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'claimed'"
        eventually(lambda: service.query(claimed) == [(0,)], message="what was under way to be recorded")
        with sink as again:
            tries = service.query("SELECT count(*) FROM attempt")
            time.sleep(2)  # several rounds of the schedule
            assert service.query("SELECT count(*) FROM attempt") == tries
            assert not copies_at(again)
            ballast.unlink()
            eventually(lambda: all_ended(service), 20)
            check_ledger(service, again, waiting)


@in_namespace
def test_a_disk_without_a_byte_left_is_a_503_and_heals(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        small_disk(tmp_path / "disk", 32) as disk,
        Installation(disk / "service", account_rows(sink.port), POSTROOM_DISK_RESERVE="0") as service,
    ):
        accepted = [service.send() for _ in range(3)]
        eventually(lambda: all_ended(service), 20)
        ballast = fill(disk, 0)
        answer = service.post(body="x" * MIB)
        assert answer.status == 503
        assert answer.document["title"] == "The message could not be stored safely"
        assert [service.post(body="x" * MIB).status for _ in range(9)] == [503] * 9
        eventually(lambda: "not durable" in service.log(), 20, "a line")
        assert service.log().count("not durable") == 1
        assert "No space left on device" in service.log()
        ballast.unlink()
        accepted.append(service.send(body="x" * MIB))
        eventually(lambda: all_ended(service), 20)
        check_ledger(service, sink, accepted)
        assert integrity(service) == "ok"


# --- A damaged database


@pytest.mark.parametrize("how", ["no database", "header", "page"])
def test_a_database_that_cannot_be_used_is_said_once_and_not_tried_again(tmp_path: Path, how: str) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        service.wait_for(service.send())
        service.stop()
        path = service.folder / "var/postroom.db"
        damage(path, how)
        before = path.read_bytes()
        refused = service.run("serve")
        assert refused.returncode == 78, refused
        [said] = [line for line in refused.stderr.splitlines() if line.startswith("postroom:")]
        assert "var/postroom.db is damaged" in said
        assert "Restore it from a backup" in said
        assert path.read_bytes() == before, "left as it was"


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "no database":
        data[:] = b"These are not the bytes of a database.\n" * 500
    elif how == "header":
        data[16:60] = bytes(44)
    else:
        data[100:4096] = os.urandom(3996)
    path.write_bytes(data)


# --- A write-ahead log that was taken away


def killed(service: Installation) -> None:
    """Kill every process of a service at once: none sees another one die, to start it again or to end in order."""
    os.kill(service.pid, signal.SIGSTOP)
    pids = service.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        kill(pid)
    service.stop(signal.SIGKILL)
    eventually(lambda: all(is_gone(pid) for pid in pids), 10, "the processes to be gone")


def test_a_write_ahead_log_that_was_taken_away_is_missed(tmp_path: Path) -> None:
    sink = Sink(ledger=tmp_path / "ledger")
    with sink:
        port = sink.port
    service = Installation(tmp_path / "service", account_rows(port))
    service.start()
    accepted = service.send()
    service.wait_for(accepted, "deferred")
    killed(service)
    log = service.folder / "var/postroom.db-wal"
    kept = log.rename(log.with_name("kept"))
    before = log.with_name("postroom.db").read_bytes()
    refused = service.run("serve")
    assert refused.returncode == 78, refused
    assert "var/postroom.db-wal is missing" in refused.stderr
    assert f"remove {log.with_name('postroom.db-lock')}" in refused.stderr
    assert not log.exists()
    assert log.with_name("postroom.db").read_bytes() == before, "left as it was"
    kept.rename(log)
    with service:
        assert service.status(accepted).startswith("deferred"), "it is there again"


def test_a_database_that_is_moved_away_stops_everything_until_it_is_back(tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink, Installation(tmp_path, account_rows(sink.port)) as service:
        service.wait_for(service.send())
        database = tmp_path / "var/postroom.db"
        away = database.rename(tmp_path / "away.db")
        assert service.post().status == 503
        eventually(lambda: service.client.call("GET", "/readyz").status == 503, 20)
        assert not database.exists(), "nothing is made in its place"
        said = [line for line in service.log().splitlines() if " ERROR postroom.store" in line]
        assert any("is gone: the database was moved, removed or replaced" in line for line in said)
        [worker] = service.pids("postroom", "worker")
        away.rename(database)
        eventually(lambda: service.client.call("GET", "/readyz").status == 200, 20)
        service.wait_for(service.send())
        assert service.pids("postroom", "worker") == [worker]


def test_a_backup_that_is_moved_over_the_open_database_is_left_alone(tmp_path: Path) -> None:
    """Nothing is accepted into the one or the other, nor by whoever is started meanwhile; nothing is lost."""
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", account_rows(sink.port))
        with service:
            service.wait_for(service.send())
            database = service.folder / "var/postroom.db"
            with contextlib.closing(apsw.Connection(str(database))) as connection:
                connection.execute("VACUUM INTO ?", (f"{database}-backup",))
            later = service.send()
            service.wait_for(later)
            backup = Path(f"{database}-backup")
            contents = backup.read_bytes()
            backup.replace(database)
            assert [service.post().status for _ in range(3)] == [503] * 3
            assert "stop every process of Postroom first" in service.run("serve").stderr
        assert database.read_bytes() == contents
        with contextlib.closing(apsw.Connection(f"{database}-rescued")) as rescued:
            assert (later,) in list(rescued.execute("SELECT request_id FROM message"))
        refused = service.run("serve")
        assert (refused.returncode, "is not the file that" in refused.stderr) == (78, True), refused


def test_a_log_that_somebody_else_folded_into_the_file_is_not_missed(tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", account_rows(sink.port))
        service.start()
        accepted = service.send()
        service.wait_for(accepted)
        killed(service)
        assert integrity(service) == "ok"  # opens the database, and is the last to close it
        assert not (service.folder / "var/postroom.db-wal").exists()
        with service:
            assert service.status(accepted) == "sent"


def test_a_backup_is_restored_as_the_page_says(tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", account_rows(sink.port))
        service.start()
        first = service.send()
        service.wait_for(first)
        backup = "import apsw; apsw.Connection('var/postroom.db').execute(\"VACUUM INTO 'backup.db'\")"
        subprocess.run([sys.executable, "-c", backup], cwd=service.folder, check=True)
        service.wait_for(service.send())
        killed(service)
        restore = "rm -f var/postroom.db-wal var/postroom.db-shm && install -m 600 backup.db var/postroom.db"
        subprocess.run(["sh", "-c", restore], cwd=service.folder, check=True)
        with service:
            assert service.status(first) == "sent"
            service.wait_for(service.send())


# --- A disk, or a file, that is read-only


@in_namespace
@pytest.mark.parametrize("what", ["the disk", "the file"])
def test_a_database_that_is_read_only_is_said_once_and_not_tried_again(tmp_path: Path, what: str) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink, small_disk(tmp_path / "disk", 256) as disk:
        service = Installation(disk / "service", account_rows(sink.port))
        with service:
            first = service.send()
            service.wait_for(first)
        path = disk if what == "the disk" else service.folder / "var/postroom.db"
        with read_only(path):
            refused = service.run("serve")
            assert refused.returncode == 78, refused
            first_file = (
                "postroom.db-lock" if what == "the disk" else "postroom.db"
            )  # that is opened to be written
            said = f"cannot use {service.folder}/var/{first_file}: Read-only file system"
            assert said in refused.stderr, refused
        with service:
            assert service.status(first) == "sent"
            service.wait_for(service.send())


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_turns_read_only_is_a_503_and_the_process_stops(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        accepted = [service.send()]
        pid = serving(service, "web")
        with failing_disk(pid, 1, "pwrite64,ftruncate", "EROFS"):
            assert service.post().status == 503
            eventually(lambda: is_gone(pid), 10, "the process to stop")
        eventually(lambda: all_ended(service), 20)
        check_ledger(service, sink, accepted)
