"""At the upgrade the passwords are struck from all that servers have said before."""

from __future__ import annotations

import bz2
import errno
import gzip
import logging
import lzma
from pathlib import Path
from typing import Any

import pytest

from postroom.accounts.csv_sync import sealing
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.outcome import Blame, Deferred, Failed, Reply
from postroom.runtime.strike import strike_log, strike_stored
from postroom.store.accounts import Accounts
from postroom.store.log_lines import LogLines
from postroom.store.store import Store
from postroom.worker.email_log import EmailLog, _encode
from tests.store.database import NOW, PLAIN, Database, Post, at_its_own_server

PASSWORD = "a canary of a password"
SAID = f"AUTH PLAIN {PASSWORD} was refused for someone"
PLACES = [
    ("delivery", "reason"),
    ("delivery", "reply_text"),
    ("event", "detail"),
    ("attempt", "reply_text"),
    ("account", "state_reason"),
]


@pytest.fixture
def vault() -> Vault:
    return Vault((Secret("the-secret-key-of-this-test"),))


def words(database: Database) -> list[str]:
    return [
        str(row[0])
        for table, column in PLACES
        for row in database.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY id")
    ]


@pytest.fixture
def refused(post: Post, database: Database, vault: Vault) -> int:
    """An account whose server has repeated its password, in every place where it is stored; return how many."""
    reply = Reply(535, SAID, "5.7.8")
    for outcome in (
        Failed(f"535 5.7.8 {SAID}", Blame.MESSAGE, reply),
        Deferred(f"535 5.7.8 {SAID}", Blame.MESSAGE, reply),
    ):
        post.add()
        post.finish(post.claim_one(), outcome)
    anna = at_its_own_server("anna@example.com")
    post.store.write(Accounts.upsert, anna, PLAIN, sealing(Secret(PASSWORD), vault), source="csv", now=NOW)
    database.change(f"UPDATE account SET state = 'paused', state_since = {NOW}, state_reason = '{SAID}'")
    held = [word for word in words(database) if PASSWORD in word]
    assert len(held) >= len(PLACES)
    return len(held)


