"""The head of a request: from granian's scope to a WSGI environment, with what RFC 9112 asks of it."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any, NamedTuple

from postroom.core.numbers import whole_number

UNREADABLE = "\ufffd"  # stands for a value with octets that are not ASCII, which granian does not hand over
MOST_DIGITS_OF_LENGTH = 15  # a thousand tebioctets
UNREADABLE_LENGTH = f"the header Content-Length must be a number of at most {MOST_DIGITS_OF_LENGTH} digits"
MOST_OCTETS = 8192  # of a header's value, and of an address; as in nginx's default
_LONGEST_NAME = 256
_IGNORED, _REPEATED = "postroom.ignored", "postroom.repeated"
_TOO_LONG, _TOO_LARGE = "postroom.too_long", "postroom.too_large"  # names of headers, values
# The headers that we act on and that stand once.
_ONCE = {
    "HTTP_AUTHORIZATION": "Authorization",
    "HTTP_X_API_KEY": "X-API-Key",
    "HTTP_IDEMPOTENCY_KEY": "Idempotency-Key",
    "CONTENT_TYPE": "Content-Type",
    "CONTENT_LENGTH": "Content-Length",
}
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_SAME_FOR_ALL = {
    "SCRIPT_NAME": "",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.version": (1, 0),
}


class Excess(NamedTuple):
    """What is too long in the head of a request, with the status of the answer."""

    status: int
    detail: str


def environ_of(scope: Any) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) of a request, without its body."""
    client, _, client_port = scope.client.rpartition(":")
    server, _, server_port = scope.server.rpartition(":")
    environ = {
        **_SAME_FOR_ALL,
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": server or "localhost",  # a Unix socket has neither name nor port
        "SERVER_PORT": server_port if server else "80",
        "REMOTE_ADDR": client.strip("[]"),
        "REMOTE_PORT": client_port,
        "wsgi.url_scheme": scope.scheme,
    }
    for name in scope.headers.keys():  # noqa: SIM118 - it is no mapping
        environ[_key(name)] = UNREADABLE
    for name, value in scope.headers.items():
        key = _key(name)
        if len(value) > MOST_OCTETS:
            environ[_TOO_LARGE] = name
        before = environ[key]
        if before is UNREADABLE:
            environ[key] = value
        else:
            environ[key] = f"{before},{value}"
            environ[_REPEATED] = (*environ.get(_REPEATED, ()), key)
    environ.pop(_IGNORED, None)
    return environ


def _key(name: str) -> str:
    """Return a header's name in the environment."""
    return _key_of(name) if len(name) <= _LONGEST_NAME else _TOO_LONG


@lru_cache(256)
def _key_of(name: str) -> str:
    if "_" in name:
        return _IGNORED  # it would pass for the header with hyphens
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def take_forwarded_address(environ: dict[str, Any], proxies: int) -> None:
    """Set REMOTE_ADDR to the client's address as the outermost of `proxies` trusted proxies has forwarded it.

    Each proxy appends to the list, so text that a client made up stands before it. Nothing changes where the list is
    too short.
    """
    seen = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if len(seen) >= proxies and (address := seen[-proxies].strip()):
        environ["REMOTE_ADDR"] = address


def excess_of(environ: dict[str, Any]) -> Excess | None:
    """Say what of the head is longer than anybody needs: to parse it would hold up everybody else."""
    if len(environ["PATH_INFO"]) + len(environ["QUERY_STRING"]) > MOST_OCTETS:
        return Excess(414, f"the address has more than {MOST_OCTETS} octets")
    if _TOO_LONG in environ:
        return Excess(431, f"the name of a header has more than {_LONGEST_NAME} octets")
    if _TOO_LARGE in environ:
        return Excess(431, f"the header {environ[_TOO_LARGE]} has more than {MOST_OCTETS} octets")
    return None


def fault_of(environ: dict[str, Any]) -> str | None:
    """Say what RFC 9112 refuses in the head of this request (§3.2, §6.1), and the HTTP server does not."""
    if not environ["REQUEST_METHOD"].isupper():
        return "the names of methods are written in capitals (RFC 9110 §9.1)"
    for key in environ.get(_REPEATED, ()):
        if key in _ONCE:
            return f"the header {_ONCE[key]} is given more than once"
    host = environ.get("HTTP_HOST")
    if host is None and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        return "the request has no Host header"
    if host is not None and not _HOST.fullmatch(host):
        return "the request has more than one Host header, or one that is no host"
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.lower() != "chunked":
        return "the only Transfer-Encoding that is taken is chunked"
    if coding is not None and "CONTENT_LENGTH" in environ:
        return "Content-Length and Transfer-Encoding are given both: where the body ends is not clear"
    length = environ.get("CONTENT_LENGTH", "")
    if length and whole_number(length, MOST_DIGITS_OF_LENGTH) is None:
        return UNREADABLE_LENGTH
    return None


def length_of(environ: dict[str, Any]) -> int | None:
    """Return the length of the body, or None when only its end will tell."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return whole_number(environ.get("CONTENT_LENGTH", ""), MOST_DIGITS_OF_LENGTH) or 0
