"""Accounts and keys managed at run time: added, changed, paused, deleted; a secret stays with its server; all is audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from postroom.accounts.account_values import Value, is_private
from postroom.accounts.csv_sync import AccountsFile, unlock
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement, KeyWish
from postroom.accounts.keys import ApiKeys
from postroom.accounts.management import AccountManagement, AccountView
from postroom.accounts.vault import Vault
from postroom.core.account import AccountState, Secret
from postroom.core.api_key import OF_THE_INSTALLATION, Scope
from postroom.core.audit import Actor
from postroom.core.clock import SECOND
from postroom.core.errors import Conflict, InvalidSubmission, NotAuthenticated, NotFound, NotPermitted
from postroom.core.message import Accepted
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.settings import Settings
from postroom.store.acceptance import Acceptance
from postroom.store.accounts import Accounts
from postroom.store.audit import Audit
from postroom.store.closing import Closings
from postroom.store.messages import Messages
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.store import Store
from tests.store.database import NOW, Database, Post, new_message

ADMIN = Actor("admin token", "127.0.0.1")
CLERK = Actor("key clerk", "192.0.2.7", frozenset({Scope.ACCOUNTS}))
DAY = 24 * 3600 * SECOND


@dataclass
class Office:
    """A store with a vault, and what manages its accounts and keys."""

    store: Store
    post: Post
    vault: Vault
    accounts: AccountManagement
    keys: KeyManagement

    def add(self, email: str = "ann@example.com", **given: str | int) -> AccountView:
        values = {"email": email, "host": "mail.example.com", **given}
        return self.accounts.create(values, ADMIN, password=Secret("canary-password"))

    def actions(self) -> list[tuple[str, str | None, int]]:
        return [(entry.action, entry.target, entry.refused) for entry in self.store.read(Audit.page, 100)]


@pytest.fixture
def office(database: Database) -> Iterator[Office]:
    with closing(database.open()) as store:
        vault = Vault((Secret("the secret of this test"),))
        adopt_digest_key(store, vault, create=True)
        settings = Settings()

        def clock() -> int:
            return NOW

        yield Office(
            store,
            Post(store, database),
            vault,
            AccountManagement(store, vault, settings, clock),
            KeyManagement(store, vault, clock),
        )


class TestAnAccount:
    def test_of_the_file_can_be_held_and_nothing_else_of_it_is_changed(self, office: Office) -> None:
        [csv] = [stored.account for stored in office.store.read(Accounts.all)]
        assert csv.source == "csv"
        assert office.accounts.change(csv.uid, {"hold": True}, ADMIN).account.hold
        with pytest.raises(Conflict):
            office.accounts.change(csv.uid, {"hold": False, "name": "Ann"}, ADMIN)
        with pytest.raises(NotPermitted):
            office.accounts.change(csv.uid, {"hold": False}, CLERK)
        assert office.accounts.change(csv.uid, {"hold": None}, ADMIN).account.hold is False

    def test_is_held_by_an_admin_alone(self, office: Office) -> None:
        added = office.add()
        with pytest.raises(NotPermitted):
            office.accounts.change(added.account.uid, {"hold": True, "name": "Ann"}, CLERK)
        assert office.accounts.get(added.account.uid).account.name == ""
        assert office.accounts.change(added.account.uid, {"name": "Ann"}, CLERK).account.name == "Ann"

    def test_is_added_with_its_secret_sealed_and_audited(self, office: Office) -> None:
        added = office.add(name="Ann", daily_limit=50)
        stored = office.store.read(Accounts.by_uid, added.account.uid)
        assert stored is not None
        assert unlock(stored, office.vault).password == Secret("canary-password")
        assert (stored.account.source, stored.account.daily_limit, stored.account.name) == ("api", 50, "Ann")
        [entry] = office.store.read(Audit.page, 10)
        assert (entry.action, entry.target, entry.actor) == (
            "account.create",
            "ann@example.com",
            "admin token",
        )
        assert "canary" not in repr(entry)

    def test_is_refused_twice_with_the_same_identity(self, office: Office) -> None:
        office.add()
        with pytest.raises(Conflict, match="already"):
            office.add()
        office.add(port=2525)  # another identity

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"email": "nobody"}, "email"),
            ({"port": 70_000}, "port"),
            ({"security": "ssl3"}, "security"),
            ({"daily_limit": 0}, "daily_limit"),
            ({"host": "no host"}, "host"),
            ({"dkim_selector": "a b"}, "dkim_selector"),
            ({"name": "a\x01b"}, "name"),
        ],
    )
    def test_is_refused_naming_the_field(
        self, office: Office, given: dict[str, str | int], field: str
    ) -> None:
        with pytest.raises(InvalidSubmission) as caught:
            office.accounts.create({"email": "a@example.com", **given}, ADMIN, password=Secret("p"))
        assert caught.value.field == field
        assert not office.actions()

    def test_without_a_password_needs_a_server(self, office: Office) -> None:
        with pytest.raises(InvalidSubmission) as caught:
            office.accounts.create({"email": "ann@gmail.com"}, ADMIN)
        assert caught.value.field == "password"

    @pytest.mark.parametrize(
        "changes", [{"host": "evil.example"}, {"port": 26}, {"username": "other"}, {"security": "none"}]
    )
    def test_keeps_its_secret_for_its_server(self, office: Office, changes: dict[str, str | int]) -> None:
        uid = office.add(security="tls", port=465).account.uid
        with pytest.raises(InvalidSubmission) as caught:
            office.accounts.change(uid, changes, ADMIN)
        assert caught.value.field in changes
        if "security" not in changes:
            office.accounts.change(uid, changes, ADMIN, password=Secret("given again"))
            stored = office.store.read(Accounts.by_uid, uid)
            assert stored is not None
            assert unlock(stored, office.vault).password == Secret("given again")

    def test_changes_what_is_named_and_keeps_the_rest(self, office: Office) -> None:
        uid = office.add(name="Ann", daily_limit=50).account.uid
        changed = office.accounts.change(uid, {"daily_limit": 60}, ADMIN, aliases=("sales@example.com",))
        assert (changed.account.name, changed.account.daily_limit, changed.has_password) == ("Ann", 60, True)
        assert [alias.email for alias in changed.aliases] == ["sales@example.com"]
        again = office.accounts.change(uid, {"daily_limit": None}, ADMIN)
        assert (again.account.daily_limit, len(again.aliases)) == (None, 1)
        verified = office.accounts.verify_alias(uid, "sales@example.com", ADMIN)
        assert verified.aliases[0].verified_by == "admin"

    def test_of_a_private_network_is_the_admins_to_add(self, office: Office) -> None:
        with pytest.raises(NotPermitted):
            office.accounts.create(
                {"email": "a@example.com", "host": "10.0.0.7"}, CLERK, password=Secret("p")
            )
        office.accounts.create({"email": "a@example.com", "host": "10.0.0.7"}, ADMIN, password=Secret("p"))

    def test_whose_host_a_key_has_named_is_confined_until_the_admin_names_it(self, office: Office) -> None:
        account = office.accounts.create(
            {"email": "a@example.com", "host": "mail.example.com"}, CLERK, password=Secret("p")
        ).account
        assert account.is_confined

        def change(actor: Actor, **changes: Value) -> bool:
            return office.accounts.change(
                account.uid, changes, actor, password=Secret("p")
            ).account.is_confined

        assert change(ADMIN, name="Ann")
        assert change(ADMIN, port=2525)
        assert not change(ADMIN, host="mail.example.com")
        assert not change(CLERK, name="Anna")
        assert change(CLERK, host="smtp.example.com")
        assert not office.add().account.is_confined

    def test_that_a_person_paused_goes_on_by_a_person_alone(self, office: Office) -> None:
        uid = office.add().account.uid
        paused = office.accounts.pause(uid, ADMIN)
        assert (paused.account.state, paused.account.paused_by) == (AccountState.PAUSED, "person")
        id_ = paused.account.id
        office.store.write(Accounts.resume, id_, NOW)
        office.store.write(Accounts.note_worked, id_, NOW)
        office.store.write(Accounts.park, id_, reason="limit", rest=1, tried_at=NOW + 1, now=NOW + 2)
        office.accounts.change(uid, {}, ADMIN, password=Secret("new"))
        stored = office.store.read(Accounts.by_uid, uid)
        assert stored is not None
        assert (stored.account.state, stored.account.paused_by) == (AccountState.PAUSED, "person")
        assert office.accounts.resume(uid, ADMIN).account.state is AccountState.ACTIVE

    def test_that_the_breaker_paused_goes_on_with_a_new_password(self, office: Office) -> None:
        account = office.add().account
        office.store.write(Accounts.pause, account.id, reason="535", tried_at=NOW, now=NOW)
        stored = office.store.read(Accounts.by_uid, account.uid)
        assert stored is not None
        assert (stored.account.state, stored.account.paused_by) == (AccountState.PAUSED, "breaker")
        office.accounts.change(account.uid, {}, ADMIN, password=Secret("new"))
        assert office.accounts.get(account.uid).account.state is AccountState.ACTIVE


class TestTheEndOfAnAccount:
    def test_asks_what_becomes_of_what_waits(self, office: Office) -> None:
        uid = self._with_messages(office)
        with pytest.raises(
            Conflict, match=r"2 messages of the account have not ended \(1 queued, 1 scheduled\)"
        ):
            office.accounts.delete(uid, ADMIN)

    def test_cancels_what_has_no_dot_out(self, office: Office) -> None:
        uid = self._with_messages(office)
        key = office.keys.issue_for_account(uid, KeyWish("shop"), ADMIN)
        assert office.accounts.delete(uid, ADMIN, queued="cancel")
        with pytest.raises(NotFound):
            office.accounts.get(uid)
        self._is_dead(office, key.text)
        states = {str(office.store.read(Messages.status, id_)) for id_ in self.ids}
        assert states == {"cancelled"}
        assert office.post.database.rows(f"SELECT credential FROM account WHERE uid = '{uid}'") == [(None,)]

    def test_waits_for_the_last_message_and_then_fails_it(self, office: Office) -> None:
        uid = self._with_messages(office)
        assert not office.accounts.delete(uid, ADMIN, queued="finish")
        assert office.accounts.get(uid).account.closing_at == NOW
        [closing_] = office.store.read(Closings.closing)
        assert office.store.write(Closings.fail_overdue, closing_.id, NOW, NOW) == 1, (
            "the scheduled one waits"
        )
        assert office.store.write(Closings.fail_overdue, closing_.id, NOW + DAY, NOW + DAY) == 1
        office.store.write(Closings.end, closing_.id, NOW + DAY)
        states = {str(office.store.read(Messages.status, id_)) for id_ in self.ids}
        assert states == {"failed (account deleted)"}
        assert not office.store.read(Closings.closing)

    def test_leaves_its_identity_to_another_account(self, office: Office) -> None:
        uid = office.add().account.uid
        assert office.accounts.delete(uid, ADMIN)
        assert office.add().account.uid != uid

    def _with_messages(self, office: Office) -> str:
        account = office.add().account
        now = new_message(account.id)
        later = replace(new_message(account.id), not_before=NOW + DAY)
        accepted = [office.store.write(Acceptance.accept, message) for message in (now, later)]
        self.ids = [each.request_id for each in accepted if isinstance(each, Accepted)]
        return account.uid

    def _is_dead(self, office: Office, key: str) -> None:
        keys = ApiKeys(office.store, office.vault)
        keys.refresh()
        with pytest.raises(NotAuthenticated):
            keys.authenticate(key)


class TestAKey:
    def test_opens_its_account_and_is_shown_once(self, office: Office) -> None:
        account = office.add().account
        new = office.keys.issue_for_account(
            account.uid, KeyWish("shop", allowed_recipients=("*@Example.com", "bob@example.org")), ADMIN
        )
        assert new.text.startswith("pr_live_")
        assert new.issued.hint == new.text[-4:]
        keys = ApiKeys(office.store, office.vault, lambda: NOW)
        keys.refresh()
        principal = keys.authenticate(new.text)
        assert (principal.account.id, principal.is_new) == (account.id, True)
        principal.key.check_recipients(("x@example.com", "bob@example.org"))
        with pytest.raises(NotPermitted, match=r"eve@example\.org"):
            principal.key.check_recipients(("bob@example.org", "eve@example.org"))
        assert new.text not in repr(office.post.database.rows("SELECT * FROM issued_key"))

    def test_is_revoked_and_rotated(self, office: Office) -> None:
        account = office.add().account
        new = office.keys.issue_for_account(account.uid, KeyWish("shop", daily_limit=3), ADMIN)
        with_overlap = office.keys.rotate(new.issued.key.uid or "", ADMIN, overlap=DAY)
        at_once = office.keys.rotate(with_overlap.issued.key.uid or "", ADMIN)
        keys = ApiKeys(office.store, office.vault, lambda: NOW)
        keys.refresh()
        assert keys.authenticate(new.text).key.expires_at == NOW + DAY
        assert keys.authenticate(at_once.text).key.daily_limit == 3
        with pytest.raises(NotAuthenticated):
            keys.authenticate(with_overlap.text)
        office.keys.revoke(at_once.issued.key.uid or "", ADMIN)
        with pytest.raises(NotFound):
            office.keys.revoke(at_once.issued.key.uid or "", ADMIN)
        assert [action for action, _, _ in office.actions()][:4] == [
            "key.revoke", "key.rotate", "key.rotate", "key.issue",
        ]  # fmt: skip

    def test_makes_no_key_beyond_its_own_scopes(self, office: Office) -> None:
        with pytest.raises(NotPermitted):
            office.keys.issue_for_installation(KeyWish("root", scopes=OF_THE_INSTALLATION), CLERK)
        uid = office.add().account.uid
        with pytest.raises(InvalidSubmission, match="installation"):
            office.keys.issue_for_account(uid, KeyWish("x", scopes=frozenset({Scope.ADMIN})), ADMIN)
        admins = office.keys.issue_for_installation(KeyWish("root", scopes=OF_THE_INSTALLATION), ADMIN)
        with pytest.raises(NotPermitted):
            office.keys.revoke(admins.issued.key.uid or "", CLERK)

    @pytest.mark.parametrize(
        ("wish", "field"),
        [
            (KeyWish(" "), "name"),
            (KeyWish("x", scopes=frozenset()), "scopes"),
            (KeyWish("x", daily_limit=0), "daily_limit"),
            (KeyWish("x", expires_at=NOW), "expires_at"),
            (KeyWish("x", allowed_recipients=("example.com",)), "allowed_recipients"),
            (KeyWish("x", allowed_recipients=()), "allowed_recipients"),
        ],
    )
    def test_is_refused_naming_the_field(self, office: Office, wish: KeyWish, field: str) -> None:
        uid = office.add().account.uid
        with pytest.raises(InvalidSubmission) as caught:
            office.keys.issue_for_account(uid, wish, ADMIN)
        assert caught.value.field == field


def test_a_file_changes_nothing_of_an_account_that_is_managed(office: Office, tmp_path: Path) -> None:
    account = office.add(name="Ann").account
    path = tmp_path / "data.csv"
    path.write_text(
        "key,email,app_password,host,name\nkey-of-the-file-1234,ann@example.com,other,mail.example.com,Eve\n"
    )
    AccountsFile(office.store, office.vault, path).sync()
    stored = office.store.read(Accounts.by_uid, account.uid)
    assert stored is not None
    assert stored.account.name == "Ann"
    assert unlock(stored, office.vault).password == Secret("canary-password")
    assert office.accounts.delete(account.uid, ADMIN)
    path.write_text(path.read_text() + "\n")
    AccountsFile(office.store, office.vault, path).sync()
    assert "ann@example.com" not in {each.account.email for each in office.store.read(Accounts.all)}


def test_refusals_are_audited_once_a_minute_and_source(office: Office) -> None:
    for at in (NOW, NOW + SECOND, NOW + 61 * SECOND):
        office.store.write(Audit.append_refusal, CLERK, "account.create", "x@example.com", at)
    assert [refused for _, _, refused in office.actions()] == [1, 1]
    assert office.store.write(Audit.prune, NOW + SECOND, 10) == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("::1", True), ("[fd00::1]", True), ("10.1.2.3", True), ("169.254.169.254", True),
        ("localhost", True), ("mail.localhost", True), ("inbox", True), ("intranet", True), ("db.internal", True),
        ("smtp.gmail.com", False), ("192.88.99.1", False), ("2001:4860::1", False), (None, False),
    ],
)  # fmt: skip
def test_a_private_host_is_known_by_its_name_or_address(host: str | None, expected: bool) -> None:
    assert is_private(host) is expected


def test_an_account_with_a_grant_keeps_its_server_whatever_is_given(office: Office) -> None:
    """What its provider gave would go to another server, and a password given beside it changes nothing about that."""
    account = office.accounts.create({"email": "ann@gmail.com"}, ADMIN, will_log_in_by_oauth=True).account
    grant = OAuthGrant(
        account_id=account.id,
        provider="google",
        kind=GrantKind.REFRESH_TOKEN,
        token_endpoint="https://oauth2.googleapis.com/token",
        client_id="id",
        client_secret=None,
        scope="https://mail.google.com/",
        grant_secret=b"sealed",
        access_token=None,
        expires_at=None,
        updated_at=NOW,
        refused=None,
    )
    office.store.write(OAuthGrants.set, grant, NOW)
    for password in (None, Secret("given")):
        with pytest.raises(InvalidSubmission) as caught:
            office.accounts.change(account.uid, {"host": "evil.example"}, ADMIN, password=password)
        assert caught.value.field == "host"
    assert office.accounts.change(account.uid, {"name": "Ann"}, ADMIN).account.name == "Ann"
