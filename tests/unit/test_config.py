"""Settings from `.env` and the environment, and the server that follows from them."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from postroom.core.account import Secret, Security
from postroom.core.clock import SECOND
from postroom.core.errors import ConfigError
from postroom.core.log_options import LogAddresses, LogFormat
from postroom.core.log_ship import Destination, LogShip
from postroom.core.message import InDoubtPolicy
from postroom.core.notices.kinds import Kind
from postroom.core.notices.quiet import QuietHours
from postroom.core.notices.ways import Way
from postroom.core.setting_values import parse_duration, parse_host, split_keys
from postroom.settings import (
    RateLimitFallback,
    Settings,
    is_loopback,
    load_settings,
    unknown_variables,
    variables,
)

CANARY = "canary-7f3a9c-canary"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder and none of our variables."""
    for setting in Settings.model_fields:
        for name in variables(setting):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_design() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 5000)
    assert settings.database_url == "sqlite:///var/postroom.db"
    assert (settings.accounts_csv, settings.email_log) == (Path("data.csv"), Path("email_log.txt"))
    assert (settings.smtp_host, settings.smtp_port, settings.smtp_security) == (None, None, None)
    assert (settings.smtp_ca_file, settings.smtp_connections, settings.smtp_timeout) == (None, None, None)
    assert (settings.rate_limit, settings.ratelimit_storage_uri) == ("600/minute", "memory://")
    assert settings.rate_limit_fallback is RateLimitFallback.COUNT
    assert settings.max_message_bytes == 26_214_400
    assert settings.disk_reserve == 67_108_864
    assert settings.retry_for == 4 * 86_400_000_000
    assert [wait // 1_000_000 for wait in settings.retry_schedule] == [30, 120, 600, 1800, 3600, 7200, 14400]
    assert settings.in_doubt is InDoubtPolicy.RETRY
    assert settings.secret_key is None
    assert (settings.web_concurrency, settings.trusted_proxies, settings.log_level) == (1, 0, "INFO")
    assert settings.smtp_allow_plaintext is False


GOOD = [
    ("HOST", "0.0.0.0", "host", "0.0.0.0"),
    ("HOST", "[::1]", "host", "::1"),
    ("PORT", " 8080 ", "port", 8080),
    ("DATABASE_URL", "sqlite:////srv/mail.db", "database_url", "sqlite:////srv/mail.db"),
    ("DATABASE_URL", "postgres://u:p@db:5432/x", "database_url", "postgres://u:p@db:5432/x"),
    ("DATABASE_URL", "postgresql:///x", "database_url", "postgresql:///x"),
    ("POSTROOM_ACCOUNTS_CSV", "/etc/a.csv", "accounts_csv", Path("/etc/a.csv")),
    ("POSTROOM_EMAIL_LOG", "log.txt", "email_log", Path("log.txt")),
    ("POSTROOM_SMTP_HOST", "Mail.Example.COM.", "smtp_host", "mail.example.com"),
    ("POSTROOM_SMTP_PORT", "2525", "smtp_port", 2525),
    ("POSTROOM_SMTP_SECURITY", "TLS", "smtp_security", Security.TLS),
    ("POSTROOM_SMTP_CONNECTIONS", "4", "smtp_connections", 4),
    ("POSTROOM_SMTP_TIMEOUT", "10s", "smtp_timeout", 10_000_000),
    ("POSTROOM_SMTP_DOT_TIMEOUT", "2m", "smtp_dot_timeout", 120_000_000),
    ("POSTROOM_EHLO_NAME", " Mail.Example.com ", "ehlo_name", "mail.example.com"),
    ("POSTROOM_EHLO_NAME", "bücher.example", "ehlo_name", "xn--bcher-kva.example"),
    ("POSTROOM_EHLO_NAME", "[192.0.2.1]", "ehlo_name", "[192.0.2.1]"),
    ("POSTROOM_EHLO_NAME", "[IPv6:2001:DB8::1]", "ehlo_name", "[IPv6:2001:db8::1]"),
    ("POSTROOM_SMTP_ALLOW_PLAINTEXT", "Yes", "smtp_allow_plaintext", True),
    ("POSTROOM_RATE_LIMIT", "", "rate_limit", ""),
    ("POSTROOM_RATE_LIMIT", "10/second;500/day", "rate_limit", "10/second;500/day"),
    ("POSTROOM_RATE_LIMIT", "1000000000/minute", "rate_limit", "1000000000/minute"),
    ("POSTROOM_RATE_LIMIT_FALLBACK", "Refuse", "rate_limit_fallback", RateLimitFallback.REFUSE),
    ("POSTROOM_MAX_MESSAGE_BYTES", "1024", "max_message_bytes", 1024),
    ("POSTROOM_DISK_RESERVE", "0", "disk_reserve", 0),
    ("POSTROOM_DATABASE_BOUNCER", "yes", "database_bouncer", True),
    ("POSTROOM_KEEP_BODIES", "12h", "keep_bodies", 12 * 3600 * SECOND),
    ("POSTROOM_KEEP_HISTORY", "forever", "keep_history", None),
    ("POSTROOM_KEEP_DIALOGUES", "1d", "keep_dialogues", 86_400_000_000),
    ("POSTROOM_KEEP_AUDIT", "1d", "keep_audit", 86_400_000_000),
    ("POSTROOM_SMTP_ALLOW_PRIVATE", "true", "smtp_allow_private", True),
    ("POSTROOM_RETRY_FOR", "1.5h", "retry_for", 5_400_000_000),
    ("POSTROOM_RETRY_SCHEDULE", "200ms, 1s", "retry_schedule", (200_000, 1_000_000)),
    ("POSTROOM_IN_DOUBT", "hold", "in_doubt", InDoubtPolicy.HOLD),
    ("POSTROOM_SECRET_KEY", CANARY, "secret_key", Secret(CANARY)),
    ("POSTROOM_ADMIN_TOKEN", "a" * 32, "admin_token", Secret("a" * 32)),
    ("POSTROOM_GOOGLE_CLIENT_ID", "id.apps.example", "google_client_id", "id.apps.example"),
    ("POSTROOM_GOOGLE_CLIENT_SECRET", CANARY, "google_client_secret", Secret(CANARY)),
    ("POSTROOM_MICROSOFT_CLIENT_ID", "an-id", "microsoft_client_id", "an-id"),
    ("POSTROOM_MICROSOFT_CLIENT_SECRET", CANARY, "microsoft_client_secret", Secret(CANARY)),
    ("POSTROOM_MICROSOFT_TENANT", "contoso.example", "microsoft_tenant", "contoso.example"),
    ("POSTROOM_OAUTH_CLIENT_ID", "an-id", "oauth_client_id", "an-id"),
    ("POSTROOM_OAUTH_CLIENT_SECRET", CANARY, "oauth_client_secret", Secret(CANARY)),
    (
        "POSTROOM_OAUTH_AUTHORIZE_URL",
        "https://a.example/auth",
        "oauth_authorize_url",
        "https://a.example/auth",
    ),
    ("POSTROOM_OAUTH_TOKEN_URL", "http://127.0.0.1:1/t", "oauth_token_url", "http://127.0.0.1:1/t"),
    ("POSTROOM_OAUTH_DEVICE_URL", "https://a.example/d", "oauth_device_url", "https://a.example/d"),
    ("POSTROOM_OAUTH_USERINFO_URL", "https://a.example/u", "oauth_userinfo_url", "https://a.example/u"),
    ("POSTROOM_OAUTH_SCOPE", "mail offline_access", "oauth_scope", "mail offline_access"),
    (
        "POSTROOM_NOTIFY",
        f"json://{CANARY}@h/x?a=b,c, mailto:ops@example.org?account=Ann@example.com",
        "notify",
        (
            Way("1 (json)", "json", Secret(f"json://{CANARY}@h/x?a=b,c")),
            Way(
                "2 (mailto)",
                "mailto",
                Secret("mailto:ops@example.org?account=Ann@example.com"),
                "ops@example.org",
                "ann@example.com",
            ),
        ),
    ),
    ("POSTROOM_NOTIFY_KINDS", "Paused, disk", "notify_kinds", frozenset({Kind.PAUSED, Kind.DISK})),
    ("POSTROOM_NOTIFY_QUIET", "22:00-07:30", "notify_quiet", QuietHours(22 * 60, 7 * 60 + 30)),
    ("POSTROOM_NOTIFY_WINDOW", "1h", "notify_window", 3600 * SECOND),
    ("POSTROOM_NOTIFY_GATHER", "200ms", "notify_gather", 200_000),
    ("POSTROOM_NOTIFY_FAILED", "10", "notify_failed", 10),
    ("POSTROOM_NOTIFY_STUCK", "5m", "notify_stuck", 300 * SECOND),
    ("POSTROOM_NOTIFY_LIMIT", "95", "notify_limit", 95),
    ("POSTROOM_NOTIFY_DEATHS", "1", "notify_deaths", 1),
    ("POSTROOM_NOTIFY_AWAY", "2m", "notify_away", 120 * SECOND),
    ("POSTROOM_NOTIFY_DISK", "0", "notify_disk", 0),
    ("POSTROOM_NOTIFY_SHARE", "5", "notify_share", 5),
    ("WEB_CONCURRENCY", "4", "web_concurrency", 4),
    ("POSTROOM_METRICS_PORT", "9100", "metrics_port", 9100),
    ("POSTROOM_METRICS_HOST", "0.0.0.0", "metrics_host", "0.0.0.0"),
    ("POSTROOM_METRICS_ACCOUNTS", "true", "metrics_accounts", True),
    ("POSTROOM_DRAIN", "20s", "drain", 20_000_000),
    ("POSTROOM_DRAIN", "0", "drain", 0),
    ("POSTROOM_STOP_DELAY", "0s", "drain", 0),
    ("POSTROOM_TRUSTED_PROXIES", "2", "trusted_proxies", 2),
    ("POSTROOM_LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("POSTROOM_LOG_FORMAT", "ECS", "log_format", LogFormat.ECS),
    ("POSTROOM_LOG_ADDRESSES", "hash", "log_addresses", LogAddresses.HASH),
    ("POSTROOM_ACCESS_LOG", "true", "access_log", True),
    ("POSTROOM_LOG_SHIP", "datadog:", "log_ship", LogShip(Destination.DATADOG)),
    (
        "POSTROOM_LOG_SHIP",
        "https://h/i/_bulk",
        "log_ship",
        LogShip(Destination.ELASTICSEARCH, "https://h/i/_bulk"),
    ),
    ("POSTROOM_LOG_SHIP_KEY", CANARY, "log_ship_key", Secret(CANARY)),
    ("POSTROOM_LOG_SHIP_MEMORY", "1000000", "log_ship_memory", 1_000_000),
    ("DD_API_KEY", CANARY, "dd_api_key", Secret(CANARY)),
    ("DD_SITE", "datadoghq.eu", "dd_site", "datadoghq.eu"),
    ("DD_SERVICE", "mailer", "dd_service", "mailer"),
    ("DD_ENV", "production", "dd_env", "production"),
    ("DD_VERSION", "1.2", "dd_version", "1.2"),
    ("RATELIMIT_STORAGE_URI", "memcached://m:11211", "ratelimit_storage_uri", "memcached://m:11211"),
    ("REDIS_URL", "redis://r", "ratelimit_storage_uri", "redis://r"),
    ("REDIS_URL", "memcached://h", "ratelimit_storage_uri", "memcached://h:11211"),
    (
        "REDIS_URL",
        "redis+sentinel://u:p%40@h,i:5/x",
        "ratelimit_storage_uri",
        "redis+sentinel://u:p%40@h:26379,i:5/x",
    ),
    ("REDIS_URL", "valkey+cluster://h,[::1]", "ratelimit_storage_uri", "redis+cluster://h:6379,[::1]:6379"),
    (
        "REDIS_URL",
        "valkeys://:p@h/1?ssl_cert_reqs=none",
        "ratelimit_storage_uri",
        "rediss://:p@h/1?ssl_cert_reqs=none",
    ),
    ("REDIS_URL", "valkey+unix:///run/a.sock?db=2", "ratelimit_storage_uri", "redis+unix:///run/a.sock?db=2"),
]


@pytest.mark.parametrize(("variable", "text", "setting", "value"), GOOD)
def test_a_variable_sets_its_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, setting: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), setting) == value


