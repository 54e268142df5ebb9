"""The folder of captured messages: writes a message durably, names and opens its file, and keeps the inbox's port.

A folder holds

    port        the port that the server listens on, while it does
    mail/       one `<received>-<id>.eml` for each message, oldest first by name

A message's file starts with the envelope as `X-Postroom-Envelope-*` headers, of which
`X-Postroom-Received` is the last; after it come the bytes exactly as they were sent.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from postroom.core.clock import SECOND, Clock, Instant, system_clock
from postroom.core.files import kind_of, plain_file, private, read_plain, reason_of, sync, write_plain
from postroom.core.numbers import whole_number

logger = logging.getLogger(__name__)

FOLDER = Path("var/inbox")
KEEP = 10_000  # messages
SIZE_LIMIT = 36_700_160  # octets: the default POSTROOM_MAX_MESSAGE_BYTES and 40 % for its encoding
RECIPIENT_LIMIT = 1000
COMMAND_LIMIT = 4096  # octets; RFC 5321 §4.5.3.1.4 asks for 512 and more with each extension
STALE_AFTER = 3600  # seconds until an unfinished file counts as left by a killed server

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"(?P<received>\d{8}T\d{6}\.\d{6}Z)-(?P<id>[0-9a-f]{8})\.eml")
_LARGEST_PORT = 64  # octets
_FROM, _TO, _RECEIVED = "X-Postroom-Envelope-From", "X-Postroom-Envelope-To", "X-Postroom-Received"
_LARGEST_ENVELOPE = (RECIPIENT_LIMIT + 2) * COMMAND_LIMIT


class Maildrop:
    """A folder of captured messages, bounded: the newest `keep` stay. Safe to use from several threads."""

    def __init__(self, folder: Path, *, keep: int = KEEP, clock: Clock = system_clock) -> None:
        self._folder = folder / "mail"
        self._keep = max(keep, 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Instant = 0
        for needed in (folder, self._folder):
            _make_folder(needed)
        sync(folder)
        self._sweep()
        self._names = deque(sorted(names_in(folder)))
        self._prune()

    def save(self, reverse_path: str, forward_paths: list[str], content: bytes) -> str:
        """Make one message durable and return its id. Raises OSError, leaving nothing behind."""
        received = self._next_instant()
        mail_id = secrets.token_hex(4)
        name = f"{_datetime(received).strftime(_STAMP)}-{mail_id}.eml"
        _write_durably(self._folder / name, _envelope_head(reverse_path, forward_paths, received), content)
        with self._lock:
            self._names.append(name)
            self._prune()
        return mail_id

    def _next_instant(self) -> Instant:
        """Return the present, later than any time before, so that names sort in the order of arrival."""
        with self._lock:
            self._last = max(self._clock(), self._last + 1)
            return self._last

    def _prune(self) -> None:
        while len(self._names) > self._keep:
            oldest = self._folder / self._names.popleft()
            try:
                oldest.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the inbox could not delete %s: %s", oldest, reason_of(error))

    def _sweep(self) -> None:
        """Delete the unfinished files of a killed server."""
        stale = self._clock() / SECOND - STALE_AFTER
        for path in self._folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < stale:
                    path.unlink()


def _envelope_head(reverse_path: str, forward_paths: list[str], received: Instant) -> bytes:
    """Return the headers that keep the envelope; `X-Postroom-Received` closes them."""
    lines = [f"{_FROM}: <{reverse_path}>"]
    lines += [f"{_TO}: <{path}>" for path in forward_paths]
    lines.append(f"{_RECEIVED}: {_datetime(received).isoformat(timespec='microseconds')[:-6]}Z")
    return "".join(f"{line}\r\n" for line in lines).encode()


def _write_durably(path: Path, *chunks: bytes) -> None:
    """Write a new file so that it survives a power cut, or not at all."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with open(unfinished, "xb", opener=private, buffering=0) as file:
            for chunk in chunks:
                _write_all(file, chunk)
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync(path.parent)
    except BaseException:
        for leftover in (unfinished, path):
            with contextlib.suppress(OSError):
                leftover.unlink()
        raise


def _write_all(file: BinaryIO, chunk: bytes) -> None:
    """Write the whole chunk: an unbuffered write may stop half-way when the disk is nearly full."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _make_folder(folder: Path) -> None:
    """Make a folder that is missing. Raises OSError, which names the thing in its place."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        if not folder.is_symlink():  # the thing in its place was removed since `mkdir` met it
            _make_folder(folder)
            return
        raise NotADirectoryError(
            errno.ENOTDIR, "it is a link to nothing, not a folder", str(folder)
        ) from None
    if not stat.S_ISDIR(mode):
        kind = kind_of(mode) or "a file"
        raise NotADirectoryError(errno.ENOTDIR, f"it is {kind}, not a folder", str(folder))


def _datetime(instant: Instant) -> datetime:
    return _EPOCH + timedelta(microseconds=instant)


def names_in(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder / "mail")  # noqa: PTH208 - names are all we need, of 10,000 files
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from filter(_NAME.fullmatch, names)


def names_to(folder: Path, address: str) -> Iterator[str]:
    """Yield the names of the files whose envelope has this address among its forward-paths."""
    for name in names_in(folder):
        with contextlib.suppress(FileNotFoundError), open_message(folder / "mail" / name) as file:
            if any(path.lower() == address.lower() for path in read_envelope(file)[1]):
                yield name


def id_of(name: str) -> str:
    return name[-12:-4]


def instant_of(name: str) -> Instant:
    received = datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    return (received - _EPOCH) // timedelta(microseconds=1)


def open_message(path: Path) -> BinaryIO:
    return plain_file(path, SIZE_LIMIT + _LARGEST_ENVELOPE)


def read_envelope(file: BinaryIO) -> tuple[str, tuple[str, ...]]:
    """Return reverse-path and forward-paths, leaving the file at the message's first byte."""
    reverse_path = ""
    forward_paths: list[str] = []
    for line in iter(file.readline, b""):
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
        if name == _RECEIVED:
            break
        if name == _FROM:
            reverse_path = value[1:-1]
        elif name == _TO:
            forward_paths.append(value[1:-1])
    return reverse_path, tuple(forward_paths)


def inbox_port(folder: Path) -> int | None:
    """Return the port that the inbox of this folder listens on; None when none does.

    A server that was killed leaves its file behind, so perhaps nobody answers at the port.
    """
    try:
        text = read_plain(folder / "port", _LARGEST_PORT).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    port = whole_number(text, 5)
    return port if port and port < 65_536 else None


def write_port(folder: Path, port: int) -> None:
    write_plain(folder / "port", f"{port}\n".encode())


def remove_port(folder: Path, port: int) -> None:
    """Remove the port file unless another server has written its own by now."""
    if inbox_port(folder) == port:
        with contextlib.suppress(OSError):
            (folder / "port").unlink()
