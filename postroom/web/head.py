"""The head of a request: from granian's scope to a WSGI environment, with what RFC 9112 asks of it."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

from postroom.numbers import whole_number

UNREADABLE = "\ufffd"  # stands for a value with octets that are not ASCII, which granian does not hand over
MOST_DIGITS_OF_LENGTH = 15  # a thousand tebioctets
UNREADABLE_LENGTH = f"the header Content-Length must be a number of at most {MOST_DIGITS_OF_LENGTH} digits"
_IGNORED = "postroom.ignored"
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
        before = environ[key]
        environ[key] = value if before is UNREADABLE else f"{before},{value}"
    environ.pop(_IGNORED, None)
    return environ


@lru_cache(256)
def _key(name: str) -> str:
    """Return a header's name in the environment."""
    if "_" in name:
        return _IGNORED  # it would pass for the header with hyphens
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def fault_of(environ: dict[str, Any]) -> str | None:
    """Say what RFC 9112 refuses in the head of this request (§3.2, §6.1), and the HTTP server does not."""
    host = environ.get("HTTP_HOST")
    if host is None and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        return "the request has no Host header"
    if host is not None and not _HOST.fullmatch(host):
        return "the request has more than one Host header, or one that is no host"
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.lower() != "chunked":
        return "the only Transfer-Encoding that is taken is chunked"
    length = environ.get("CONTENT_LENGTH", "")
    if length and whole_number(length, MOST_DIGITS_OF_LENGTH) is None:
        return UNREADABLE_LENGTH
    return None


def length_of(environ: dict[str, Any]) -> int | None:
    """Return the length of the body, or None when only its end will tell."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return whole_number(environ.get("CONTENT_LENGTH", ""), MOST_DIGITS_OF_LENGTH) or 0