def test_every_setting_has_a_case_above() -> None:
    assert {case[2] for case in GOOD} | {"smtp_ca_file"} == set(Settings.model_fields)


BAD = [
    ("HOST", "http://x"),
    ("POSTROOM_ADMIN_TOKEN", CANARY[:4] + "a" * 27),
    ("POSTROOM_ADMIN_TOKEN", CANARY + " " + "a" * 32),
    ("POSTROOM_ADMIN_TOKEN", CANARY + "é" * 32),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "5_000"),
    ("PORT", "٥"),
    ("POSTROOM_DRAIN", "6m"),
    ("POSTROOM_DRAIN", "5"),
    ("DATABASE_URL", "mysql://x"),
    ("DATABASE_URL", "sqlite://postroom.db"),
    ("DATABASE_URL", "sqlite:///"),
    ("DATABASE_URL", "sqlite:///:memory:"),
    ("RATELIMIT_STORAGE_URI", f"redis://:{CANARY}@h:notaport"),
    ("RATELIMIT_STORAGE_URI", f"redis://:a@{CANARY}@h:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis://:a#{CANARY}@h:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis://:a/{CANARY}@h:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis://:{CANARY}%zz@h:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis://:{CANARY} x@h:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis://h:6379/{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis+sentinel://:{CANARY}@h:26379"),
    ("RATELIMIT_STORAGE_URI", f"memcached://h:{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"memcached://u:{CANARY}@h"),
    ("RATELIMIT_STORAGE_URI", f"memcached://h/{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"memory://{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis://h:1,{CANARY}:2"),
    ("RATELIMIT_STORAGE_URI", f"redis://h?{CANARY}=1"),
    ("RATELIMIT_STORAGE_URI", f"redis://h?password={CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis://h?db={CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis://h?ssl_ca_certs={CANARY}"),
    ("RATELIMIT_STORAGE_URI", "redis://h?socket_timeout=60"),
    ("RATELIMIT_STORAGE_URI", f"rediss://h?ssl_cert_reqs={CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"rediss://h?ssl_ca_certs=/{CANARY}.pem"),
    ("RATELIMIT_STORAGE_URI", f"redis://u:{CANARY}:x@h"),
    ("RATELIMIT_STORAGE_URI", f"redis://u:{CANARY}@"),
    ("RATELIMIT_STORAGE_URI", f"redis://u:{CANARY}@:6379"),
    ("RATELIMIT_STORAGE_URI", f"redis+cluster://u:{CANARY}@h/0"),
    ("RATELIMIT_STORAGE_URI", f"redis+cluster://h:1?{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis+sentinel://h/x/{CANARY}"),
    ("RATELIMIT_STORAGE_URI", f"redis+sentinel://h/x?{CANARY}"),
    ("RATELIMIT_STORAGE_URI", "redis+sentinel://h:26379/"),
    ("RATELIMIT_STORAGE_URI", f"redis+unix://u:{CANARY}@"),
    ("RATELIMIT_STORAGE_URI", f"redis+unix://{CANARY}/socket"),
    ("RATELIMIT_STORAGE_URI", f"valkey+sentinel://:{CANARY}@h:26379"),
    ("RATELIMIT_STORAGE_URI", f"valkey://:{CANARY}@h:0"),
    ("RATELIMIT_STORAGE_URI", f"rediss+cluster://:{CANARY}@h"),
    ("RATELIMIT_STORAGE_URI", f"Redis://:{CANARY}@h"),
    ("RATELIMIT_STORAGE_URI", f"redis+cluster://h:1,{CANARY}:x"),
    ("DATABASE_URL", f"postgresql+psycopg://u:{CANARY}@h/x"),
    ("POSTROOM_SMTP_HOST", "smtp.example.com:587"),
    ("POSTROOM_SMTP_PORT", "x"),
    ("POSTROOM_SMTP_SECURITY", "ssl"),
    ("POSTROOM_SMTP_CA_FILE", "missing.pem"),
    ("POSTROOM_SMTP_CA_FILE", "."),
    ("POSTROOM_SMTP_CONNECTIONS", "0"),
    ("POSTROOM_SMTP_TIMEOUT", "10"),
    ("POSTROOM_SMTP_DOT_TIMEOUT", "600"),
    ("POSTROOM_EHLO_NAME", "mailhost"),
    ("POSTROOM_EHLO_NAME", "192.0.2.1"),
    ("POSTROOM_EHLO_NAME", "my_mail.example.com"),
    ("POSTROOM_EHLO_NAME", "[mail.example.com]"),
    ("POSTROOM_EHLO_NAME", "mail example.com"),
    ("POSTROOM_SMTP_ALLOW_PLAINTEXT", "maybe"),
    ("POSTROOM_RATE_LIMIT", "often"),
    ("POSTROOM_RATE_LIMIT", "0/minute"),
    ("POSTROOM_RATE_LIMIT_FALLBACK", "deny"),
    ("RATELIMIT_STORAGE_URI", f"mongodb://{CANARY}"),
    ("RATELIMIT_STORAGE_URI", "memory"),
    ("POSTROOM_MAX_MESSAGE_BYTES", "1023"),
    ("POSTROOM_DISK_RESERVE", "-1"),
    ("POSTROOM_RETRY_FOR", "-4d"),
    ("POSTROOM_RETRY_FOR", "0s"),
    ("POSTROOM_RETRY_SCHEDULE", ""),
    ("POSTROOM_RETRY_SCHEDULE", "30s,,2m"),
    ("POSTROOM_RETRY_SCHEDULE", "30s,-2m"),
    ("POSTROOM_RETRY_SCHEDULE", "soon"),
    ("POSTROOM_IN_DOUBT", "shrug"),
    ("POSTROOM_NOTIFY", CANARY),
    ("POSTROOM_NOTIFY", f"slack://{CANARY}, {CANARY}"),
    ("POSTROOM_NOTIFY", f"mailto://u:{CANARY}@example.com"),
    ("POSTROOM_NOTIFY", "mailto:ops@example.org"),
    ("POSTROOM_NOTIFY", "mailto:ops@example.org?account="),
    ("POSTROOM_NOTIFY", f"mailto:{CANARY}?account=ann@example.com"),
    ("POSTROOM_NOTIFY", f"mailto:ops@example.org?account=ann@example.com&{CANARY}=1"),
    ("POSTROOM_NOTIFY", " ".join(["json://h"] * 21)),
    ("POSTROOM_NOTIFY_KINDS", "failed,mishap"),
    ("POSTROOM_NOTIFY_KINDS", ","),
    ("POSTROOM_NOTIFY_QUIET", "22-7"),
    ("POSTROOM_NOTIFY_QUIET", "22:00-24:00"),
    ("POSTROOM_NOTIFY_QUIET", "22:00-22:00"),
    ("POSTROOM_NOTIFY_WINDOW", "0s"),
    ("POSTROOM_NOTIFY_GATHER", "10"),
    ("POSTROOM_NOTIFY_FAILED", "0"),
    ("POSTROOM_NOTIFY_LIMIT", "101"),
    ("POSTROOM_NOTIFY_SHARE", "0"),
    ("POSTROOM_SECRET_KEY", "short-canary"),
    ("POSTROOM_SECRET_KEY", f"{CANARY},short"),
    ("WEB_CONCURRENCY", "0"),
    ("POSTROOM_TRUSTED_PROXIES", "-1"),
    ("POSTROOM_LOG_LEVEL", "LOUD"),
    ("POSTROOM_LOG_FORMAT", "xml"),
    ("POSTROOM_LOG_ADDRESSES", "some"),
    ("POSTROOM_ACCESS_LOG", "maybe"),
    ("DD_ENV", "two words"),
    ("POSTROOM_LOG_SHIP", f"http://u:{CANARY}@es.example:9200/_bulk"),
    ("POSTROOM_LOG_SHIP", f"https://{CANARY}.example/"),
    ("POSTROOM_LOG_SHIP", f"https://u:{CANARY}@es.example:port/_bulk"),
    ("POSTROOM_LOG_SHIP", "https://es.example/ _bulk"),
    ("POSTROOM_LOG_SHIP", "datadog"),
    ("POSTROOM_LOG_SHIP_MEMORY", "1000"),
    ("DD_SITE", "https://datadoghq.eu"),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_names_its_variable_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.variable == variable
    assert caught.value.message.startswith(("must ", "(or REDIS_URL, which stands in for it) must "))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_settings()
    for setting in set(Settings.model_fields) - {"rate_limit", "retry_schedule"}:
        for name in variables(setting):
            monkeypatch.setenv(name, " ")
    assert load_settings() == expected


def _of_each_setting() -> list[str]:
    return [name for setting in Settings.model_fields for name in variables(setting)] + [
        f"{name}_FILE"
        for name in ("POSTROOM_SECRET_KEY", "DATABASE_URL", "RATELIMIT_STORAGE_URI", "REDIS_URL")
    ]


@pytest.mark.parametrize("name", _of_each_setting())
def test_no_setting_holds_a_nul(name: str) -> None:
    Path(".env").write_bytes(f"{name}=sqlite:///a\0b\n".encode())
    with pytest.raises(ConfigError, match=f"^{name}: it holds a NUL character"):
        load_settings()


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "POSTROOM_SECRET_KEY", "POSTROOM_EHLO_NAME"])
def test_no_setting_but_a_files_name_is_other_than_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_EMAIL_LOG", "\udcff.txt")
    assert load_settings().email_log == Path("\udcff.txt")
    monkeypatch.setenv(name, "sqlite:///a\udcffb-and-so-on")
    with pytest.raises(ConfigError, match=f"^{name}: it is not UTF-8 text"):
        load_settings()


@pytest.mark.parametrize("name", ["POSTROOM_ACCOUNTS_CSV", "POSTROOM_EMAIL_LOG"])
@pytest.mark.parametrize("value", ["x" * 300, "a-file/x", "x/" * 3000], ids=["long", "in a file", "deep"])
def test_a_file_has_a_name_that_it_can_have(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a-file").touch()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}: must be a name that a file can have"):
        load_settings()


def test_a_secret_in_a_file_holds_no_nul(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_bytes(b"sqlite:///a\0b")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(ConfigError, match=r"^DATABASE_URL_FILE: .*url holds a NUL character"):
        load_settings()


class TestEnvFile:
    def test_is_read_and_unknown_names_in_it_ignored(self) -> None:
        Path(".env").write_text(
            "\ufeffPORT=6000\nSOMETHING_ELSE=1\n# note\nPOSTROOM_IN_DOUBT='fail'\n", "utf-8"
        )
        settings = load_settings()
        assert (settings.port, settings.in_doubt) == (6000, InDoubtPolicy.FAIL)

    def test_yields_to_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("PORT=6000\n")
        monkeypatch.setenv("PORT", "7000")
        assert load_settings().port == 7000

    def test_yields_to_a_variable_emptied_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("POSTROOM_SMTP_HOST=relay\n")
        monkeypatch.setenv("POSTROOM_SMTP_HOST", "")
        assert load_settings().smtp_host is None

    def test_that_is_not_text_is_named(self) -> None:
        Path(".env").write_bytes(b"PORT=\xff\xfe\n")
        with pytest.raises(ConfigError) as caught:
            load_settings()
        assert caught.value.variable == ".env"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('POSTROOM_IN_DOUBT="hold', "line 3 assigns nothing"),
            ("POSTROOM_IN_DOUBT='hold", "line 3 assigns nothing"),
            ('POSTROOM_IN_DOUBT="hold" fail', "line 3 assigns nothing"),
            pytest.param("POSTROOM_IN_DOUBT: hold", "line 3 assigns nothing", id="colon"),
            ("POSTROOM_IN_DOUBT:hold", "line 3 assigns nothing"),
            ("POSTROOM_IN_DOUBT hold", "line 3 assigns nothing"),
            ("POSTROOM_IN_DOUBT", "line 3 assigns nothing"),
            ("set POSTROOM_IN_DOUBT=hold", "line 3 assigns nothing"),
            ("=hold", "line 3 assigns nothing"),
            ("POSTROOM_IN_DOUBT:=hold", "line 3 assigns to what is no name"),
            ('"POSTROOM_IN_DOUBT"=hold', "line 3 assigns to what is no name"),
            ("\u200bPOSTROOM_IN_DOUBT=hold", "line 3 assigns to what is no name"),
            ('A="x\n\nPOSTROOM_IN_DOUBT=hold\n"', "the quote that opens in line 3 swallows line 5"),
            (
                "A='x\nexport POSTROOM_IN_DOUBT = hold\n# its'",
                "the quote that opens in line 3 swallows line 4",
            ),
        ],
    )
    @pytest.mark.parametrize(
        "end", ["\n", "\r\n", "\nPOSTROOM_LOG_LEVEL=DEBUG\n"], ids=["LF", "CRLF", "more"]
    )
    def test_no_line_is_passed_over(self, line: str, said: str, end: str) -> None:
        Path(".env").write_bytes(f"PORT=1\n\n{line}{end}".encode())
        with pytest.raises(ConfigError, match=rf"^\.env: {said}.*close each quote") as caught:
            load_settings()
        assert "hold" not in str(caught.value), "it may be a secret"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n \n\t# a comment\n#\n",
            "POSTROOM_IN_DOUBT=hold",
            "export POSTROOM_IN_DOUBT = hold # as ever",
            "'POSTROOM_IN_DOUBT'='hold'",
            'POSTROOM_IN_DOUBT="hold" # "',
            "OTHER='-----BEGIN KEY-----\nabc=\n-----END KEY-----'\nPOSTROOM_IN_DOUBT=hold\n",
            "other.name-1=x\nPOSTROOM_IN_DOUBT=hold\nEMPTY=\nSPACED=  # nothing\n",
        ],
    )
    def test_what_is_in_order_in_it_is_taken(self, text: str) -> None:
        Path(".env").write_text(text)
        wanted = InDoubtPolicy.HOLD if "hold" in text else InDoubtPolicy.RETRY
        assert load_settings().in_doubt is wanted

    def test_that_is_a_link_to_nothing_is_refused(self) -> None:
        Path(".env").symlink_to("nowhere/.env")
        with pytest.raises(ConfigError, match=r"^\.env: .*a link to a file that is not there"):
            load_settings()

    def test_bad_values_in_it_are_refused_like_others(self) -> None:
        Path(".env").write_text("PORT=x\n")
        with pytest.raises(ConfigError, match=r"^PORT: must be a whole number"):
            load_settings()

    def test_names_the_storage_of_limits_before_redis_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("RATELIMIT_STORAGE_URI=redis://limits\n")
        monkeypatch.setenv("REDIS_URL", "redis://other")
        assert load_settings().ratelimit_storage_uri == "redis://limits"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1


