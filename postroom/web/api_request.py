"""A request under way, with what several layers ask of it read once: its document, its key, its rate limit."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, cast

from flask import Request, request
from werkzeug.utils import cached_property  # functools' takes a lock on Python 3.11

from postroom.core.errors import MalformedSubmission
from postroom.core.numbers import whole_number
from postroom.web.auth import presented_key
from postroom.web.head import MOST_DIGITS_OF_LENGTH, UNREADABLE_LENGTH
from postroom.web.rate_limiter import Window
from postroom.web.schemas import Document, read_json

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# The headers that this service acts on.
_ACTED_ON = (
    ("HTTP_AUTHORIZATION", "Authorization"),
    ("HTTP_X_API_KEY", "X-API-Key"),
    ("HTTP_IDEMPOTENCY_KEY", "Idempotency-Key"),
    ("HTTP_CONTENT_ENCODING", "Content-Encoding"),
    ("CONTENT_TYPE", "Content-Type"),
    ("CONTENT_LENGTH", "Content-Length"),
)
_ACTED_ON_BEHIND_A_PROXY = (*_ACTED_ON, ("HTTP_X_FORWARDED_FOR", "X-Forwarded-For"))
_LONGEST_ADDRESS = 100
_TRANSLATED = IPv6Network("64:ff9b::/96")


class ApiRequest(Request):
    """A request to this service. `window` is the named rate limit that its answer tells of."""

    account: str | None = None  # the mailbox of the key, once it has proved to be one
    window: tuple[str, Window] | None = None

    @classmethod
    def detached(cls, environ: WSGIEnvironment) -> ApiRequest:
        """Return a request that its own environment does not refer to, so that both go with the last use of either."""
        return cls(environ, populate_request=False)

    @cached_property
    def _document(self) -> Document:
        return read_json(self)

    def take_document(self) -> dict[str, Any]:
        """Return the JSON body. Raises MalformedSubmission, UnsupportedMediaType or RequestEntityTooLarge."""
        return self._document.whole()

    @cached_property
    def key(self) -> str | None:
        """The API key in header or body, or None. Raises what `take_document` raises, and for two keys that differ.

        The large part of a document need not have been read for it.
        """
        return presented_key(self, self._document.small)

    @property
    def address(self) -> str:
        """Where the request comes from, as a person would write it."""
        return _address(self.remote_addr or "unknown")

    @property
    def source(self) -> str:
        """What one client is likely to have all of, for counting: an IPv4 address or an IPv6 /64."""
        return source_of(self.address)

    def check_headers(self, *, behind_a_proxy: bool) -> None:
        """Raise MalformedSubmission for a header that this service acts on and cannot read."""
        environ = self.environ
        for key, name in _ACTED_ON_BEHIND_A_PROXY if behind_a_proxy else _ACTED_ON:
            if key in environ and not environ[key].isascii():
                message = "must be ASCII"
                raise MalformedSubmission(f"the header {name} {message}", errors=((name, message),))
        length = environ.get("CONTENT_LENGTH", "")
        if length and whole_number(length, MOST_DIGITS_OF_LENGTH) is None:
            raise MalformedSubmission(UNREADABLE_LENGTH, errors=(("Content-Length", "must be a number"),))


def _address(text: str) -> str:
    """Return an address in one spelling, without the port and brackets that some proxies forward with it."""
    return _spelt(text) if len(text) <= _LONGEST_ADDRESS else "unknown"


@lru_cache(1024)
def _spelt(text: str) -> str:
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return str(_ipv4_within(ip_address(bare.partition("%")[0])))
    except ValueError:
        return text


def _ipv4_within(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 one stands for (RFC 4291 §2.5.5.2, RFC 6052 §2.1), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


@lru_cache(1024)
def source_of(address: str) -> str:
    """Return the IPv4 address or the IPv6 /64 of an address in the spelling of `Call.address`.

    A text that is no address may be anything, of any length: all of them are one source.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    return str(found) if isinstance(found, IPv4Address) else str(IPv6Network((found, 64), strict=False))


def current() -> ApiRequest:
    """Return the request itself, not Flask's stand-in for it, which costs a look-up at every use."""
    return cast("ApiRequest", request._get_current_object())  # type: ignore[attr-defined]
