"""Parses the text of one setting, or of one column of data.csv: durations, numbers, hosts, names of files, keys.

Each parser raises ValueError with a sentence that follows a name and never repeats
the text: a value may have been put into the wrong variable or column.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import idna

from postroom.core.account import Secret, Security
from postroom.core.files import MEBIBYTE, read_plain, reason_of
from postroom.core.numbers import whole_number

E = TypeVar("E", bound=Enum)

MIN_KEY_CHARACTERS: Final = 16
LEAST_OF_ADMIN_TOKEN: Final = 32
LARGEST_FILE: Final = 16 * MEBIBYTE
_UNITS: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_LONGEST: Final = 520 * _UNITS["w"]
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) *(ms|s|m|h|d|w)")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
UNIX: Final = "unix:"
_TAG: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_LONGEST_SOCKET_PATH: Final = 107  # sun_path of unix(7), with its NUL
_HOSTNAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def parse_duration(text: str) -> int:
    """Return the microseconds that `text` stands for: a number and ms, s, m, h, d or w.

    Decimals such as `1.5h` are fine; zero, and anything beyond ten years, is not.
    Raises ValueError.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if not found:
        raise ValueError("must be a number and a unit (ms, s, m, h, d or w), for example 30s or 1.5h")
    micros = int(Decimal(found[1]) * _UNITS[found[2]])
    if not 0 < micros <= _LONGEST:
        raise ValueError("must be longer than zero and no longer than ten years (520w)")
    return micros


def parse_whole(text: str, low: int, high: int) -> int:
    """Return the whole number in `text`, in plain digits. Raises ValueError."""
    digits = text.strip()
    number = whole_number(digits)
    if number is None or not low <= number <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return number


def parse_port(text: str) -> int:
    """Return a TCP port. Raises ValueError."""
    return parse_whole(text, 1, 65535)


def parse_security(text: str) -> Security:
    """Return the named protection of a connection. Raises ValueError."""
    return parse_member(Security)(text)


def parse_host(text: str) -> str:
    """Return a host as it is connected to: lower case, A-labels (RFC 5890), no brackets around IPv6.

    Raises ValueError.
    """
    host = text.strip().lower().removesuffix(".")
    address = _ip(host.removeprefix("[").removesuffix("]"))
    if address:
        return str(address)
    try:
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError:
        host = ""
    numeric = host.rpartition(".")[2].isdigit()  # neither a name nor a whole IPv4 address
    if numeric or len(host) > 253 or not _HOSTNAME.fullmatch(host):
        raise ValueError(
            "must be a bare host name such as smtp.example.com, or an IP address, without a port or scheme"
        )
    return host


def parse_listening_host(text: str) -> str:
    """Return a host as `parse_host` does, or `unix:` and the absolute path of a socket. Raises ValueError."""
    path = text.strip().removeprefix(UNIX)
    if path == text.strip():
        return parse_host(text)
    if not path.startswith("/") or len(path.encode()) > _LONGEST_SOCKET_PATH:
        raise ValueError(
            f"must be unix: and an absolute path of at most {_LONGEST_SOCKET_PATH} bytes, such as "
            "unix:/run/postroom/http.sock"
        )
    return f"{UNIX}{path}"


def parse_ehlo_name(text: str) -> str:
    """Return a fully qualified name, or an address literal, as EHLO takes it (RFC 5321 §4.1.2, §4.1.3).

    Raises ValueError.
    """
    name = text.strip()
    if name.startswith("[") and name.endswith("]"):
        return f"[{_address_literal(name[1:-1])}]"
    try:
        host = parse_host(name)
    except ValueError:
        host = ""
    if "." not in host or "_" in host or _ip(host):
        raise ValueError(
            "must be a fully qualified name such as mail.example.com, or an address literal such as [192.0.2.1]"
        )
    return host


def _address_literal(text: str) -> str:
    address = _ip(text.removeprefix("IPv6:"))
    if address is None:
        raise ValueError(
            "must hold an IP address between its brackets, such as [192.0.2.1] or [IPv6:2001:db8::1]"
        )
    return f"IPv6:{address}" if isinstance(address, IPv6Address) else str(address)