def test_neither_repr_nor_errors_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_SECRET_KEY", CANARY)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}@h/x")
    monkeypatch.setenv("REDIS_URL", f"redis://:{CANARY}@h")
    settings = load_settings()
    assert CANARY not in repr(settings) + str(settings)
    with pytest.raises(ValidationError) as caught:
        Settings(secret_key=f"{CANARY},x")
    assert CANARY not in str(caught.value)


def _certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    builder = builder.not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class TestCAFile:
    def test_of_certificates_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("ca.pem").write_bytes(_certificate())
        monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", "ca.pem")
        assert load_settings().smtp_ca_file == Path("ca.pem")

    @pytest.mark.parametrize("content", [b"", b"not a certificate"])
    def test_of_anything_else_is_refused(self, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        Path("ca.pem").write_bytes(content)
        monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", "ca.pem")
        with pytest.raises(ConfigError, match="POSTROOM_SMTP_CA_FILE: must name a file of certificates"):
            load_settings()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_that_cannot_be_read_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("ca.pem").write_bytes(_certificate())
        Path("ca.pem").chmod(0)
        monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", "ca.pem")
        with pytest.raises(ConfigError, match="Permission denied"):
            load_settings()


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "micros"),
        [
            ("200ms", 200_000),
            ("0.5ms", 500),
            ("30s", 30_000_000),
            ("2m", 120_000_000),
            ("1.5h", 5_400_000_000),
            (" 4D ", 345_600_000_000),
            ("1 w", 604_800_000_000),
            ("0.1s", 100_000),
        ],
    )
    def test_is_microseconds(self, text: str, micros: int) -> None:
        assert parse_duration(text) == micros

    @pytest.mark.parametrize(
        "text",
        ["", "s", "5", "-1s", "+1s", "1e3s", "0s", "0.0001ms", "1h30m", "1,5h", "521w", "inf s", "1.s", "١s"],
    )
    def test_refuses(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^must be "):
            parse_duration(text)

    @given(st.text())
    def test_of_any_text_is_positive_or_refused(self, text: str) -> None:
        with suppress(ValueError):
            assert parse_duration(text) > 0


class TestHost:
    @pytest.mark.parametrize(
        ("text", "host"),
        [
            ("SMTP.Example.com", "smtp.example.com"),
            ("mail_relay", "mail_relay"),
            ("127.0.0.1", "127.0.0.1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("bücher.example", "xn--bcher-kva.example"),
        ],
    )
    def test_is_normalised(self, text: str, host: str) -> None:
        assert parse_host(text) == host

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ".",
            "a b",
            "a..b",
            "-a",
            "a-.b",
            "a:25",
            "smtp://a",
            "a/b",
            "user@a",
            "a\r\nb",
            "1.2.3",
            "a" * 64,
            "☃" * 80,
        ],
    )
    def test_refuses(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^must be a bare host name"):
            parse_host(text)

    @given(st.text())
    def test_of_any_text_is_ascii_and_stable_or_refused(self, text: str) -> None:
        with suppress(ValueError):
            host = parse_host(text)
            assert host.isascii()
            assert parse_host(host) == host


def test_keys_are_split_at_commas() -> None:
    assert split_keys(f" {CANARY} ,{'x' * 16}\n") == (Secret(CANARY), Secret("x" * 16))


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("mail.localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("inbox", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback_is_judged_by_spelling(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_plain_text_without_a_host_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_SMTP_SECURITY", "none")
    with pytest.raises(ConfigError, match="in the clear to the server of each sender's domain") as caught:
        load_settings()
    assert caught.value.variable == "POSTROOM_SMTP_SECURITY"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("memcached://127.0.0.1", "memcached://127.0.0.1:11211"),
        ("memcached://a,b:1", "memcached://a:11211,b:1"),
        ("valkey://h:6379/1", "redis://h:6379/1"),
        ("valkeys://:p%40ss@h", "rediss://:p%40ss@h"),
        ("valkey+sentinel://a,b:1/mine", "redis+sentinel://a:26379,b:1/mine"),
        ("redis+cluster://a,b:7001", "redis+cluster://a:6379,b:7001"),
        ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("rediss://u:p@h:6380/0?ssl_cert_reqs=none", "rediss://u:p@h:6380/0?ssl_cert_reqs=none"),
    ],
)
def test_storage_uris_that_are_taken(given: str, taken: str) -> None:
    assert Settings(ratelimit_storage_uri=given).ratelimit_storage_uri == taken


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("POSTROOM_SMTP_HOSTS", "POSTROOM_SMTP_HOST"),
        ("POSTROOM_RATELIMIT", "POSTROOM_RATE_LIMIT"),
        ("postroom_log_level", "POSTROOM_LOG_LEVEL"),
        ("POSTROOM-LOG-LEVEL", "POSTROOM_LOG_LEVEL"),
        ("POSTROOM_ZZZZZZZZZZZZ", None),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_name_that_is_no_setting_is_found_with_the_nearest_one(
    name: str, meant: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for present in [each for each in os.environ if each.startswith("POSTROOM_")]:
        monkeypatch.delenv(present)
    for internal in ("POSTROOM_HOME", "POSTROOM_LIFELINE", "POSTROOM_READY", "POSTROOM_LOG_LEVEL"):
        monkeypatch.setenv(internal, "x")
    assert unknown_variables() == {}
    if place == "environment":
        monkeypatch.setenv(name, "x")
    else:
        (tmp_path / ".env").write_text(f"{name}=x\nPORT=1\n")
    assert unknown_variables() == {name: meant}


# --- Secrets that stand in files


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_secret_may_stand_in_a_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "POSTROOM_SECRET_KEY": "a secret of sixteen characters",
        "DATABASE_URL": "postgresql://u@h/d",
        "REDIS_URL": "redis://h:6379/0",
    }
    for name, value in values.items():
        (tmp_path / name).write_text(f"{value}\n", encoding="utf-8")
    named = {f"{name}_FILE": str(tmp_path / name) for name in values}
    if place == "environment":
        for name, path in named.items():
            monkeypatch.setenv(name, path)
    else:
        (tmp_path / ".env").write_text("".join(f"{name}={path}\n" for name, path in named.items()))
    settings = load_settings()
    assert settings.secret_key == Secret(values["POSTROOM_SECRET_KEY"])
    assert settings.database_url == values["DATABASE_URL"]
    assert settings.ratelimit_storage_uri == values["REDIS_URL"]
    assert not unknown_variables().keys() & named.keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), (b" \n", "is empty"), (b"\xff\xfe", "not UTF-8"), ("directory", "directory")],
)
def test_a_file_that_holds_no_secret_is_refused(
    content: bytes | str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    monkeypatch.setenv("POSTROOM_SECRET_KEY_FILE", str(path))
    with pytest.raises(ConfigError, match=rf"^POSTROOM_SECRET_KEY_FILE: .*{reason}"):
        load_settings()


def test_a_secret_and_a_file_beside_it_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(f"postgresql://u:{CANARY}@h/d", encoding="utf-8")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    assert load_settings().database_url.endswith("@h/d")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}@other/d")
    with pytest.raises(ConfigError, match="DATABASE_URL is set too") as caught:
        load_settings()
    assert CANARY not in str(caught.value)
