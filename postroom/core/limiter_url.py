"""Validates the URL of the rate limiter's storage (Redis, Memcached, memory) before anything connects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from postroom.core.numbers import whole_number

_SCHEMES: Final = frozenset(
    {
        "memory", "memcached", "redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster",
        "valkey", "valkeys", "valkey+unix", "valkey+sentinel", "valkey+cluster",
    }
)  # fmt: skip
_PORTS: Final[Mapping[str, str]] = {
    "memcached": ":11211",
    "redis+sentinel": ":26379",
    "redis+cluster": ":6379",
}
_USERINFO: Final = re.compile(r"(?:[^\s@/?#%]|%[0-9A-Fa-f]{2})*")
_PLACE: Final = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_DATABASE: Final = re.compile(r"(/[0-9]{0,9})?")
# Postroom sets time-outs and tries. Options after the ? would override them, so no others are accepted.
_PARAMETERS: Final[Mapping[str, str]] = {
    "db": "[0-9]{1,9}",
    "client_name": r"[\w.-]+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": "(?i:true|false|yes|no|on|off|0|1)",
    "ssl_ca_certs": ".+",
    "ssl_ca_path": ".+",
    "ssl_certfile": ".+",
    "ssl_keyfile": ".+",
}
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_ESCAPED: Final = (
    "with special characters in user and password written as %XX "
    "(@ is %40, / is %2F, # is %23, ? is %3F, % is %25)"
)


def parse_limiter_url(text: str) -> str:
    """Return the URL as the limits library accepts it, with every port. Raises ValueError, which repeats no value."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("must be memory://, redis://HOST:PORT, valkey://HOST:PORT or memcached://HOST:PORT")
    scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis")
    if scheme == "memory":
        return _memory(rest)
    place, mark, parameters = rest.partition("?")
    authority = re.split("[/#]", place, maxsplit=1)[0]
    path, query = place.removeprefix(authority), mark + parameters
    userinfo, at, places = authority.rpartition("@")
    wrong = re.search(r"[\s#@]|%(?![0-9A-Fa-f]{2})", path + query)
    if wrong or not _USERINFO.fullmatch(userinfo) or userinfo.count(":") > 1:
        raise ValueError(f"must be a URL {_ESCAPED}")
    if userinfo and scheme == "memcached":
        raise ValueError("must have no user and password where it is memcached://")
    _check_path(scheme, places, path)
    _check_parameters(scheme, query.removeprefix("?"))
    return f"{scheme}://{userinfo}{at}{_with_ports(scheme, places)}{path}{query}"


def _memory(rest: str) -> str:
    if rest:
        raise ValueError("must be memory:// and nothing more where each process counts for itself")
    return "memory://"


def _check_path(scheme: str, places: str, path: str) -> None:
    if scheme == "redis+unix":
        if places or len(path) < 2:
            raise ValueError("must name the socket by its absolute path, as in redis+unix:///run/redis.sock")
    elif scheme == "redis+sentinel":
        if not re.fullmatch(r"/[^/]+/?", path):
            raise ValueError(
                "must end with the name of the service that the sentinels watch: redis+sentinel://HOST:26379/NAME"
            )
    elif scheme in ("redis", "rediss"):
        if not _DATABASE.fullmatch(path):
            raise ValueError("must end with the number of a database, as in redis://HOST:6379/0")
    elif path not in ("", "/"):
        raise ValueError("must end after its hosts: there are no databases in a cluster or a Memcached")


def _check_parameters(scheme: str, query: str) -> None:
    given = [each.partition("=") for each in query.split("&") if each]
    if given and scheme not in ("redis", "rediss", "redis+unix"):
        raise ValueError("must have nothing after a ?")
    for name, _, value in given:
        if name not in _PARAMETERS or not re.fullmatch(_PARAMETERS[name], unquote(value)):
            raise ValueError(f"must have nothing after a ? but {', '.join(_PARAMETERS)}, with usable values")
        if name in _FILES and not Path(unquote(value)).is_file():
            raise ValueError(f"must name a file that is there in {name}")
        if name.startswith("ssl_") and scheme != "rediss":
            raise ValueError("must begin with rediss:// where there are parameters of TLS")


def _with_ports(scheme: str, places: str) -> str:
    if scheme == "redis+unix":
        return ""
    found = [_PLACE.fullmatch(place) for place in places.split(",")]
    if not all(place and 0 < (whole_number(place[2] or "1", 5) or 0) < 65536 for place in found):
        raise ValueError(f"must name hosts, each with a port from 1 to 65535, {_ESCAPED}")
    if len(found) > 1 and scheme in ("redis", "rediss"):
        raise ValueError("must name one host; several are redis+sentinel:// or redis+cluster://")
    port = _PORTS.get(scheme, "")
    return ",".join(place[0] if place[2] else f"{place[0]}{port}" for place in found if place)
