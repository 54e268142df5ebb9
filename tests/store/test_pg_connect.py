"""What a session with PostgreSQL must have set, and which URLs and servers are refused for good."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from postroom.core.errors import ConfigError, StoreUnavailable
from postroom.core.message import Accepted
from postroom.store.messages import Messages
from postroom.store.postgres.connect import Connector, parse_url
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.store import Store, open_store
from postroom.store.transaction import Transaction
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.waiting import eventually
from tests.store.database import Database, Post, PostgresDatabase, accepting, new_message

pytestmark = pytest.mark.only("postgres")

LAZY = {
    "synchronous_commit": "off",
    "array_nulls": "off",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "1s",
    "lock_timeout": "1s",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "standard_conforming_strings": "off",
    "idle_in_transaction_session_timeout": "1s",
    "transaction_timeout": "1s",
}


def _of_this_server(named: PostgresDatabase) -> dict[str, str]:
    """Return the table of what we rely on, as this version of the server has it."""
    one = connector(named.url)
    one.connect().close()
    return one.settings


def connector(url: str, *, bouncer: bool = False) -> Connector:
    return Connector(url, bouncer=bouncer, lock_timeout_s=5)


@pytest.fixture
def named(database: Database) -> PostgresDatabase:
    assert isinstance(database, PostgresDatabase)
    return database


def connection_of(transaction: Transaction) -> Any:
    """Return the driver's connection under a transaction."""
    session: Any = transaction.connection
    return session.connection


