"""email_log.txt: the seed's line, each exactly once, whatever is killed or rotated."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.clock import SECOND
from postroom.core.decide import decision_of
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Failed, Outcome, Reply
from postroom.store.log_lines import LogLine, LogLines
from postroom.store.store import Store, open_store
from postroom.store.workers import Workers
from postroom.store.writer import Work
from postroom.worker import email_log as module
from postroom.worker.email_log import EmailLog, _encode, format_line
from tests.children import CHILDREN
from tests.servers.waiting import eventually
from tests.soak import SOAK
from tests.store.database import FAILED, LATER, NOW, SENT, Database, Post

LINE = LogLine(1, "4711", "anna@example.com", ("bob@example.org",), NOW, "sent")
EVIL = "550 no\r\nRequest ID: forged\x1b[2K\x85\u2028\u2029\x00\n, Status: sent"


WRITER = "the writer of these tests"


def lock_beside(path: Path) -> Path:
    """Return the lock file of the log, which says whose log it is."""
    lock = path.parent.with_name("email_log.lock")
    lock.write_text(WRITER)
    return lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "email_log.txt"


@pytest.fixture
def email_log(store: Store, path: Path) -> EmailLog:
    return EmailLog(store, path, lock_beside(path))


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not UTC."""
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _finish(post: Post, count: int = 1, outcome: Outcome = SENT) -> list[str]:
    """Accept and finish messages; return their request ids."""
    added = [post.add() for _ in range(count)]
    for job in post.claim():
        post.finish(job, outcome)
    return added


def _written(path: Path) -> list[str]:
    """Return the request ids in the log and all that rotation has made of it, in order of the lines."""
    text = "".join(each.read_text() for each in sorted(path.parent.glob("email_log*"), reverse=True))
    assert text.endswith("\n")
    ids = [
        re.fullmatch(r"Request ID: ([0-9a-f-]{36}), Sender: .*, Status: sent", line)
        for line in text.splitlines()
    ]
    assert None not in ids, text
    return [found[1] for found in ids if found]


