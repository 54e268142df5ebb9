"""Files that we are given: whatever stands in their place, nothing hangs, and a sentence says what it is."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from postroom.accounts.vault import Vault
from postroom.core.clock import system_clock
from postroom.core.errors import ConfigError
from postroom.core.files import MEBIBYTE, NotPlain, read_plain, write_plain
from postroom.core.rewrite import rewrite_lines
from postroom.inbox.maildrop import Maildrop, inbox_port
from postroom.inbox.reader import list_messages, read_message
from postroom.runtime.backup import BackupError, save
from postroom.settings import Settings, load_settings
from postroom.store import position
from postroom.store.sqlite.writer_lock import WriterLock
from postroom.store.store import open_store
from postroom.worker.liveness import running_in

ROOT = Path(__file__).resolve().parents[2]
# Where something is opened by its name past `plainfile`, and why that may be.
KNOWN = {
    "runtime/backup.py": {
        "os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 384)",  # new
        "os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 384)",
        "os.open(folder, _FOLDER)",  # a folder and nothing else
        "tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT)",
        "tarfile.open(fileobj=file, mode='r:')",
        "files[SECRET].write_text(settings.secret_key.reveal() + '\\n', encoding='utf-8')",
    },
    "worker/email_log.py": {
        "open(self._path, 'ab', opener=_open)",  # its kind was looked at, and the opener does not wait
        "open(path, 'ab', opener=_open)",
        "os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 416)",
    },
    "core/failpoint.py": {"open(self.file, 'a', encoding='ascii')"},  # for tests
    "inbox/maildrop.py": {
        "open(unfinished, 'xb', opener=private, buffering=0)",  # new
    },
    "telemetry/log.py": {
        "Path('/proc/1/comm').read_text(encoding='ascii', errors='replace')"
    },  # the system's own
    "store/postgres/engine.py": {
        "(SCHEMA / 'postgres.sql').read_text(encoding='utf-8')"
    },  # part of the program
    "telemetry/line_writer.py": {"os.open(self._lock, _LOCK_FLAGS, 384)"},  # our own, in `var`
    "worker/log_stream.py": {"os.open(path, _OPEN)"},  # a stream, without waiting
    "core/files.py": {
        "os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _FLAGS, 384)",  # new
        "os.open(path, flags | _FLAGS, mode)",
        "os.open(path, flags | os.O_NOFOLLOW, 384)",  # new
        "os.open(path, os.O_RDONLY)",  # what was just written, or a folder, to flush it
        "os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 384)",
    },
    "runtime/replacing.py": {
        "os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 384)",  # new
        "draft.write_text(f'{stamp}\\n', encoding='ascii')",  # new: it was unlinked
    },
    "core/rewrite.py": {
        "compression.open(file, 'rb')",  # what is open
        "compression.open(new, 'wb')",
        "open(beside, 'xb', opener=private)",  # new
    },
    "runtime/export.py": {  # new, in a new folder
        "open(folder / LINES, 'x', encoding='utf-8', opener=private)",
        "open(folder / f'{request_id}.eml', 'xb', opener=private)",
    },
    "runtime/accounts_file.py": {"path.open('x', encoding='utf-8')"},  # new
    "runtime/standstill.py": {"Path(f'/proc/{pid}/status').read_text(encoding='ascii', errors='replace')"},
    # The program's own files.
    "store/migrate.py": {"path.read_text(encoding='utf-8')"},
    "store/queries.py": {"path.read_text(encoding='utf-8')"},
    "store/sqlite/connections.py": {
        "Path(__file__).with_name('one_statement.sql').read_text(encoding='utf-8')"
    },
    "accounts/admin_token.py": {
        "os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 384)",  # new
    },
    "web/docs.py": {"(_FOLDER / name).read_bytes()"},  # of the package
    "smtp/probe.py": {"_Look.open(endpoint)"},  # no file
    "accounts/vault.py": {
        "os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 384)",  # new
    },
    "core/version.py": {"source.read_text(encoding='utf-8')"},
    "worker/liveness.py": {
        "Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii')",
        "self._path.open('ab')",  # new: its name is random
    },
}
_OPENS = {
    "open",
    "fdopen",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "copyfile",
}
# Methods of the same names that open no file by its name, by the words that stand before the parenthesis.
_NO_FILE = (
    "os.fdopen",
    "Vault.open",
    "Connection.open",
    "inbox.open",
    "self._writing.open",
)

Put = Callable[[Path], None]
KINDS = {
    "FIFO": "a FIFO",
    "zero": "a device",
    "null": "a device",
    "folder": "a directory",
    "socket": "a socket",
    "endless": "more than",
}


@contextmanager
def putting(kind: str) -> Iterator[tuple[Put, str]]:
    """Lend something that is no plain file, to be put somewhere, and what is said of it."""
    with ExitStack() as stack:

        def put(path: Path) -> None:
            match kind:
                case "FIFO":
                    os.mkfifo(path, 0o600)
                case "zero" | "null":
                    path.symlink_to(f"/dev/{kind}")
                case "folder":
                    path.mkdir()
                case "socket":
                    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                    listener.bind(os.path.relpath(path))
                case "endless":
                    with path.open("wb") as file:
                        file.truncate(1 << 40)
                    path.chmod(0o600)

        yield put, KINDS[kind]


@pytest.fixture(params=sorted(KINDS))
def obstacle(request: pytest.FixtureRequest) -> Iterator[tuple[Put, str]]:
    with putting(request.param) as found:
        yield found


@pytest.fixture(params=sorted(KINDS.keys() - {"endless"}))
def no_file(request: pytest.FixtureRequest) -> Iterator[tuple[Put, str]]:
    """An obstacle whose content is none: a large file is a file."""
    with putting(request.param) as found:
        yield found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_no_plain_file_is_named(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    put(tmp_path / "it")
    with pytest.raises(NotPlain, match=said):
        read_plain(tmp_path / "it", MEBIBYTE)


def test_what_is_larger_than_the_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"x" * MEBIBYTE)
    assert len(read_plain(tmp_path / "it", MEBIBYTE)) == MEBIBYTE
    (tmp_path / "it").write_bytes(b"x" * (MEBIBYTE + 1))
    with pytest.raises(NotPlain, match="more than 1 MiB"):
        read_plain(tmp_path / "it", MEBIBYTE)


def test_a_file_that_is_exchanged_for_a_fifo_meanwhile_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_text("x")
    os.mkfifo(fifo)
    mode = plain.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: mode)
    with pytest.raises(NotPlain, match="a FIFO"):
        read_plain(fifo, MEBIBYTE)


def test_dot_env_is_refused(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    put(tmp_path / ".env")
    with pytest.raises(ConfigError, match=rf"\.env.*cannot be read \(it (is|has) {said}"):
        load_settings()


def test_a_file_of_authorities_is_refused(
    obstacle: tuple[Put, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, said = obstacle
    put(tmp_path / "ca.pem")
    monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", "ca.pem")
    with pytest.raises(ConfigError, match=f"POSTROOM_SMTP_CA_FILE.*{said}"):
        load_settings()


def test_a_secret_key_is_refused(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    (tmp_path / "var").mkdir()
    put(tmp_path / "var/secret.key")
    with pytest.raises(ConfigError, match=f"POSTROOM_SECRET_KEY.*{said}"):
        Vault.open(load_settings(), tmp_path / "var")


def test_the_memory_of_the_database_is_taken_as_not_there(
    obstacle: tuple[Put, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put, said = obstacle
    path = tmp_path / "database.json"
    put(path)
    assert position.read(path, warns=True) == position.Position()
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "content",
    [
        b'{"newest": "abc", "newest_at": "x"}',
        pytest.param(b'{"newest": "abc"}', id="no id"),
        b'{"newest_at": "x"}',
        b'{"newest_at": true}',
        b'{"newest_at": 1e400}',
        b'{"newest_at": -1}',
        b'{"newest_at": %s}' % (b"9" * 30),
        b'{"newest_at": %s}' % (b"9" * 4000),
        b'{"newest": "\\ud800"}',
        b'{"newest": ["00000000-0000-0000-0000-000000000000"]}',
        b'{"system": "\\ud800", "timeline": 1}',
        b'{"system": 5}',
        b'{"timeline": null}',
        b'{"another": 1}',
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b"",
        b"[" * 4000,
        b"[" * 100_000,
    ],
    ids=lambda content: content[:20].decode("ascii", "replace"),
)
def test_a_memory_of_the_database_without_sense_is_taken_as_not_there(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "database.json"
    path.write_bytes(content)
    assert position.read(path, warns=True) == position.Position()
    assert len(caplog.records) == 1
    position.write(path, position.Position(newest="0" * 8 + "-0000-0000-0000-" + "0" * 12, newest_at=1))
    assert position.read(path, warns=True).newest_at == 1
    assert len(caplog.records) == 1


def test_no_memory_of_the_database_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert position.read(tmp_path / "database.json", warns=True) == position.Position()
    assert not caplog.records


def test_a_port_of_the_inbox_is_none(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    obstacle[0](tmp_path / "port")
    assert inbox_port(tmp_path) is None


def test_a_mail_of_the_inbox_is_left_out(
    obstacle: tuple[Put, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put, said = obstacle
    kept = Maildrop(tmp_path).save("a@x.example", ["b@x.example"], b"Subject: x\r\n\r\nx")
    put(tmp_path / "mail/20990101T000000.000000Z-01234567.eml")
    assert [mail.id for mail in list_messages(tmp_path)] == [kept]
    assert said in caplog.text
    with pytest.raises(NotPlain, match=said):
        read_message(tmp_path)


def test_a_worker_whose_lock_is_no_file_is_none(no_file: tuple[Put, str], tmp_path: Path) -> None:
    no_file[0](tmp_path / "x.lock")
    assert running_in(tmp_path) == 0


def test_a_writers_lock_is_refused(no_file: tuple[Put, str], tmp_path: Path) -> None:
    put, said = no_file
    put(tmp_path / "postroom.db-lock")
    with pytest.raises(NotPlain, match=said):
        WriterLock(tmp_path / "postroom.db-lock", 0.0)
    with pytest.raises(ConfigError, match=f"postroom.db-lock: it is {said}"):
        open_store(f"sqlite:///{tmp_path}/postroom.db")


def test_a_log_is_rewritten_whatever_a_crash_has_left(no_file: tuple[Put, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\n")
    no_file[0](tmp_path / ".log.rewritten")
    if no_file[1] == "a directory":
        with pytest.raises(OSError, match=r"log\.rewritten"):
            rewrite_lines(log, lambda line: line.upper())
        return
    assert rewrite_lines(log, lambda line: line.upper()) == 1
    assert log.read_bytes() == b"A\n"


def test_no_backup_is_made_without_what_is_no_file(no_file: tuple[Put, str], tmp_path: Path) -> None:
    put, said = no_file
    put(tmp_path / "data.csv")
    store = open_store(f"sqlite:///{tmp_path}/postroom.db")
    try:
        store.migrate()
        with pytest.raises(BackupError, match=f"data.csv is {said}, not a plain file"):
            save(store, Settings(), tmp_path / "var", tmp_path / "backup", system_clock)
    finally:
        store.close()
    assert not (tmp_path / "backup").exists()


def test_what_is_written_takes_the_place_of_what_is_no_file(no_file: tuple[Put, str], tmp_path: Path) -> None:
    put, said = no_file
    put(tmp_path / "it")
    if said == "a directory":
        with pytest.raises(IsADirectoryError):
            write_plain(tmp_path / "it", b"x")
        assert [path.name for path in tmp_path.iterdir()] == ["it"], "nothing is left behind"
        return
    write_plain(tmp_path / "it", b"x")
    assert (tmp_path / "it").read_bytes() == b"x"
    assert not (tmp_path / "it").is_symlink()


def _opened(path: Path) -> Iterator[str]:
    """Yield the calls that may open a file by its name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        word = ast.unparse(node.func)
        if word.rpartition(".")[2] in _OPENS and not word.startswith(_NO_FILE):
            yield ast.unparse(node)


def test_nothing_else_is_opened_by_its_name() -> None:
    """A new place is to use `plainfile`, or is added to KNOWN with the reason why nothing can hang or be endless."""
    package = ROOT / "postroom"
    found = {str(path.relative_to(package)): set(_opened(path)) for path in sorted(package.rglob("*.py"))}
    assert {name: calls - KNOWN.get(name, set()) for name, calls in found.items() if calls} == {
        name: set() for name, calls in found.items() if calls
    }
