"""The name that this machine gives in EHLO (RFC 5321 §4.1.1.1, §4.1.3)."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Final

from postroom.core.outcome import Reply
from postroom.core.setting_values import parse_ehlo_name
from postroom.settings import is_loopback

_ASKED_FOR_S: Final = 5.0
_MOST_REMEMBERED: Final = 10_000  # servers
_NOT_OURS: Final = (
    ".localdomain",
    ".localhost",
    ".arpa",
)  # what a machine without a name of its own is given
_OTHER_REASON: Final = re.compile(r"(?i)too many|concurren|rate|busy|load|limit|shut")
_ABOUT_THE_NAME: Final = re.compile(r"(?i)\b(?:helo|ehlo)\b")
_NOBODY: Final = "localhost.localdomain"


class OwnName:
    """This machine's fully qualified name, asked for once, in a thread; nobody waits for it longer than five seconds."""

    def __init__(self, configured: str | None = None) -> None:
        self._found: Future[str | None] = Future()
        self._deadline = time.monotonic() + _ASKED_FOR_S
        if configured is not None:
            self._found.set_result(configured)
        else:
            threading.Thread(target=self._ask, name="own-name", daemon=True).start()

    def _ask(self) -> None:
        try:
            name = fully_qualified()
        except Exception:
            name = None
        self._found.set_result(name)

    async def get(self) -> str | None:
        """Return the name, or None where there is none, or where it was not found in time."""
        if not self._found.done():
            waiting = asyncio.wrap_future(self._found)
            await asyncio.wait([waiting], timeout=max(self._deadline - time.monotonic(), 0.0))
        return self._found.result() if self._found.done() else None


def fully_qualified() -> str | None:
    """Ask the machine for its fully qualified name; None where it has none. May wait for a name server."""
    name = socket.gethostname()
    if "." not in name:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        except (OSError, UnicodeError):
            return None
        name = found[0][3] if found else ""
    try:
        usable = parse_ehlo_name(name)
    except ValueError:
        return None
    return None if usable.startswith("[") or usable.endswith(_NOT_OURS) else usable


def introductions(name: str | None, own_address: str | None, host: str, port: int) -> list[str]:
    """Return what may be said in EHLO to a server, first what is most likely to be taken. Never empty.

    `own_address` is our end of the connection.
    """
    candidates = [each for each in (name, _literal(own_address, host)) if each is not None]
    refused = _refused.get((host, port))
    return sorted(dict.fromkeys(candidates), key=lambda each: each == refused) or [_NOBODY]


def may_be_for_the_name(reply: Reply) -> bool:
    """Say whether a reply to EHLO may be a refusal of the name, so that another one is worth a try."""
    if reply.positive or reply.code in (500, 502, 503):  # these do not know EHLO, or not now
        return False
    return reply.code != 421 or _OTHER_REASON.search(reply.text) is None


def refused_later(host: str, port: int, name: str, others: Sequence[str], replies: Iterable[Reply]) -> bool:
    """Whether a server that took our name in EHLO refuses it at MAIL or RCPT, as Postfix does, and another is left.

    That one is said first from then on.
    """
    if not others or _refused.get((host, port)) in others:
        return False
    if not any(reply.code not in (500, 502, 503) and _ABOUT_THE_NAME.search(reply.text) for reply in replies):
        return False
    note_refused(host, port, name)
    return True


def note_refused(host: str, port: int, name: str) -> None:
    """From now on say another name to this server first."""
    _refused[host, port] = name
    if len(_refused) > _MOST_REMEMBERED:
        del _refused[next(iter(_refused))]


def forget_refused(host: str, port: int) -> None:
    _refused.pop((host, port), None)


_refused: dict[tuple[str, int], str] = {}


def _literal(own_address: str | None, host: str) -> str | None:
    """Return an address literal; a loopback one only for a server on this machine."""
    ip = own_address.partition("%")[0] if own_address else None
    if not is_loopback(host) and (ip is None or is_loopback(ip)):
        ip = _outward_address()
    if ip is None:
        return None
    address = ip_address(ip)
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _outward_address() -> str | None:
    """Return the address from which this machine would speak to the rest of the world; nothing is sent."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                address = str(probe.getsockname()[0])
        except OSError:
            continue
        if not is_loopback(address):
            return address.partition("%")[0]
    return None
