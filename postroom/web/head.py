"""The head of a request as a value, from granian's scope or a WSGI environment, checked by RFC 9112."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from postroom.core.numbers import whole_number

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from postroom.web.rsgi_types import Scope

UNREADABLE = "\ufffd"  # stands for a value with octets that are not ASCII, which granian does not hand over
MOST_DIGITS_OF_LENGTH = 15  # a thousand tebioctets
UNREADABLE_LENGTH = f"the header Content-Length must be a number of at most {MOST_DIGITS_OF_LENGTH} digits"
MOST_OCTETS = 8192  # of a header's value, and of an address; as in nginx's default
_LONGEST_NAME = 256
# The headers that this service acts on; all but Content-Encoding may stand once only.
ACTED_ON = {
    "authorization": "Authorization",
    "x-api-key": "X-API-Key",
    "idempotency-key": "Idempotency-Key",
    "content-encoding": "Content-Encoding",
    "content-type": "Content-Type",
    "content-length": "Content-Length",
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


class Head:
    """Method, address and headers of a request. `remote` is the client's IP address, or what a proxy says it is.

    The names of headers are in lower case. Of a header that was given more than once the values are joined by commas.
    """

    __slots__ = (
        "__weakref__", "headers", "is_ascii", "method", "path", "query", "remote", "repeated", "route", "scheme",
        "server", "version",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        remote: str,
        query: str = "",
        version: str = "1.1",
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.remote = remote
        self.query = query
        self.version = version
        self.scheme, self.server = "http", ""
        self.is_ascii = True  # all values of the headers are
        self.repeated: tuple[str, ...] = ()
        self.route: str | None = None  # the rule that the path has matched

    def take_forwarded_address(self, proxies: int) -> None:
        """Set `remote` to the client's address as the outermost of `proxies` trusted proxies has forwarded it.

        Each proxy appends to the list, so text that a client made up stands before it. Nothing changes where the list
        is too short.
        """
        seen = self.headers.get("x-forwarded-for", "").split(",")
        if len(seen) >= proxies and (address := seen[-proxies].strip()):
            self.remote = address


def head_of(scope: Scope) -> Head:
    """Return the head of a request to granian."""
    given = scope.headers
    fields = given.items()
    head = Head(
        scope.method,
        scope.path,
        dict(fields),
        remote=scope.client.rpartition(":")[0].strip("[]"),
        query=scope.query_string,
        version=scope.http_version,
    )
    head.scheme, head.server = scope.scheme, scope.server
    if len(fields) != len(head.headers):
        _join_repeated(head, fields)
    names = given.keys()
    if len(names) != len(head.headers):
        for name in names:
            if name not in head.headers:
                head.headers[name] = UNREADABLE
                head.is_ascii = False
    return head


def _join_repeated(head: Head, fields: Sequence[tuple[str, str]]) -> None:
    joined: dict[str, str] = {}
    for name, value in fields:
        if name in joined:
            joined[name] = f"{joined[name]},{value}"
            head.repeated = (*head.repeated, name)
        else:
            joined[name] = value
    head.headers = joined


def head_in(environ: WSGIEnvironment) -> Head:
    """Return the head of a request to a WSGI server."""
    headers = {_name_of(key): value for key, value in environ.items() if key[:5] == "HTTP_"}
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            headers[_name_of(key)] = environ[key]
    head = Head(
        environ.get("REQUEST_METHOD", "GET"),
        environ.get("PATH_INFO", "/"),
        headers,
        remote=environ.get("REMOTE_ADDR") or "unknown",
    )
    head.is_ascii = all(map(str.isascii, headers.values()))
    return head


@lru_cache(256)
def _name_of(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-").lower()


def environ_of(head: Head) -> WSGIEnvironment:
    """Return the WSGI environment (PEP 3333) of a request, without its body."""
    server, _, port = head.server.rpartition(":")
    environ = {
        **_SAME_FOR_ALL,
        "REQUEST_METHOD": head.method,
        "PATH_INFO": head.path.encode().decode("latin-1"),
        "QUERY_STRING": head.query,
        "SERVER_PROTOCOL": f"HTTP/{head.version}",
        "SERVER_NAME": server or "localhost",  # a Unix socket has neither name nor port
        "SERVER_PORT": port if server else "80",
        "REMOTE_ADDR": head.remote,
        "wsgi.url_scheme": head.scheme,
    }
    for name, value in head.headers.items():
        if "_" not in name:  # it would pass for the header with hyphens
            environ[_key_of(name)] = value
    return environ


@lru_cache(256)
def _key_of(name: str) -> str:
    """Return the name of a header, which is none that is too long, in an environment."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def excess_of(head: Head) -> Excess | None:
    """Say what of the head is longer than anybody needs: to parse it would hold up everybody else."""
    if len(head.path.encode()) + len(head.query) > MOST_OCTETS:
        return Excess(414, f"the address has more than {MOST_OCTETS} octets")
    headers = head.headers
    if max(map(len, headers), default=0) > _LONGEST_NAME:
        return Excess(431, f"the name of a header has more than {_LONGEST_NAME} octets")
    if max(map(len, headers.values()), default=0) > MOST_OCTETS:
        name = max(headers, key=lambda name: len(headers[name]))
        return Excess(431, f"the header {name} has more than {MOST_OCTETS} octets")
    return None


def fault_of(head: Head) -> str | None:
    """Say what RFC 9112 refuses in the head of this request (§3.2, §6.1), and the HTTP server does not."""
    headers = head.headers
    if not head.method.isupper():
        return "the names of methods are written in capitals (RFC 9110 §9.1)"
    for name in head.repeated:
        if name in ACTED_ON and name != "content-encoding":
            return f"the header {ACTED_ON[name]} is given more than once"
    host = headers.get("host")
    if host is None and head.version == "1.1":
        return "the request has no Host header"
    if host is not None and not _HOST.fullmatch(host):
        return "the request has more than one Host header, or one that is no host"
    return _fault_of_framing(headers)


def _fault_of_framing(headers: Mapping[str, str]) -> str | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None and coding.lower() != "chunked":
        return "the only Transfer-Encoding that is taken is chunked"
    if coding is not None and length is not None:
        return "Content-Length and Transfer-Encoding are given both: where the body ends is not clear"
    if length and whole_number(length, MOST_DIGITS_OF_LENGTH) is None:
        return UNREADABLE_LENGTH
    return None


def length_of(head: Head) -> int | None:
    """Return the length of the body, or None when only its end will tell."""
    if "transfer-encoding" in head.headers:
        return None
    return whole_number(head.headers.get("content-length", ""), MOST_DIGITS_OF_LENGTH) or 0
