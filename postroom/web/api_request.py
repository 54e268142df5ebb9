"""A request to the API with the parts that are read once: JSON document, key, rate limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from postroom.core.errors import MalformedSubmission
from postroom.core.numbers import whole_number
from postroom.web.auth import presented_key
from postroom.web.head import ACTED_ON, MOST_DIGITS_OF_LENGTH, UNREADABLE_LENGTH, Head, head_in
from postroom.web.schemas import Document, read_json

if TYPE_CHECKING:
    from postroom.web.rate_limiter import Window

_ACTED_ON_BEHIND_A_PROXY = {**ACTED_ON, "x-forwarded-for": "X-Forwarded-For"}
_LONGEST_ADDRESS = 100
_TRANSLATED = IPv6Network("64:ff9b::/96")


class ApiRequest:
    """A request to this service. `window` is the named rate limit that its answer tells of.

    `read` returns the body, and raises RequestEntityTooLarge for one that is larger than this service takes.
    """

    __slots__ = (
        "__weakref__", "_document", "_is_key_read", "_key", "_read", "account", "has_key_in_header_only", "head",
        "headers", "method", "window",
    )  # fmt: skip

    def __init__(self, head: Head, read: Callable[[], bytes]) -> None:
        self.head = head
        self.headers = head.headers
        self.method = head.method
        self.account: str | None = None  # the mailbox of the key, once it has proved to be one
        self.window: tuple[str, Window] | None = None
        self.has_key_in_header_only = False  # of a call whose body is not read before its key is checked
        self._read = read
        self._document: Document | None = None
        self._is_key_read = False
        self._key: str | None = None

    def _read_document(self) -> Document:
        if self._document is None:
            self._document = read_json(self.headers, self._read)
        return self._document

    def take_document(self) -> dict[str, object]:
        """Return the JSON body. Raises MalformedSubmission, UnsupportedMediaType or RequestEntityTooLarge."""
        return self._read_document().whole()

    @property
    def key(self) -> str | None:
        """The API key in header or body, or None. Raises what `take_document` raises, and for two keys that differ.

        The large part of a document need not have been read for it.
        """
        if not self._is_key_read:
            self._key = presented_key(self, self._read_document().small)
            self._is_key_read = True
        return self._key

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def address(self) -> str:
        """Where the request comes from, as a person would write it."""
        return _address(self.head.remote)

    @property
    def source(self) -> str:
        """What one client is likely to have all of, for counting: an IPv4 address or an IPv6 /64."""
        return source_of(self.address)

    def check_headers(self, *, behind_a_proxy: bool) -> None:
        """Raise MalformedSubmission for a header that this service acts on and cannot read."""
        headers = self.headers
        if not self.head.is_ascii:
            for key, name in (_ACTED_ON_BEHIND_A_PROXY if behind_a_proxy else ACTED_ON).items():
                if key in headers and not headers[key].isascii():
                    message = "must be ASCII"
                    raise MalformedSubmission(f"the header {name} {message}", errors=((name, message),))
        length = headers.get("content-length")
        if length and whole_number(length, MOST_DIGITS_OF_LENGTH) is None:
            raise MalformedSubmission(UNREADABLE_LENGTH, errors=(("Content-Length", "must be a number"),))


def request_of(request: Request) -> ApiRequest:
    """Return a request of Flask's in our form; its body is read when it is asked for."""

    def read() -> bytes:
        data: bytes = request.get_data()
        # Without a Content-Length, werkzeug cuts a body at the limit and says nothing.
        most = request.max_content_length
        if most is not None and len(data) >= most:
            raise RequestEntityTooLarge
        return data

    return ApiRequest(head_in(request.environ), read)


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
    """Return the IPv4 address or the IPv6 /64 of an address in the spelling of `ApiRequest.address`.

    A text that is no address may be anything, of any length: all of them are one source.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    return str(found) if isinstance(found, IPv4Address) else str(IPv6Network((found, 64), strict=False))
