"""The one outgoing HTTP client: bounded in time and size, no redirects, https only except on this machine.

The standard library's HTTP/1.1 over a connection of our own: its sockets know a time-out for each read only, so a
timer closes the socket of a server that goes on for too long. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from postroom import __version__
from postroom.core.errors import PostroomError
from postroom.settings import is_loopback

_LONGEST: Final = 256 * 1024  # octets of a body
_SECONDS: Final = 20.0  # for all of it
_PORTS: Final = {"https": 443, "http": 80}


class HTTPFault(PostroomError):
    """A request that got no whole answer."""


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """A whole answer. Its body and header fields are a stranger's."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class _Place:
    secure: bool
    host: str
    port: int
    target: str


def check_url(url: str) -> None:
    """Raise ValueError, with a sentence that follows a name, for what `request` would not ask."""
    _place(url)


def host_of(url: str) -> str:
    """Return the host of an address, and its port where that is given, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def post_form(url: str, form: str, *, seconds: float = _SECONDS) -> HTTPAnswer:
    """Post an encoded form and return the answer, whatever its status. Raises HTTPFault."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return request("POST", url, headers, form.encode(), seconds=seconds)


def request(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    seconds: float = _SECONDS,
    longest: int = _LONGEST,
) -> HTTPAnswer:
    """Make one request and return the answer, a redirect too. Raises HTTPFault, whose words repeat nothing secret."""
    until = time.monotonic() + seconds
    try:
        place = _place(url)
    except ValueError as error:
        raise HTTPFault(f"the address {error}") from None
    where = f"{place.host}:{place.port}"
    try:
        with closing(_connect(place, until)) as connected:
            return _exchange(connected, place, (method, dict(headers or {}), body), until, longest)
    except ssl.SSLCertVerificationError as error:
        raise HTTPFault(f"the certificate of {where} is not good: {error.verify_message}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = "it took too long" if _is_late(error, until) else _reason(error)
        raise HTTPFault(f"{where} gave no answer: {reason}") from None


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise ValueError("must begin with https:// and name a host")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must begin with https://, except on this machine")
    if not all("!" <= character <= "~" for character in url):
        raise ValueError("must consist of visible ASCII characters")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(parts.scheme == "https", parts.hostname, parts.port or _PORTS[parts.scheme], target)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _connect(place: _Place, until: float) -> socket.socket:
    connected = socket.create_connection((place.host, place.port), timeout=_left(until))
    if not place.secure:
        return connected
    try:
        return _tls().wrap_socket(connected, server_hostname=place.host, do_handshake_on_connect=False)
    except BaseException:
        connected.close()
        raise


def _exchange(
    connected: socket.socket,
    place: _Place,
    message: tuple[str, dict[str, str], bytes | None],
    until: float,
    longest: int,
) -> HTTPAnswer:
    method, headers, body = message
    connection = http.client.HTTPConnection(place.host, place.port)
    connection.sock = connected
    is_over = threading.Event()
    watch = threading.Timer(_left(until), _shut, (connected, is_over))
    watch.daemon = True
    watch.start()
    try:
        if isinstance(connected, ssl.SSLSocket):
            connected.do_handshake()
        own = {"User-Agent": f"Postroom/{__version__}", "Connection": "close"}
        connection.request(method, place.target, body, {**own, **headers})
        response = connection.getresponse()
        content = response.read(longest + 1)
    finally:
        watch.cancel()
    if is_over.is_set():
        raise TimeoutError
    if len(content) > longest:
        raise http.client.HTTPException(f"more than {longest} octets")
    return HTTPAnswer(
        response.status, {name.lower(): value for name, value in response.getheaders()}, content
    )


def _shut(connected: socket.socket, is_over: threading.Event) -> None:
    """End the exchange: the reader sees the end of the stream."""
    is_over.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _left(until: float) -> float:
    return max(0.05, until - time.monotonic())


def _is_late(error: BaseException, until: float) -> bool:
    return isinstance(error, TimeoutError) or time.monotonic() >= until


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, socket.gaierror):
        return "its name has no address just now"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return "it does not speak HTTP" if isinstance(error, http.client.BadStatusLine) else str(error)[:80]
