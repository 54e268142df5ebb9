"""Reads every setting from `.env` and the environment, and validates it; the only reader of the environment.

`load_settings()` reads `.env` from the current folder and the environment, which
wins. All durations are integers of microseconds, like every time inside Postroom.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import Enum
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from postroom.core.account import Secret, Security
from postroom.core.env_file import NAME as DOT_ENV
from postroom.core.env_file import read_assignments
from postroom.core.errors import ConfigError
from postroom.core.failpoint import VARIABLE as FAILPOINT
from postroom.core.files import MEBIBYTE, NotPlain, read_plain, reason_of
from postroom.core.heartbeat import READY
from postroom.core.lifeline import LIFELINE
from postroom.core.limiter_url import parse_limiter_url
from postroom.core.log_options import OPTIONS, LogAddresses, LogFormat, LogOptions
from postroom.core.log_ship import LogShip, parse_log_ship
from postroom.core.message import InDoubtPolicy
from postroom.core.notices.kinds import Kind, parse_kinds
from postroom.core.notices.quiet import QuietHours, parse_quiet_hours
from postroom.core.notices.ways import Way, parse_ways
from postroom.core.setting_values import (
    LARGEST_FILE,
    parse_admin_token,
    parse_ca_file,
    parse_client_secret,
    parse_database_url,
    parse_drain,
    parse_duration,
    parse_ehlo_name,
    parse_file_name,
    parse_host,
    parse_keeping_time,
    parse_listening_host,
    parse_log_level,
    parse_member,
    parse_oauth_url,
    parse_port,
    parse_rate_limit,
    parse_schedule,
    parse_secret_key,
    parse_security,
    parse_tag,
    parse_tenant,
    parse_truth,
    parse_visible,
    whole_between,
)
from postroom.core.text import is_text

INBOX: Final = "inbox"  # the host that stands for the built-in capture server
MAX_CONNECTIONS: Final = 1000


class RateLimitFallback(Enum):
    """How requests are counted while the storage that all processes share is away."""

    COUNT = "count"  # each process counts by itself
    ALLOW = "allow"
    REFUSE = "refuse"


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Apply `parse` to text; values of the final type, given in code, pass unchanged."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


_UNPREFIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "host": ("HOST",),
    "port": ("PORT",),
    "database_url": ("DATABASE_URL",),
    "ratelimit_storage_uri": ("RATELIMIT_STORAGE_URI", "REDIS_URL"),
    "web_concurrency": ("WEB_CONCURRENCY",),
    "drain": ("POSTROOM_DRAIN", "POSTROOM_STOP_DELAY"),
    "dd_api_key": ("DD_API_KEY",),
    "dd_site": ("DD_SITE",),
    "dd_service": ("DD_SERVICE",),
    "dd_env": ("DD_ENV",),
    "dd_version": ("DD_VERSION",),
}
_FORMER: Final[Mapping[str, str]] = {"POSTROOM_STOP_DELAY": "POSTROOM_DRAIN"}
_OURS: Final = re.compile(r"postroom[_.-]", re.IGNORECASE)
_DOT_ENV: Final = Path(DOT_ENV)
_NO_SETTINGS: Final = ("POSTROOM_HOME", LIFELINE, READY, FAILPOINT, OPTIONS)
_SECRETS: Final = (
    "secret_key",
    "database_url",
    "ratelimit_storage_uri",
    "admin_token",
    "google_client_secret",
    "microsoft_client_secret",
    "oauth_client_secret",
    "log_ship",
    "log_ship_key",
    "dd_api_key",
    "notify",
)  # settings that a file may hold: NAME_FILE names it
_STANDARD_OUTPUT: Final = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
EMAIL_LOG_IN_THE_WAY: Final = (
    "must not be standard output while POSTROOM_LOG_FORMAT is another than text: each line there is one JSON document; "
    "name a file, or /dev/stderr"
)
_EMPTY_HAS_A_MEANING: Final = frozenset({"rate_limit", "retry_schedule"})


def variables(setting: str) -> tuple[str, ...]:
    """Return the environment variables of a setting, the one that wins first."""
    return _UNPREFIXED.get(setting, (f"POSTROOM_{setting.upper()}",))


def _environment(dot_env: Path = _DOT_ENV) -> dict[str, str]:
    """Return the values in `.env` and the environment, by the name of the setting; an empty text is no value.

    Both are merged before names are looked up, so that REDIS_URL never beats the other.
    """
    text = {name: (value or "").strip() for name, value in {**_dot_env(dot_env), **os.environ}.items()}
    for name in _known_variables():
        _check_text(name, text.get(name, ""))
    text |= _from_files(text)
    found = {name: _look_up(name, text) for name in Settings.model_fields}
    return {name: value for name, value in found.items() if value is not None}


def _file_variables() -> dict[str, str]:
    """Return the variables that name a file, as orchestrators mount secrets, and the variable whose value it holds."""
    return {f"{name}_FILE": name for setting in _SECRETS for name in variables(setting)}


_PATHS: Final = frozenset(
    {"POSTROOM_ACCOUNTS_CSV", "POSTROOM_EMAIL_LOG", "POSTROOM_SMTP_CA_FILE", *_file_variables()}
)  # settings that name a file, whose name may be other than text


def secret_files() -> dict[str, Path]:
    """Return the files that hold secrets, by the variables that name them."""
    text = {**_dot_env(), **os.environ}
    return {name: Path(file.strip()) for name in _file_variables() if (file := text.get(name) or "").strip()}


def _from_files(text: Mapping[str, str]) -> dict[str, str]:
    """Return the values that stand in files, without the white space around them. Raises ConfigError."""
    given = {file: name for file, name in _file_variables().items() if text.get(file)}
    for file, name in given.items():
        if text.get(name):
            raise ConfigError(file, f"{name} is set too; leave one of the two out")
    return {name: _read_secret(file, Path(text[file])) for file, name in given.items()}


def _check_text(variable: str, value: str, named: str = "") -> None:
    """Raise ConfigError for a NUL, or octets that are no UTF-8, in a setting; a file may have such a name."""
    if "\0" in value:
        raise ConfigError(variable, f"{named or 'it'} holds a NUL character, which no setting may; remove it")
    if variable not in _PATHS and not is_text(value):
        raise ConfigError(variable, f"{named or 'it'} is not UTF-8 text; write it anew")


def _read_secret(variable: str, path: Path) -> str:
    try:
        value = read_plain(path, MEBIBYTE).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ConfigError(variable, f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(variable, f"{path} cannot be read: {reason_of(error)}") from error
    if not value:
        raise ConfigError(variable, f"{path} is empty")
    _check_text(variable, value, str(path))
    return value


def _known_variables() -> list[str]:
    return [*(name for setting in Settings.model_fields for name in variables(setting)), *_file_variables()]


def unknown_variables() -> dict[str, str | None]:
    """Return the POSTROOM_* names in `.env` and the environment that are no settings, each with the likely intended name."""
    known = _known_variables()
    given = [name for name in {**_dot_env(), **os.environ} if _OURS.match(name)]
    strange = [name for name in given if name not in known and name not in _NO_SETTINGS]
    return {name: next(iter(get_close_matches(name.upper(), known, 1, 0.6)), None) for name in strange}


def former_variables() -> dict[str, str]:
    """Return the former names of settings in `.env` and the environment, each with its present name."""
    given = {**_dot_env(), **os.environ}
    return {name: present for name, present in _FORMER.items() if given.get(name)}


def _look_up(setting: str, text: Mapping[str, str]) -> str | None:
    given = [text[name] for name in variables(setting) if name in text]
    empty = "" if given and setting in _EMPTY_HAS_A_MEANING else None
    return next(filter(None, given), empty)


def _dot_env(path: Path = _DOT_ENV) -> Mapping[str, str | None]:
    try:
        content = read_plain(path, LARGEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise NotPlain(errno.ENOENT, "it is a link to a file that is not there", str(path)) from None
        return {}
    return read_assignments(content.decode("utf-8-sig"), _known_variables())  # Notepad writes a BOM


class Settings(BaseModel):
    """Every setting of a process, validated and unchangeable.

    Use `load_settings()`, which turns a bad value into a ConfigError. In code, values
    may be given by field name and win over the environment.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    host: Annotated[str, _from_text(parse_listening_host)] = "127.0.0.1"
    port: Annotated[int, _from_text(parse_port)] = 5000
    database_url: Annotated[str, _from_text(parse_database_url), Field(repr=False)] = (
        "sqlite:///var/postroom.db"
    )
    database_bouncer: Annotated[bool, _from_text(parse_truth)] = False
    accounts_csv: Annotated[Path, _from_text(parse_file_name)] = Path("data.csv")
    email_log: Annotated[Path, _from_text(parse_file_name)] = Path("email_log.txt")
    smtp_host: Annotated[str | None, _from_text(parse_host)] = None
    smtp_port: Annotated[int | None, _from_text(parse_port)] = None
    smtp_security: Annotated[Security | None, _from_text(parse_security)] = None
    smtp_allow_plaintext: Annotated[bool, _from_text(parse_truth)] = False
    smtp_allow_private: Annotated[bool, _from_text(parse_truth)] = False
    smtp_ca_file: Annotated[Path | None, _from_text(parse_ca_file)] = None
    smtp_connections: Annotated[int | None, _from_text(whole_between(1, MAX_CONNECTIONS))] = None
    smtp_timeout: Annotated[int | None, _from_text(parse_duration)] = None
    smtp_dot_timeout: Annotated[int | None, _from_text(parse_duration)] = None
    ehlo_name: Annotated[str | None, _from_text(parse_ehlo_name)] = None
    keep_bodies: Annotated[int | None, _from_text(parse_keeping_time)] = parse_duration("7d")
    keep_history: Annotated[int | None, _from_text(parse_keeping_time)] = parse_duration("90d")
    keep_dialogues: Annotated[int | None, _from_text(parse_keeping_time)] = parse_duration("30d")
    keep_audit: Annotated[int | None, _from_text(parse_keeping_time)] = parse_duration("400d")
    rate_limit: Annotated[str, _from_text(parse_rate_limit)] = "600/minute"
    ratelimit_storage_uri: Annotated[str, _from_text(parse_limiter_url), Field(repr=False)] = "memory://"
    rate_limit_fallback: Annotated[RateLimitFallback, _from_text(parse_member(RateLimitFallback))] = (
        RateLimitFallback.COUNT
    )
    trusted_proxies: Annotated[int, _from_text(whole_between(0, 100))] = 0
    disk_reserve: Annotated[int, _from_text(whole_between(0, 1 << 50))] = 67_108_864
    max_message_bytes: Annotated[int, _from_text(whole_between(1024, 1 << 30))] = 26_214_400
    retry_for: Annotated[int, _from_text(parse_duration)] = parse_duration("4d")
    retry_schedule: Annotated[tuple[int, ...], _from_text(parse_schedule)] = parse_schedule(
        "30s,2m,10m,30m,1h,2h,4h"
    )
    in_doubt: Annotated[InDoubtPolicy, _from_text(parse_member(InDoubtPolicy))] = InDoubtPolicy.RETRY
    secret_key: Annotated[Secret | None, _from_text(parse_secret_key)] = None
    admin_token: Annotated[Secret | None, _from_text(parse_admin_token)] = None
    google_client_id: Annotated[str | None, _from_text(parse_visible)] = None
    google_client_secret: Annotated[Secret | None, _from_text(parse_client_secret)] = None
    microsoft_client_id: Annotated[str | None, _from_text(parse_visible)] = None
    microsoft_client_secret: Annotated[Secret | None, _from_text(parse_client_secret)] = None
    microsoft_tenant: Annotated[str, _from_text(parse_tenant)] = "common"
    oauth_client_id: Annotated[str | None, _from_text(parse_visible)] = None
    oauth_client_secret: Annotated[Secret | None, _from_text(parse_client_secret)] = None
    oauth_authorize_url: Annotated[str | None, _from_text(parse_oauth_url)] = None
    oauth_token_url: Annotated[str | None, _from_text(parse_oauth_url)] = None
    oauth_device_url: Annotated[str | None, _from_text(parse_oauth_url)] = None
    oauth_userinfo_url: Annotated[str | None, _from_text(parse_oauth_url)] = None
    oauth_scope: Annotated[str | None, _from_text(parse_visible)] = None
    notify: Annotated[tuple[Way, ...] | None, _from_text(parse_ways), Field(repr=False)] = None
    notify_kinds: Annotated[frozenset[Kind], _from_text(parse_kinds)] = frozenset(Kind)
    notify_quiet: Annotated[QuietHours | None, _from_text(parse_quiet_hours)] = None
    notify_window: Annotated[int, _from_text(parse_duration)] = parse_duration("15m")
    notify_gather: Annotated[int, _from_text(parse_duration)] = parse_duration("10s")
    notify_failed: Annotated[int, _from_text(whole_between(1, 1_000_000))] = 1
    notify_stuck: Annotated[int, _from_text(parse_duration)] = parse_duration("60s")
    notify_limit: Annotated[int, _from_text(whole_between(1, 100))] = 80
    notify_deaths: Annotated[int, _from_text(whole_between(1, 1000))] = 3
    notify_away: Annotated[int, _from_text(parse_duration)] = parse_duration("30s")
    notify_disk: Annotated[int | None, _from_text(whole_between(0, 1 << 50))] = None
    notify_share: Annotated[int, _from_text(whole_between(1, 100))] = 20
    drain: Annotated[int, _from_text(parse_drain)] = parse_duration("500ms")
    web_concurrency: Annotated[int, _from_text(whole_between(1, 1024))] = 1
    metrics_port: Annotated[int | None, _from_text(parse_port)] = None
    metrics_host: Annotated[str, _from_text(parse_host)] = "127.0.0.1"
    metrics_accounts: Annotated[bool, _from_text(parse_truth)] = False
    log_level: Annotated[str, _from_text(parse_log_level)] = "INFO"
    log_format: Annotated[LogFormat, _from_text(parse_member(LogFormat))] = LogFormat.TEXT
    log_addresses: Annotated[LogAddresses, _from_text(parse_member(LogAddresses))] = LogAddresses.FULL
    access_log: Annotated[bool, _from_text(parse_truth)] = False
    log_ship: Annotated[LogShip | None, _from_text(parse_log_ship)] = None
    log_ship_key: Annotated[Secret | None, _from_text(parse_client_secret)] = None
    log_ship_memory: Annotated[int, _from_text(whole_between(65_536, 1 << 32))] = 16_777_216
    dd_api_key: Annotated[Secret | None, _from_text(parse_client_secret)] = None
    dd_site: Annotated[str, _from_text(parse_host)] = "datadoghq.com"
    dd_service: Annotated[str, _from_text(parse_tag)] = "postroom"
    dd_env: Annotated[str | None, _from_text(parse_tag)] = None
    dd_version: Annotated[str | None, _from_text(parse_tag)] = None

    def __init__(self, *, _dot_env_file: Path | str = _DOT_ENV, **given: object) -> None:
        super().__init__(**{**_environment(Path(_dot_env_file)), **given})

    @property
    def log_options(self) -> LogOptions:
        """How the processes of the service write their log."""
        return LogOptions(
            self.log_format,
            self.log_level,
            self.dd_service,
            self.dd_env,
            self.dd_version,
            self.log_addresses,
            ships=self.log_ship is not None,
        )


