"""Resolves a host's name and connects to one of its addresses (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

from aiohappyeyeballs import AddrInfoType, start_connection

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.networks import is_public
from postroom.core.text import printable
from postroom.smtp.credentials import Credentials
from postroom.smtp.stream import Wire
from postroom.smtp.tape import Tape
from postroom.smtp.tls import explain

_MOST_LOOK_UPS = 64  # at a time
_NEXT_ADDRESS_S = 0.25  # RFC 8305 §8: how long an address is waited for before the next one is asked as well
_REMEMBERED_S = 600.0
_MOST_REMEMBERED = 10_000  # servers

_Host: TypeAlias = tuple[str, int]


class _Resolver:
    """Looks names up in threads of its own.

    A look-up cannot be broken off, and one whose DNS is dead takes its time: the few threads that the event loop has
    for them would soon be taken by one account, and nobody's names be found. Here a name is looked up by one thread
    at a time, however many ask for it. The threads are daemons, so that the process may end meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], Future[Sequence[AddrInfoType]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()  # those of `_asked` that no thread has taken up
        self._threads = 0

    def look_up(self, host: str, port: int) -> Future[Sequence[AddrInfoType]]:
        """Return what `socket.getaddrinfo` will find or raise; a caller that gives up does not affect the others."""
        with self._lock:
            answer = self._asked.get((host, port))
            if answer is None:
                answer = self._asked[host, port] = Future()
                answer.set_running_or_notify_cancel()  # from here on nobody can cancel it
                self._waiting.append((host, port))
                self._another_thread()
        return answer

    def _another_thread(self) -> None:
        if self._threads == _MOST_LOOK_UPS:
            return
        try:
            threading.Thread(target=self._work, name="look-up", daemon=True).start()
        except RuntimeError as error:  # no more threads; those that run go on with the names that wait
            if not self._threads:
                self._asked.pop(self._waiting.pop())
                raise OSError(errno.EAGAIN, str(error)) from error
        else:
            self._threads += 1

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
            except Exception as error:
                self._take(name).set_exception(error)
            else:
                self._take(name).set_result(found)

    def _next(self) -> tuple[str, int] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _take(self, name: tuple[str, int]) -> Future[Sequence[AddrInfoType]]:
        with self._lock:
            return self._asked.pop(name)


_resolver = _Resolver()


class _Memory:
    """For ten minutes: which address of a server answered last, and is asked first, or did not behave, and is asked last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # An address, whether it is good, and until when.
        self._known: dict[_Host, tuple[object, bool, float]] = {}

    def note(self, host: _Host, address: object, *, good: bool) -> None:
        self._known.pop(host, None)  # the order is that of the notes
        self._known[host] = address, good, self._clock() + _REMEMBERED_S
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]

    def in_order(self, host: _Host, found: Sequence[AddrInfoType]) -> list[AddrInfoType]:
        """Return the addresses in the resolver's order (RFC 6724), but for the one that is known."""
        address, good, until = self._known.get(host, (None, True, 0.0))
        if self._clock() > until:
            return list(found)
        return sorted(found, key=lambda info: (info[4] == address) is not good)


_memory = _Memory()


async def connect(
    host: str,
    port: int,
    seconds: float,
    credentials: Credentials | None = None,
    *,
    is_confined: bool = False,
    tape: Tape | None = None,
) -> Wire:
    """Connect to the address of the host that answers first, all within `seconds`. Raises SMTPFault.

    `is_confined`: to public addresses only, of those that the name has at this moment.
    The credentials are struck from whatever is heard of the server, its addresses among that.
    """
    tape = tape or Tape()
    tape.note(f"CONNECT {host}:{port}")
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    found = await _resolve(host, port, seconds)
    if not found:
        raise SMTPFault(FaultKind.UNRESOLVED, "connect", f"the server {host} has no address")
    if is_confined:
        found = _public(host, found)
    addresses = ", ".join(dict.fromkeys(str(info[4][0]) for info in found))
    shown = credentials.strike(addresses) if credentials else addresses
    where = f"{host}:{port}" if addresses == host else f"{host}:{port} ({shown})"
    try:
        async with asyncio.timeout(max(deadline - now(), 0.0)):
            wire, address = await _race(_memory.in_order((host, port), found), credentials, tape)
    except TimeoutError as error:
        message = f"cannot connect to {where}: no answer within {seconds:.3g} s"
        raise SMTPFault(FaultKind.TIMEOUT, "connect", message) from error
    except (OSError, RuntimeError) as error:  # uvloop has RuntimeErrors of its own
        message = f"cannot connect to {where}: {_reason(error, credentials)}"
        raise SMTPFault(FaultKind.DISCONNECTED, "connect", message) from error
    _memory.note((host, port), address, good=True)
    reached = _shown(address)
    tape.note(f"connected to {credentials.strike(reached) if credentials else reached}")
    return wire


def _public(host: str, found: Sequence[AddrInfoType]) -> list[AddrInfoType]:
    """Return the public ones of a host's addresses. Raises SMTPFault where there is none; it does not tell the others."""
    public = [info for info in found if is_public(str(info[4][0]))]
    if not public:
        message = (
            f"the server {host} is on this machine or in a private network: name it with the admin token, or set "
            "POSTROOM_SMTP_ALLOW_PRIVATE=true"
        )
        raise SMTPFault(FaultKind.PRIVATE, "connect", message)
    return public


def _shown(address: object) -> str:
    """Return an address and its port (RFC 3986 §3.2.2)."""
    if not isinstance(address, tuple):
        return str(address)
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


def _reason(error: Exception, credentials: Credentials | None) -> str:
    """Return an error in words. Without a number they may be of several addresses, which the server's domain names."""
    reason, is_ours = explain(error), bool(getattr(error, "errno", None))
    return credentials.strike(reason) if credentials and not is_ours else reason


def avoid(host: str, port: int, address: object) -> None:
    """This address of the host let us in and did not behave: ask the others first."""
    _memory.note((host, port), address, good=False)


def _peer_of(reached: socket.socket) -> object:
    """Return the address that a socket is connected to. Raises ConnectionResetError where it is no longer."""
    try:
        return reached.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
        raise


async def _race(
    addresses: Sequence[AddrInfoType], credentials: Credentials | None, tape: Tape
) -> tuple[Wire, object]:
    reached = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    try:
        address = _peer_of(reached)
        _, wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(credentials, tape), sock=reached
        )
    except BaseException:
        reached.close()
        raise
    return wire, address


async def _resolve(host: str, port: int, seconds: float) -> list[AddrInfoType]:
    try:
        if _is_address(host):  # nothing is asked
            found: Sequence[AddrInfoType] = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        else:
            found = await asyncio.wait_for(asyncio.wrap_future(_resolver.look_up(host, port)), seconds)
    except TimeoutError as error:
        raise SMTPFault(FaultKind.UNRESOLVED, "connect", f"looking up {host} took too long") from error
    except (OSError, UnicodeError) as error:
        gone = getattr(error, "errno", None) in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        kind = FaultKind.NO_SUCH_HOST if gone or isinstance(error, UnicodeError) else FaultKind.UNRESOLVED
        reason = getattr(error, "strerror", None) or str(error)
        detail = "there is no such host" if kind is FaultKind.NO_SUCH_HOST else printable(reason)
        raise SMTPFault(kind, "connect", f"cannot look up the server {host}: {detail}") from error
    return [(family, type_, proto, "", address) for family, type_, proto, _, address in found]


def _is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
