"""Where the log is shipped to (POSTROOM_LOG_SHIP), as a value: Datadog or Elasticsearch, the address, the credentials."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from postroom.core.account import Secret

DATADOG: Final = "datadog:"
_DATADOG_PATH, _BULK = "/api/v2/logs", "/_bulk"
DATA_STREAM: Final = "logs-postroom-default"  # which Elasticsearch has a template for
_HERE: Final = ("127.0.0.1", "::1", "localhost")


class Destination(Enum):
    """Whose intake it is."""

    DATADOG = "datadog"
    ELASTICSEARCH = "elasticsearch"


@dataclass(frozen=True, slots=True)
class LogShip:
    """An intake. `url` is None for Datadog's own (DD_SITE); `basic` is what stands in the address before the host."""

    to: Destination
    url: str | None = field(default=None, repr=False)  # a key may stand in its query
    basic: Secret | None = None  # user and password, as `Authorization: Basic` has them


def parse_log_ship(text: str) -> LogShip:
    """Return where the log goes. Raises ValueError, whose text repeats nothing, for it may hold a password."""
    if text == DATADOG:
        return LogShip(Destination.DATADOG)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    is_own = parts.scheme == "http" and host in _HERE
    path = parts.path.rstrip("/")
    is_known = path.endswith((_DATADOG_PATH, _BULK))
    if (
        not (parts.scheme == "https" or is_own)
        or not host
        or not is_known
        or "@"
        in path  # a slash in the user or the password: what is before it would be taken for the host, and be shown
        or not re.fullmatch(r"[!-~]+", text)
    ):
        raise ValueError(
            f"must be {DATADOG} or an address that begins with https:// (http:// only on this machine) and ends with "
            f"{_DATADOG_PATH}, for Datadog, or {_BULK}, for Elasticsearch; in a user and a password write /, @, : and % "
            "as %2F, %40, %3A and %25"
        )
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    if path == _BULK:
        path = f"/{DATA_STREAM}{_BULK}"
    to = Destination.DATADOG if path.endswith(_DATADOG_PATH) else Destination.ELASTICSEARCH
    return LogShip(
        to, urlunsplit((parts.scheme, netloc, path, parts.query, "")), _basic(parts.username, parts.password)
    )


def _basic(user: str | None, password: str | None) -> Secret | None:
    if user is None:
        return None
    return Secret(b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode())