class TestSettings:
    @pytest.mark.parametrize("behind_a_bouncer", [False, True])
    def test_of_the_database_are_overruled_in_each_session(
        self, post: Post, named: PostgresDatabase, postgres_server: Postgres, behind_a_bouncer: bool
    ) -> None:
        """Writer, readers and migrations; every line of the table has a value here that would harm."""
        relied_on = {name: value.strip("'") for name, value in _of_this_server(named).items()}
        assert set(relied_on) <= set(LAZY)
        for name in relied_on:
            named.change(f"ALTER DATABASE {named.name} SET {name} = '{LAZY[name]}'")
        asked = "SELECT " + ", ".join(f"current_setting('{name}')" for name in relied_on)
        seen: list[tuple[str, ...]] = []

        def look(connection: Any) -> None:
            seen.append(connection.execute(asked).fetchone())

        with ExitStack() as stack:
            url = named.url
            if behind_a_bouncer:
                url = stack.enter_context(PgBouncer(postgres_server)).url(named.name)
            engine = PostgresEngine(url, bouncer=behind_a_bouncer)
            store = stack.enter_context(closing(Store(engine)))
            message = new_message(post.anna)
            settled = store.write_all(
                [accepting(message), lambda transaction: look(connection_of(transaction))]
            )
            assert settled[0].unwrap() == Accepted(message.request_id)
            with engine.reading() as reading:
                look(connection_of(reading))
            assert str(store.read(Messages.status, message.request_id)) == "queued"
            with engine.exclusively() as alone:
                look(connection_of(alone))
        *both, migrating = [dict(zip(relied_on, values, strict=True)) for values in seen]
        expected = {**relied_on, "synchronous_commit": "on", "lock_timeout": "5s"}
        assert both == [expected, expected]
        assert migrating == {**expected, "lock_timeout": "0", "statement_timeout": "0"}

    def test_that_are_on_are_set_too_so_that_a_reload_does_not_switch_them_off(
        self, post: Post, named: PostgresDatabase
    ) -> None:
        """A setting of the session's own outlives a reload of the server's."""
        engine = post.store._engine
        assert isinstance(engine, PostgresEngine)
        post.add()
        writing = engine._writing.connection
        assert writing is not None
        source = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"
        assert writing.execute(source.encode()).fetchall() == [("on", "session")]
        with engine.reading() as reading:
            assert connection_of(reading).execute(source).fetchall() == [("on", "session")]

    def test_are_kept_where_they_promise_more(self, named: PostgresDatabase) -> None:
        named.change(f"ALTER DATABASE {named.name} SET synchronous_commit = remote_apply")
        with connector(named.url).connect() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchall() == [("remote_apply",)]

    def test_are_set_in_each_transaction_behind_a_bouncer(
        self, post: Post, named: PostgresDatabase, postgres_server: Postgres
    ) -> None:
        for name in ("synchronous_commit", "array_nulls"):
            named.change(f"ALTER DATABASE {named.name} SET {name} = off")
        seen: list[tuple[str, ...]] = []

        def look(transaction: Transaction) -> None:
            connection = connection_of(transaction)
            asked = "SELECT current_setting('synchronous_commit'), current_setting('array_nulls')"
            seen.append(connection.execute(asked).fetchone())

        with PgBouncer(postgres_server) as bouncer:
            store = open_store(bouncer.url(named.name), bouncer=True)
            store.write(look)
            store.close()
        assert seen == [("on", "on")]

    def test_that_promise_nothing_are_warned_of(
        self, named: PostgresDatabase, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The tests' own server does without flushes."""
        with caplog.at_level(logging.WARNING):
            open_store(named.url).close()
        assert "fsync = off: a crash of that machine may lose" in caplog.text


class TestABouncer:
    def test_in_transaction_mode_is_recognised(
        self, named: PostgresDatabase, postgres_server: Postgres
    ) -> None:
        with (
            PgBouncer(postgres_server, ignore="extra_float_digits, options") as bouncer,
            pytest.raises(ConfigError, match="POSTROOM_DATABASE_BOUNCER=yes"),
        ):
            open_store(bouncer.url(named.name))

    def test_that_takes_no_options_is_recognised(
        self, named: PostgresDatabase, postgres_server: Postgres
    ) -> None:
        with PgBouncer(postgres_server) as bouncer:
            with pytest.raises(ConfigError, match="POSTROOM_DATABASE_BOUNCER=yes"):
                open_store(bouncer.url(named.name))
            open_store(bouncer.url(named.name), bouncer=True).close()

    @pytest.mark.parametrize("bouncer", [True, False])
    def test_with_statement_pooling_is_refused(
        self, named: PostgresDatabase, postgres_server: Postgres, bouncer: bool
    ) -> None:
        with (
            PgBouncer(postgres_server, mode="statement", ignore="extra_float_digits, options") as server,
            pytest.raises(ConfigError, match="pool_mode = transaction"),
        ):
            open_store(server.url(named.name), bouncer=bouncer)

    @pytest.mark.parametrize("bouncer", [True, False])
    def test_in_session_mode_works(
        self, post: Post, named: PostgresDatabase, postgres_server: Postgres, bouncer: bool
    ) -> None:
        with PgBouncer(postgres_server, mode="session", ignore="extra_float_digits, options") as server:
            store = open_store(server.url(named.name), bouncer=bouncer)
            message = new_message(post.anna)
            store.write(accepting(message))
            assert str(store.read(Messages.status, message.request_id)) == "queued"
            store.close()


def test_several_hosts_are_taken_and_the_writable_one_is_asked_for(named: PostgresDatabase) -> None:
    port = named.server.port
    url = f"postgresql://postroom@127.0.0.1:1,127.0.0.1:{port}/{named.name}"
    store = open_store(url)
    store.check_schema()
    store.close()
    assert connector(url).parameters["target_session_attrs"] == "read-write"
    assert connector(url).where == f"127.0.0.1:1,127.0.0.1:{port}/{named.name}"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_with_another_encoding_is_refused(postgres_server: Postgres, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    statement = f"CREATE DATABASE {{}} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    postgres_server.administer(sql.SQL(statement), name)
    with pytest.raises(ConfigError, match="ENCODING 'UTF8'"):
        open_store(postgres_server.url(name))
    postgres_server.drop_database(name)


class TestARoleWithRightsOnTheDataAlone:
    @pytest.fixture
    def url(self, named: PostgresDatabase) -> Iterator[str]:
        role = f"clerk_{named.name}"
        named.change(f"CREATE ROLE {role} LOGIN")
        named.change("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        named.change(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        yield named.url.replace("postroom@", f"{role}@")
        named.change(f"DROP OWNED BY {role}")
        named.change(f"DROP ROLE {role}")

    def test_is_told_the_grant_of_every_table(self, named: PostgresDatabase, url: str) -> None:
        """Those of the database, not those of a list that ages."""
        role = f"clerk_{named.name}"
        every = set(
            named.rows(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        )
        named.change(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
        named.change(f"GRANT SELECT ON schema_migration TO {role}")
        with closing(open_store(url)) as store, pytest.raises(ConfigError) as raised:
            store.check_schema()
        for (name,) in every - {("schema_migration",)}:
            assert f"GRANT DELETE, INSERT, SELECT, UPDATE ON {name} TO {role}" in str(raised.value)

    def test_serves_what_is_up_to_date(self, post: Post, url: str) -> None:
        store = open_store(url)
        assert store.migrate() == []
        own, post.store = post.store, store
        request_id = post.add()
        assert [job.request_id for job in post.claim()] == [request_id]
        post.store = own
        store.close()

    def test_is_told_which_grant_is_missing(self, named: PostgresDatabase, url: str) -> None:
        named.change(f"REVOKE DELETE, UPDATE ON job FROM clerk_{named.name}")
        store = open_store(url)
        with pytest.raises(ConfigError, match=f"GRANT DELETE, UPDATE ON job TO clerk_{named.name}"):
            store.migrate()
        store.close()

    def test_cannot_migrate_and_is_told_so(self, named: PostgresDatabase, url: str) -> None:
        named.change("DELETE FROM schema_migration WHERE version > 1")
        store = open_store(url)
        with pytest.raises(ConfigError, match="postroom migrate"):
            store.migrate()
        store.close()


CANARY = "c4n4ry"
BAD = [
    "postgresql://u:{}%zz@h/d",
    "postgresql://u:{}@x@h/d",
    "postgresql://u:a@{}@h/d",
    "postgresql://u:a/{}@h/d",
    "postgresql://{} x@h/d",
    "postgresql://u:{}@h:port/d",
    "postgresql://u:p@h:{}/d",
    "postgresql://u:{}@h:99999/d",
    "postgresql://u:{}@h/d?nosuch=1",
    "postgresql://u:p@h/d?{}=1",
    "postgresql://u:p@h/d?{}",
    "postgresql://u:p@[{}/d",
    "postgresql://u:{}@h/d?sslmode=strict",
    "postgresql://u:p@h/d?sslmode={}",
    "postgresql://u:p@h/d?sslrootcert=/{}",
    "postgresql://u:{}@h/d?sslmode=verify-full&sslrootcert=/nowhere",
    "postgresql://u:{}@h/d?target_session_attrs=x",
    "postgresql://u:p@h/d?service={}",
    "postgresql://u:{}@%00/d",
]


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_refused_and_no_value_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url.format(CANARY))
    words: BaseException | None = caught.value
    while words is not None:
        assert CANARY not in str(words)
        words = words.__cause__ or (None if words.__suppress_context__ else words.__context__)


@pytest.mark.parametrize(
    "query",
    [
        "options=-c%20{}", "options=-c%20{}=x", "options=-c%20search_path%3D{}%20-c%20nosuch%3D{}", "options={}",
        "application_name={}", "sslpassword={}", "krbsrvname={}", "gsslib={}", "require_auth={}", "requirepeer={}",
        "passfile={}", "connect_timeout={}", "keepalives={}", "hostaddr={}", "load_balance_hosts={}", "client_encoding={}",
        "sslcert={}", "sslkey={}", "sslcrl={}", "sslcrldir={}", "ssl_min_protocol_version={}", "replication={}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_there", [True, False])
def test_no_value_of_the_url_is_repeated_by_a_refusal(
    postgres_server: Postgres, query: str, is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The role is none, so that it is refused in any case."""
    port = postgres_server.port if is_there else 1
    url = f"postgresql://{CANARY}:{CANARY}@127.0.0.1:{port}/postgres?{query.format(CANARY, CANARY)}"
    with pytest.raises((ConfigError, StoreUnavailable)) as caught:
        open_store(url)
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_file_that_is_not_there_is_named_by_its_parameter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sslrootcert names a file that is not there"):
        parse_url(f"postgresql://u@h/d?sslmode=verify-ca&sslrootcert={tmp_path}/none.pem")


@pytest.fixture
def strict(postgres_server: Postgres) -> Iterator[Callable[[str], str]]:
    """A server of which a role needs a password; returns a URL with one."""
    role = "strict_one"
    hba = postgres_server.folder / "data/pg_hba.conf"
    before = hba.read_text(encoding="ascii")
    hba.write_text(
        f"host all {role} all scram-sha-256\nhost none {role} all trust\n" + before, encoding="ascii"
    )
    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'right'")
    postgres_server.administer(statement, role)
    postgres_server.administer(sql.SQL("SELECT pg_reload_conf()"))

    def url(password: str, database: str = "postgres") -> str:
        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://{role}{secret}@127.0.0.1:{postgres_server.port}/{database}"

    def asks() -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(url("")).close()
            return False
        return True

    eventually(asks, 20, "the server to ask for a password")
    yield url
    hba.write_text(before, encoding="ascii")
    postgres_server.administer(sql.SQL("DROP ROLE {}"), role)
    postgres_server.administer(sql.SQL("SELECT pg_reload_conf()"))


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_a_server_that_refuses_us_is_understood_by_its_sqlstate(
    postgres_server: Postgres, strict: Callable[..., str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroom.store.postgres.connect.said", lambda error: f"VERDAMMT: {language}")
    for url, state in [
        (strict("wr@ng p#ss"), "28P01"),
        (strict(""), "28P01"),
        (strict("right", "no_such_database"), "3D000"),
        (postgres_server.url("postgres").replace("postroom@", "nobody_here@"), "28000"),
    ]:
        with pytest.raises(ConfigError, match=state):
            open_store(url)
    open_store(strict("right")).close()


def test_a_server_that_is_away_is_worth_another_try() -> None:
    for url in ("postgresql://u:secret@127.0.0.1:1/d", "postgresql://u:secret@no-such-host.invalid/d"):
        with pytest.raises(StoreUnavailable) as caught:
            open_store(url)
        assert "secret" not in str(caught.value)
