"""The secret key: a process with another one changes nothing, and one that is lost is replaced by one command alone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from postroom.accounts.csv_sync import sealing
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import AccountState, Secret
from postroom.core.api_key import ApiKey
from postroom.core.clock import system_clock
from postroom.core.errors import NotAuthenticated
from postroom.core.message import MessageState
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import IssuedKeys
from postroom.store.messages import Messages
from postroom.store.store import open_store
from postroom.store.workers import Workers
from postroom.worker.liveness import Registration
from tests.conftest import StartScripted
from tests.process.test_cli import Folder, check_failed
from tests.process.test_delivery import InProcess
from tests.store.database import PLAIN

SECRET, OTHER = "the secret of the service", "another secret altogether"
COMMANDS = {
    "accounts": ("accounts",),
    "import": ("accounts", "import"),
    "send": ("send", "--to", "you@example.com", "--body", "x"),
    "status": ("status", "x"),
    "serve": ("serve",),
    "worker": ("worker",),
    "web": ("web",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder whose database holds one account, stored with SECRET."""
    found = Folder(tmp_path)
    found.accounts("the-key-of-alice,alice@example.com,a password,mail.example.com")
    found.prepare(POSTROOM_SECRET_KEY=SECRET)
    found.accounts("the-key-of-alice,alice@example.com,a password,mail.example.com", "# changed")
    return found


def contents(folder: Folder) -> str:
    with closing(sqlite3.connect(folder.path / "var/postroom.db")) as database:
        return "\n".join(database.iterdump())


def forget_check_value(folder: Folder) -> None:
    """Make the database one of a version that kept no check value."""
    with closing(sqlite3.connect(folder.path / "var/postroom.db")) as database, database:
        database.execute("DELETE FROM setting WHERE name = 'vault'")


@pytest.mark.parametrize("command", COMMANDS)
def test_another_secret_ends_with_78_and_changes_nothing(folder: Folder, command: str) -> None:
    before = contents(folder)
    check_failed(
        folder.run(*COMMANDS[command], POSTROOM_SECRET_KEY=OTHER), 78, "POSTROOM_SECRET_KEY", "another secret"
    )
    assert contents(folder) == before


def test_no_secret_at_all_makes_no_new_one(folder: Folder) -> None:
    before = contents(folder)
    check_failed(folder.run("accounts"), 78, "POSTROOM_SECRET_KEY", "secret.key", "postroom secrets replace")
    assert contents(folder) == before
    assert not (folder.path / "var/secret.key").exists()


@pytest.mark.parametrize("password", ["a password", ""])
def test_a_database_without_a_check_value_is_claimed_by_its_own_secret_alone(
    folder: Folder, password: str
) -> None:
    """Without a password the keys of data.csv tell."""
    folder.accounts(f"the-key-of-alice,alice@example.com,{password},inbox")
    folder.run("accounts", "import", POSTROOM_SECRET_KEY=SECRET)
    forget_check_value(folder)
    before = contents(folder)
    for command in ("import", "worker", "status"):
        check_failed(folder.run(*COMMANDS[command], POSTROOM_SECRET_KEY=OTHER), 78, "POSTROOM_SECRET_KEY")
    assert folder.run("accounts", POSTROOM_SECRET_KEY=SECRET).returncode == 0
    assert contents(folder) == before, "a command that reads sets no check value"
    assert folder.run("accounts", "import", POSTROOM_SECRET_KEY=SECRET).returncode == 0
    assert "'vault'" in contents(folder)


def test_send_takes_no_accounts_in(folder: Folder) -> None:
    folder.accounts("the-key-of-bob,bob@example.com,,inbox")
    done = folder.run("send", "--to", "you@example.com", "--body", "x", POSTROOM_SECRET_KEY=SECRET)
    assert done.returncode == 0
    assert "bob@example.com" not in contents(folder)


def test_a_lost_secret_is_replaced(folder: Folder) -> None:
    folder.accounts(
        "the-key-of-alice,alice@example.com,a password,mail.example.com",
        "the-key-of-bob,bob@example.com,his,mail.example.com",
    )
    folder.run("accounts", "import", POSTROOM_SECRET_KEY=SECRET)
    folder.accounts("the-key-of-alice,alice@example.com,a password,mail.example.com")
    done = folder.run("secret", "replace")
    assert done.returncode == 0, done
    assert "1 row of data.csv" in done.stderr
    assert "the password of bob@example.com is lost" in done.stderr
    assert folder.run("accounts").returncode == 0
    check_failed(folder.run("accounts", POSTROOM_SECRET_KEY=SECRET), 78, "POSTROOM_SECRET_KEY")
    again = folder.run("secret", "replace")
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True)


def issue(folder: Folder, secret: str) -> str:
    """Issue a key of the account, and return it."""
    key = "pr_live_" + "k" * 32
    with closing(open_store(f"sqlite:///{folder.path}/var/postroom.db")) as store:
        vault = Vault((Secret(secret),))
        adopt_digest_key(store, vault, create=False)
        [stored] = store.read(Accounts.all)
        issued = ApiKey(digest=vault.own_digest(key), uid="uid", name="ci", account_id=stored.account.id)
        store.write(IssuedKeys.issue, issued, hint=key[-4:], source="cli", now=system_clock())
    return key


