"""`postroom secrets rotate`: killed at each step, and beside a service; passwords and keys outlive the former secret.

`make test` kills at some of the steps, `make soak` at each of them 25 times and on both engines.
"""

from __future__ import annotations

import json
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from postroom.accounts.csv_sync import unlock
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.api_key import ApiKey
from postroom.core.clock import system_clock
from postroom.core.failpoint import VARIABLE
from postroom.runtime.secret_key import keep_check_value
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import IssuedKeys
from postroom.store.store import Store, open_store
from tests.process.test_cli import Folder, check_failed
from tests.servers.installation import KEY, Installation
from tests.servers.sink import Sink
from tests.servers.waiting import eventually
from tests.soak import SOAK
from tests.store.database import PLAIN

OLD, NEW = "the former secret of the service", "the new secret of the service"
BOTH = f"{NEW},{OLD}"
ROUNDS, EVERY = (25, 1) if SOAK else (1, 3)  # how often, and which of the steps
MOST_STEPS = 60
ACCOUNTS = 6
UNUSED = "an-unused-key-of-the-file"
ISSUED = {name: f"pr_live_{name}_{'k' * 32}" for name in ("used", "unused")}


def url_of(folder: Path, settings: dict[str, str]) -> str:
    return settings.get("DATABASE_URL", f"sqlite:///{folder}/var/postroom.db")


def passwords(store: Store, *secrets: str) -> dict[str, str]:
    """Return every password by its mailbox; raises UndecryptableSecret where one cannot be read."""
    vault = Vault(tuple(map(Secret, secrets)))
    return {each.account.email: unlock(each, vault).password.reveal() for each in store.read(Accounts.all)}


def issue_keys(url: str, secret: str) -> None:
    with closing(open_store(url)) as store:
        vault = Vault((Secret(secret),))
        adopt_digest_key(store, vault, create=False)
        account_id = store.read(Accounts.all)[0].account.id
        for name, key in ISSUED.items():
            issued = ApiKey(digest=vault.own_digest(key), uid=name, name=name, account_id=account_id)
            store.write(IssuedKeys.issue, issued, hint="kkkk", source="cli", now=system_clock())


def encrypt_as_before(store: Store) -> None:
    """Have the first two passwords as a version before 18 stored them."""
    vault = Vault((Secret(OLD),))
    for each in store.read(Accounts.all)[:2]:
        token = vault.encrypt(unlock(each, vault).password.reveal())
        store.write(Accounts.change, each.account.id, PLAIN, token, now=system_clock())


def installed(home: Path, settings: dict[str, str]) -> Folder:
    """Return an installation with the former secret, and several passwords."""
    home.mkdir()
    made = Folder(home)
    made.accounts(*(f"key-{n}-of-the-file,a{n}@x.example,password {n},127.0.0.1" for n in range(ACCOUNTS)))
    made.prepare(POSTROOM_SECRET_KEY=OLD, **settings)
    with closing(open_store(url_of(home, settings))) as store:
        encrypt_as_before(store)
    return made


@pytest.fixture
def folder(tmp_path: Path, long_database_settings: dict[str, str]) -> Folder:
    return installed(tmp_path / "home", long_database_settings)


def rotate(folder: Folder, *words: str, secret: str = BOTH, **settings: str) -> tuple[int, dict[str, int]]:
    done = folder.run("secrets", "rotate", "--json", *words, POSTROOM_SECRET_KEY=secret, **settings)
    return done.returncode, json.loads(done.stdout)["needs_former"] if done.stdout else {}


def test_rotation_is_killed_at_each_step_and_no_password_is_unreadable(
    folder: Folder, long_database_settings: dict[str, str]
) -> None:
    """From one secret to the other and back: killed at a step, then run to its end, then killed at a later one."""
    url, deaths = url_of(folder.path, long_database_settings), folder.path / "deaths"
    former, new = OLD, NEW
    with closing(open_store(url)) as store:
        before = passwords(store, former)
        for _ in range(ROUNDS):
            for step in range(1, MOST_STEPS, EVERY):
                secret = f"{new},{former}"
                armed = {VARIABLE: f"secrets.rotate:{step}:{deaths}", **long_database_settings}
                died, _ = rotate(folder, secret=secret, **armed)
                assert passwords(store, new, former) == before, f"killed at step {step}"
                ended, left = rotate(folder, secret=secret, **long_database_settings)
                assert (ended, any(left.values())) == (0, False), (step, left)
                assert passwords(store, new) == before
                former, new = new, former
                if died == 0:
                    break
                assert died == -signal.SIGKILL
            else:
                pytest.fail("there are more steps than that")
    assert len(deaths.read_text().splitlines()) >= 4 * ROUNDS


