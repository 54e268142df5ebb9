"""A fast SMTP sink in a process of its own: it takes every mail, and counts or writes a ledger.

`python -m tests.servers.sink --port 0 --ledger FILE` prints its port, then serves until SIGTERM and prints its
count. With a ledger, one line `MESSAGE-ID RECIPIENT` per copy is on the disk before the dot is answered 250. The private
verb COUNT answers `250 <number of mails>`. With `--refuse` it refuses every recipient instead, and counts those.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import select
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from tests.servers.forked import forker
from tests.servers.programs import Process, StartupError, end, free_port
from tests.servers.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
OK = b"250 2.0.0 OK\r\n"
REFUSED = b"550 5.1.1 No such user\r\n"
EXTENSIONS = (
    b"sink.example",
    b"PIPELINING",
    b"8BITMIME",
    b"SIZE 1000000000",
    b"SMTPUTF8",
    b"ENHANCEDSTATUSCODES",
)


class Ledger:
    """Lines on the disk: written and synced once for all mails that came in one turn of the loop."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = Path(path).read_bytes().rfind(b"\n") + 1
        os.ftruncate(
            self._file, whole
        )  # half a line is of a mail that was never answered: this sink was killed
        self._lines: list[bytes] = []
        self._waiting: list[SinkProtocol] = []

    def add(self, text: bytes | bytearray, recipients: list[bytes]) -> None:
        message_id = find_message_id(text)
        self._lines += [b"%b %b\n" % (message_id, recipient) for recipient in recipients]

    def flush_later(self, protocol: SinkProtocol) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(protocol)

    def _flush(self) -> None:
        lines, self._lines = b"".join(self._lines), []
        waiting, self._waiting = self._waiting, []
        view = memoryview(lines)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)
        for protocol in waiting:
            protocol.release()

    def close(self) -> None:
        os.close(self._file)


def find_message_id(text: bytes | bytearray) -> bytes:
    """Return the Message-ID of a mail as it came on the wire, or "-"."""
    head_end = text.find(b"\r\n\r\n")
    head = bytes(text[: head_end if head_end >= 0 else len(text)])
    at = (b"\r\n" + head.lower()).find(b"\r\nmessage-id:")
    if at < 0:
        return b"-"
    value = head[at + 11 :].lstrip()  # also behind a fold
    return value.split(None, 1)[0] if value else b"-"


def path_of(line: bytes | bytearray) -> bytes:
    """Return the recipient in `RCPT TO:<recipient> …`, quoted spaces and all."""
    return bytes(line[line.find(b"<") + 1 : line.rfind(b">")])


class SinkProtocol(asyncio.Protocol):
    count = 0  # of all connections, kept on the class

    def __init__(self, ledger: Ledger | None, greeting: bytes) -> None:
        self.ledger = ledger
        self.greeting = greeting
        self.transport: asyncio.Transport | None = None
        self.buffer: bytes | bytearray = b""
        self.in_text = False
        self.scanned = 0
        self.chunk = -1  # octets of a BDAT chunk that is awaited
        self.last = False
        self.text = b""
        self.recipients: list[bytes] = []
        self.replies: list[bytes] = []
        self.held = False
        self.leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.replies.append(b"220 sink.example ESMTP\r\n")
        self.release()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def release(self) -> None:
        """Send what was held back for the ledger."""
        self.held = False
        if self.transport is not None and self.replies:
            self.transport.write(b"".join(self.replies))
            if self.leaving:
                self.transport.close()
        self.replies.clear()

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            self.buffer += data
        else:
            self.buffer = data
        position = 0
        while True:
            if self.in_text:
                following = self.take_text(position)
            elif self.chunk >= 0:
                following = self.take_chunk(position)
            else:
                following = self.take_line(position)
            if following < 0:
                break
            position = following
        # What is left stays, as a bytearray that can grow.
        if position == len(self.buffer):
            self.buffer = b""
        elif position or isinstance(self.buffer, bytes):
            self.buffer = bytearray(memoryview(self.buffer)[position:])
            self.scanned = max(0, self.scanned - position)
        if not self.held:
            self.release()

    def take_text(self, position: int) -> int:
        """Look for the final dot; `position` is at the CRLF of the DATA line, which may be the dot's."""
        found = self.buffer.find(b"\r\n.\r\n", max(position, self.scanned - 4))
        if found < 0:
            self.scanned = len(self.buffer)
            return -1
        self.in_text = False
        self.finish(self.buffer[position + 2 : found + 2] if self.ledger else b"")
        return found + 5

    def take_chunk(self, position: int) -> int:
        following = position + self.chunk
        if following > len(self.buffer):
            return -1
        self.chunk = -1
        if self.ledger:
            self.text += self.buffer[position:following]
        if self.last:
            self.finish(self.text)
        else:
            self.replies.append(OK)
        return following

    def finish(self, text: bytes | bytearray) -> None:
        SinkProtocol.count += 1
        self.replies.append(OK)
        if self.ledger is None:
            return
        self.ledger.add(text, self.recipients)
        self.recipients = []
        self.text = b""
        if not self.held:
            self.held = True
            self.ledger.flush_later(self)

    def take_line(self, position: int) -> int:
        stop = self.buffer.find(b"\r\n", position)
        if stop < 0:
            return -1
        verb = self.buffer[position : position + 4].upper()
        if verb == b"RCPT":
            if self.ledger is not None:
                self.recipients.append(path_of(self.buffer[position:stop]))
            self.replies.append(OK)
        elif verb == b"MAIL":
            self.recipients = []
            self.replies.append(OK)
        elif verb == b"DATA":
            self.replies.append(b"354 go\r\n")
            self.in_text = True
            self.scanned = stop
            return stop
        else:
            self.other(bytes(verb), bytes(self.buffer[position:stop]))
        return stop + 2

    def other(self, verb: bytes, line: bytes) -> None:
        if verb == b"BDAT":
            words = line.split()
            self.chunk, self.last = int(words[1]), len(words) == 3
        elif verb == b"EHLO":
            self.replies.append(self.greeting)
        elif verb == b"COUN":
            self.replies.append(b"250 %d\r\n" % SinkProtocol.count)
        elif verb == b"QUIT":
            self.replies.append(b"221 2.0.0 Bye\r\n")
            self.leaving = True
        elif verb in (b"HELO", b"RSET", b"NOOP"):
            self.recipients = []
            self.replies.append(OK)
        else:
            self.replies.append(b"500 5.5.2 Command unknown\r\n")


