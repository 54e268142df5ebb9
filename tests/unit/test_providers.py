"""Known servers: which one an account sends through, and what its provider allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from postroom.core.account import Account, Security
from postroom.core.errors import ConfigError
from postroom.providers import (
    LOWEST_DAILY_LIMIT,
    Server,
    ServerUndecided,
    server_by_exchangers,
    server_for,
    unnamed_server,
)
from postroom.settings import Settings, load_settings, variables


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder and none of our variables."""
    for setting in Settings.model_fields:
        for name in variables(setting):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def _account(
    email: str = "ann@example.com",
    host: str | None = None,
    port: int | None = None,
    security: Security | None = None,
    connections: int | None = None,
    username: str | None = None,
) -> Account:
    return Account(1, email, "", host, port, security, username, connections=connections)


def _where(server: Server) -> tuple[str, int, Security]:
    return server.host, server.port, server.security


STARTTLS, TLS, NONE = Security.STARTTLS, Security.TLS, Security.NONE


class TestServer:
    @pytest.mark.parametrize(
        ("domain", "host", "port", "security", "provider"),
        [
            ("gmail.com", "smtp.gmail.com", 587, STARTTLS, "gmail"),
            ("GoogleMail.com", "smtp.gmail.com", 587, STARTTLS, "gmail"),
            ("outlook.com", "smtp-mail.outlook.com", 587, STARTTLS, "outlook"),
            ("hotmail.com", "smtp-mail.outlook.com", 587, STARTTLS, "outlook"),
            ("live.com", "smtp-mail.outlook.com", 587, STARTTLS, "outlook"),
            ("acme.onmicrosoft.com", "smtp.office365.com", 587, STARTTLS, "office365"),
            ("yahoo.com", "smtp.mail.yahoo.com", 465, TLS, "yahoo"),
            ("icloud.com", "smtp.mail.me.com", 587, STARTTLS, "icloud"),
            ("me.com", "smtp.mail.me.com", 587, STARTTLS, "icloud"),
            ("fastmail.com", "smtp.fastmail.com", 465, TLS, "fastmail"),
            ("zoho.com", "smtp.zoho.com", 465, TLS, "zoho"),
        ],
    )
    def test_follows_from_the_senders_domain(
        self, domain: str, host: str, port: int, security: Security, provider: str
    ) -> None:
        email = f"ann@{domain}"
        expected = Server(
            host, port, security, connections=2, username=email, provider=provider, logins_per_minute=10
        )
        assert replace(server_for(_account(email), Settings()), daily_limit=None) == expected

    @pytest.mark.parametrize(
        ("email", "host", "own", "limit"),
        [
            ("ann@gmail.com", None, None, 450),
            ("ann@googlemail.com", None, None, 450),
            ("ann@example.com", "smtp.gmail.com", None, 1800),  # Workspace
            ("ann@acme.onmicrosoft.com", None, None, 9000),
            ("ann@me.com", None, None, 900),
            ("ann@zoho.com", None, None, None),
            ("ann@gmail.com", "smtp.example.com", None, None),  # limits belong to the server
            ("ann@gmail.com", None, 500, 500),  # the account's own has no headroom taken off
            ("ann@example.com", "smtp.example.com", 7, 7),
        ],
    )
    def test_has_the_daily_limit_of_the_account_or_of_the_provider(
        self, email: str, host: str | None, own: int | None, limit: int | None
    ) -> None:
        account = replace(_account(email), host=host, daily_limit=own)
        assert server_for(account, Settings()).daily_limit == limit

    def test_paces_log_ins_as_the_account_says_or_at_a_known_provider(self) -> None:
        for host, own, expected in (
            ("smtp.gmail.com", None, 10),
            ("smtp.gmail.com", 60, 60),
            ("a.b", None, None),
        ):
            account = replace(_account(), host=host, logins_per_minute=own)
            assert server_for(account, Settings()).logins_per_minute == expected

    @pytest.mark.parametrize("own", [None, True, False])
    def test_makes_use_of_extensions_unless_the_account_says_no(self, own: bool | None) -> None:
        server = server_for(replace(_account(host="a.b"), pipelining=own, chunking=True), Settings())
        assert (server.pipelining, server.chunking) == (own is not False, True)
        server = server_for(replace(_account(host="a.b"), chunking=own), Settings())
        assert (server.pipelining, server.chunking) == (True, own is not False)

    def test_of_the_settings_beats_the_preset(self) -> None:
        settings = Settings(smtp_host="relay.example", smtp_port=465)
        server = server_for(_account("ann@gmail.com"), settings)
        assert _where(server) == ("relay.example", 465, TLS)
        assert (server.connections, server.provider, server.logins_per_minute) == (20, None, None)

    def test_of_the_account_beats_the_settings_whole(self) -> None:
        settings = Settings(smtp_host="relay.example", smtp_port=465, smtp_security=TLS, smtp_connections=5)
        server = server_for(_account(host="Mail.example", username="ann", connections=3), settings)
        assert _where(server) == ("mail.example", 587, STARTTLS)
        assert (server.username, server.connections) == ("ann", 3)
        assert server_for(_account(host="mail.example"), settings).connections == 5

    def test_limits_belong_to_the_server_not_to_the_senders_domain(self) -> None:
        assert server_for(_account("ann@gmail.com", host="mail.example"), Settings()).provider is None
        own = server_for(_account("ann@example.com", host="smtp.gmail.com"), Settings())
        assert (own.provider, own.connections) == ("gmail", 2)

    @pytest.mark.parametrize(
        ("port", "security", "expected"),
        [
            (None, None, (587, STARTTLS)),
            (465, None, (465, TLS)),
            (2525, None, (2525, STARTTLS)),
            (None, TLS, (465, TLS)),
            (None, NONE, (25, NONE)),
            (587, NONE, (587, NONE)),
            (465, STARTTLS, (465, STARTTLS)),
        ],
    )
    def test_port_and_security_follow_from_each_other(
        self, port: int | None, security: Security | None, expected: tuple[int, Security]
    ) -> None:
        server = server_for(_account(host="localhost", port=port, security=security), Settings())
        assert _where(server) == ("localhost", *expected)

    def test_settings_without_host_alter_the_presets_port(self) -> None:
        assert _where(server_for(_account("a@gmail.com"), Settings(smtp_port=465))) == (
            "smtp.gmail.com",
            465,
            TLS,
        )
        yahoo = server_for(_account("a@yahoo.com"), Settings(smtp_security=STARTTLS))
        assert _where(yahoo) == ("smtp.mail.yahoo.com", 587, STARTTLS)
        assert _where(server_for(_account("a@yahoo.com"), Settings(smtp_port=587)))[2] is STARTTLS

    def test_account_may_alter_the_port_of_the_settings_host(self) -> None:
        settings = Settings(smtp_host="127.0.0.1", smtp_port=1025, smtp_security=NONE)
        assert _where(server_for(_account(port=1026), settings)) == ("127.0.0.1", 1026, NONE)
        assert _where(server_for(_account(security=STARTTLS), settings)) == ("127.0.0.1", 1025, STARTTLS)

    @pytest.mark.parametrize(
        "account", [_account(host="inbox"), _account(host="INBOX", port=99, security=TLS)]
    )
    def test_inbox_stays_symbolic(self, account: Account) -> None:
        expected = Server("inbox", 0, NONE, connections=20, username="ann@example.com", provider=None)
        assert server_for(account, Settings()) == expected

    def test_inbox_can_be_everyones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POSTROOM_SMTP_HOST", "inbox")
        monkeypatch.setenv("POSTROOM_SMTP_SECURITY", "none")
        assert _where(server_for(_account("a@gmail.com"), load_settings())) == ("inbox", 0, NONE)