def works(folder: Folder, secret: str, key: str) -> bool:
    with closing(open_store(f"sqlite:///{folder.path}/var/postroom.db")) as store:
        vault = Vault((Secret(secret),))
        adopt_digest_key(store, vault, create=False)
        keys = ApiKeys(store, vault)
        keys.refresh()
        try:
            keys.authenticate(key)
        except NotAuthenticated:
            return False
        return True


def test_replacing_a_lost_secret_revokes_the_issued_keys_alone(folder: Folder) -> None:
    """The key that digests them is lost too. Those of data.csv are digested anew; the admin token's file stays."""
    token = folder.run("keys", "admin", POSTROOM_SECRET_KEY=SECRET).stdout
    key = issue(folder, SECRET)
    assert works(folder, SECRET, key)
    done = folder.run("secret", "replace", POSTROOM_SECRET_KEY=OTHER)
    assert done.returncode == 0, done
    assert "1 issued key was revoked" in done.stderr
    assert works(folder, OTHER, "the-key-of-alice")
    assert not works(folder, OTHER, key)
    folder.run("accounts", "import", POSTROOM_SECRET_KEY=OTHER)  # as each start does
    assert token
    assert folder.run("keys", "admin", POSTROOM_SECRET_KEY=OTHER).stdout == token


def test_a_former_secret_that_is_lost_in_a_rotation_costs_no_issued_key(folder: Folder) -> None:
    """The key that digests them was sealed by the new secret already: only the passwords that were not are lost."""
    key = issue(folder, SECRET)
    both = f"{OTHER},{SECRET}"
    assert folder.run("secrets", "rotate", POSTROOM_SECRET_KEY=both).returncode == 0
    with closing(open_store(f"sqlite:///{folder.path}/var/postroom.db")) as store:
        former = Vault((Secret(SECRET),))
        [stored] = store.read(Accounts.all)
        sealed = sealing(Secret("a password"), former)(stored.account.uid)
        store.write(Accounts.change, stored.account.id, PLAIN, sealed, now=system_clock())
    check_failed(folder.run("worker", POSTROOM_SECRET_KEY=OTHER), 78, "1 stored secret needs a former secret")
    done = folder.run("secrets", "replace", POSTROOM_SECRET_KEY=OTHER)
    assert (done.returncode, "revoked" in done.stderr, "is lost" in done.stderr) == (0, False, False), done
    assert folder.run("secrets", "rotate", "--status", POSTROOM_SECRET_KEY=OTHER).returncode == 0
    assert works(folder, OTHER, key)
    assert works(folder, OTHER, "the-key-of-alice")


def test_a_lost_secret_is_replaced_after_a_crash_and_not_beside_a_worker(folder: Folder) -> None:
    """A worker that was killed keeps its row, and without the secret no other one can start that would remove it."""
    with closing(open_store(f"sqlite:///{folder.path}/var/postroom.db")) as store:
        worker = Registration(store, folder.path / "var/workers", system_clock)
        check_failed(folder.run("secret", "replace"), 78, "POSTROOM_SECRET_KEY", f"pid {os.getpid()}")
        worker._file.close()  # as the kernel does for a process that is killed
        assert len(store.read(Workers.living)) == 1
        done = folder.run("secret", "replace")
        assert (done.returncode, "was replaced" in done.stderr) == (0, True), done
    assert folder.run("accounts").returncode == 0


def test_a_secret_is_not_replaced_without_the_accounts(folder: Folder) -> None:
    before = contents(folder)
    (folder.path / "data.csv").unlink()
    check_failed(folder.run("secret", "replace", POSTROOM_SECRET_KEY=OTHER), 78, "data.csv holds no account")
    assert contents(folder) == before


@pytest.fixture
def installation(
    tmp_path: Path, scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InProcess]:
    row = f"key,me@x.example,secret,127.0.0.1,{scripted().port},none"
    made = InProcess(tmp_path, [row], monkeypatch)
    yield made
    made.service.store.close()


def test_a_password_that_cannot_be_decrypted_makes_its_messages_wait(installation: InProcess) -> None:
    """The account has never worked: a fault of its own would have its messages fail."""
    store = installation.service.store
    store.write(lambda transaction: transaction.connection.execute("UPDATE account SET credential = x'00'"))
    ids = [installation.accept("you@x.example") for _ in range(3)]

    def have_heard() -> bool:
        found = [store.read(Messages.status, request_id) for request_id in ids]
        return all(status is not None and status.reason is not None for status in found)

    installation.run_until(have_heard)
    [stored] = store.read(Accounts.all)
    assert stored.account.state is AccountState.PAUSED
    for request_id in ids:
        status = store.read(Messages.status, request_id)
        assert status is not None
        assert status.state is MessageState.DEFERRED
        assert "cannot be decrypted" in (status.reason or "")