def load_settings(dot_env: Path = _DOT_ENV) -> Settings:
    """Read `.env` in the current folder (or the file that is to become it) and the environment, which wins.

    Raises ConfigError, which names the variable and the fix and repeats no value.
    """
    try:
        settings = Settings(_dot_env_file=dot_env)
    except ValidationError as error:
        raise _config_error(error) from None
    except (OSError, UnicodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            DOT_ENV, f"cannot be read ({reason}); make it a UTF-8 text file that this user may read"
        ) from None
    if settings.log_format is not LogFormat.TEXT and str(settings.email_log) in _STANDARD_OUTPUT:
        raise ConfigError("POSTROOM_EMAIL_LOG", EMAIL_LOG_IN_THE_WAY)
    if settings.smtp_security is Security.NONE:
        check_plaintext(
            settings.smtp_host or "the server of each sender's domain", "POSTROOM_SMTP_SECURITY", settings
        )
    if settings.metrics_port == settings.port:
        raise ConfigError(
            "POSTROOM_METRICS_PORT", "is the port of HTTP too (PORT); give the metrics another one"
        )
    return settings


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_input=False)[0]
    reason = first.get("ctx", {}).get("error")
    sentence = str(reason) if isinstance(reason, ValueError) else "is not a usable value"
    setting = str(first["loc"][0]) if first["loc"] else "settings"
    variable, *others = variables(setting)
    former = former_variables()
    others = [name for name in others if name not in _FORMER or name in former]
    stand_in = f"(or {others[0]}, which stands in for it) " if others else ""
    return ConfigError(variable, stand_in + sentence)


def is_loopback(host: str) -> bool:
    """Say whether `host` names this machine, judged by its spelling alone: nothing is resolved."""
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761 §6.3
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def check_plaintext(host: str, variable: str, settings: Settings, email: str | None = None) -> None:
    if settings.smtp_allow_plaintext or host == INBOX or is_loopback(host):
        return
    whose = f" for {email}" if email else ""
    raise ConfigError(
        variable,
        f"security none{whose} would send mail and password in the clear to {host}; use starttls or tls, "
        "or set POSTROOM_SMTP_ALLOW_PLAINTEXT=true if that network is trusted",
    )


def traces_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether OpenTelemetry's own variables ask for traces; its library reads them, and no others."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    has_endpoint = any(
        environment.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT")
    )
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none"
    return (has_endpoint or exporter == "otlp") and not is_off
