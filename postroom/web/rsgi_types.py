"""What granian hands over for a request (RSGI), as types: its description, its headers, and the exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from typing import Protocol


class Fields(Protocol):
    """The headers, by names in lower case. `items` leaves out values that are not ASCII, and `keys` does not."""

    def items(self) -> Sequence[tuple[str, str]]: ...

    def keys(self) -> Collection[str]: ...


class Scope(Protocol):
    """The head of a request."""

    method: str
    path: str
    query_string: str
    http_version: str
    scheme: str
    client: str
    server: str

    @property
    def headers(self) -> Fields: ...


class Exchange(Protocol):
    """A body to be read, whole or in pieces, and the answer to be given."""

    def __call__(self) -> Awaitable[bytes]: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes, /) -> None: ...
