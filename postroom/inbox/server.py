"""The built-in inbox: a real SMTP server on loopback that keeps every message it gets (aiosmtpd).

A newcomer's first message ends here, and so do the messages of the tests. Each is
on the disk before the 250 is written. The server runs in a process of its own and
imports no more than it needs; `reader.py` reads the folder without it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from postroom.core.files import reason_of
from postroom.core.heartbeat import Pulse, report_ready
from postroom.core.lifeline import ignore_stray_signals, stop_signals
from postroom.core.log_options import LogOptions
from postroom.core.numbers import whole_number
from postroom.inbox.maildrop import (
    COMMAND_LIMIT,
    FOLDER,
    KEEP,
    RECIPIENT_LIMIT,
    SIZE_LIMIT,
    Maildrop,
    remove_port,
    write_port,
)
from postroom.telemetry import lifecycle, service_log

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LINE_LIMIT = 65_536  # octets; ten times RFC 5321 §4.5.3.1.6, which also sets how much is read at once
GRACE = 1.0  # seconds for messages that are being written when the server is told to end
TRY_AGAIN = 2.0  # seconds

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNPRINTABLE_ADDRESS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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
    """Capture messages into `folder` until SIGTERM, SIGINT or `stop`; block meanwhile.

    Listens on a free port by default. `folder/port` holds the port from the
    moment that connections are taken until the end, and `ready` is called with
    it. `lifeline` is the reading end of a pipe: once it is closed at the other
    end, which the death of a parent does as well, the server ends. Signals are
    handled in the main thread only. When it cannot listen or write at the start
    it tries again after `try_again_s`; without that it raises OSError.
    """
    import asyncio

    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd's own lines repeat ours
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
    """Open the inbox as soon as that works, or give up when `ended` is set; log each reason once."""
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
            report_ready()  # the rest of the service does not wait for it
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
            write_port(self._folder, port)
        except OSError:
            server.close()
            raise
        self._server, self._handler, self.port = server, handler, port

    async def close(self) -> None:
        """Stop listening, and let the messages under way be written."""
        if self._server is None or self._handler is None or self.port is None:
            return
        remove_port(self._folder, self.port)
        # Not wait_closed(): since Python 3.12 it waits for the clients to go away.
        self._server.close()
        await _finish_saving(self._handler)


def _protocols(handler: _Handler, loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Protocol]:
    """Return the factory of aiosmtpd's protocol for each new connection."""
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


class _Session(Protocol):
    """The part of aiosmtpd's session that is used here."""

    host_name: str | None
    loop: asyncio.AbstractEventLoop


class _Envelope(Protocol):
    """The part of aiosmtpd's envelope that is used here."""

    smtp_utf8: bool
    mail_from: str
    rcpt_tos: list[str]
    content: bytes


class _Handler:
    """Answers the SMTP commands that aiosmtpd has parsed; the names of the methods are aiosmtpd's."""

    def __init__(self, drop: Maildrop) -> None:
        self._drop = drop
        self.saving: set[asyncio.Future[str]] = set()

    async def handle_EHLO(  # noqa: N802
        self, _server: object, session: _Session, _envelope: object, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [
            *responses[:-1],
            "250-PIPELINING",
            responses[-1],
        ]  # RFC 2920; aiosmtpd reads line by line anyway

    async def handle_MAIL(  # noqa: N802
        self, _server: object, _session: object, envelope: _Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := _address_refusal(address, smtputf8=envelope.smtp_utf8):
            return refusal
        sizes = [option[5:] for option in options if option[:5].upper() == "SIZE="]
        if any(whole_number(size, 20) is None for size in sizes):
            return "501 5.5.4 SIZE must be a number"
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: object, _session: object, envelope: _Envelope, address: str, _options: list[str]
    ) -> str:
        if address == "<>":
            return "553 5.1.3 A recipient is needed"
        if refusal := _address_refusal(address, smtputf8=envelope.smtp_utf8):
            return refusal
        if len(envelope.rcpt_tos) >= RECIPIENT_LIMIT:
            return "452 4.5.3 Too many recipients"  # RFC 5321 §4.5.3.1.10
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: object, session: _Session, envelope: _Envelope) -> str:  # noqa: N802
        reverse_path = "" if envelope.mail_from == "<>" else envelope.mail_from
        saving: asyncio.Future[str] = session.loop.run_in_executor(
            None, self._drop.save, reverse_path, envelope.rcpt_tos, envelope.content
        )
        self.saving.add(saving)
        saving.add_done_callback(self.saving.discard)
        try:
            return f"250 2.0.0 Kept as {await saving}"
        except OSError as error:
            logger.warning("the inbox could not keep a message: %s", error)
            return _storage_refusal(error)

    async def handle_exception(self, error: Exception) -> str:
        """Answer a command that raised in aiosmtpd: mostly an address that `email` cannot parse."""
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
        return "452 4.3.1 The disk is full; the message was not kept"
    return "451 4.3.0 The message could not be written and was not kept"


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


async def _finish_saving(handler: _Handler) -> None:
    """Let the messages under way be written and answered; `asyncio.run` then hangs up on the clients."""
    import asyncio

    if handler.saving:
        await asyncio.wait(handler.saving, timeout=GRACE)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Log errors of the event loop, but not a client that hung up."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def main(lifeline: int | None = None) -> None:
    """Serve the installation in the current folder; `serve` starts this module by itself, without the command line.

    Under `serve` no fault of the folder ends it, since the service would see a child that dies again and again.
    """
    ignore_stray_signals()
    if lifeline is None:
        serve_inbox(FOLDER)
        return
    service_log.start_inherited(FOLDER.parent, "WARNING")
    if LogOptions.inherited().level in {"DEBUG", "INFO"}:
        lifecycle.log.setLevel(logging.INFO)
    life = lifecycle.Lifecycle("inbox")
    life.start()
    with life.ending():
        serve_inbox(FOLDER, lifeline=lifeline, try_again_s=TRY_AGAIN)
        life.because("the service ends")


if __name__ == "__main__":
    main(int(os.environ["POSTROOM_LIFELINE"]) if "POSTROOM_LIFELINE" in os.environ else None)
