"""A day of an installation, as one test: thirty accounts on two hosts, one PostgreSQL, and a provider that is a real one.

A password is changed at the provider, a pool has an account without quota, a key leaks. At its end the ledger is checked:
what the clients were told, what the provider has, and what the database says.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.servers.forked import forker
from tests.servers.installation import Installation
from tests.servers.ledger import all_ended, check_ledger
from tests.servers.postfix import Postfix
from tests.servers.posting import Posting, stopped_web
from tests.servers.sink import find_message_id
from tests.servers.waiting import eventually

pytestmark = pytest.mark.postfix

HEADER = "key,email,app_password,host,port,security,daily_limit"
NAMES = [f"user{number:02}@postroom.example" for number in range(30)]
CHANGED, LEAKED, SCARCE, AMPLE = NAMES[1], NAMES[2], NAMES[3], NAMES[4]
LIMIT, OF_THE_POOL, CLIENTS = 5, 20, 32
FORMER, NEW = "its password", "another password"


class Hosts:
    """Two hosts of one installation; each has a log of its own."""

    def __init__(self, hosts: Sequence[Installation]) -> None:
        self._hosts = hosts

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._hosts[0].query(sql)

    def log_lines(self) -> list[str]:
        return [line for host in self._hosts for line in host.log_lines()]


class Delivered:
    """What the provider has in its mailboxes."""

    def __init__(self, provider: Postfix) -> None:
        self._provider = provider

    def ledger(self) -> list[tuple[str, str]]:
        return [(find_message_id(_as_sent(text)).decode(), "") for text in self._provider.mails()]


def _as_sent(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


@pytest.fixture
def provider(ca: trustme.CA) -> Iterator[Postfix]:
    with Postfix(ca, dict.fromkeys(NAMES, FORMER)) as server:
        yield server


@pytest.fixture
def hosts(
    tmp_path: Path, provider: Postfix, postgres_settings: dict[str, str]
) -> Iterator[list[Installation]]:
    limits = {SCARCE: str(LIMIT)}
    where = f"{provider.host},{provider.port},starttls"
    rows = [f"key of {name},{name},{FORMER},{where},{limits.get(name, '')}" for name in NAMES]
    settings = {
        "POSTROOM_SECRET_KEY": "one secret key for both hosts",
        "POSTROOM_SMTP_CA_FILE": str(provider.ca_file),
        "POSTROOM_SMTP_CONNECTIONS": "2",
        **postgres_settings,
    }
    first, second = (Installation(tmp_path / name, [HEADER, *rows], **settings) for name in ("one", "two"))
    with first, second:
        yield [first, second]


def account(host: Installation, mailbox: str) -> Any:
    [found] = [each for each in json.loads(host.command("accounts", "--json")) if each["account"] == mailbox]
    return found


def test_a_day(hosts: list[Installation], provider: Postfix) -> None:
    one, two = hosts
    one.command("accounts", "import", "data.csv")
    assert {each["source"] for each in json.loads(two.command("accounts", "--json"))} == {"api"}
    accepted = [hosts[number % 2].send(key=f"key of {name}") for number, name in enumerate(NAMES)]
    eventually(lambda: all_ended(one), 30, "the first message of each account")

    accepted += a_password_is_changed(one, two, provider)
    accepted += an_account_of_a_pool_has_no_quota_left(one, two)
    accepted += a_key_leaks(one, two)

    eventually(lambda: all_ended(one), 60, "everything to be sent")
    assert check_ledger(Hosts(hosts), Delivered(provider), accepted) == set(), "no duplicate"


def a_password_is_changed(one: Installation, two: Installation, provider: Postfix) -> list[str]:
    """Its messages wait and say why; one command, and they flow."""
    provider.take_password_away(CHANGED, NEW)
    waiting = [host.send(key=f"key of {CHANGED}") for host in (one, two, one)]
    for request_id in waiting:
        assert "535 5.7.8" in two.wait_for(request_id, "deferred (account paused: ")
    refused = account(two, CHANGED)
    assert (refused["state"], refused["messages"]["waiting"]) == ("paused", 3)
    assert "535 5.7.8" in refused["reason"]
    by_itself = datetime.fromisoformat(refused["until"]) - datetime.now(tz=UTC)
    assert by_itself > timedelta(minutes=3), "no clock has them sent before that"
    words = ("accounts", "set", CHANGED, "--password-stdin")
    began = time.monotonic()
    done = forker().run(*words, cwd=one.folder, environment=one.environment, stdin=f"{NEW}\n")
    assert done.returncode == 0, done
    for request_id in waiting:
        two.wait_for(request_id)
    assert account(one, CHANGED)["state"] == "active"
    print(f"{time.monotonic() - began:.2f} s from the command to the last of its messages")
    return waiting


def an_account_of_a_pool_has_no_quota_left(one: Installation, two: Installation) -> list[str]:
    """What is sent with the pool's key goes by the other account."""
    pool = one.command("pools", "add", "sales", f"{SCARCE}=3", AMPLE).strip()
    key = one.command("keys", "add", "--pool", pool).strip()
    sent = [host.send(key=key) for host in (one, two) for _ in range(OF_THE_POOL // 2)]
    for request_id in sent:
        two.wait_for(request_id)
    found = Counter(row[0] for row in one.query("SELECT reverse_path FROM message"))
    assert found[SCARCE] <= LIMIT
    assert found[SCARCE] + found[AMPLE] == 2 + OF_THE_POOL
    return sent


def a_key_leaks(one: Installation, two: Installation) -> list[str]:
    """No request that begins after its revocation has returned succeeds, also at the host that stood still meanwhile."""
    others = [
        host.send(key=f"key of {LEAKED}") for host in (one, two)
    ]  # a key that is known is refused by no limit
    issued = json.loads(one.command("keys", "add", "--account", LEAKED, "--name", "leaked", "--json"))
    with Posting([one.port, two.port], issued["key"], CLIENTS) as posting:
        eventually(lambda: len(posting.accepted()) > 50, 60, "messages to be accepted")
        with stopped_web(two):
            one.command("keys", "revoke", issued["id"])
            revoked = time.monotonic()
        eventually(lambda: posting.begun(since=revoked) > 2 * CLIENTS, 60, "requests to be refused")
    answers = posting.answers(since=revoked)
    assert 401 in answers
    assert answers <= {401, 429}, "429: too many wrong keys"
    print(f"{len(posting.accepted())} accepted before, 0 of {posting.begun(since=revoked)} after")
    return [*others, *posting.accepted(), one.send(key=f"key of {LEAKED}"), two.send(key=f"key of {LEAKED}")]
