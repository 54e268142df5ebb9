"""data.csv into the database, and a key to its account."""

from __future__ import annotations

import logging
import os
import pwd
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from postroom.accounts.csv_sync import AccountsFile, SyncReport, report, unlock
from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import Account, AccountSettings, AccountState, Secret, Security, ServerLacks
from postroom.core.clock import SECOND
from postroom.core.errors import NotAuthenticated, StoreUnavailable
from postroom.store.accounts import AccountIdentity, Accounts, StoredAccount
from postroom.store.keys import Keys
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.store import Store
from tests.servers.cable import Cable
from tests.servers.postgres import Postgres
from tests.servers.waiting import at_most, eventually
from tests.store.database import FAR, NOW, Database, Post, PostgresDatabase, SQLiteDatabase, no_password

OLD, NEW = Secret("an-old-secret-key"), Secret("a-brand-new-secret-key")
HEADER = "key,email,app_password,host\n"
ANNA = "anna-canary-key,anna@example.com,anna-canary-word,mail.example.com\n"
BERTA = "berta-canary-key,berta@example.com,berta-canary-word,mail.example.com\n"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody who may read nothing of root's."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def vault() -> Vault:
    return Vault((OLD,))


def account_of(keys: ApiKeys, key: str) -> Account | None:
    if not keys.is_fresh:
        keys.refresh()
    try:
        return keys.authenticate(key).account
    except NotAuthenticated:
        return None


def asked(keys: ApiKeys, key: str) -> str:
    """Return whose the key is, as a request hears it."""
    try:
        account = account_of(keys, key)
    except StoreUnavailable:
        return "away"
    return account.email if account else "nobody"


class Installation:
    """A data.csv, and the accounts that it becomes."""

    def __init__(self, store: Store, path: Path, *keys: Secret) -> None:
        ticks = count(NOW, SECOND)
        self.store = store
        self.path = path
        self.vault = Vault(keys)
        self.file = AccountsFile(store, self.vault, path, clock=lambda: next(ticks))

    def write(self, *rows: str) -> None:
        self.path.write_text(HEADER + "".join(rows))

    def sync(self, *rows: str) -> SyncReport:
        """Write and read the file; return the report that there must be."""
        self.write(*rows)
        found = self.file.sync()
        assert found is not None
        return found

    def owner(self, key: str) -> str | None:
        """Return the mailbox that a key belongs to, as a process that starts now sees it."""
        account = account_of(ApiKeys(self.store, self.vault), key)
        return account.email if account else None

    def stored(self, email: str) -> StoredAccount:
        [found] = [stored for stored in self.store.read(Accounts.all) if stored.account.email == email]
        return found

    def password(self, email: str) -> str:
        return unlock(self.stored(email), self.vault).password.reveal()

    def pause(self, email: str) -> None:
        account: Account = self.stored(email).account
        self.store.write(
            Accounts.suspend, account.id, state="paused", reason="535 no", resume_at=FAR, now=NOW
        )

    def state(self, email: str) -> AccountState:
        return self.stored(email).account.state


@pytest.fixture
def office(store: Store, tmp_path: Path) -> Installation:
    return Installation(store, tmp_path / "data.csv", OLD)


def _with_keys(office: Installation, *keys: Secret) -> Installation:
    """Return the same installation after POSTROOM_SECRET_KEY has changed."""
    return Installation(office.store, office.path, *keys)