def split_keys(text: str) -> tuple[Secret, ...]:
    """Return the keys of a comma-separated list: the first encrypts, all decrypt.

    Raises ValueError when there is none, or one has fewer than 16 characters.
    """
    keys = [key.strip() for key in text.split(",")]
    if any(len(key) < MIN_KEY_CHARACTERS for key in keys):
        raise ValueError(
            f"must hold at least {MIN_KEY_CHARACTERS} characters in each of its keys (commas separate "
            "keys); make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return tuple(Secret(key) for key in keys)


def _ip(host: str) -> object | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_member(kind: type[E]) -> Callable[[str], E]:
    def parse(text: str) -> E:
        try:
            return kind(text.strip().lower())
        except ValueError:
            choices = ", ".join(str(member.value) for member in kind)
            raise ValueError(f"must be one of {choices}") from None

    return parse


def whole_between(low: int, high: int) -> Callable[[str], int]:
    return lambda text: parse_whole(text, low, high)


def parse_truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        raise ValueError("must be true or false")
    return word in {"1", "true", "yes", "on"}


def parse_schedule(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_duration(step) for step in text.split(","))
    except ValueError as error:
        raise ValueError(f"must be waits separated by commas, such as 30s,2m,10m; each {error}") from None


def parse_keeping_time(text: str) -> int | None:
    """Return a duration, or None for `forever`."""
    return None if text.strip().lower() == "forever" else parse_duration(text)


def parse_drain(text: str) -> int:
    """Return a duration of at most five minutes, or 0 for none."""
    if re.fullmatch(r"0 *(ms|s|m)?", text.strip().lower()):
        return 0
    micros = parse_duration(text)
    if micros > 5 * _UNITS["m"]:
        raise ValueError("must be no longer than 5m")
    return micros


def parse_database_url(text: str) -> str:
    """Return the URL of a database; the store parses a PostgreSQL's further."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and rest[1:] not in {"", ":memory:"}:
        return text
    if separator and scheme in {"postgresql", "postgres"} and rest:
        return text
    raise ValueError(
        "must be sqlite:///FILE (sqlite:////FILE from the root) or postgresql://USER:PASSWORD@HOST/DATABASE"
    )


def parse_rate_limit(text: str) -> str:
    from limits import parse_many  # which loads asyncio and every storage

    limit = text.strip()
    try:
        usable = not limit or (
            all(whole_number(digits) for digits in re.findall(r"\d+", limit))
            and all(item.amount > 0 for item in parse_many(limit))
        )
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be like 600/minute or 10/second;5000/day, or empty for no limit")
    return limit


def parse_log_level(text: str) -> str:
    level = text.strip().upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level


def parse_ca_file(text: str) -> Path:
    path = Path(text)
    try:
        read_plain(path, LARGEST_FILE)  # OpenSSL would wait at a FIFO
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("must name a file of certificates in PEM form") from None
    except OSError as error:
        raise ValueError(f"must name a file that can be read ({reason_of(error)})") from None
    return path


def parse_file_name(text: str) -> Path:
    """Return the name of a file that need not exist yet."""
    try:
        Path(text).stat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR):
            raise ValueError(f"must be a name that a file can have ({error.strerror})") from None
    return Path(text)


def parse_secret_key(text: str) -> Secret:
    split_keys(text)
    return Secret(text)


def parse_oauth_url(text: str) -> str:
    """Return the address of a provider's endpoint. Raises ValueError."""
    parts = urlsplit(text)
    is_own = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not (parts.scheme == "https" or is_own) or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be an address that begins with https://")
    return text


def parse_tag(text: str) -> str:
    """Return a name as Datadog's tags take it. Raises ValueError."""
    if not _TAG.fullmatch(text):
        raise ValueError("must be at most 200 letters, digits and the characters . _ - : /")
    return text


def parse_visible(text: str) -> str:
    """Return a text that a URL or a form carries as it stands. Raises ValueError."""
    if not re.fullmatch(r"[ -~]+", text):
        raise ValueError("must consist of visible ASCII characters")
    return text


def parse_tenant(text: str) -> str:
    """Return a tenant of Microsoft Entra: a domain, an id, or `common`. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9.-]+", text):
        raise ValueError("must be a domain, an id, common, organizations or consumers")
    return text


def parse_client_secret(text: str) -> Secret:
    return Secret(parse_visible(text))


def parse_admin_token(text: str) -> Secret:
    if len(text) < LEAST_OF_ADMIN_TOKEN:
        raise ValueError(f"must have at least {LEAST_OF_ADMIN_TOKEN} characters")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            "must consist of visible ASCII characters, without spaces, as a header can carry them"
        )
    return Secret(text)
