"""An SMTP server that does as it is told, well or badly, and writes down all that it saw.

One thread per connection, with blocking sockets: misbehaviour needs the socket itself. By default every verb is
answered as RFC 5321 wants it. `server.on(VERB, …)` changes that, per verb and per occurrence:

    server.on("RCPT", reply="450 4.2.1 too fast", times=1)
    server.on("RCPT", reply="452 4.5.3 too many", skip=2)
    server.on("DATA", do=Hang())
    server.on("DOT", do=Late(5))
    server.on("DOT", do=Held(event))
    server.on("STARTTLS", do=Reply("220 go\\r\\n250 injected"))

Verbs are those of RFC 5321 and GREETING, CHALLENGE (the 334s of AUTH), BODY (part of a mail's text has come, after
DATA or as a chunk's octets), DOT (all of it has), BDAT (a chunk has) and LINE (any line where a command is awaited: a rule
for it answers in place of the verb's own handling). Rules are asked in the order in which they were
added; the first that fits and is not used up decides.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self, TypeAlias

from tests.servers.programs import free_port
from tests.servers.waiting import POLL, eventually

Text: TypeAlias = str | bytes  # str: lines, CRLF is added at the end; bytes: exactly these


def wire(text: Text) -> bytes:
    """Return the bytes that `text` stands for: str gets a CRLF at its end, bytes are sent as they are."""
    if isinstance(text, bytes):
        return text
    return text.encode("utf-8", "surrogateescape") + b"\r\n" if text else b""


def is_established(connected: socket.socket) -> bool:
    """Whether neither end has closed the connection, by what the kernel knows; we may not have read so far."""
    return connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


# --- what may be done instead of the proper answer; `None` as text means the proper answer -------------------------


@dataclass(frozen=True)
class Reply:
    """Answer with this (an empty text: with nothing, and go on), after so many seconds."""

    text: Text | None = None
    after: float = 0.0


def Late(after: float) -> Reply:
    """The proper answer, `after` seconds late."""
    return Reply(None, after)


@dataclass(frozen=True)
class Held:
    """The proper answer, as soon as `until` is set."""

    until: threading.Event


@dataclass(frozen=True)
class Also:
    """The proper answer (or `text`) and, in the same write, another that nobody has asked for."""

    extra: Text
    text: Text | None = None


@dataclass(frozen=True)
class Hang:
    """Answer nothing any more (but `text` first), keep the connection; `read=False`: not even read, a zero window."""

    text: Text | None = b""
    read: bool = True


@dataclass(frozen=True)
class Drop:
    """Close the connection, after sending `text`. `Drop(None)` answers properly first."""

    text: Text | None = b""


@dataclass(frozen=True)
class Leave:
    """The proper answer; as soon as `when` is set, `text` and a closed connection."""

    when: threading.Event
    text: Text = b""


@dataclass(frozen=True)
class Reset:
    """Close the connection with a TCP RST (SO_LINGER 0)."""


@dataclass(frozen=True)
class HalfClose:
    """Send `text`, then close only our writing side, and read on."""

    text: Text | None = b""


@dataclass(frozen=True)
class Garbage:
    """Send bytes that are no SMTP reply, and go on."""

    data: bytes = b"\x80\xff\x00\x1b[2J <html>HTTP/1.1 400\r\n"


@dataclass(frozen=True)
class Endless:
    """Send `line` again and again until the client goes: a reply that never ends. `b"x"` is a line that never ends."""

    line: bytes = b"250-and more\r\n"


@dataclass(frozen=True)
class Drip:
    """Send the proper answer (or `text`) byte by byte, `every` so many seconds."""

    text: Text | None = None
    every: float = 0.05


@dataclass(frozen=True)
class BareHandshake:
    """For STARTTLS: answer 220, then answer the client's TLS handshake with these bytes instead of TLS.

    Without `greets` nothing is said before the handshake: for GREETING, where TLS is to begin at once.
    """

    data: bytes = b"this is not TLS\r\n"
    greets: bool = True


Action: TypeAlias = (
    Reply | Held | Also | Hang | Drop | Leave | Reset | HalfClose | Garbage | Endless | Drip | BareHandshake
)


class Ahead(Enum):
    """What a server that offers PIPELINING does with what came behind a command, before its answer."""

    REFUSE = "refuses it"
    END = "ends"
    DISCARD = "throws it away"
    LEAVE = "answers the command and leaves"
    PUNISH = "refuses the message for it"
    CUT = "cuts a command in half"


# The verb whose reply comes right before this verb's command, in a session with TLS and AUTH.
PRECEDES = {
    "EHLO": "GREETING",
    "STARTTLS": "EHLO",
    "AUTH": "EHLO",
    "MAIL": "AUTH",
    "RCPT": "MAIL",
    "DATA": "RCPT",
    "DOT": "DATA",
    "BDAT": "RCPT",
    "RSET": "DOT",
    "QUIT": "DOT",
}


# --- what is written down ----------------------------------------------------------------------------------------


@dataclass
class Login:
    """One AUTH command that came to its end."""

    mechanism: str
    username: str
    secret: str  # the password, or the bearer token of XOAUTH2
    accepted: bool
    tls: bool
    at: float = field(default_factory=time.monotonic)  # when its last line had come


@dataclass
class Transaction:
    """Envelope and text of one mail; there is one as soon as its text came completely."""

    reverse_path: str
    forward_paths: list[str]
    parameters: str  # of MAIL
    wire: bytes = field(
        repr=False
    )  # as it came, dots stuffed, with the final CRLF.CRLF; with BDAT the octets
    data: bytes = field(repr=False)  # as it is meant
    chunked: bool
    tls: bool
    username: str | None
    at: float  # time.monotonic() when the dot came
    reply: bytes | None = None  # what was sent to the dot; None: nothing

    @property
    def accepted(self) -> bool:
        return self.reply is not None and self.reply[:1] == b"2"


@dataclass
class Connection:
    """All that one connection saw."""

    number: int
    commands: list[str] = field(default_factory=list)  # whole lines, as they came, without CRLF; no mail text
    transactions: list[Transaction] = field(default_factory=list)
    logins: list[Login] = field(default_factory=list)
    clear: list[bytes] = field(
        default_factory=list, repr=False
    )  # everything received outside TLS, as it came
    injected: bytes = b""  # plain text that came behind STARTTLS, before the handshake
    tls: bool = False
    tls_error: str = ""
    closed: bool = False
    username: str | None = None
    turned_away: bool = False  # there are too many
    punished: bool = False  # the message is to be refused for what came ahead

    @property
    def plaintext(self) -> bytes:
        return b"".join(self.clear)

    @property
    def verbs(self) -> list[str]:
        return [command.partition(" ")[0].partition(":")[0].upper() for command in self.commands]


@dataclass
class Rule:
    verb: str
    action: Action
    times: int | None
    skip: int
    match: str
    tls: bool | None
    connection: int | None
    at: int
    used: int = 0

    def fits(self, verb: str, line: str, session: Connection) -> bool:
        return (
            verb == self.verb
            and (self.tls is None or self.tls is session.tls)
            and (self.connection is None or self.connection == session.number)
            and self.match.lower() in line.lower()
        )


class ScriptedServer:
    """See the module. `tls` alone offers STARTTLS; with `implicit_tls` the connection begins with TLS.

        `users` None accepts any password. `extensions` is what EHLO lists when the connection is as secure as it gets,
        `plain_extensions` what it lists before STARTTLS. `ahead` is what it does with what is sent ahead of an answer.
    `spent` is what it says to MAIL after so many messages on a connection. With `most_at_once` connections open, others are
    treated as Sendmail does then: EHLO lists next to nothing, and every command draws the reason. `receive_buffer`
    (octets of SO_RCVBUF) makes `Hang(read=False)` stop the client early.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        users: Mapping[str, str] | None = None,
        extensions: Sequence[str] | None = None,
        plain_extensions: Sequence[str] | None = None,
        auth: Sequence[str] = ("PLAIN", "LOGIN"),
        auth_required: bool = False,
        max_size: int = 40_000_000,
        chunking: bool = False,
        receive_buffer: int | None = None,
        ahead: Ahead | None = None,
        spent: tuple[int, str] | None = None,
        most_at_once: int | None = None,
    ) -> None:
        base = ["PIPELINING", "8BITMIME", f"SIZE {max_size}", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        base += ["CHUNKING"] if chunking else []
        offers_auth = [f"AUTH {' '.join(auth)}"] if auth else []
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.users = users
        self.extensions = base + offers_auth if extensions is None else list(extensions)
        self.plain_extensions = [*base, "STARTTLS"] if plain_extensions is None else list(plain_extensions)
        self.auth_required = auth_required
        self.max_size = max_size
        self.receive_buffer = receive_buffer
        self.ahead = ahead
        self.spent = spent
        self.most_at_once = most_at_once
        self.port = 0
        self.connections: list[Connection] = []
        self.most_open = 0  # connections at the same time, those not counted that the client has closed
        self.acted_at: list[float] = []  # time.monotonic() of each time that a rule decided
        self.errors: list[BaseException] = []  # of this server's own code; raised by stop()
        self.stopping = threading.Event()
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: dict[int, socket.socket] = {}

    # --- the script

    def on(
        self,
        verb: str,
        reply: Text | None = None,
        do: Action | None = None,
        *,
        times: int | None = None,
        skip: int = 0,
        match: str = "",
        tls: bool | None = None,
        connection: int | None = None,
        at: int = 0,
    ) -> None:
        """Answer `verb` with `reply`, or `do` this.

        `skip` so many that fit first, then only so many `times`; `match`: only when the command line contains this;
        `tls`: only inside (True) or outside (False) TLS; `connection`: only on that one, counted from 0; `at`, for
        BODY: after so many octets of text.
        """
        action = do if do is not None else Reply(reply)
        with self._lock:
            self._rules.append(Rule(verb.upper(), action, times, skip, match, tls, connection, at))

    def early(self, verb: str, text: Text, times: int | None = 1) -> None:
        """Send `text` as the reply to `verb` before its command has come, with the reply before it.

        The command's own reply follows as usual; `on(verb, reply="")` leaves it out.
        """
        self.on(PRECEDES[verb.upper()], do=Also(text), times=times)

    def clear(self) -> None:
        """Forget all rules: behave."""
        with self._lock:
            self._rules.clear()

    def choose(self, verb: str, line: str, session: Connection, at: int = 0) -> Action:
        """Return what to do now, and count it."""
        return self.find(verb, line, session, at) or Reply()

    def find(self, verb: str, line: str, session: Connection, at: int = 0) -> Action | None:
        """Return what a rule says is to be done now, and count it."""
        with self._lock:
            for rule in self._rules:
                if not rule.fits(verb, line, session) or at < rule.at:
                    continue
                if rule.times is not None and rule.used >= rule.skip + rule.times:
                    continue
                rule.used += 1
                if rule.used > rule.skip:
                    self.acted_at.append(time.monotonic())
                    return rule.action
        return None

    def watches_body(self, session: Connection) -> int | None:
        """Return after how many octets a rule for BODY wants to be asked."""
        with self._lock:
            rules = [rule for rule in self._rules if rule.fits("BODY", "", session)]
            waiting = [r.at for r in rules if r.times is None or r.used < r.skip + r.times]
        return min(waiting, default=None)

    # --- what it saw

    @property
    def transactions(self) -> list[Transaction]:
        """Every mail whose text came completely, whatever was answered."""
        return [
            transaction
            for connection in list(self.connections)
            for transaction in list(connection.transactions)
        ]

    @property
    def messages(self) -> list[Transaction]:
        """Every mail that was answered 2xx."""
        return [transaction for transaction in self.transactions if transaction.accepted]

    @property
    def logins(self) -> list[Login]:
        return [login for connection in list(self.connections) for login in list(connection.logins)]

    @property
    def commands(self) -> list[str]:
        return [command for connection in list(self.connections) for command in list(connection.commands)]

    @property
    def verbs(self) -> list[str]:
        return [verb for connection in list(self.connections) for verb in connection.verbs]

    @property
    def plaintext(self) -> bytes:
        """Everything that any connection sent outside TLS."""
        return b"".join(connection.plaintext for connection in list(self.connections))

    @property
    def auth_in_plain_text(self) -> bool:
        return re.search(rb"(?im)^AUTH\b", self.plaintext) is not None

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed for connection in list(self.connections))

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Transaction]:
        """Return the accepted mails when there are at least `count`."""
        eventually(lambda: len(self.messages) >= count, timeout, f"{count} mails at the scripted server")
        return self.messages

    # --- its life

    def start(self) -> None:
        """Listen; the first start picks a port, later ones use the same."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        for attempt in itertools.count():
            try:
                listener.bind((self.host, self.port or free_port()))
                break
            except OSError:
                if self.port or attempt == 3:
                    listener.close()
                    raise
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self.stopping.clear()
        self._listener = listener
        self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Close the port and every connection, wait for all threads; raise what went wrong in our own code."""
        self.stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connected in self._sockets.values():
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join(10)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self.errors:
            raise self.errors.pop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True, name=f"scripted:{self.port}")
        thread.start()
        self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, connected)

    def _serve(self, connected: socket.socket) -> None:
        # A second handle on the same connection, so that stop() can end it while this thread reads through TLS.
        handle = connected.dup()
        with self._lock:
            session = Connection(len(self.connections))
            self.connections.append(session)
            self._sockets[session.number] = handle
            self.most_open = max(self.most_open, sum(map(is_established, self._sockets.values())))
            if self.stopping.is_set():
                handle.shutdown(socket.SHUT_RDWR)
        conversation = _Conversation(self, session, connected)
        try:
            conversation.run()
        except (_Gone, OSError):
            pass  # the client went, or was sent away
        except BaseException as error:
            self.errors.append(error)
        finally:
            conversation.close()
            with self._lock:
                del self._sockets[session.number]
            handle.close()
            session.closed = True