class RefusingProtocol(SinkProtocol):
    """Knows no recipient; what a client sends behind RCPT without waiting for its answer is refused too.

    It lets everybody log in: an account that has never worked has one connection only.
    """

    def take_line(self, position: int) -> int:
        verb = self.buffer[position : position + 4].upper()
        if verb not in (b"RCPT", b"DATA"):
            return super().take_line(position)
        stop = self.buffer.find(b"\r\n", position)
        if stop < 0:
            return -1
        if verb == b"RCPT":
            SinkProtocol.count += 1
            self.replies.append(REFUSED)
        else:
            self.replies.append(b"554 5.5.1 No valid recipients\r\n")
        return stop + 2

    def other(self, verb: bytes, line: bytes) -> None:
        if verb == b"AUTH":
            self.replies.append(b"235 2.7.0 Accepted\r\n")
        else:
            super().other(verb, line)


async def serve(
    port: int, ledger: Ledger | None, chunking: bool, host: str = "127.0.0.1", refuse: bool = False
) -> None:
    kind = RefusingProtocol if refuse else SinkProtocol
    lines = [*EXTENSIONS, *[b"CHUNKING"] * chunking, *[b"AUTH PLAIN"] * refuse]
    greeting = b"".join(b"250-%b\r\n" % line for line in lines[:-1]) + b"250 %b\r\n" % lines[-1]
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: kind(ledger, greeting), host, port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    print(SinkProtocol.count, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A fast SMTP sink.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ledger", help="file to append `MESSAGE-ID RECIPIENT` to")
    parser.add_argument("--chunking", action="store_true", help="offer CHUNKING (RFC 3030)")
    parser.add_argument("--refuse", action="store_true", help="refuse every recipient with 550 5.1.1")
    options = parser.parse_args()
    ledger = Ledger(options.ledger) if options.ledger else None
    serving = serve(options.port, ledger, options.chunking, options.host, options.refuse)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)
    if ledger is not None:
        ledger.close()


class Sink:
    """The sink as a subprocess: `with Sink(tmp_path / "ledger") as sink: sink.port, sink.ledger(), sink.count()`."""

    host = "127.0.0.1"

    def __init__(
        self,
        ledger: Path | None = None,
        chunking: bool = False,
        timeout: float = 15.0,
        listen: str = "127.0.0.1",
        refuse: bool = False,
    ) -> None:
        self._listen = listen
        self._refuse = refuse
        self.ledger_file = ledger
        self.chunking = chunking
        self.timeout = timeout
        self.port = 0
        self._process: Process | None = None

    def start(self) -> None:
        """Start and wait for its port; later starts use the same port and add to the same ledger."""
        port = self.port or free_port()
        command = ["--port", str(port), "--host", self._listen]
        command += ["--ledger", str(self.ledger_file.resolve())] if self.ledger_file else []
        command += ["--chunking"] if self.chunking else []
        command += ["--refuse"] if self._refuse else []
        read, write = os.pipe()
        try:
            process = forker().start(
                "tests.servers.sink", *command, cwd=ROOT, environment=os.environ, stdout=write
            )
        finally:
            os.close(write)
        process.stdout = os.fdopen(read, "rb")
        ready, _, _ = select.select([process.stdout], [], [], self.timeout)
        line = process.stdout.readline() if ready else b""
        if not line.strip().isdigit():
            status = end(process, signal.SIGKILL)
            raise StartupError(f"the sink did not start on port {port} (status {status})")
        self.port, self._process = int(line), process

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            end(self._process, how)
            self._process = None

    def freeze(self) -> None:
        """Let the kernel accept connections, and answer nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the sink is not running"
        return self._process.pid

    def count(self) -> int:
        """Return how many mails it has answered 250 since it was started; of one that refuses, how many recipients."""
        connection = socket.create_connection((self.host, self.port), timeout=10)
        with connection, connection.makefile("rb") as replies:
            replies.readline()
            connection.sendall(b"COUNT\r\n")
            return int(replies.readline().split()[1])

    def ledger(self) -> list[tuple[str, str]]:
        """Return (Message-ID with its angle brackets, recipient) of every copy, in order of arrival."""
        assert self.ledger_file is not None, "this sink only counts"
        with contextlib.suppress(FileNotFoundError):
            text = self.ledger_file.read_text("utf-8")
            complete = text[: text.rfind("\n") + 1]
            lines = [line.partition(" ") for line in complete.split("\n")[:-1]]
            return [(message_id, recipient) for message_id, _, recipient in lines]
        return []

    def wait_for(self, copies: int, timeout: float = 30.0) -> list[tuple[str, str]]:
        """Return the ledger when it has at least so many lines."""
        eventually(lambda: len(self.ledger()) >= copies, timeout, f"{copies} copies in the ledger")
        return self.ledger()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


if __name__ == "__main__":
    main()