class TestPlaintext:
    def test_of_an_account_is_refused_beyond_loopback(self) -> None:
        with pytest.raises(ConfigError, match=r"ann@example\.com.* mail\.example;") as caught:
            server_for(_account(host="mail.example", security=NONE), Settings())
        assert caught.value.variable == "POSTROOM_SMTP_ALLOW_PLAINTEXT"

    def test_is_fine_on_loopback_or_when_forced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = _account(host="mail.example", security=NONE)
        assert server_for(account, Settings(smtp_allow_plaintext=True)).security is NONE
        monkeypatch.setenv("POSTROOM_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("POSTROOM_SMTP_SECURITY", "none")
        assert load_settings().smtp_security is NONE


WORKED = replace(_account(), worked_with="smtp.office365.com")
BEFORE_THE_UPDATE = replace(_account(), worked_with="")


class TestNobodyNamedIt:
    def test_is_no_reason_to_send_a_password_anywhere(self) -> None:
        with pytest.raises(ServerUndecided) as caught:
            server_for(_account("ann@Example.com"), Settings())
        assert caught.value.domain == "example.com"
        assert unnamed_server(_account(), Settings()) is None

    def test_the_exchangers_decide(self) -> None:
        server = server_for(_account(), Settings(), "smtp.fastmail.com")
        assert _where(server) == ("smtp.fastmail.com", 465, TLS)
        assert server.provider == "fastmail"
        assert unnamed_server(_account(), Settings(), "smtp.fastmail.com") == "smtp.fastmail.com"

    @pytest.mark.parametrize("by_exchangers", [None, "smtp.fastmail.com"])
    def test_what_an_account_has_worked_with_stays(self, by_exchangers: str | None) -> None:
        assert _where(server_for(WORKED, Settings(), by_exchangers)) == ("smtp.office365.com", 587, STARTTLS)
        assert unnamed_server(WORKED, Settings(), by_exchangers) == "smtp.office365.com"
        before = server_for(BEFORE_THE_UPDATE, Settings(), by_exchangers)
        assert _where(before) == ("smtp.gmail.com", 587, STARTTLS)
        assert unnamed_server(BEFORE_THE_UPDATE, Settings(), by_exchangers) == "smtp.gmail.com"

    @pytest.mark.parametrize("account", [_account(), WORKED, BEFORE_THE_UPDATE])
    def test_a_name_that_somebody_has_given_wins(self, account: Account) -> None:
        settings = Settings(smtp_host="relay.example")
        assert server_for(account, settings, "smtp.gmail.com").host == "relay.example"
        assert unnamed_server(account, settings, "smtp.gmail.com") is None
        named = replace(account, host="mail.example")
        assert server_for(named, Settings(), "smtp.gmail.com").host == "mail.example"
        assert unnamed_server(named, Settings(), "smtp.gmail.com") is None

    def test_a_preset_is_no_unnamed_server(self) -> None:
        account = replace(_account("ann@yahoo.com"), worked_with="")
        assert server_for(account, Settings()).host == "smtp.mail.yahoo.com"
        assert unnamed_server(account, Settings(), "smtp.gmail.com") is None

    def test_port_and_security_of_the_settings_lie_over_it(self) -> None:
        server = server_for(_account(), Settings(smtp_port=465), "smtp.gmail.com")
        assert _where(server) == ("smtp.gmail.com", 465, TLS)

    def test_the_lowest_limit_holds_until_the_provider_is_known(self) -> None:
        limits = [
            server_for(_account(host=host), Settings()).daily_limit
            for host in ("smtp.gmail.com", "smtp.mail.me.com")
        ]
        assert min(limit for limit in limits if limit) == LOWEST_DAILY_LIMIT


@pytest.mark.parametrize(
    ("exchangers", "server"),
    [
        (
            [(1, "aspmx.l.google.com"), (5, "alt1.aspmx.l.google.com"), (10, "aspmx2.googlemail.com")],
            "smtp.gmail.com",
        ),
        ([(1, "SMTP.Google.com.")], "smtp.gmail.com"),
        ([(0, "example-com.mail.protection.outlook.com")], "smtp.office365.com"),
        ([(10, "example-com.o-v1.mx.microsoft")], "smtp.office365.com"),
        ([(5, "hotmail-co-uk.olc.protection.outlook.com")], "smtp-mail.outlook.com"),
        ([(1, "mta5.am0.yahoodns.net"), (1, "mta6.am0.yahoodns.net")], "smtp.mail.yahoo.com"),
        ([(10, "mx01.mail.icloud.com"), (10, "mx02.mail.icloud.com")], "smtp.mail.me.com"),
        ([(10, "in1-smtp.messagingengine.com"), (20, "in2-smtp.messagingengine.com")], "smtp.fastmail.com"),
        ([(10, "mx.zoho.com"), (20, "mx2.zoho.com")], "smtp.zoho.com"),
        # The provider is first, and somebody else keeps what it cannot take.
        ([(1, "aspmx.l.google.com"), (50, "backup.example.net")], "smtp.gmail.com"),
        # A filter, a server in the house, and nothing that looks like a provider only.
        ([(10, "eu-smtp-inbound-1.mimecast.com")], None),
        ([(10, "mxa-00123.gslb.pphosted.com"), (20, "aspmx.l.google.com")], None),
        ([(10, "filter.example.net"), (10, "aspmx.l.google.com")], None),
        ([(10, "mail.example.com")], None),
        ([(1, "aspmx.l.google.com.example.net")], None),
        ([(1, "notgoogle.com")], None),
        ([(0, ".")], None),  # RFC 7505: takes no messages
        ([(0, "")], None),
        ([], None),
        # Two providers: either may have the mailboxes.
        ([(0, "example-com.mail.protection.outlook.com"), (10, "aspmx.l.google.com")], None),
        ([(1, "aspmx.l.google.com"), (1, "mx.zoho.com")], None),
    ],
)
def test_the_exchangers_tell_whose_the_mailboxes_are(
    exchangers: list[tuple[int, str]], server: str | None
) -> None:
    assert server_by_exchangers(exchangers) == server
