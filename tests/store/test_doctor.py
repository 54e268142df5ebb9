"""An account that is examined: what is found is stored on both engines, and holds what the database knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.accounts.csv_sync import password_context
from postroom.accounts.doctor.account import Login
from postroom.accounts.doctor.examine import Examination, examine, findings_of
from postroom.accounts.doctor.finding import Finding, Severity, as_values
from postroom.accounts.vault import Vault
from postroom.core.account import AccountSettings, Security
from postroom.core.clock import SECOND, system_clock
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.settings import Settings
from postroom.store.accounts import AccountIdentity, Accounts
from postroom.store.findings import Findings
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.store import Store
from postroom.store.usage import Usage
from tests.conftest import StartScripted
from tests.servers.dns import NameServer
from tests.servers.programs import free_port
from tests.servers.scripted import ScriptedServer
from tests.store.database import NOW, Database

PASSWORD = "abcdefghijklmnop"


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer() as server:
        server.txt["corp.example"] = ["v=spf1 ip4:127.0.0.1 -all"]
        server.txt["s._domainkey.corp.example"] = ["v=DKIM1; p=abcd"]
        server.txt["_dmarc.corp.example"] = ["v=DMARC1; p=reject"]
        yield server


class Ann:
    """An account at a server of our own, and the doctor."""

    def __init__(self, store: Store, database: Database, dns: NameServer, folder: Path, port: int) -> None:
        self.store, self.database, self.dns = store, database, dns
        self.settings = Settings(secret_key="x" * 40)
        self.vault = Vault.open(self.settings, folder)
        self.id = store.write(
            Accounts.upsert,
            AccountIdentity("ann@corp.example", "127.0.0.1", port, None),
            AccountSettings("Ann", Security.NONE, 10, None, None, None, None),
            lambda uid: self.vault.seal(PASSWORD, password_context(uid)),
            source="csv",
            now=NOW,
        )

    def change(self, columns: str) -> None:
        self.database.change(f"UPDATE account SET {columns} WHERE id = {self.id}")

    def examine(self, login: Login | None = None) -> Examination:
        stored = self.store.read(Accounts.get, self.id)
        assert stored is not None
        return examine(
            self.store, self.settings, self.vault, stored, login=login, make_resolver=self.dns.resolver
        )

    def found(self, subject: str, login: Login | None = None) -> Finding:
        (finding,) = (each for each in self.examine(login).findings if each.subject == subject)
        return finding


@pytest.fixture
def server(scripted: StartScripted) -> ScriptedServer:
    return scripted(users={"ann@corp.example": PASSWORD}, auth_required=True)


@pytest.fixture
def ann(store: Store, database: Database, dns: NameServer, tmp_path: Path, server: ScriptedServer) -> Ann:
    return Ann(store, database, dns, tmp_path, server.port)


def test_what_is_found_is_stored_and_read_again(ann: Ann, server: ScriptedServer) -> None:
    assert findings_of(ann.store, ann.id) is None
    ann.change("dkim_selector = 's'")
    first = ann.examine()
    assert findings_of(ann.store, ann.id) == first
    found = {finding.subject: finding.severity for finding in first.findings}
    before_dns = ["name", "route", "host", "port", "greeting", "tls", "auth"]
    assert list(found) == [*before_dns, "spf", "dkim", "dmarc", "state", "login", "limit"]
    well = {name for name, severity in found.items() if severity is Severity.OK}
    assert well == set(found) - {"state", "login"}
    ann.change("daily_limit = 0 + 7")
    ann.examine()
    again = findings_of(ann.store, ann.id)
    assert again is not None
    assert again.at >= first.at
    assert "0 of 7 recipients" in json.dumps(as_values(again.findings))
    assert server.logins == []
    assert PASSWORD not in json.dumps(as_values(again.findings))


def test_the_state_is_told_in_its_own_words(ann: Ann) -> None:
    assert ann.found("state").severity is Severity.NOTE, "it has sent nothing yet"
    ann.change("worked_at = 1700000000000000")
    assert ann.found("state").severity is Severity.OK
    reason, now = "535 5.7.8 Username and Password not accepted", system_clock()
    ann.store.write(
        lambda t: t.accounts.suspend(ann.id, state="paused", reason=reason, resume_at=now, now=now)
    )
    found = ann.found("state")
    assert (found.severity, found.detail) == (Severity.ERROR, reason)
    assert found.summary.startswith("paused since ")
    assert found.fix is not None
    assert found.fix.endswith("postroom accounts resume ann@corp.example")
    ann.store.write(Accounts.pause_by_person, ann.id, "on holiday", now)
    found = ann.found("state")
    assert (found.severity, found.detail) == (Severity.NOTE, "on holiday")
    ann.store.write(Accounts.resume_by_person, ann.id, now)
    ann.store.write(
        lambda t: t.accounts.suspend(ann.id, state="parked", reason="full", resume_at=now, now=now)
    )
    assert ann.found("state").severity is Severity.WARNING


def test_where_its_settings_are_is_told(ann: Ann) -> None:
    assert ann.found("name").detail == "its settings are a row of data.csv"
    ann.change("source = 'api', uid = 'an-id'")
    assert str(ann.found("name").detail).startswith(
        "postroom accounts set ann@corp.example changes its settings (PATCH /v1/accounts/an-id)"
    )


def test_the_daily_limit(ann: Ann) -> None:
    assert ann.found("limit").severity is Severity.OK
    for used, severity in ((8, Severity.NOTE), (2, Severity.WARNING)):
        ann.store.write(Usage.reserve, ann.id, used, system_clock())
        assert ann.found("limit").severity is severity
    assert ann.found("limit").summary == "10 of 10 recipients used in the last 24 hours, 0 left"


def test_aliases(ann: Ann) -> None:
    ann.database.change(
        f"INSERT INTO account_alias VALUES ({ann.id}, 'a@corp.example', {SECOND}, 'admin'), "
        f"({ann.id}, 'b@corp.example', NULL, NULL)"
    )
    verified, other = (each for each in ann.examine().findings if each.subject == "alias")
    assert verified == Finding(
        "alias", Severity.OK, "a@corp.example is verified by admin at 1970-01-01T00:00:01.000Z"
    )
    assert other.severity is Severity.NOTE
    assert "b@corp.example" in str(other.fix)


@pytest.mark.parametrize(
    ("login", "severity"),
    [
        (Login(True, "logged in at 127.0.0.1:587"), Severity.OK),
        (Login(False, "535 5.7.8 no"), Severity.ERROR),
        (Login(None, "all its connections are in use just now"), Severity.NOT_KNOWN),
        (None, Severity.NOT_KNOWN),
    ],
)
def test_a_log_in_that_was_made_or_not(ann: Ann, login: Login | None, severity: Severity) -> None:
    found = ann.found("login", login)
    assert found.severity is severity
    if login is not None:
        assert login.words in (found.summary, found.detail)


def test_a_password_that_was_refused_is_an_error_without_another_try(ann: Ann) -> None:
    digest = ann.vault.digest(PASSWORD).hex()
    ann.store.write(Accounts.note_refused_password, ann.id, digest)
    assert ann.found("login").severity is Severity.ERROR
    ann.store.write(Accounts.note_refused_password, ann.id, "another")
    assert ann.found("login").severity is Severity.NOT_KNOWN


def test_a_token_that_is_refused(ann: Ann) -> None:
    grant = OAuthGrant(
        account_id=ann.id,
        provider="google",
        kind=GrantKind.REFRESH_TOKEN,
        token_endpoint="https://oauth2.googleapis.com/token",
        client_id="id",
        scope="https://mail.google.com/",
        client_secret=None,
        grant_secret=b"sealed",
        access_token=None,
        expires_at=None,
        refused=None,
    )
    ann.store.write(OAuthGrants.set, grant, NOW)
    assert ann.found("login").severity is Severity.NOT_KNOWN
    assert ann.found("auth").severity is Severity.ERROR, "its server has passwords alone"
    ann.database.change("UPDATE oauth_grant SET refused = 'it was revoked'")
    found = ann.found("login")
    assert (found.severity, found.detail) == (Severity.ERROR, "it was revoked")
    assert found.fix == "postroom accounts authorize ann@corp.example"


def test_a_password_of_another_secret_key(ann: Ann, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ann.vault = Vault.open(Settings(secret_key="y" * 40), tmp_path / "other")
    assert "secret key" in ann.found("login").summary


def test_a_server_that_nobody_has_named(ann: Ann) -> None:
    ann.change("host = NULL, port = NULL, security = NULL")
    found = ann.found("route")
    assert found.severity is Severity.ERROR
    assert "nobody has named the server of corp.example" in str(found.detail)
    ann.dns.mx["corp.example"] = ["1 aspmx.l.google.com."]
    assert ann.found("route").summary == (
        "smtp.gmail.com:587 with security starttls: the MX of corp.example shows it"
    )
    assert ann.found("host").severity is Severity.ERROR, "there is no way to it from here"


def test_what_takes_too_long_is_not_known(ann: Ann, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroom.accounts.doctor.examine.LONGEST_S", 0.5)
    ann.dns.mute = True
    found = {each.subject: each.severity for each in ann.examine().findings}
    assert {found[subject] for subject in ("spf", "dkim", "dmarc")} == {Severity.NOT_KNOWN}
    assert "state" in found


def test_an_account_of_the_built_in_inbox(ann: Ann, server: ScriptedServer) -> None:
    ann.change("host = 'inbox', port = NULL, security = NULL, credential = NULL")
    assert [each.severity for each in ann.examine().findings if each.subject == "port"] == [
        Severity.NOT_KNOWN
    ]
    stored = ann.store.read(Accounts.get, ann.id)
    assert stored is not None
    found = examine(ann.store, ann.settings, ann.vault, stored, inbox_port=server.port).findings
    assert not [each for each in found if each.severity in (Severity.ERROR, Severity.NOT_KNOWN)]
    assert not [each for each in found if each.subject == "spf"]


def test_the_database_says_its_version_and_time(store: Store, engine: str) -> None:
    assert store.read(Findings.database_version).split()[0].lower().startswith(engine)
    now = store.read(Findings.database_clock)
    if engine == "sqlite":
        assert now is None
    else:
        assert now is not None
        assert abs(now - system_clock()) < 60 * SECOND


def test_a_port_where_nothing_listens(ann: Ann) -> None:
    ann.change(f"port = {free_port()}")
    assert ann.found("port").severity is Severity.ERROR
    assert ann.found("spf").severity is Severity.NOT_KNOWN, "the server's address is not known"
