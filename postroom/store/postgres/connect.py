"""Opens sessions with PostgreSQL: parses DATABASE_URL, sets time-outs, and refuses unusable servers."""

from __future__ import annotations

import logging
import random
import re
import select
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Never, TypeAlias

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.array import ListBinaryDumper
from psycopg.types.string import BytesBinaryDumper

from postroom.core.errors import ConfigError, StoreUnavailable
from postroom.core.numbers import whole_number
from postroom.store.engine import Server
from postroom.store.postgres.connection import Connection
from postroom.store.postgres.errors import said, state_of

log = logging.getLogger(__name__)

OLDEST_SERVER = 13_00_00
CONNECT_WITHIN_S = 5
_VARIABLE = "DATABASE_URL"

# Written as text, each octet of a message that is not printable becomes four or five, which takes a hundred times as long.
_AS_THEY_ARE = AdaptersMap(psycopg.adapters)
_AS_THEY_ARE.register_dumper(bytes, BytesBinaryDumper)
_AS_THEY_ARE.register_dumper(list, ListBinaryDumper)

# What we rely on, whatever the server, the database or the role has; SQL that gives the value. A session's own setting
# outlives a reload, so each is set in each session, or, behind a bouncer, in each transaction.
RELIED_ON = {
    # An answer means that it is durable. remote_apply is more than on.
    "synchronous_commit": "CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END",
    "array_nulls": "'on'",  # many works go in one statement, as arrays
    "default_transaction_isolation": "'read committed'",  # serializable has works run again and again
    "exit_on_error": "'off'",
    "transform_null_equals": "'off'",
    "standard_conforming_strings": "'on'",
    "statement_timeout": "'10s'",
    "idle_in_transaction_session_timeout": "'30s'",
}
_SINCE_17 = {"transaction_timeout": "'0'"}  # each statement has a limit, and a migration takes its time
_SESSION = {
    "application_name": "postroom",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
_KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": CONNECT_WITHIN_S,
}
_DURABLE = {"on", "remote_apply"}
# Invalid authorization, password, catalog name; no right to connect; what a startup packet asks for and is not known.
_FOR_GOOD = frozenset({"28000", "28P01", "3D000", "42501", "42704", "22023", "0A000"})
_PROTOCOL_VIOLATION = "08P01"  # what pgbouncer says to all that it refuses
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "sslnegotiation": ("postgres", "direct"),
    "load_balance_hosts": ("disable", "random"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_TOLD = ("host", "hostaddr", "port", "dbname", *_CHOICES)
_ESCAPES = (
    "special characters in user and password must be written as %XX (@ is %40, : is %3A, / is %2F, # is %23, ? is %3F, "
    "% is %25, a space is %20)"
)


BEGIN = "BEGIN ISOLATION LEVEL read committed"
_Options: TypeAlias = dict[str, Any]  # of `psycopg.Connection.connect`


class StaleServer(psycopg.OperationalError):
    """The server is another one than was seen before, or on an older timeline."""


def parse_url(url: str) -> dict[str, str]:
    """Return the parameters of a URL. Raises ConfigError, which repeats no value."""
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except (psycopg.Error, UnicodeError, ValueError):
        raise ConfigError(
            _VARIABLE, f"cannot be read: {_ESCAPES}, and only libpq's parameters may follow the ?"
        ) from None
    hosts = found.get("host", "").split(",")
    ports = found.get("port", "").split(",")
    if any(not re.fullmatch(r"[\w./:%~-]*", host) or "@" in host for host in hosts):
        raise ConfigError(_VARIABLE, f"has no readable host: {_ESCAPES}")
    if any(port and (whole_number(port, 5) or 0) not in range(1, 65536) for port in ports):
        raise ConfigError(_VARIABLE, f"has a port that is no number from 1 to 65535: {_ESCAPES}")
    for name, choices in _CHOICES.items():
        if found.get(name, choices[0]) not in choices:
            raise ConfigError(_VARIABLE, f"{name} must be one of {', '.join(choices)}")
    for name in _FILES:
        if name in found and found[name] != "system" and not Path(found[name]).is_file():
            raise ConfigError(_VARIABLE, f"{name} names a file that is not there")
    is_verified = found.get("sslmode", "").startswith("verify") and "sslrootcert" not in found
    if is_verified and not Path("~/.postgresql/root.crt").expanduser().is_file():
        raise ConfigError(
            _VARIABLE, f"sslmode={found['sslmode']} needs sslrootcert=FILE, or sslrootcert=system"
        )
    return found


def _secrets_of(parameters: Mapping[str, str]) -> Iterator[str]:
    """Give what no message repeats: all but the place, and the options in the pieces that a server quotes."""
    for name, value in parameters.items():
        if name not in _TOLD:
            yield value
            yield from re.split(r"[\s=]+", value) if name == "options" else ()


def shown(parameters: Mapping[str, str]) -> str:
    """Return where the database is, without user and password."""
    hosts = parameters.get("host", parameters.get("hostaddr", "")).split(",")
    ports = parameters.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [f"{host or 'local'}:{port or 5432}" for host, port in zip(hosts, ports, strict=False)]
    return f"{','.join(places)}/{parameters.get('dbname', '')}"


class Connector:
    """How sessions with one database are opened.

    `bouncer`: a pgbouncer in transaction mode is in between, so there are no prepared statements, no session settings
    and no LISTEN. `where` says where it is, without secrets.
    """

    def __init__(self, url: str, *, bouncer: bool, lock_timeout_s: float) -> None:
        self.parameters = parse_url(url)
        if (
            "," in self.parameters.get("host", "")
            and self.parameters.get("target_session_attrs", "any") == "any"
        ):
            self.parameters["target_session_attrs"] = "read-write"
        self.where = shown(self.parameters)
        self.bouncer = bouncer
        self.settings = {**RELIED_ON, "lock_timeout": f"'{round(lock_timeout_s * 1000)}'"}
        self.server: Server | None = None  # the newest that was seen
        self._secrets = [value for value in _secrets_of(self.parameters) if len(value) > 2]

    # -- sessions

    @property
    def conninfo(self) -> str:
        return make_conninfo(**self.parameters)

    def options(self) -> _Options:
        """Return what every connection is opened with."""
        options: _Options = {
            "autocommit": True,
            "context": _AS_THEY_ARE,
            "client_encoding": "UTF8",
            **_KEEPALIVE,
        }
        if self.bouncer:
            return {**options, "prepare_threshold": None}
        settings = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        return {**options, "options": f"{self.parameters.get('options', '')} {settings}".strip()}

    def connect(self) -> Connection:
        """Open a session on which all that we rely on is set. Raises psycopg.Error, ConfigError."""
        last: psycopg.Error | None = None
        for place in self._places():
            try:
                return self._connect_to(place)
            except psycopg.OperationalError as error:
                last = error
        assert last is not None
        raise last

    def _places(self) -> list[str]:
        """Return the URL for each of the hosts: where one is refused, the next may be right."""
        hosts, ports = self.parameters.get("host", "").split(","), self.parameters.get("port", "").split(",")
        if len(hosts) == 1 or "hostaddr" in self.parameters:
            return [self.conninfo]
        ports = ports * len(hosts) if len(ports) == 1 else ports
        pairs = list(zip(hosts, ports, strict=True))
        if self.parameters.get("load_balance_hosts") == "random":
            random.shuffle(pairs)
        return [make_conninfo(self.conninfo, host=host, port=port or None) for host, port in pairs]

    def _connect_to(self, place: str) -> Connection:
        connection = Connection.connect(place, **self.options())
        try:
            self.prepare(connection)
            self._compare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _compare(self, connection: Connection) -> None:
        """See that the server is the one that was seen before, on that timeline or a later one."""
        found = _server(connection)
        before = self.server
        if found is None or before is None or found.timeline == 0:
            self.server = found if before is None else before
        elif found.system != before.system or found.timeline < before.timeline:
            log.error(
                "%s is refused: it is on timeline %d of %s, and %d of %s was seen before. Is an old primary back? Stop it, "
                "or make it a standby of the new one (pg_rewind)",
                self.where, found.timeline, found.system, before.timeline, before.system,
            )  # fmt: skip
            raise StaleServer("the server is an older one than was seen before")
        else:
            self.server = found

    def prepare(self, connection: psycopg.Connection[TupleRow]) -> None:
        """Set all that we rely on, and see that it is set; behind a bouncer each transaction does."""
        if connection.info.server_version < OLDEST_SERVER:
            raise ConfigError(_VARIABLE, f"{self.where} is older than PostgreSQL 13")
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise ConfigError(
                _VARIABLE,
                f"the database {self.where} has the encoding {encoding}; create it with ENCODING 'UTF8'",
            )
        if connection.info.server_version >= 17_00_00:
            self.settings |= _SINCE_17
        if not self.bouncer:
            self.check_settings(connection, self.setting_statement(local=False))

    def setting_statement(self, *, local: bool) -> str:
        scope = "true" if local else "false"
        return "SELECT " + ", ".join(
            f"set_config('{name}', {value}, {scope})" for name, value in self.settings.items()
        )

    def check_settings(self, connection: psycopg.Connection[TupleRow], statement: str) -> None:
        """Run the statement that sets everything. Raises ConfigError where that is not what is set then."""
        try:
            row = connection.execute(statement.encode(), prepare=False).fetchone()
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            raise ConfigError(
                _VARIABLE, f"{self.where} does not let us set what we rely on: {self.scrubbed(error)}"
            ) from None
        assert row is not None
        found = dict(zip(self.settings, row, strict=True))
        if found["synchronous_commit"] not in _DURABLE or found["array_nulls"] != "on":
            raise ConfigError(
                _VARIABLE,
                f"{self.where} keeps synchronous_commit = {found['synchronous_commit']} and array_nulls = "
                f"{found['array_nulls']}; both must be on",
            )

    # -- the first look

    def check(self) -> None:
        """Raise StoreUnavailable, or ConfigError when trying again would not help; warn of what makes no promise."""
        try:
            with self.connect() as connection:
                self._look_for_a_bouncer(connection)
                row = connection.execute(
                    "SELECT current_setting('fsync'), current_setting('full_page_writes')", prepare=False
                ).fetchone()
        except psycopg.Error as error:
            self._refuse(error)
        assert row is not None
        for name, value in zip(("fsync", "full_page_writes"), row, strict=True):
            if value == "off":
                log.warning(
                    "%s has %s = off: a crash of that machine may lose or damage what was accepted",
                    self.where,
                    name,
                )

    def _look_for_a_bouncer(self, connection: Connection) -> None:
        """See in which mode a bouncer is in between, which has process numbers of its own."""
        [[own]] = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchall()
        is_between = own != connection.info.backend_pid
        try:
            connection.execute("BEGIN ISOLATION LEVEL read committed", prepare=False)
            self.check_settings(connection, self.setting_statement(local=True))
            connection.execute("COMMIT", prepare=False)
        except psycopg.Error as error:
            if not is_between or state_of(error) not in (_PROTOCOL_VIOLATION, "0A000", ""):
                raise
            raise ConfigError(
                _VARIABLE,
                f"the bouncer at {self.where} does not let us begin a transaction; set pool_mode = transaction there "
                "(statement pooling cannot be used), and POSTROOM_DATABASE_BOUNCER=yes here",
            ) from None
        if not is_between or self.bouncer:
            return
        with Connection.connect(self.conninfo, **self.options()) as other:
            [[others]] = other.execute("SELECT pg_backend_pid()", prepare=False).fetchall()
        if others == own:  # two clients on one session of the server
            raise ConfigError(
                _VARIABLE,
                f"{self.where} is a bouncer (pgbouncer) in transaction mode: set POSTROOM_DATABASE_BOUNCER=yes",
            )
        log.warning(
            "%s is a bouncer; we work as with POSTROOM_DATABASE_BOUNCER=yes, which you should set", self.where
        )
        self.bouncer = True

    def _refuse(self, error: psycopg.Error) -> Never:
        words = self.scrubbed(error)
        state = state_of(error)
        states, is_clear = ([state], True) if state else self._diagnose()
        if is_clear and states and all(each in _FOR_GOOD for each in states):
            raise ConfigError(_VARIABLE, f"{self.where} refuses us ({states[-1]}): {words}") from None
        if not states and is_clear:
            raise ConfigError(_VARIABLE, f"libpq cannot use it: {words}") from None
        if _PROTOCOL_VIOLATION in states and not self.bouncer and self._takes_us_as_bouncer():
            raise ConfigError(
                _VARIABLE,
                f"{self.where} is a bouncer (pgbouncer) that takes no settings at the start of a session: set "
                "POSTROOM_DATABASE_BOUNCER=yes",
            ) from None
        raise StoreUnavailable(f"the database {self.where} cannot be reached: {words}") from None

    def _takes_us_as_bouncer(self) -> bool:
        plain = {name: value for name, value in self.options().items() if name != "options"}
        try:
            psycopg.connect(make_conninfo(self.conninfo, options=""), **plain).close()
        except psycopg.Error:
            return False
        return True

    def _diagnose(self) -> tuple[list[str], bool]:
        """Connect once more; return the SQLSTATEs that were said, and whether that tells it all.

        libpq keeps the SQLSTATE of a server that refuses us to itself, but traces what it hears. Without any, it
        needs a password, or has not even found out whom to ask: a service that its file does not have.
        """
        with tempfile.TemporaryFile() as trace:
            asked = make_conninfo(self.conninfo, options=self.options().get("options", ""))
            connection = pq.PGconn.connect_start(asked.encode())
            try:
                if connection.status == pq.ConnStatus.BAD and not connection.host:
                    return [], True
                connection.trace(trace.fileno())
                _poll(connection)
                needs_password = connection.needs_password
                connection.untrace()
            except (psycopg.Error, OSError):
                return [], False
            finally:
                connection.finish()
            trace.seek(0)
            heard = re.findall(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"', trace.read())
        if needs_password:
            return ["28P01"], True
        return [state.decode() for state in heard], bool(heard)

    def scrubbed(self, error: Exception) -> str:
        """Return what an error says, without user and password."""
        text = said(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _server(connection: Connection) -> Server | None:
    """Ask a server who it is. A standby has no timeline of its own (0); some services do not say."""
    asked = (
        "SELECT (SELECT system_identifier FROM pg_control_system())::text, "
        "CASE WHEN pg_is_in_recovery() THEN '00000000' ELSE pg_walfile_name(pg_current_wal_lsn()) END"
    )
    try:
        [[system, log_file]] = connection.execute(asked, prepare=False).fetchall()
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        return None
    return Server(system, int(log_file[:8], 16))


def _poll(connection: pq.abc.PGconn) -> None:
    deadline = time.monotonic() + CONNECT_WITHIN_S
    while (left := deadline - time.monotonic()) > 0:
        status = connection.connect_poll()
        if status == pq.PollingStatus.READING:
            select.select([connection.socket], [], [], left)
        elif status == pq.PollingStatus.WRITING:
            select.select([], [connection.socket], [], left)
        else:
            return