class TestSync:
    def test_puts_accounts_and_keys_in_force(self, office: Installation) -> None:
        assert office.sync(ANNA, BERTA) == SyncReport(office.path, 2, (), short_keys=(2, 3))
        assert office.owner("anna-canary-key") == "anna@example.com"
        assert office.owner("berta-canary-key") == "berta@example.com"
        assert office.owner("nobody's") is None
        assert office.password("anna@example.com") == "anna-canary-word"
        assert office.stored("anna@example.com").account.host == "mail.example.com"

    def test_keeps_the_switches_of_an_account(self, office: Installation) -> None:
        office.path.write_text(
            "key,email,app_password,pipelining,chunking\nk,anna@example.com,word,no,yes\nl,berta@example.com,word,,\n"
        )
        office.file.sync()
        anna, berta = office.stored("anna@example.com").account, office.stored("berta@example.com").account
        assert (anna.pipelining, anna.chunking) == (False, True)
        assert (berta.pipelining, berta.chunking) == (None, None)

    def test_reports_bad_rows_by_line_and_keeps_the_good_ones(
        self, office: Installation, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = office.sync(ANNA, "k,not a mailbox,canary-word,mail.example.com\n", BERTA)
        assert (found.accepted, [fault.line for fault in found.faults]) == (2, [3])
        assert office.owner("berta-canary-key") == "berta@example.com"
        assert office.owner("k") is None
        report(found)
        assert f"{office.path} line 3: email" in caplog.text
        assert "canary-word" not in caplog.text

    def test_warns_of_keys_that_may_be_guessed(
        self, office: Installation, caplog: pytest.LogCaptureFixture
    ) -> None:
        long = "twenty-characters-xx,carla@example.com,word,mail.example.com\n"
        report(office.sync(ANNA, long, BERTA))
        assert "keys of fewer than 20 characters may be guessed (lines 2, 4)" in caplog.text
        assert "canary" not in caplog.text
        caplog.clear()
        report(office.sync(*[f"key-{n},m{n}@example.com,word,mail.example.com\n" for n in range(13)]))
        assert "(lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more)" in caplog.text
        caplog.clear()
        report(office.sync(long))
        assert "may be guessed" not in caplog.text

    def test_of_the_same_content_writes_nothing(self, office: Installation, database: Database) -> None:
        office.sync(ANNA)
        office.write(ANNA)
        with database.writes_held():  # a write would have to wait, and fail
            assert office.file.sync() is None
            assert _with_keys(office, OLD).file.sync() is None

    def test_without_a_file_changes_nothing(self, office: Installation) -> None:
        assert office.file.sync() is None
        office.sync(ANNA)
        office.path.unlink()
        found = office.file.sync()
        assert found is not None
        assert "is not there" in found.faults[0].message
        assert office.file.sync() is None, "it is said once"
        assert office.owner("anna-canary-key") == "anna@example.com"

    def test_of_a_file_with_a_broken_header_changes_nothing(
        self, office: Installation, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        office.sync(ANNA)
        before = database.contents()
        office.path.write_text("email,app_password\n")
        found = office.file.sync()
        assert found is not None
        assert [(fault.line, fault.fatal) for fault in found.faults] == [(1, True)]
        assert database.contents() == before
        assert office.owner("anna-canary-key") == "anna@example.com"
        report(found)
        assert "the accounts stay as they were" in caplog.text

    def test_of_a_key_that_left_revokes_it_and_keeps_its_account_and_mail(
        self, office: Installation, post: Post
    ) -> None:
        office.sync(ANNA, BERTA)
        berta = office.stored("berta@example.com").account.id
        request_id = post.add(account=berta)
        assert office.sync(ANNA).revoked == 1
        assert office.owner("berta-canary-key") is None
        assert office.owner("anna-canary-key") == "anna@example.com"
        assert [job.request_id for job in post.claim(account=berta)] == [request_id]

    def test_of_a_key_that_came_back_grants_it_again(self, office: Installation) -> None:
        office.sync(ANNA, BERTA)
        office.sync(ANNA)
        office.sync(ANNA, BERTA)
        assert office.owner("berta-canary-key") == "berta@example.com"
        assert len(office.store.read(Accounts.all)) == 2

    def test_of_a_key_that_moved_gives_it_to_its_new_account(self, office: Installation) -> None:
        office.sync(ANNA)
        office.sync(ANNA.replace("anna@", "anna.b@"))
        assert office.owner("anna-canary-key") == "anna.b@example.com"

    def test_leaves_keys_of_other_sources_alone(self, office: Installation) -> None:
        office.sync(ANNA)
        anna, digest = office.stored("anna@example.com").account.id, office.vault.digest("by hand")
        office.store.write(Keys.grant, anna, digest, source="cli", now=NOW)
        assert office.sync(BERTA).revoked == 1
        assert _with_keys(office, OLD).owner("by hand") == "anna@example.com"


class TestPasswords:
    def test_that_changed_are_stored_and_resume_a_paused_account(self, office: Installation) -> None:
        office.sync(ANNA, BERTA)
        before = office.stored("anna@example.com").account.id
        office.pause("anna@example.com")
        office.pause("berta@example.com")
        office.sync(ANNA.replace("anna-canary-word", "another-word"), BERTA)
        assert office.password("anna@example.com") == "another-word"
        assert office.stored("anna@example.com").account.id == before
        assert office.state("anna@example.com") is AccountState.ACTIVE
        assert office.state("berta@example.com") is AccountState.PAUSED

    def test_that_were_taken_away_are_forgotten(self, office: Installation) -> None:
        office.sync(ANNA)
        office.sync(ANNA.replace("anna-canary-word", ""))
        assert office.stored("anna@example.com").credential is None
        assert office.password("anna@example.com") == ""

    @pytest.mark.only("sqlite")
    def test_and_keys_stand_nowhere_in_the_files(self, office: Installation, sqlite: SQLiteDatabase) -> None:
        office.sync(ANNA, BERTA)
        files = list(sqlite.path.parent.glob(f"{sqlite.path.name}*"))
        assert len(files) >= 3
        held = b"".join(file.read_bytes() for file in files)
        office.store.close()
        held += sqlite.path.read_bytes()
        assert b"anna@example.com" in held
        assert b"canary" not in held

    def test_are_shown_by_nothing_that_is_printed(self, office: Installation) -> None:
        office.sync(ANNA)
        account = unlock(office.stored("anna@example.com"), office.vault)
        assert "canary" not in repr((account, office.stored("anna@example.com"), office.vault))


class TestSecretKey:
    def test_that_is_rotated_keeps_everything_working_before_data_csv_is_read(
        self, office: Installation
    ) -> None:
        office.sync(ANNA)
        rotated = _with_keys(office, NEW, OLD)
        assert rotated.owner("anna-canary-key") == "anna@example.com"
        assert rotated.password("anna@example.com") == "anna-canary-word"

    def test_that_is_rotated_has_data_csv_read_again(self, office: Installation) -> None:
        office.sync(ANNA)
        office.pause("anna@example.com")
        rotated = _with_keys(office, NEW, OLD)
        found = rotated.file.sync()
        assert found is not None
        assert found.accepted == 1
        assert rotated.owner("anna-canary-key") == "anna@example.com"
        assert rotated.password("anna@example.com") == "anna-canary-word"
        assert rotated.state("anna@example.com") is AccountState.PAUSED
        assert rotated.file.sync() is None

    def test_that_was_rotated_out_leaves_keys_and_passwords_working(self, office: Installation) -> None:
        office.sync(ANNA)
        _with_keys(office, NEW, OLD).file.sync()
        dropped = _with_keys(office, NEW)
        assert dropped.owner("anna-canary-key") == "anna@example.com"
        assert dropped.password("anna@example.com") == "anna-canary-word"

    def test_that_is_replaced_has_data_csv_read_again(self, office: Installation) -> None:
        office.sync(ANNA)
        replaced = _with_keys(office, NEW)
        assert replaced.owner("anna-canary-key") is None
        found = replaced.file.sync()
        assert found is not None
        assert replaced.owner("anna-canary-key") == "anna@example.com"
        assert replaced.password("anna@example.com") == "anna-canary-word"
        assert len(replaced.store.read(Accounts.all)) == 1


class TestWatching:
    def test_reads_a_file_once_it_has_stopped_changing(self, office: Installation) -> None:
        assert office.file.sync_if_changed() is None
        office.write(ANNA)
        assert office.file.sync_if_changed() is None
        office.write(ANNA, BERTA)
        assert office.file.sync_if_changed() is None
        found = office.file.sync_if_changed()
        assert found is not None
        assert found.accepted == 2
        assert office.file.sync_if_changed() is None

    def test_reads_what_was_read_at_the_start_only_when_it_changes(self, office: Installation) -> None:
        office.sync(ANNA)
        assert [office.file.sync_if_changed() for _ in range(3)] == [None] * 3

    @pytest.mark.parametrize("kind", ["FIFO", "device", "directory", "large"])
    def test_reports_what_is_no_plain_file_once_and_keeps_the_accounts(
        self, office: Installation, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        office.sync(ANNA)
        office.path.unlink()
        match kind:
            case "FIFO":
                os.mkfifo(office.path)
            case "device":
                office.path.symlink_to("/dev/zero")
            case "directory":
                office.path.mkdir()
            case "large":
                office.path.touch()
                os.truncate(office.path, 1 << 40)
        found = [office.file.sync_if_changed() for _ in range(4)]
        assert [each is not None for each in found] == [False, True, False, False]
        report(found[1])
        said = {"large": "it has more than 64 MiB"}.get(kind, f"it is a {kind}, not a plain file")
        assert f"{office.path} cannot be read: {said}" in caplog.text
        assert office.owner("anna-canary-key") == "anna@example.com"
        office.path.rmdir() if kind == "directory" else office.path.unlink()
        office.write(BERTA)
        found = [office.file.sync_if_changed() for _ in range(4)]
        assert [each is not None for each in found] == [False, True, False, False]

    def test_reports_that_it_has_gone_and_reads_it_when_it_is_back(
        self, office: Installation, caplog: pytest.LogCaptureFixture
    ) -> None:
        office.sync(ANNA)
        office.path.unlink()
        found = [office.file.sync_if_changed() for _ in range(4)]
        assert [each is not None for each in found] == [False, True, False, False]
        report(found[1])
        me = pwd.getpwuid(os.geteuid()).pw_name
        assert f"{office.path} is not there: {office.path.parent} belongs to {me}:" in caplog.text
        assert f"and we are {me}" in caplog.text
        office.write(ANNA, BERTA)
        assert [office.file.sync_if_changed() is not None for _ in range(3)] == [False, True, False]

    def test_reports_that_it_may_not_be_read_any_more_and_whose_it_is(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As `mv` leaves it, or scp as root; the time of its content is as before."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            office = Installation(store, Path(folder) / "data.csv", OLD)
            office.sync(ANNA)
            office.path.chmod(0)
            with as_nobody():
                found = [office.file.sync_if_changed() for _ in range(4)]
                us = pwd.getpwuid(os.geteuid()).pw_name
            assert [each is not None for each in found] == [False, True, False, False]
            report(found[1])
            owner = pwd.getpwuid(office.path.stat().st_uid).pw_name
            said = f"{office.path} cannot be read: Permission denied: it belongs to {owner}:"
            assert said in caplog.text
            assert f"and we are {us}" in caplog.text
            assert all(record.levelno == logging.WARNING for record in caplog.records)

    def test_reports_a_broken_file_once(self, office: Installation) -> None:
        office.path.write_text("nonsense\n")
        found = [office.file.sync_if_changed() for _ in range(4)]
        assert [each is not None for each in found] == [False, True, False, False]

    def test_tries_again_what_the_store_did_not_take(self, office: Installation, database: Database) -> None:
        impatient = database.open_impatient()
        office = Installation(impatient, office.path, OLD)
        office.write(ANNA)
        office.file.sync_if_changed()
        with database.writes_held(), pytest.raises(StoreUnavailable):
            office.file.sync_if_changed()
        assert office.file.sync_if_changed() is not None
        assert office.owner("anna-canary-key") == "anna@example.com"
        impatient.close()


class _BusyStore(Store):
    """A store whose neighbour adds accounts while this process is reading them."""

    def __init__(self, store: Store, meanwhile: Any) -> None:
        self.__dict__.update(store.__dict__)
        self._meanwhile = meanwhile

    def read(self, function: Any, /, *arguments: Any, **named: Any) -> Any:
        found = super().read(function, *arguments, **named)
        if function == Accounts.all:
            self._meanwhile()
        return found


class TestApiKeys:
    @pytest.fixture
    def keys(self, office: Installation) -> ApiKeys:
        office.sync(ANNA)
        keys = ApiKeys(office.store, office.vault)
        assert account_of(keys, "anna-canary-key") is not None
        return keys

    def test_learns_of_new_keys_soon(self, office: Installation, keys: ApiKeys) -> None:
        office.sync(ANNA, BERTA)
        account = eventually(lambda: account_of(keys, "berta-canary-key"))
        assert account is not None
        assert account.email == "berta@example.com"

    def test_learns_of_revoked_keys_soon(self, office: Installation, keys: ApiKeys) -> None:
        office.sync(BERTA)
        eventually(lambda: account_of(keys, "anna-canary-key") is None)

    def test_does_not_ask_the_database_for_each_key(self, office: Installation, keys: ApiKeys) -> None:
        office.store.close()
        assert account_of(keys, "anna-canary-key") is not None

    @pytest.mark.only("postgres")
    @pytest.mark.parametrize("known", [True, False])
    def test_holds_nobody_up_while_the_database_is_away(
        self,
        office: Installation,
        database: Database,
        postgres_server: Postgres,
        known: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """32 requests share one wait; keys that were read stay, others are not said to be wrong."""
        monkeypatch.undo()  # the limit on a reader's wait is ours
        office.sync(ANNA)
        assert isinstance(database, PostgresDatabase)
        with Cable(postgres_server.port) as cable:
            store = Store(PostgresEngine(f"postgresql://postroom@127.0.0.1:{cable.port}/{database.name}"))
            keys = ApiKeys(store, office.vault)
            if known:
                assert account_of(keys, "anna-canary-key") is not None
            cable.cut_at(b"setting", before=True, stay_away=True)
            eventually(lambda: not keys.is_fresh)
            with at_most(30, "one wait for 32 requests"), ThreadPoolExecutor(32) as threads:
                outcomes = list(threads.map(partial(asked, keys), ["anna-canary-key", "unknown"] * 16))
            assert set(outcomes) == ({"anna@example.com", "away"} if known else {"away"})
            cable.mend()
            eventually(lambda: asked(keys, "anna-canary-key") == "anna@example.com")
            eventually(lambda: asked(keys, "unknown") == "nobody")
            store.close()

    def test_survives_an_account_that_comes_in_while_it_reads(self, office: Installation) -> None:
        office.sync(ANNA)
        busy = _BusyStore(
            office.store, lambda: office.sync(ANNA, BERTA) if not office.owner("berta-canary-key") else None
        )
        keys = ApiKeys(busy, office.vault)
        assert account_of(keys, "anna-canary-key") is not None
        eventually(lambda: account_of(keys, "berta-canary-key"))


class TestTheServer:
    LACKS = ServerLacks("mx.example:587", ("CHUNKING",), '502 5.5.1 what? \u00e9 "', NOW)

    def test_whose_lacks_are_known_to_all(self, office: Installation) -> None:
        office.sync(ANNA, BERTA)
        anna = office.stored("anna@example.com").account
        assert anna.server_lacks is None
        office.store.write(Accounts.note_server_lacks, anna.id, self.LACKS)
        assert office.stored("anna@example.com").account.server_lacks == self.LACKS
        found = office.store.read(Accounts.get, anna.id)
        assert found is not None
        assert found.account.server_lacks == self.LACKS
        assert office.stored("berta@example.com").account.server_lacks is None


class TestUsedKeys:
    @pytest.fixture
    def keys(self, office: Installation) -> ApiKeys:
        office.sync(ANNA, BERTA)
        keys = ApiKeys(office.store, office.vault)
        keys.refresh()
        return keys

    def test_are_known_to_others_and_after_a_restart(self, office: Installation, keys: ApiKeys) -> None:
        other = ApiKeys(office.store, office.vault)
        other.refresh()
        anna = keys.authenticate("anna-canary-key")
        assert anna.is_new
        office.store.write(Keys.note_used, anna.digest, NOW)
        keys.note_used(anna.digest)
        assert keys.is_used("anna-canary-key")
        assert not keys.authenticate("anna-canary-key").is_new
        assert not other.is_used("anna-canary-key")
        assert other.is_used_elsewhere("anna-canary-key")
        assert other.is_used("anna-canary-key")
        later = ApiKeys(office.store, office.vault)
        later.refresh()
        assert later.is_used("anna-canary-key")
        for each in (keys, other, later):
            assert not each.is_used("berta-canary-key")
            assert not each.is_used_elsewhere("berta-canary-key")
            assert not each.is_used_elsewhere("nobody's")

    def test_that_left_the_file_are_not(self, office: Installation, keys: ApiKeys) -> None:
        anna = keys.authenticate("anna-canary-key")
        assert anna.is_new
        office.store.write(Keys.note_used, anna.digest, NOW)
        keys.note_used(anna.digest)
        office.sync(BERTA)
        eventually(lambda: asked(keys, "anna-canary-key") == "nobody")
        assert not keys.is_used("anna-canary-key")
        assert not keys.is_used_elsewhere("anna-canary-key")


# Two values of each type that a setting of an account has.
VALUES: dict[str, tuple[Any, Any]] = {
    "str": ("one", "two"),
    "str | None": ("one", None),
    "int | None": (1, 2),
    "bool | None": (True, False),
    "Security | None": (Security.TLS, Security.STARTTLS),
}


@pytest.mark.parametrize("which", [0, 1])
def test_every_setting_of_an_account_is_stored_and_read(store: Store, which: int) -> None:
    """A new field is written in the insert, the update, the columns that are read, and the Account made of them."""
    identity = AccountIdentity("all@example.com", None, None, None)
    for number in (which, 1 - which):
        given = {field.name: VALUES[str(field.type)][number] for field in fields(AccountSettings)}
        id_ = store.write(
            Accounts.upsert, identity, AccountSettings(**given), no_password, source="csv", now=NOW
        )
        stored = store.read(Accounts.get, id_)
        assert stored is not None
        assert {name: getattr(stored.account, name) for name in given} == given