def test_passwords_are_struck_wherever_they_are_stored(
    refused: int, store: Store, database: Database, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    before = words(database)
    strike_stored(store, vault)
    after = words(database)
    assert not [word for word in after if PASSWORD in word]
    assert after == [word.replace(PASSWORD, "[struck]") for word in before]
    assert "held a password, which was struck" in caplog.text
    assert PASSWORD not in caplog.text


def test_it_is_done_once(refused: int, store: Store, database: Database, vault: Vault) -> None:
    strike_stored(store, vault)
    database.change(f"UPDATE event SET detail = '{SAID}' WHERE detail IS NOT NULL")
    strike_stored(store, vault)
    assert [word for word in words(database) if PASSWORD in word]


def test_what_holds_no_password_stays(
    post: Post, store: Store, database: Database, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    post.add()
    post.finish(post.claim_one(), Failed("550 no", Blame.MESSAGE, Reply(550, "no")))
    before = words(database)
    strike_stored(store, vault)
    assert words(database) == before
    assert "struck" not in caplog.text


SENT = (
    f"Request ID: 1, Sender: anna@example.com, Recipient: b@example.org, Date: d, Status: sent {PASSWORD}\n"
)
FAILED_OF = (
    "Request ID: 2, Sender: {}@example.com, Recipient: b@example.org, Date: d, Status: failed (535 {})\n"
)
OTHERS = "a line of somebody else " + PASSWORD + "\n"


@pytest.fixture
def email_log(store: Store, tmp_path: Path) -> EmailLog:
    return EmailLog(store, tmp_path / "email_log.txt", tmp_path / "email_log.lock")


def test_lines_of_the_log_are_struck_once(
    refused: int,
    store: Store,
    vault: Vault,
    email_log: EmailLog,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, rotated = tmp_path / "email_log.txt", tmp_path / "email_log.txt.1"
    held = FAILED_OF.format("anna", SAID)
    before = SENT + held + FAILED_OF.format("bert", SAID) + OTHERS + held.rstrip("\n")
    for path in log, rotated:
        path.write_text(before)
        path.chmod(0o604)
    strike_log(store, vault, email_log)
    after = FAILED_OF.format("anna", SAID.replace(PASSWORD, "[struck]"))
    for path in log, rotated:
        assert path.read_text() == SENT + after + FAILED_OF.format("bert", SAID) + OTHERS + after.rstrip("\n")
        assert path.stat().st_mode & 0o777 == 0o604
    assert sorted(path.name for path in tmp_path.glob("*email_log*")) == [
        "email_log.lock",
        "email_log.txt",
        "email_log.txt.1",
    ]
    assert "4 lines of email_log.txt and its older files held a password" in caplog.text
    assert PASSWORD not in caplog.text
    log.write_text(held)
    strike_log(store, vault, email_log)
    assert log.read_text() == held


@pytest.mark.parametrize("compression", [gzip, bz2, lzma], ids=lambda module: module.__name__)
def test_compressed_files_of_the_log_are_struck_too(
    refused: int, store: Store, vault: Vault, email_log: EmailLog, tmp_path: Path, compression: Any
) -> None:
    (tmp_path / "email_log.txt").write_text(SENT)
    rotated = tmp_path / "email_log.txt.2.z"
    rotated.write_bytes(compression.compress((SENT + FAILED_OF.format("anna", SAID)).encode()))
    rotated.chmod(0o604)
    strike_log(store, vault, email_log)
    after = SENT + FAILED_OF.format("anna", SAID.replace(PASSWORD, "[struck]"))
    assert compression.decompress(rotated.read_bytes()).decode() == after
    assert rotated.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize(
    "octets",
    [
        gzip.compress(b"line\n" * 1000)[:-9],
        lzma.compress(b"line\n" * 1000)[:40],
        b"BZh9 no",
        b"\x28\xb5\x2f\xfd...",
    ],
    ids=["cut off gzip", "cut off xz", "damaged bzip2", "zstd"],
)
def test_what_cannot_be_read_is_named_and_keeps_nothing_else_from_being_struck(
    refused: int,
    store: Store,
    vault: Vault,
    email_log: EmailLog,
    tmp_path: Path,
    octets: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "email_log.txt").write_text(SENT)
    unreadable, other = tmp_path / "email_log.txt.1", tmp_path / "email_log.txt.2"
    unreadable.write_bytes(octets)
    other.write_text(FAILED_OF.format("anna", SAID))
    strike_log(store, vault, email_log)
    assert unreadable.read_bytes() == octets
    assert PASSWORD not in other.read_text()
    assert f"{unreadable} was not searched:" in caplog.text


def test_a_batch_that_was_interrupted_is_found_before_its_place_moves(
    refused: int, store: Store, vault: Vault, email_log: EmailLog, tmp_path: Path
) -> None:
    """Otherwise its lines would be written a second time."""
    log = tmp_path / "email_log.txt"
    log.write_text(FAILED_OF.format("anna", SAID))
    lines = store.read(LogLines.unwritten, 10)
    assert email_log.revise(bytes, "nothing") == 0  # gives the writer its name
    store.write(
        lambda t: t.log_lines.begin_batch(
            start=log.stat().st_size, messages=[line.message_id for line in lines], writer=email_log._writer
        )
    )
    with log.open("ab") as file:
        file.write(_encode(lines)[:80])
    strike_log(store, vault, email_log)
    email_log.project()
    assert log.read_text().count(lines[0].request_id) == 1
    assert PASSWORD not in log.read_text()


def test_a_log_that_cannot_be_rewritten_stays_and_is_tried_again(
    refused: int,
    store: Store,
    vault: Vault,
    email_log: EmailLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = tmp_path / "email_log.txt"
    log.write_text(FAILED_OF.format("anna", SAID))
    with monkeypatch.context() as broken:
        broken.setattr("postroom.core.rewrite.os.fsync", _no_room)
        strike_log(store, vault, email_log)
    assert log.read_text() == FAILED_OF.format("anna", SAID)
    assert "the next start tries again" in caplog.text
    assert not list(tmp_path.glob(".email_log*"))
    strike_log(store, vault, email_log)
    assert PASSWORD not in log.read_text()


def _no_room(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