Note: TypeAlias = Callable[[bytes], object]


def ignore(said: bytes) -> None:
    """Note nothing."""


class _Gone(Exception):
    """This conversation is over."""


class _Conversation:
    """The server's side of one connection."""

    def __init__(self, server: ScriptedServer, session: Connection, connected: socket.socket) -> None:
        self.server = server
        self.session = session
        self.socket = connected
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.reset()

    def reset(self) -> None:
        self.reverse_path: str | None = None
        self.parameters = ""
        self.forward_paths: list[str] = []
        self.chunks: list[bytes] = []
        self.body_watched = False

    def close(self) -> None:
        self.socket.close()

    def run(self) -> None:
        if self.server.implicit_tls:
            self.handshake()
        others = self.server.open_connections - 1
        self.session.turned_away = self.server.most_at_once is not None and others >= self.server.most_at_once
        self.answer("GREETING", "", "220 scripted.example ESMTP")
        while True:
            line = self.read_line()
            self.session.commands.append(line)
            verb, _, argument = line.partition(" ")
            behind = self.take(len(self.buffer)) if self.server.ahead is not None else b""
            if self.session.turned_away and verb.upper() not in ("QUIT", "NOOP", "RSET"):
                bare = "250-scripted.example\r\n250 ENHANCEDSTATUSCODES"
                self.send(wire(bare if verb.upper() == "EHLO" else "452 4.3.2 Too many open connections."))
                continue
            instead = self.server.find("LINE", line, self.session)
            if instead is not None:
                self.perform(instead, b"")
                continue
            handler = self.HANDLERS.get(verb.upper())
            if behind:
                self.take_ahead(behind)
            if handler is None:
                self.answer(verb.upper(), line, "500 5.5.2 Command unknown")
            else:
                handler(self, line, argument)
            if behind:
                self.answer_ahead(behind)

    def take_ahead(self, behind: bytes) -> None:
        """Do with what came behind a command what this server does, before the command is answered."""
        match self.server.ahead:
            case Ahead.END:
                raise _Gone
            case Ahead.PUNISH:
                self.buffer[:0] = behind
                self.session.punished = True
            case Ahead.CUT:
                self.buffer[:0] = behind[len(behind) // 2 :]

    def answer_ahead(self, behind: bytes) -> None:
        """The same, after the command was answered."""
        if self.server.ahead is Ahead.LEAVE:
            raise _Gone
        if self.server.ahead is Ahead.REFUSE:
            for _ in behind.splitlines():
                self.send(b"503 5.5.0 Bad sequence of commands - pipelined\r\n")

    # --- bytes

    def receive(self) -> None:
        """Read some bytes into the buffer."""
        data = self.socket.recv(65536)
        if not data:
            raise _Gone
        if not self.session.tls:
            self.session.clear.append(data)
        self.buffer += data

    def read_line(self) -> str:
        while (end := self.buffer.find(b"\r\n")) < 0:
            self.receive()
        return self.take(end + 2)[:-2].decode("utf-8", "surrogateescape")

    def take(self, size: int) -> bytes:
        """Remove so many octets from the buffer and return them."""
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def send(self, data: bytes) -> None:
        if data:
            self.socket.sendall(data)

    def wait(self, seconds: float) -> None:
        if seconds and self.server.stopping.wait(seconds):
            raise _Gone

    def wait_for(self, event: threading.Event) -> None:
        while not event.is_set():
            self.wait(POLL)

    def drain(self) -> None:
        """Read and forget until the client goes."""
        while True:
            self.buffer.clear()
            self.receive()

    def handshake(self) -> None:
        assert self.server.tls is not None
        self.session.injected += self.take(len(self.buffer))
        try:
            self.socket = self.server.tls.wrap_socket(
                self.socket, server_side=True, suppress_ragged_eofs=True, do_handshake_on_connect=False
            )
            assert isinstance(self.socket, ssl.SSLSocket)
            self.socket.do_handshake()
        except (ssl.SSLError, OSError) as error:
            self.session.tls_error = str(error)
            raise _Gone from error
        self.session.tls = True

    # --- answers

    def answer(self, verb: str, line: str, proper: str, note: Note = ignore) -> bytes:
        """Do what the script says for `verb`; return what was said, where the conversation goes on.

        `note` is told before it is sent, so that what a client knows is always written down already.
        """
        return self.perform(self.server.choose(verb, line, self.session), wire(proper), note)

    def perform(self, action: Action, proper: bytes, note: Note = ignore) -> bytes:
        match action:
            case Reply(text, after):
                self.wait(after)
                return self.say(text, proper, note)
            case Held(until):
                self.wait_for(until)
                return self.say(None, proper, note)
            case Also(extra, text):
                said = proper if text is None else wire(text)
                note(said)
                self.send(said + wire(extra))
                return said
            case Drip(text, every):
                said = proper if text is None else wire(text)
                note(said)
                for byte in said:
                    self.send(bytes([byte]))
                    self.wait(every)
                return said
            case Garbage(data):
                return self.say(data, proper, note)
            case _:
                self.finish(action, proper, note)
                raise _Gone

    def say(self, text: Text | None, proper: bytes, note: Note) -> bytes:
        said = proper if text is None else wire(text)
        if said:
            note(said)
            self.send(said)
        return said

    def finish(self, action: Action, proper: bytes, note: Note) -> None:
        """Do what ends the conversation."""
        match action:
            case Hang(text, read):
                self.say(text, proper, note)
                if read:
                    self.drain()
                else:
                    self.server.stopping.wait()
            case Drop(text):
                self.say(text, proper, note)
            case Leave(when, text):
                self.say(None, proper, note)
                self.wait_for(when)
                self.say(text, b"", ignore)
            case Reset():
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case HalfClose(text):
                self.say(text, proper, note)
                self.socket.shutdown(socket.SHUT_WR)
                self.drain()
            case Endless(line):
                block = line * (65536 // len(line) + 1)
                while True:
                    self.send(block)
            case BareHandshake(data, greets):
                self.send(proper if greets else b"")
                self.receive()
                self.send(data)
                self.drain()
            case _:
                raise AssertionError(f"unknown action: {action!r}")

    # --- verbs

    def ehlo(self, line: str, argument: str) -> None:
        self.reset()
        plain = self.server.tls is not None and not self.session.tls
        extensions = self.server.plain_extensions if plain else self.server.extensions
        lines = ["scripted.example", *extensions]
        self.answer("EHLO", line, "\r\n".join([f"250-{text}" for text in lines[:-1]] + [f"250 {lines[-1]}"]))

    def helo(self, line: str, argument: str) -> None:
        self.reset()
        self.answer("HELO", line, "250 scripted.example")

    def starttls(self, line: str, argument: str) -> None:
        if self.server.tls is None or self.session.tls:
            self.answer("STARTTLS", line, "503 5.5.1 TLS not available")
        elif self.answer("STARTTLS", line, "220 2.0.0 Ready to start TLS").startswith(b"220"):
            self.handshake()
            self.reset()

    def auth(self, line: str, argument: str) -> None:
        if self.server.tls is not None and not self.session.tls:
            self.answer("AUTH", line, "538 5.7.11 Encryption required")
            return
        mechanism, _, initial = argument.partition(" ")
        try:
            credentials = self.credentials(mechanism.upper(), initial)
        except (binascii.Error, ValueError):
            self.answer("AUTH", line, "501 5.5.2 Cannot decode")
            return
        if credentials is None:
            self.answer("AUTH", line, "504 5.5.4 Mechanism unknown")
            return
        username, secret = credentials
        users = self.server.users
        good = users is None or users.get(username) == secret
        proper = "235 2.7.0 Authentication successful" if good else "535 5.7.8 Authentication failed"
        login = Login(mechanism.upper(), username, secret, accepted=False, tls=self.session.tls)
        self.session.logins.append(login)
        if login.mechanism == "XOAUTH2" and not good:
            self.challenge(
                "eyJzdGF0dXMiOiI0MDAifQ=="
            )  # as Gmail does: the reason, then an empty line is awaited

        def note(said: bytes) -> None:
            login.accepted = said.startswith(b"235")

        self.answer("AUTH", line, proper, note)
        if login.accepted:
            self.session.username = username

    def credentials(self, mechanism: str, initial: str) -> tuple[str, str] | None:
        """Return user name and password (or token), or None for an unknown mechanism."""
        if mechanism == "PLAIN":
            _, username, password = decode(initial or self.challenge("")).split("\0")
            return username, password
        if mechanism == "LOGIN":
            username = decode(initial or self.challenge("VXNlcm5hbWU6"))
            return username, decode(self.challenge("UGFzc3dvcmQ6"))
        if mechanism == "XOAUTH2":
            found = re.fullmatch(
                "user=(.*?)\x01auth=Bearer (.*?)\x01\x01", decode(initial or self.challenge(""))
            )
            if found is None:
                raise ValueError("not XOAUTH2")
            return found[1], found[2]
        return None

    def challenge(self, text: str) -> str:
        self.answer("CHALLENGE", "", f"334 {text}")
        return self.read_line()  # credentials are kept in `logins`, not in `commands`

    def mail(self, line: str, argument: str) -> None:
        path, parameters = parse_path(argument, "FROM")
        proper = self.judge_mail(path, parameters)
        said = self.answer("MAIL", line, proper)
        if said[:1] == b"2":
            self.reset()
            self.reverse_path, self.parameters = path or "", parameters
        if said[:3] == b"421":
            raise _Gone

    def judge_mail(self, path: str | None, parameters: str) -> str:
        if path is None:
            return "501 5.5.4 Syntax: MAIL FROM:<reverse-path>"
        if self.server.auth_required and self.session.username is None:
            return "530 5.7.0 Authentication required"
        if self.server.spent is not None and len(self.session.transactions) >= self.server.spent[0]:
            return self.server.spent[1]
        if self.reverse_path is not None:
            return "503 5.5.1 Nested MAIL"
        if not path.isascii() and "SMTPUTF8" not in parameters.upper():
            return "553 5.6.7 Address needs SMTPUTF8"
        size = re.search(r"(?i)\bSIZE=(\d+)", parameters)
        if size and int(size[1]) > self.server.max_size:
            return "552 5.3.4 Message too big"
        return "250 2.1.0 Sender OK"

    def rcpt(self, line: str, argument: str) -> None:
        path, _ = parse_path(argument, "TO")
        if self.reverse_path is None:
            proper = "503 5.5.1 MAIL first"
        elif not path:
            proper = "501 5.5.4 Syntax: RCPT TO:<forward-path>"
        elif not path.isascii() and "SMTPUTF8" not in self.parameters.upper():
            proper = "553 5.6.7 Address needs SMTPUTF8"
        else:
            proper = "250 2.1.5 Recipient OK"
        if self.answer("RCPT", line, proper)[:1] == b"2":
            self.forward_paths.append(path or "")

    def data(self, line: str, argument: str) -> None:
        ready = self.reverse_path is not None and self.forward_paths
        proper = "354 End data with <CR><LF>.<CR><LF>" if ready else "554 5.5.1 No valid recipients"
        if self.answer("DATA", line, proper)[:1] != b"3":
            return
        text = self.read_text()
        self.complete(text, unstuff(text), "DOT", line)

    def read_text(self) -> bytes:
        """Return the mail's text as it came, with the final dot."""
        seen = 0
        while (end := end_of_text(self.buffer, seen)) < 0:
            self.watch_body(len(self.buffer))
            seen = len(self.buffer)
            self.receive()
        self.watch_body(end)
        return self.take(end)

    def watch_body(self, size: int) -> None:
        """Ask the rules for BODY, once per mail, when as many octets came as they wait for."""
        at = self.server.watches_body(self.session)
        if at is None or self.body_watched or size < max(at, 1):
            return
        self.body_watched = True
        self.perform(self.server.choose("BODY", "", self.session, size), b"")

    def bdat(self, line: str, argument: str) -> None:
        size, _, last = argument.partition(" ")
        if not size.isdigit():
            self.answer("BDAT", line, "501 5.5.4 Syntax: BDAT size [LAST]")
            return
        while len(self.buffer) < int(size):
            self.watch_body(len(self.buffer))
            self.receive()
        self.watch_body(int(size))
        chunk = self.take(int(size))
        if self.reverse_path is None or not self.forward_paths:
            self.answer("BDAT", line, "503 5.5.1 No valid recipients")
            return
        self.chunks.append(chunk)
        if last.upper() != "LAST":
            if self.answer("BDAT", line, f"250 2.0.0 {size} octets")[:1] != b"2":
                self.reset()
            return
        octets = b"".join(self.chunks)
        self.complete(octets, octets, "BDAT", line)

    def complete(self, came: bytes, data: bytes, verb: str, line: str) -> None:
        """Note the transaction, before anything is answered."""
        transaction = Transaction(
            reverse_path=self.reverse_path or "",
            forward_paths=self.forward_paths,
            parameters=self.parameters,
            wire=came,
            data=data,
            chunked=verb == "BDAT",
            tls=self.session.tls,
            username=self.session.username,
            at=time.monotonic(),
        )
        self.session.transactions.append(transaction)
        self.reset()
        punished, self.session.punished = self.session.punished, False
        number = sum(len(connection.transactions) for connection in self.server.connections)
        proper = (
            "552 5.3.4 Message too big"
            if len(data) > self.server.max_size
            else f"250 2.0.0 queued as {number}"
        )
        proper = "554 5.5.0 Improper pipelining" if punished else proper

        def note(said: bytes) -> None:
            transaction.reply = said

        self.answer(verb, line, proper, note)

    def rset(self, line: str, argument: str) -> None:
        self.reset()
        self.answer("RSET", line, "250 2.0.0 OK")

    def noop(self, line: str, argument: str) -> None:
        self.answer("NOOP", line, "250 2.0.0 OK")

    def vrfy(self, line: str, argument: str) -> None:
        self.answer("VRFY", line, "252 2.5.0 Cannot say")

    def bye(self, line: str, argument: str) -> None:
        self.answer("QUIT", line, "221 2.0.0 Bye")
        raise _Gone

    HANDLERS: Mapping[str, Callable[[_Conversation, str, str], None]] = {
        "EHLO": ehlo,
        "HELO": helo,
        "STARTTLS": starttls,
        "AUTH": auth,
        "MAIL": mail,
        "RCPT": rcpt,
        "DATA": data,
        "BDAT": bdat,
        "RSET": rset,
        "NOOP": noop,
        "VRFY": vrfy,
        "QUIT": bye,
    }


def decode(text: str) -> str:
    return base64.b64decode(text, validate=True).decode()


def parse_path(argument: str, word: str) -> tuple[str | None, str]:
    """Return path and parameters of `FROM:<path> parameters`; the path is None where the syntax is wrong."""
    found = re.fullmatch(rf'(?i){word}:<((?:"(?:\\.|[^"\\])*"|[^">])*)>(?: (.*))?', argument)
    return (found[1], found[2] or "") if found else (None, "")


def end_of_text(text: bytearray, seen: int) -> int:
    """Return where the text after DATA ends, the final dot included, or -1; the first `seen` octets hold no end."""
    if text.startswith(b".\r\n"):
        return 3
    found = text.find(b"\r\n.\r\n", max(0, seen - 4))
    return found + 5 if found >= 0 else -1


def unstuff(text: bytes) -> bytes:
    """Return the mail in `text`, which ends in the final dot, without the dots of RFC 5321 §4.5.2."""
    body = text.removesuffix(b".\r\n")
    return re.sub(rb"(?:\A|(?<=\r\n))\.", b"", body)
