"""The built-in inbox: a real SMTP server on loopback that keeps what it gets, and its reader.

A newcomer's first mail ends here, and so do the mails of the tests. A folder holds

    port        the port that the server listens on, while it does
    mail/       one `<received>-<id>.eml` for each mail, oldest first by name

A mail's file starts with the envelope as `X-Postroom-Envelope-*` headers, of which
`X-Postroom-Received` is the last; after it come the bytes exactly as they were sent.
It is on the disk before the 250 is written.

The server runs in a process of its own and imports no more than it needs; whoever
reads the folder needs no server.
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
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from postroom.core.clock import SECOND, Clock, Instant, system_clock
from postroom.core.errors import NotFound
from postroom.core.files import NotPlain, kind_of, plain_file, read_plain, reason_of, sync, write_plain
from postroom.core.heartbeat import Pulse, report_ready
from postroom.core.lifeline import ignore_stray_signals, stop_signals
from postroom.core.numbers import whole_number
from postroom.telemetry.log import LineFormatter, is_journal

if TYPE_CHECKING:
    import asyncio
    from email.message import EmailMessage, MIMEPart

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
FOLDER = Path("var/inbox")
KEEP = 10_000  # mails
SIZE_LIMIT = 36_700_160  # octets: the default POSTROOM_MAX_MESSAGE_BYTES and 40 % for its encoding
RECIPIENT_LIMIT = 1000
LINE_LIMIT = (
    65_536  # octets; ten times more than RFC 5321 §4.5.3.1.6, which also sets how much is read at once
)
COMMAND_LIMIT = 4096  # octets; RFC 5321 §4.5.3.1.4 asks for 512 and more with each extension
GRACE = 1.0  # seconds for mails that are being written when the server is told to end
STALE_AFTER = 3600  # seconds until an unfinished file belongs to nobody
TRY_AGAIN = 2.0  # seconds

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"(?P<received>\d{8}T\d{6}\.\d{6}Z)-(?P<id>[0-9a-f]{8})\.eml")
_LARGEST_PORT = 64  # octets
_FROM, _TO, _RECEIVED = "X-Postroom-Envelope-From", "X-Postroom-Envelope-To", "X-Postroom-Received"
_HEADER_BYTES = 65_536  # how much of a mail is read for a listing
_LARGEST_ENVELOPE = (RECIPIENT_LIMIT + 2) * COMMAND_LIMIT
_HEADER_CHARS = 4096  # the email package takes quadratic time over some headers
_UNPRINTABLE_ADDRESS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# ── The store ────────────────────────────────────────────────────────────────────────────────────


class Maildrop:
    """A folder of captured mails, bounded: the newest `keep` stay. Safe to use from several threads."""

    def __init__(self, folder: Path, *, keep: int = KEEP, clock: Clock = system_clock) -> None:
        self._mails = folder / "mail"
        self._keep = max(keep, 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Instant = 0
        for needed in (folder, self._mails):
            _make_folder(needed)
        sync(folder)
        self._sweep()
        self._names = deque(sorted(_names(folder)))
        self._prune()

    def save(self, reverse_path: str, forward_paths: list[str], content: bytes) -> str:
        """Make one mail durable and return its id. Raises OSError, leaving nothing behind."""
        received = self._next_instant()
        mail_id = secrets.token_hex(4)
        name = f"{_datetime(received).strftime(_STAMP)}-{mail_id}.eml"
        _write_durably(self._mails / name, _envelope_head(reverse_path, forward_paths, received), content)
        with self._lock:
            self._names.append(name)
            self._prune()
        return mail_id

    def _next_instant(self) -> Instant:
        """Return the present, later than ever before, so that names sort as mails came."""
        with self._lock:
            self._last = max(self._clock(), self._last + 1)
            return self._last

    def _prune(self) -> None:
        while len(self._names) > self._keep:
            oldest = self._mails / self._names.popleft()
            try:
                oldest.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the inbox could not delete %s: %s", oldest, reason_of(error))

    def _sweep(self) -> None:
        """Delete what a killed server left half-written."""
        stale = self._clock() / SECOND - STALE_AFTER
        for path in self._mails.glob(".*.tmp"):
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
        with open(unfinished, "xb", opener=_private, buffering=0) as file:
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_all(file: Any, chunk: bytes) -> None:
    """Write the whole chunk: an unbuffered write may stop half-way when the disk is nearly full."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _make_folder(folder: Path) -> None:
    """Make a folder that is missing. Raises OSError, which says what is in its place."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        raise NotADirectoryError(
            errno.ENOTDIR, "it is a link to nothing, not a folder", str(folder)
        ) from None
    if not stat.S_ISDIR(mode):
        kind = kind_of(mode) or "a file"
        raise NotADirectoryError(errno.ENOTDIR, f"it is {kind}, not a folder", str(folder))


def _datetime(instant: Instant) -> datetime:
    return _EPOCH + timedelta(microseconds=instant)


# ── The server ───────────────────────────────────────────────────────────────────────────────────


def serve_inbox(
    folder: Path,
    *,
    host: str = HOST,
    port: int = 0,
    keep: int = KEEP,
    ready: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    lifeline: int | None = None,
    try_again_s: float | None = None,
) -> None:
    """Capture mails into `folder` until SIGTERM, SIGINT or `stop`; block meanwhile.

    Listens on a free port by default. `folder/port` holds the port from the
    moment that connections are taken until the end, and `ready` is called with
    it. `lifeline` is the reading end of a pipe: once it is closed at the other
    end, which the death of a parent does as well, the server ends. Signals are
    heeded in the main thread only. When it cannot listen or write at the start
    it tries again after `try_again_s`; without that it raises OSError.
    """
    import asyncio

    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd's: says what we say, and more
    inbox = _Inbox(folder, (host, port), keep)
    asyncio.run(_serve(inbox, ready, stop, lifeline, try_again_s))


async def _serve(
    inbox: _Inbox,
    ready: Callable[[int], None] | None,
    stop: threading.Event | None,
    lifeline: int | None,
    try_again_s: float | None,
) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    ended = asyncio.Event()
    _end_on_signals(loop, ended)
    _end_on_stop(loop, ended, stop)
    if lifeline is not None:
        loop.add_reader(lifeline, _end_on_eof, loop, lifeline, ended)
    if try_again_s is None:
        await inbox.open()
        Pulse().start(loop)
    else:
        Pulse().start(loop)
        await _open_in_time(inbox, ended, try_again_s)
    try:
        if inbox.port is not None:
            report_ready()
            if ready is not None:
                ready(inbox.port)
        await ended.wait()
    finally:
        await inbox.close()


async def _open_in_time(inbox: _Inbox, ended: asyncio.Event, try_again_s: float) -> None:
    """Open the inbox as soon as that works, or give up when `ended` is set; each reason is said once."""
    import asyncio

    told = None
    while not ended.is_set():
        try:
            await inbox.open()
        except OSError as error:
            reason = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
            if reason != told:
                logger.warning(
                    "the built-in inbox cannot run (%s); the service goes on without it, and it is tried again every "
                    "%g s. Messages to it are deferred meanwhile",
                    reason,
                    try_again_s,
                )
            told = reason
            report_ready()  # nobody else is to wait for it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), try_again_s)
        else:
            if told is not None:
                logger.warning("the built-in inbox runs now")
            return


class _Inbox:
    """The server of a folder, and its socket while it is open."""

    def __init__(self, folder: Path, address: tuple[str, int], keep: int) -> None:
        self.port: int | None = None
        self._folder = folder
        self._address = address
        self._keep = keep
        self._server: asyncio.Server | None = None
        self._handler: _Handler | None = None

    async def open(self) -> None:
        """Prepare the folder, listen, and write down the port. Raises OSError, leaving nothing open."""
        import asyncio

        handler = _Handler(Maildrop(self._folder, keep=self._keep))
        (self._folder / "port").unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_protocols(handler, loop), *self._address, backlog=512)
        port = int(server.sockets[0].getsockname()[1])
        try:
            _write_port(self._folder, port)
        except OSError:
            server.close()
            raise
        self._server, self._handler, self.port = server, handler, port

    async def close(self) -> None:
        """Stop listening, and let the mails under way be written."""
        if self._server is None or self._handler is None or self.port is None:
            return
        _remove_port(self._folder, self.port)
        # Not wait_closed(): since Python 3.12 it waits for the clients to go away.
        self._server.close()
        await _settle(self._handler)


def _protocols(handler: _Handler, loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Protocol]:
    """Return what makes the server's side of each new connection."""
    from aiosmtpd.smtp import SMTP, AuthResult

    # aiosmtpd takes these limits from the class only, and counts `command_size_limits` for all connections
    # together, clearing it with each new one: hence a default that already suffices.
    limits = {
        "line_length_limit": LINE_LIMIT,
        "command_size_limits": defaultdict(lambda: COMMAND_LIMIT),
    }
    inbox_smtp: type[SMTP] = type("InboxSMTP", (SMTP,), limits)

    def connect() -> SMTP:
        return inbox_smtp(
            handler,
            loop=loop,
            hostname="localhost",  # without one, aiosmtpd asks the DNS at each connection
            ident="Postroom inbox",
            data_size_limit=SIZE_LIMIT,
            enable_SMTPUTF8=True,
            auth_require_tls=False,
            authenticator=lambda *_: AuthResult(success=True),
        )

    return connect


