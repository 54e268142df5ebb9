"""A key that is revoked while many clients post with it: no request that begins after the revocation has returned succeeds.

Two hosts on one PostgreSQL; the web process of one of them is stopped (SIGSTOP) while the key is revoked, so that
nothing can have told it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement, KeyWish
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.audit import Actor
from postroom.store.accounts import Accounts
from postroom.store.store import open_store
from tests.servers.installation import KEY, Installation, account_rows
from tests.servers.postgres import Postgres
from tests.servers.posting import Posting, stopped_web
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SECRET = "one secret key for both hosts"
CLIENTS = 16
ADMIN = Actor("the test", "here")


@pytest.fixture
def url(postgres_server: Postgres) -> Iterator[str]:
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


def test_no_request_that_begins_after_a_revocation_succeeds(tmp_path: Path, url: str, sink: Sink) -> None:
    settings = {"DATABASE_URL": url, "POSTROOM_SECRET_KEY": SECRET}
    hosts = [
        Installation(tmp_path / f"host{number}", account_rows(sink.port), **settings) for number in range(2)
    ]
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host)
        store = stack.enter_context(closing(open_store(url)))
        vault = Vault((Secret(SECRET),))
        adopt_digest_key(store, vault, create=False)
        keys = KeyManagement(store, vault)
        for host in hosts:
            assert host.post(key=KEY).status == 202
        account = store.read(Accounts.all)[0].account
        leaked = keys.issue_for_account(account.uid, KeyWish("leaked"), ADMIN)
        with Posting([host.port for host in hosts], leaked.text, CLIENTS) as posting:
            eventually(lambda: len(posting.accepted()) > 50, 60, "messages to be accepted")
            with stopped_web(hosts[1]):
                keys.revoke(leaked.issued.key.uid or "", ADMIN)
                revoked = time.monotonic()
            eventually(lambda: posting.begun(since=revoked) > 3 * CLIENTS, 60, "requests to be refused")
        answers = posting.answers(since=revoked)
        assert answers <= {401, 429}, "429: too many wrong keys"
        assert 401 in answers
        assert hosts[0].post(key=KEY).status == 202, "another key goes on"