class TestLine:
    def test_is_the_seeds(self, new_york: None) -> None:
        assert format_line(LINE) == (
            "Request ID: 4711, Sender: anna@example.com, Recipient: bob@example.org, "
            "Date: 2023-11-14 17:13:20, Status: sent"
        )

    def test_has_the_local_time_of_the_request(self, new_york: None) -> None:
        summer = replace(LINE, accepted_at=NOW + 200 * 86400 * SECOND + 999_999)
        assert "Date: 2024-06-01 18:13:20," in format_line(summer)

    def test_names_all_recipients(self) -> None:
        assert "Recipient: bob@x.org, dora@x.org, Date" in format_line(
            replace(LINE, recipients=("bob@x.org", "dora@x.org"))
        )

    @given(st.text(), st.text())
    def test_stays_one_line_whatever_is_in_it(self, reason: str, recipient: str) -> None:
        line = format_line(replace(LINE, status=f"failed ({reason})", recipients=(recipient,)))
        assert len(line.splitlines()) == 1
        assert line.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
        line.encode()

    def test_of_a_failure_has_the_reason_and_cannot_be_forged(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        [first] = _finish(post, outcome=FAILED)
        [second] = _finish(post, outcome=Failed(EVIL, FAILED.blame, Reply(550, EVIL)))
        assert email_log.project() == 2
        lines = path.read_text().split("\n")
        assert lines[0].startswith(
            f"Request ID: {first}, Sender: anna@example.com, Recipient: bob@example.org, Date: "
        )
        assert lines[0].endswith(", Status: failed (550 5.1.1 nobody)")
        assert lines[1].startswith(f"Request ID: {second}, ")
        assert lines[1].endswith("\\x00\\x0a, Status: sent)")
        assert lines[2:] == [""]
        assert path.read_text().splitlines() == lines[:2]


class TestProjecting:
    def test_writes_each_finished_message_once_in_order(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        first = _finish(post, 3)
        assert email_log.project() == 3
        assert email_log.project() == 0
        second = _finish(post, 2)
        post.add()
        assert email_log.project() == 2
        assert _written(path) == first + second

    @pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o640), (0o027, 0o640), (0o077, 0o600)])
    def test_a_new_log_is_not_for_everybody(
        self, post: Post, email_log: EmailLog, path: Path, mask: int, mode: int
    ) -> None:
        _finish(post, 1)
        before = os.umask(mask)
        try:
            assert email_log.project() == 1
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode

    def test_goes_through_many_batches(self, post: Post, email_log: EmailLog, path: Path) -> None:
        added = post.add_many(2500)
        jobs = post.claim(most=2500, now=LATER)
        post.store.write_all([_sending(job, post.worker) for job in jobs])
        assert email_log.project() == 2500
        assert sorted(_written(path)) == sorted(added), "those that ended in one commit have no order"

    def test_leaves_what_ends_meanwhile_to_the_next_time(
        self, post: Post, email_log: EmailLog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under load every batch would be as small as a commit, and each costs two commits and a flush."""
        first = _finish(post)
        second: list[str] = []
        append = module._append

        def finish_meanwhile(fd: int, content: bytes) -> None:
            append(fd, content)
            if not second:
                second.extend(_finish(post))

        with monkeypatch.context() as patched:
            patched.setattr(module, "_append", finish_meanwhile)
            assert email_log.project() == 1
        assert _written(path) == first
        assert email_log.project() == 1
        assert _written(path) == first + second

    def test_appends_to_the_seeds_log_even_when_its_last_line_is_open(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        path.write_text("an old line\nanother without an end")
        [added] = _finish(post)
        email_log.project()
        lines = path.read_text().splitlines()
        assert lines[:2] == ["an old line", "another without an end"]
        assert lines[2].startswith(f"Request ID: {added}, ")

    def test_is_one_process_at_a_time(self, post: Post, email_log: EmailLog, path: Path) -> None:
        added = _finish(post)
        lock = lock_beside(path)
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert email_log.project() is None
            assert not path.exists()
        assert email_log.project() == 1
        assert _written(path) == added

    def test_by_several_at_once_writes_each_line_once(
        self, post: Post, database: Database, path: Path
    ) -> None:
        added = _finish(post, 50)
        together = threading.Barrier(4)

        def project() -> None:
            store = database.open()
            together.wait(60)
            EmailLog(store, path, lock_beside(path)).project()
            store.close()

        threads = [threading.Thread(target=project) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert _written(path) == added

    @pytest.mark.parametrize("obstacle", ["a folder in its place", "no folder around it"])
    def test_where_it_cannot_be_written_is_tried_again(
        self, post: Post, email_log: EmailLog, path: Path, obstacle: str
    ) -> None:
        added = _finish(post, 2)
        if obstacle == "a folder in its place":
            path.mkdir()
            clear = path.rmdir
        else:
            path.parent.rmdir()
            clear = path.parent.mkdir
        for _ in range(2):
            with pytest.raises(OSError):
                email_log.project()
        clear()
        added += _finish(post)
        assert email_log.project() == 3
        assert _written(path) == added

    def test_where_the_store_is_away_is_tried_again(self, post: Post, database: Database, path: Path) -> None:
        added = _finish(post)
        impatient = database.open_impatient()
        email_log = EmailLog(impatient, path, lock_beside(path))
        with database.writes_held(), pytest.raises(StoreUnavailable):
            email_log.project()
        email_log.project()
        impatient.close()
        assert _written(path) == added


class TestTwoHosts:
    def test_do_not_take_the_same_line(self, post: Post) -> None:
        _finish(post, 3)
        ids = [line.message_id for line in post.store.read(LogLines.unwritten, 10)]
        post.store.write(lambda t: t.log_lines.begin_batch(start=0, messages=ids[:2], writer="first"))
        with pytest.raises(LeaseLost):
            post.store.write(lambda t: t.log_lines.begin_batch(start=0, messages=ids, writer="second"))
        assert post.store.read(LogLines.open_batch, "second") is None
        found = post.store.read(LogLines.open_batch, "first")
        assert found is not None
        assert [line.message_id for line in found.lines] == ids[:2]

    def test_do_not_take_a_new_line_for_one_that_is_written(self, post: Post) -> None:
        _finish(post, 3)
        seen_by_both = [line.message_id for line in post.store.read(LogLines.unwritten, 10)]
        begun = post.store.write(
            lambda t: t.log_lines.begin_batch(start=0, messages=seen_by_both, writer="first")
        )
        post.store.write(lambda t: t.log_lines.end_batch(begun))
        new = _finish(post, 3)
        with pytest.raises(LeaseLost):
            post.store.write(
                lambda t: t.log_lines.begin_batch(start=0, messages=seen_by_both, writer="second")
            )
        assert [line.request_id for line in post.store.read(LogLines.unwritten, 10)] == new

    def test_write_each_line_once_between_them(self, post: Post, database: Database, tmp_path: Path) -> None:
        added = _finish(post, 100)
        paths = [tmp_path / f"host {number}" / "email_log.txt" for number in range(4)]
        together = threading.Barrier(len(paths))

        def project(path: Path) -> None:
            path.parent.mkdir()
            store = database.open()
            together.wait(60)
            EmailLog(store, path, path.with_name("lock")).project()
            store.close()

        threads = [threading.Thread(target=project, args=[path]) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        EmailLog(post.store, paths[0], paths[0].with_name("lock")).project()
        written = [line for path in paths if path.exists() and path.stat().st_size for line in _written(path)]
        assert sorted(written) == sorted(added)


class Crash:
    """A projection that stopped after so many bytes of its batch; None: before it noted the batch."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path
        self.lines = store.read(LogLines.unwritten, 1000)
        self.content = _encode(self.lines)

    def after(self, written: int) -> None:
        with self._path.open("ab") as file:
            self.begin(file.tell())
            file.write(self.content[:written])

    def begin(self, start: int) -> int:
        ids = [line.message_id for line in self.lines]
        return self._store.write(LogLines.begin_batch, start=start, messages=ids, writer=WRITER)


PLACES: dict[str, Callable[[bytes], int]] = {
    "before the first byte": lambda content: 0,
    "after the first byte": lambda content: 1,
    "in the first line": lambda content: 60,
    "before the end of a line": lambda content: content.index(b"\n"),
    "between lines": lambda content: content.index(b"\n") + 1,
    "in the last line": lambda content: len(content) - 20,
    "before the last byte": lambda content: len(content) - 1,
    "after the last byte": len,
}


def _rename(path: Path) -> None:
    path.rename(path.with_name("email_log.txt.1"))


def _rename_and_make(path: Path) -> None:
    path.rename(path.with_name("email_log.txt-20240101"))
    path.touch()


def _copy_and_cut(path: Path) -> None:
    shutil.copy(path, path.with_name("email_log.txt.1"))
    os.truncate(path, 0)


ROTATIONS: dict[str, Callable[[Path], None]] = {
    "none": lambda path: None,
    "renamed": _rename,
    "renamed, new file": _rename_and_make,
    "copied and cut": _copy_and_cut,
}


class TestCrash:
    @pytest.mark.parametrize("rotation", ROTATIONS)
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("old", [0, 3], ids=["empty", "with lines"])
    def test_at_any_byte_leaves_each_line_once(
        self, post: Post, email_log: EmailLog, path: Path, place: str, rotation: str, old: int
    ) -> None:
        added = _finish(post, old)
        email_log.project()
        added += _finish(post, 3)
        crash = Crash(post.store, path)
        crash.after(PLACES[place](crash.content))
        ROTATIONS[rotation](path)
        added += _finish(post, 2)
        email_log.project()
        assert sorted(_written(path)) == sorted(added)
        assert post.store.read(LogLines.open_batch, WRITER) is None
        assert post.store.read(LogLines.unwritten, 10) == []
        assert email_log.project() == 0

    def test_again_while_the_first_is_settled_leaves_each_line_once(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        added = _finish(post, 5)
        crash = Crash(post.store, path)
        crash.after(100)
        with path.open("ab") as file:
            file.write(crash.content[100:250])
        email_log.project()
        assert _written(path) == added

    def test_after_which_the_log_was_removed_writes_its_lines_anew(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        added = _finish(post, 5)
        crash = Crash(post.store, path)
        crash.after(len(crash.content))
        path.unlink()
        assert email_log.project() == 5
        assert _written(path) == added

    def test_after_which_the_log_was_edited_repeats_but_loses_nothing(
        self, post: Post, email_log: EmailLog, path: Path
    ) -> None:
        added = _finish(post, 5)
        Crash(post.store, path).after(100)
        path.write_text("somebody was here\n")
        assert email_log.project() == 5
        path.write_text(path.read_text().removeprefix("somebody was here\n"))
        assert _written(path) == added

    def test_of_the_disk_in_the_middle_of_a_batch_heals(
        self, post: Post, database: Database, email_log: EmailLog, path: Path
    ) -> None:
        added = _finish(post, 20)
        path.write_text("x" * 3_999_999 + "\n")  # so that the log meets the limit before the database does
        child = CHILDREN.Process(target=_project_on_a_full_disk, args=(database.url, path, 4_001_000))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert path.stat().st_size == 4_001_000
        email_log.project()
        path.write_text(path.read_text().removeprefix("x" * 3_999_999 + "\n"))
        assert _written(path) == added


def _project_on_a_full_disk(url: str, path: Path, most: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    store = open_store(url)
    with pytest.raises(OSError):
        EmailLog(store, path, lock_beside(path)).project()
    store.close()


KILLS = 20 if SOAK else 4
MOST_IN_A_LIFE = 150  # however late the kill comes, so that each comes while jobs are left


class TestKills:
    def test_while_jobs_finish_and_lines_are_written_leave_each_line_once(
        self, post: Post, database: Database, path: Path
    ) -> None:
        added = post.add_many((KILLS + 1) * MOST_IN_A_LIFE)
        random = Random(4711)
        for number in range(KILLS):
            child = CHILDREN.Process(target=_finish_and_project, args=(database.url, path))
            child.start()
            try:
                _wait_for_growth(path, random.randrange(1, 4000))
            finally:
                child.kill()
                child.join(60)
            assert child.exitcode == -9
            if number % 4 == 1:
                path.rename(path.with_name(f"email_log.txt.{number}"))
        assert database.value("SELECT count(*) FROM job WHERE state <> 'done'") > 0
        _finish_all(post.store)
        EmailLog(post.store, path, lock_beside(path)).project()
        assert Counter(_written(path)) == dict.fromkeys(added, 1)


def _wait_for_growth(path: Path, growth: int) -> None:
    start = _size(path)
    eventually(lambda: _size(path) >= start + growth, 60, f"the log to grow by {growth} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _finish_and_project(url: str, path: Path) -> None:
    """Finish jobs in one thread and project their lines in another, until killed."""
    store = open_store(url)
    threading.Thread(target=_finish_all, args=(store, MOST_IN_A_LIFE), daemon=True).start()
    email_log = EmailLog(store, path, lock_beside(path))
    while True:
        email_log.project()


def _finish_all(store: Store, most: int = sys.maxsize) -> None:
    """Bury whoever was killed, and send what is left, a few jobs at a time and no more than `most`."""
    for record in store.read(Workers.living):
        store.write(_burying(record.id))
    worker = store.write(
        lambda t: t.workers.register(host="here", pid=1, lock_file="none.lock", now=NOW, lease_until=LATER)
    )
    while most > 0 and (
        jobs := store.write(
            lambda t: t.queue.claim(account_id=1, worker_id=worker, most=5, most_bytes=10**6, now=LATER)
        )
    ):
        store.write_all([_sending(job, worker) for job in jobs])
        most -= len(jobs)


def _burying(worker: int) -> Work[int]:
    return lambda transaction: transaction.recovery.reap(worker, now=NOW, in_doubt=InDoubtPolicy.RETRY)


def _sending(job: ClaimedJob, worker: int) -> Work[bool]:
    decision = decision_of(
        job, {delivery.id: SENT for delivery in job.deliveries}, InDoubtPolicy.RETRY, now=LATER
    )
    return lambda transaction: transaction.attempts.finish(
        job, decision, worker_id=worker, started_at=NOW, now=LATER
    )