class _Handler:
    """What aiosmtpd asks while it speaks SMTP; the names of the methods are its own."""

    def __init__(self, drop: Maildrop) -> None:
        self._drop = drop
        self.saving: set[asyncio.Future[str]] = set()

    async def handle_EHLO(  # noqa: N802
        self, _server: Any, session: Any, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]  # RFC 2920; it reads line by line anyway

    async def handle_MAIL(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if refusal := _address_refusal(address, smtputf8=envelope.smtp_utf8):
            return refusal
        sizes = [option[5:] for option in options if option[:5].upper() == "SIZE="]
        if any(whole_number(size, 20) is None for size in sizes):
            return "501 5.5.4 SIZE must be a number"
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if address == "<>":
            return "553 5.1.3 A recipient is needed"
        if refusal := _address_refusal(address, smtputf8=envelope.smtp_utf8):
            return refusal
        if len(envelope.rcpt_tos) >= RECIPIENT_LIMIT:
            return "452 4.5.3 Too many recipients"  # RFC 5321 §4.5.3.1.10
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        reverse_path = "" if envelope.mail_from == "<>" else envelope.mail_from
        saving: asyncio.Future[str] = session.loop.run_in_executor(
            None, self._drop.save, reverse_path, envelope.rcpt_tos, envelope.content
        )
        self.saving.add(saving)
        saving.add_done_callback(self.saving.discard)
        try:
            return f"250 2.0.0 Kept as {await saving}"
        except OSError as error:
            logger.warning("the inbox could not keep a mail: %s", error)
            return _storage_refusal(error)

    async def handle_exception(self, error: Exception) -> str:
        """Answer a command that aiosmtpd stumbled over: mostly an address that `email` cannot parse."""
        logger.info("the inbox could not make sense of a command: %r", error)
        return "500 5.5.2 Command not understood"


def _address_refusal(address: str, *, smtputf8: bool) -> str | None:
    if _UNPRINTABLE_ADDRESS.search(address):
        return "553 5.1.3 The address holds characters that no address may hold"
    if not (smtputf8 or address.isascii()):
        return "553 5.6.7 This address needs SMTPUTF8"  # RFC 6531 §3.5
    return None


def _storage_refusal(error: OSError) -> str:
    if error.errno in _FULL:
        return "452 4.3.1 The disk is full; the mail was not kept"
    return "451 4.3.0 The mail could not be written and was not kept"


def _end_on_signals(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in stop_signals():
            loop.add_signal_handler(number, ended.set)


def _end_on_stop(loop: asyncio.AbstractEventLoop, ended: asyncio.Event, stop: threading.Event | None) -> None:
    if stop is None:
        return

    def watch() -> None:
        stop.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, name="inbox-stop", daemon=True).start()


def _end_on_eof(loop: asyncio.AbstractEventLoop, lifeline: int, ended: asyncio.Event) -> None:
    if not os.read(lifeline, 512):
        loop.remove_reader(lifeline)
        ended.set()


async def _settle(handler: _Handler) -> None:
    """Let the mails under way be written and answered; `asyncio.run` then hangs up on the clients."""
    import asyncio

    if handler.saving:
        await asyncio.wait(handler.saving, timeout=GRACE)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong, but not that a client hung up."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def _write_port(folder: Path, port: int) -> None:
    write_plain(folder / "port", f"{port}\n".encode())


def _remove_port(folder: Path, port: int) -> None:
    """Remove the port file unless another server has written its own by now."""
    if inbox_port(folder) == port:
        with contextlib.suppress(OSError):
            (folder / "port").unlink()


# ── The reader ───────────────────────────────────────────────────────────────────────────────────


def inbox_port(folder: Path) -> int | None:
    """Return the port that the inbox of this folder listens on; None when none does.

    A server that was killed leaves its file behind, so a port is no promise that
    somebody answers.
    """
    try:
        text = read_plain(folder / "port", _LARGEST_PORT).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    port = whole_number(text, 5)
    return port if port and port < 65_536 else None


@dataclass(frozen=True, slots=True)
class MailSummary:
    """A line of the listing. Subject and sender are decoded but hostile: print them with `printable`."""

    id: str
    received: Instant
    envelope_from: str
    envelope_to: tuple[str, ...]
    subject: str
    sender: str
    size: int  # octets of the mail as it was sent


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part of a mail that is not its text. The file name is the sender's: never a path to write to."""

    filename: str | None
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InboxMail(MailSummary):
    """A whole mail; `raw` is byte for byte what was sent."""

    text: str
    html: str | None
    attachments: tuple[Attachment, ...]
    raw: bytes = field(repr=False)


def list_mails(folder: Path, limit: int | None = 50) -> list[MailSummary]:
    """Return the newest mails first; none when there is no inbox yet."""
    found: list[MailSummary] = []
    for name in sorted(_names(folder), reverse=True):
        if limit is not None and len(found) >= limit:
            break
        try:
            found.append(_read_summary(folder / "mail" / name))
        except FileNotFoundError:  # pruned meanwhile
            continue
        except NotPlain as error:
            logger.warning("%s is left out: %s", error.filename, error.strerror)
    return found


def read_mail(folder: Path, which: str = "latest") -> InboxMail:
    """Return one mail: by its id, the start of its id, or "latest". Raises NotFound."""
    path = folder / "mail" / _find(folder, which.strip().lower())
    try:
        return _read_whole(path)
    except FileNotFoundError:
        raise NotFound("That mail has just been deleted to make room for newer ones.") from None


def _find(folder: Path, which: str) -> str:
    names = sorted(_names(folder))
    if not names:
        raise NotFound("There is no mail in the inbox yet.")
    if which == "latest":
        return names[-1]
    matches = [name for name in names if which and _id(name).startswith(which)]
    if not matches:
        raise NotFound(f"There is no mail with the id {printable(which)!r} in the inbox.")
    if len(matches) > 1:
        raise NotFound(f"{len(matches)} mails have ids that start with {which!r}: give more of it.")
    return matches[0]


def _names(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder / "mail")  # noqa: PTH208 - names are all we need, of 10,000 files
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from filter(_NAME.fullmatch, names)


def _id(name: str) -> str:
    return name[-12:-4]


def _instant(name: str) -> Instant:
    received = datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    return (received - _EPOCH) // timedelta(microseconds=1)


def _read_summary(path: Path) -> MailSummary:
    with _open_mail(path) as file:
        reverse_path, forward_paths = _read_envelope(file)
        start = file.tell()
        head = file.read(_HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size - start
    message = _parse(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    return MailSummary(
        id=_id(path.name),
        received=_instant(path.name),
        envelope_from=reverse_path,
        envelope_to=forward_paths,
        subject=_header(message, "subject"),
        sender=_header(message, "from"),
        size=size,
    )


def _read_whole(path: Path) -> InboxMail:
    with _open_mail(path) as file:
        reverse_path, forward_paths = _read_envelope(file)
        raw = file.read()
    message = _parse(raw)
    text, html = _bodies(message, raw)
    return InboxMail(
        id=_id(path.name),
        received=_instant(path.name),
        envelope_from=reverse_path,
        envelope_to=forward_paths,
        subject=_header(message, "subject"),
        sender=_header(message, "from"),
        size=len(raw),
        text=text,
        html=html,
        attachments=_attachments(message),
        raw=raw,
    )


def _open_mail(path: Path) -> BinaryIO:
    return plain_file(path, SIZE_LIMIT + _LARGEST_ENVELOPE)


def _read_envelope(file: BinaryIO) -> tuple[str, tuple[str, ...]]:
    """Return reverse-path and forward-paths, leaving the file at the mail's first byte."""
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


# ── What a hostile mail says ─────────────────────────────────────────────────────────────────────
# The email package raises almost anything on crafted input (IndexError, LookupError, RecursionError,
# …), each time it is asked. A mail that it cannot read is shown as it is.


def _parse(raw: bytes) -> EmailMessage | None:
    from email import message_from_bytes, policy

    try:
        return message_from_bytes(raw, policy=policy.default)
    except Exception:
        logger.info("a mail in the inbox cannot be parsed", exc_info=True)
        return None


def _header(message: EmailMessage | None, name: str) -> str:
    """Return a header's decoded value on one line, or as it stands where it cannot be decoded."""
    for key, value in message.raw_items() if message is not None else ():
        if key.lower() == name:
            value = str(value)[:_HEADER_CHARS]
            with contextlib.suppress(Exception):
                value = str(message.policy.header_fetch_parse(key, value)) if message is not None else value
            return re.sub(r"\s*[\r\n]+\s*", " ", value).strip()
    return ""


def _bodies(message: EmailMessage | None, raw: bytes) -> tuple[str, str | None]:
    """Return the plain text and the HTML of a mail; the raw mail as text where there is no telling."""
    try:
        if message is None:
            raise ValueError("not parsed")
        plain = message.get_body(("plain",))
        html = message.get_body(("html",))
        return _content(plain) or "", _content(html)
    except Exception:
        return _lines(raw.decode("utf-8", "replace")), None


def _content(part: MIMEPart | None) -> str | None:
    if part is None:
        return None
    try:
        return _lines(str(part.get_content()))
    except Exception:  # an unknown charset, mostly
        payload = part.get_payload(decode=True)
        return _lines(payload.decode("utf-8", "replace")) if isinstance(payload, bytes) else ""


def _attachments(message: EmailMessage | None) -> tuple[Attachment, ...]:
    try:
        return tuple(_attachment(part) for part in message.iter_attachments()) if message is not None else ()
    except Exception:
        return ()


def _attachment(part: MIMEPart) -> Attachment:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else part.as_bytes()
    return Attachment(part.get_filename(), part.get_content_type(), content)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _unprintable() -> dict[int, str]:
    """Map what could steer a terminal, or reverse what a person reads, to something harmless."""
    table = {code: chr(0x2400 + code) for code in range(0x20)}  # ␀ to ␟
    del table[ord("\n")], table[ord("\t")]
    table[0x7F] = "␡"
    c1 = range(0x80, 0xA0)
    bidi = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    surrogates = range(0xD800, 0xE000)
    return table | dict.fromkeys((*c1, *bidi, *surrogates), "\ufffd")


_UNPRINTABLE = _unprintable()


def printable(text: str) -> str:
    """Return the text with nothing in it that a terminal obeys.

    Line feed and tab stay, CR LF becomes LF; other C0 characters become their
    pictures (␛), DEL ␡; C1, bidirectional controls and lone surrogates become U+FFFD.
    """
    return _lines(text).translate(_UNPRINTABLE)


def main(lifeline: int | None = None) -> None:
    """Serve the installation in the current folder; `serve` starts this module by itself, without the command line.

    Under `serve`, which others depend on, nothing that is wrong with the folder ends it.
    """
    ignore_stray_signals()
    if lifeline is not None:
        logging.basicConfig()
        for handler in logging.getLogger().handlers:
            handler.setFormatter(LineFormatter(for_journal=is_journal(2)))
    serve_inbox(FOLDER, lifeline=lifeline, try_again_s=None if lifeline is None else TRY_AGAIN)


if __name__ == "__main__":
    main(int(os.environ["POSTROOM_LIFELINE"]) if "POSTROOM_LIFELINE" in os.environ else None)
