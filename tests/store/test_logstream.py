"""A log that is a stream gets each line, at least once and not for ever, and holds nothing up."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from postroom.store.log_lines import LogLines
from postroom.store.store import Store
from postroom.worker.email_log import EmailLog
from tests.servers.waiting import eventually
from tests.store.database import Post
from tests.store.test_emaillog import _finish, lock_beside

pytestmark = pytest.mark.only("sqlite")  # the database's part is the same for files
OWN = [
    ("/dev/stdout", "pipe"),
    ("/dev/stderr", "stream socket"),
    ("/dev/fd/1", "stream socket"),
    ("/dev/fd/2", "pipe"),
    ("/proc/self/fd/1", "datagram socket"),
    ("/proc/thread-self/fd/2", "file"),
    ("/dev/../dev/stdout", "file"),
]


def ids(content: bytes) -> list[str]:
    """Return whose lines these are; each must be whole."""
    lines = content.decode().splitlines(keepends=True)
    assert all(line.startswith("Request ID: ") and line.endswith("Status: sent\n") for line in lines), lines
    return [re.findall(r"Request ID: (\S+),", line)[0] for line in lines]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs/email_log.txt"


@pytest.fixture
def log_at(store: Store, place: Path) -> Callable[[Path], EmailLog]:
    return lambda path: EmailLog(store, path, lock_beside(place))


@contextmanager
def standing_for(own: int, fd: int) -> Iterator[None]:
    """Let a descriptor stand for standard output or error."""
    kept = os.dup(own)
    os.dup2(fd, own)
    try:
        yield
    finally:
        os.dup2(kept, own)
        os.close(kept)


@contextmanager
def reader_of(fifo: Path) -> Iterator[int]:
    """Read from a FIFO that holds no more than a page."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield fd
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    found = b""
    while True:
        try:
            piece = os.read(fd, 1 << 16)
        except BlockingIOError:
            return found
        if not piece:
            return found
        found += piece


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_standard_output_is_written_through_its_own_descriptor(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path, name: str, kind: str
) -> None:
    """Under systemd it is a socket, which cannot be opened by its name."""
    own = 2 if name.endswith(("err", "2")) else 1
    added = _finish(post, 3)
    if kind == "file":
        target = os.open(place, os.O_RDWR | os.O_CREAT)
        source = os.dup(target)
    elif kind == "pipe":
        source, target = os.pipe()
    else:
        kinds = {"stream socket": socket.SOCK_STREAM, "datagram socket": socket.SOCK_DGRAM}
        source, target = (end.detach() for end in socket.socketpair(socket.AF_UNIX, kinds[kind]))
    try:
        with standing_for(own, target):
            assert log_at(Path(name)).project() == 3
            assert log_at(Path(name)).project() == 0, "each line once"
        if kind == "file":
            os.lseek(source, 0, os.SEEK_SET)
        os.set_blocking(source, False)
        assert ids(read_all(source)) == added
    finally:
        os.close(source)
        os.close(target)


def test_a_link_to_standard_output_is_followed(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    added = _finish(post, 2)
    place.symlink_to("/dev/stdout")
    source, target = os.pipe()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        with standing_for(1, writer.fileno()):
            assert log_at(place).project() == 2
        writer.close()
        assert ids(reader.read()) == added


def test_the_null_device_is_silence(post: Post, log_at: Callable[[Path], EmailLog]) -> None:
    _finish(post, 2)
    log = log_at(Path("/dev/null"))
    assert log.project() == 2
    assert log.project() == 0


def test_a_fifo_without_a_reader_delays_lines(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    os.mkfifo(place)
    added, log = _finish(post, 2), log_at(place)
    for _ in range(2):
        with pytest.raises(OSError, match="nobody reads from it"):
            log.project()
    added += _finish(post)
    with reader_of(place) as reader:
        assert log.project() == 3
        assert ids(read_all(reader)) == added
    assert place.is_fifo(), "it stays what it is"


def test_a_reader_that_stands_still_gets_each_line_once(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    """A pipe that is full takes part of a batch; the rest follows from there."""
    os.mkfifo(place)
    added, log = _finish(post, 60), log_at(place)
    with reader_of(place) as reader:
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                log.project()
        found = read_all(reader)
        assert found.count(b"\n") < 60
        done = threading.Event()

        def go_on() -> bool:
            nonlocal found
            try:
                log.project()
                done.set()
            except BlockingIOError:
                pass
            found += read_all(reader)
            return done.is_set()

        eventually(go_on)
        assert ids(found) == added


def test_a_reader_that_goes_loses_nothing(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    os.mkfifo(place)
    added, log = _finish(post, 60), log_at(place)
    with reader_of(place), pytest.raises(BlockingIOError):
        log.project()
    with pytest.raises(OSError, match="nobody reads from it"):
        log.project()
    found, done = b"", False
    with reader_of(place) as reader:

        def go_on() -> bool:
            nonlocal found, done
            try:
                log.project()
                done = True
            except BlockingIOError:
                pass
            found += read_all(reader)
            return done

        eventually(go_on)
    assert ids(found) == added, "from the first line on: what was not read is gone with its reader"


def test_a_reader_that_comes_in_place_of_another_begins_with_a_line(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    """Also where nobody has noticed the change, and the first one has read nothing."""
    os.mkfifo(place)
    added, log = _finish(post, 60), log_at(place)
    with reader_of(place), pytest.raises(BlockingIOError):
        log.project()
    found, done = b"", False
    with reader_of(place) as reader:

        def go_on() -> bool:
            nonlocal found, done
            try:
                log.project()
                done = True
            except BlockingIOError:
                pass
            found += read_all(reader)
            return done

        eventually(go_on)
    assert ids(found) == added


def test_a_crash_repeats_a_batch_and_loses_nothing(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    os.mkfifo(place)
    added = _finish(post, 60)
    with reader_of(place) as reader:
        with pytest.raises(BlockingIOError):
            log_at(place).project()
        read_all(reader)
        found, again, done = b"", log_at(place), False

        def go_on() -> bool:
            nonlocal found, done
            try:
                again.project()
                done = True
            except BlockingIOError:
                pass
            found += read_all(reader)
            return done

        eventually(go_on)
        assert ids(found) == added


@pytest.mark.parametrize("kind", ["a directory", "a socket"])
def test_what_is_neither_file_nor_stream_is_named(
    post: Post, log_at: Callable[[Path], EmailLog], place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finish(post)
    monkeypatch.chdir(place.parent)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        if kind == "a socket":
            listener.bind(place.name)
        else:
            place.mkdir()
        with pytest.raises(OSError, match=kind):
            log_at(place).project()


def test_a_batch_that_was_begun_in_a_file_goes_on_in_a_stream(
    post: Post, store: Store, log_at: Callable[[Path], EmailLog], place: Path
) -> None:
    added = _finish(post, 3)
    log = log_at(place)
    lines = store.read(LogLines.unwritten, 10)
    store.write(
        LogLines.begin_batch,
        start=4711,
        messages=[line.message_id for line in lines],
        writer=place.parent.with_name("email_log.lock").read_text(),
    )
    os.mkfifo(place)
    with reader_of(place) as reader:
        assert log.project() == 3
        assert ids(read_all(reader)) == added
