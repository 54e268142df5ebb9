"""PostgreSQL is restarted, stopped, crowded, or behind a pgbouncer: rows 7 and 9 of the fault catalogue."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import psycopg

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Answer, Client, Installation, account_rows
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.scripted import Held, Late
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

UNKNOWN = f"/email-status/{UUID(int=7)}"


def test_while_the_database_is_away_mail_is_refused_and_afterwards_all_goes_on(
    tmp_path: Path, sink: Sink
) -> None:
    with Postgres(durable=True) as server:
        url = server.url(server.create_database())
        with Installation(tmp_path, account_rows(sink.port), DATABASE_URL=url) as service:
            service.wait_for(service.send())
            for how in (signal.SIGINT, signal.SIGQUIT):
                server.stop(how)
                answer = service.post()
                assert answer.status == 503
                assert answer.headers["content-type"] == "application/problem+json"
                assert int(answer.headers["retry-after"]) > 0
                assert service.client.call("GET", UNKNOWN).status == 503
                assert service.client.call("GET", "/livez").status == 200
                found = service.client.call("GET", "/readyz")
                assert (found.status, found.document["checks"]["database"]) == (503, "cannot be read")
                server.start()
                eventually(lambda: service.post().status == 202, 20, "mail to be accepted again")
                eventually(lambda: service.client.call("GET", "/readyz").status == 200, 20)
            everything = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state <> 'done'"
            eventually(lambda: service.query(everything) == [(0,)], 30, "everything to be sent")


def test_what_is_being_sent_meanwhile_is_recorded_afterwards(tmp_path: Path, scripted: StartScripted) -> None:
    smtp = scripted()
    smtp.on("DOT", do=Late(1.5), times=1)
    with Postgres(durable=True) as server:
        url = server.url(server.create_database())
        with Installation(tmp_path, account_rows(smtp.port), DATABASE_URL=url) as service:
            request_id = service.send()
            eventually(lambda: len(smtp.transactions) == 1, message="the dot")
            server.stop(signal.SIGQUIT)
            eventually(lambda: len(smtp.messages) == 1, message="the answer")
            server.start()
            service.wait_for(request_id, timeout=40)
            assert len(smtp.transactions) == 1, "it was not sent again"
            assert service.query("SELECT possible_duplicate, outcome FROM delivery, attempt") == [(0, "sent")]


def test_no_transaction_is_open_while_mail_is_sent(
    tmp_path: Path, scripted: StartScripted, postgres_settings: dict[str, str]
) -> None:
    smtp = scripted()
    looked = threading.Event()
    smtp.on("DOT", do=Held(looked), times=1)
    with Installation(tmp_path, account_rows(smtp.port), **postgres_settings) as service:
        request_id = service.send()
        eventually(lambda: len(smtp.transactions) == 1, message="the dot")
        sessions = (
            "SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%'), count(*) > 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'postroom'"
        )
        # More than one look, since every commit passes through that state; the answer to the dot comes after the last.
        eventually(lambda: service.query(sessions) == [(0, True)], message="all transactions to be over")
        looked.set()
        service.wait_for(request_id)


def test_behind_a_pgbouncer_in_transaction_mode(
    tmp_path: Path, sink: Sink, postgres_server: Postgres
) -> None:
    database = postgres_server.create_database()
    with PgBouncer(postgres_server) as bouncer:
        settings = {"DATABASE_URL": bouncer.url(database), "POSTROOM_DATABASE_BOUNCER": "yes"}
        with Installation(tmp_path, account_rows(sink.port), **settings) as service:
            ids = [service.send() for _ in range(200)]
            for request_id in ids:
                service.wait_for(request_id)
            with psycopg.connect(postgres_server.url(database)) as direct:
                listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
                assert direct.execute(listening).fetchall() == [(0,)]
    postgres_server.drop_database(database)


def test_when_the_server_takes_no_more_sessions_it_goes_on_as_soon_as_it_does(
    tmp_path: Path, sink: Sink
) -> None:
    with Postgres(max_connections="12", superuser_reserved_connections="0") as server:
        url = server.url(server.create_database())
        with Installation(tmp_path, account_rows(sink.port), DATABASE_URL=url) as service:
            service.wait_for(service.send())
            crowd = []
            try:
                while True:
                    crowd.append(psycopg.connect(server.url("postgres"), connect_timeout=2))
            except psycopg.OperationalError:
                pass
            for _ in range(5):
                assert service.post().status in (202, 503)
            for each in crowd:
                each.close()
            eventually(lambda: service.post().status == 202, 20)
            eventually(lambda: is_all_sent(service), 30, "everything to be sent")


def is_all_sent(service: Installation) -> bool:
    """False also where there is no session left to ask in."""
    try:
        return service.query("SELECT count(*) FROM job WHERE kind = 'delivery' AND state <> 'done'") == [(0,)]
    except psycopg.OperationalError:
        return False


def test_a_server_that_is_frozen_holds_nobody_up_for_long(tmp_path: Path, sink: Sink) -> None:
    """Its kernel acknowledges everything, nothing is answered; afterwards all that was accepted is sent."""
    with Postgres(durable=True) as server:
        url = server.url(server.create_database())
        with Installation(tmp_path, account_rows(sink.port), DATABASE_URL=url) as service:
            service.wait_for(service.send())
            server.freeze()
            try:
                with ThreadPoolExecutor(40) as threads:
                    posts = [threads.submit(_timed, service, "POST", "/send-email") for _ in range(20)]
                    reads = [threads.submit(_timed, service, "GET", UNKNOWN) for _ in range(10)]
                    probes = [threads.submit(_timed, service, "GET", "/readyz") for _ in range(10)]
                    alive, seconds = _timed(service, "GET", "/livez")
                    assert (alive.status, seconds < 5) == (200, True)
                    for future in (*posts, *reads, *probes):
                        answer, seconds = future.result()
                        assert answer.status == 503
                        assert seconds < 60
                assert _timed(service, "GET", "/readyz")[0].document["checks"]["database"] == "cannot be read"
            finally:
                server.thaw()
            eventually(lambda: service.post().status == 202, 20, "mail to be accepted again")
            eventually(lambda: service.client.call("GET", "/readyz").status == 200, 20)
            everything = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state <> 'done'"
            eventually(lambda: service.query(everything) == [(0,)], 60, "everything to be sent")
            assert service.query("SELECT count(*) FROM message") == [(2,)], "nothing of what was refused"


def _timed(service: Installation, method: str, path: str) -> tuple[Answer, float]:
    client, began = Client(service.port, timeout=90), time.monotonic()
    mail = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
    try:
        answer = client.call(method, path, mail if method == "POST" else None)
    finally:
        client.close()
    return answer, time.monotonic() - began