def test_status_counts_and_a_start_without_the_former_secret_is_refused(
    folder: Folder, long_database_settings: dict[str, str]
) -> None:
    alone = {"POSTROOM_SECRET_KEY": NEW, **long_database_settings}
    check_failed(folder.run("web", **alone), 78, "POSTROOM_SECRET_KEY", "another secret")
    status, left = rotate(folder, "--status", **long_database_settings)
    assert (status, left["passwords of accounts"], left["the key that digests API keys"]) == (1, ACCOUNTS, 1)
    with closing(open_store(url_of(folder.path, long_database_settings))) as store:
        keep_check_value(store, Vault((Secret(NEW), Secret(OLD))))  # as a start does
    for command in ("web", "worker", "serve", "check"):
        done = folder.run(command, **alone)
        assert done.returncode == 78, (command, done)
        assert "stored secrets need a former secret key" in done.stderr + done.stdout
        assert "postroom secrets rotate" in done.stderr + done.stdout
    assert rotate(folder, **long_database_settings)[0] == 0
    assert rotate(folder, "--status", **long_database_settings)[0] == 0
    assert rotate(folder, "--status", secret=NEW, **long_database_settings)[0] == 0
    assert folder.run("check", **alone).returncode == 0
    check_failed(
        folder.run("worker", **{**alone, "POSTROOM_SECRET_KEY": OLD}),
        78,
        "POSTROOM_SECRET_KEY",
        "another secret",
    )


def test_every_key_works_after_a_rotation_beside_the_service(
    tmp_path: Path, sink: Sink, long_database_settings: dict[str, str]
) -> None:
    rows = [
        "key,email,app_password,host,port,security",
        f"{KEY},me@postroom.example,a password,127.0.0.1,{sink.port},none",
        f"{UNUSED},other@postroom.example,another,127.0.0.1,{sink.port},none",
    ]
    service = Installation(tmp_path / "home", rows, POSTROOM_SECRET_KEY=OLD, **long_database_settings)
    url = url_of(service.folder, long_database_settings)
    with service:
        service.send()
        issue_keys(url, OLD)
        eventually(lambda: service.post(key=ISSUED["used"]).status == 202, message="the issued key to work")
        service._settings["POSTROOM_SECRET_KEY"] = BOTH
        refused = service.run("secrets", "rotate")
        assert (refused.returncode, "restart it on every host" in refused.stderr) == (78, True), refused
    with service, Posting(service) as posting:
        eventually(lambda: posting.answers, message="a first message")
        assert service.run("secrets", "rotate").returncode == 0
        assert service.run("secrets", "rotate", "--status").returncode == 0
        seen = len(posting.answers)
        eventually(lambda: len(posting.answers) > seen, message="a message after the rotation")
    assert set(posting.answers) == {202}
    service._settings["POSTROOM_SECRET_KEY"] = NEW
    with service:
        for key in (KEY, UNUSED, *ISSUED.values()):
            answer = service.post(key=key)
            assert answer.status == 202, answer
            service.wait_for(answer.document["request_id"])
        assert service.post(key="no key of anybody").status == 401
    with closing(open_store(url)) as store:
        assert set(passwords(store, NEW).values()) == {"a password", "another"}


class Posting:
    """A client that posts until it is told to end, and notes each answer."""

    def __init__(self, service: Installation) -> None:
        self._service = service
        self._ended = threading.Event()
        self.answers: list[int] = []
        self._thread = threading.Thread(target=self._post)

    def __enter__(self) -> Posting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _post(self) -> None:
        while not self._ended.wait(0.02):
            self.answers.append(self._service.post().status)


def test_a_backup_is_restored_with_a_rotated_secret(tmp_path: Path) -> None:
    """A backup brings its secret key: one from before the rotation the former one."""
    folder = installed(tmp_path / "home", {})
    key_file = folder.path / "var/secret.key"

    def keep(secret: str) -> None:
        key_file.write_text(secret)
        key_file.chmod(0o600)

    keep(OLD)
    assert folder.run("backup", str(tmp_path / "before.tar")).returncode == 0
    keep(BOTH)
    assert folder.run("secrets", "rotate").returncode == 0
    keep(NEW)
    assert folder.run("backup", str(tmp_path / "after.tar")).returncode == 0
    for backup, secret in ("before", OLD), ("after", NEW):
        done = folder.run("restore", str(tmp_path / f"{backup}.tar"))
        assert done.returncode == 0, done
        assert key_file.read_text() == secret
        assert folder.run("check").returncode == 0
        with closing(open_store(f"sqlite:///{folder.path}/var/postroom.db")) as store:
            assert len(passwords(store, secret)) == ACCOUNTS
        assert folder.run("secrets", "rotate", "--status").returncode == 0
