"""Issued keys at the doorway: known at once, refused at once, held to recipients, networks and scopes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from flask.testing import FlaskClient

from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement, KeyWish
from postroom.core.account import Account
from postroom.core.api_key import Scope
from postroom.core.audit import Actor
from postroom.runtime.installation import Service
from postroom.store.accounts import Accounts

ADMIN = Actor("the test", "here")
MAIL = {"subject": "s", "recipient": "you@example.com", "body": "b"}


@pytest.fixture
def keys(service: Service) -> KeyManagement:
    adopt_digest_key(service.store, service.vault, create=True)
    return KeyManagement(service.store, service.vault)


def account_of(service: Service, email: str) -> Account:
    return next(
        stored.account for stored in service.store.read(Accounts.all) if stored.account.email == email
    )


@pytest.fixture
def alice_account(service: Service) -> Account:
    return account_of(service, "alice@example.com")


def post(client: FlaskClient, key: str, **changes: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return client.post("/send-email", json={**MAIL, **changes}, headers=headers).status_code


def test_a_key_is_known_as_soon_as_it_is_issued(
    client: FlaskClient, alice: str, keys: KeyManagement, alice_account: Account
) -> None:
    """And refused as soon as it is revoked."""
    assert post(client, alice) == 202, "the keys were read"
    new = keys.issue_for_account(alice_account.uid, KeyWish("shop"), ADMIN)
    assert post(client, new.text) == 202
    keys.revoke(new.issued.key.uid or "", ADMIN)
    assert post(client, new.text) == 401
    assert client.post("/send-email", json={**MAIL, "key": alice}).status_code == 202


def test_a_key_sends_to_its_recipients_alone(
    client: FlaskClient, keys: KeyManagement, alice_account: Account
) -> None:
    wish = KeyWish("shop", allowed_recipients=("*@example.com", "bob@example.org"))
    key = keys.issue_for_account(alice_account.uid, wish, ADMIN).text
    answers = {
        to: post(client, key, recipient=to)
        for to in ("you@EXAMPLE.com", "bob@example.org", "eve@example.org", "x@sub.example.com")
    }
    assert list(answers.values()) == [202, 202, 403, 403]


def test_a_key_works_from_its_networks_alone(
    client: FlaskClient, keys: KeyManagement, alice_account: Account
) -> None:
    """The client calls from addresses in 1.0.0.0/8."""
    wish = KeyWish("shop", networks=(ip_network("1.0.0.0/8"),))
    elsewhere = replace(wish, networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    assert post(client, keys.issue_for_account(alice_account.uid, wish, ADMIN).text) == 202
    assert post(client, keys.issue_for_account(alice_account.uid, elsewhere, ADMIN).text) == 403


def test_a_key_does_what_its_scopes_say(
    client: FlaskClient, keys: KeyManagement, alice_account: Account
) -> None:
    reads = keys.issue_for_account(
        alice_account.uid, KeyWish("r", scopes=frozenset({Scope.READ})), ADMIN
    ).text
    sends = keys.issue_for_account(
        alice_account.uid, KeyWish("s", scopes=frozenset({Scope.SEND})), ADMIN
    ).text
    assert post(client, reads) == 403
    answer = client.post("/send-email", json={**MAIL, "key": sends})
    where = f"/email-status/{answer.get_json()['request_id']}"
    statuses = [
        client.get(where, headers={"Authorization": f"Bearer {key}"}).status_code for key in (reads, sends)
    ]
    assert (answer.status_code, statuses) == (202, [200, 403])


def test_a_daily_limit_is_a_429_that_says_when(
    client: FlaskClient, keys: KeyManagement, alice_account: Account
) -> None:
    key = keys.issue_for_account(alice_account.uid, KeyWish("shop", daily_limit=1), ADMIN).text
    assert post(client, key) == 202
    refused = client.post("/send-email", json={**MAIL, "key": key})
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 87_000


def test_a_key_of_the_installation_sends_through_no_account(client: FlaskClient, keys: KeyManagement) -> None:
    wish = KeyWish("ci", scopes=frozenset({Scope.ACCOUNTS, Scope.SEND}))
    key = keys.issue_for_installation(wish, ADMIN).text
    assert post(client, key) == 403


def test_a_foreign_message_is_as_unknown_as_one_that_is_not_there(
    client: FlaskClient, bob: str, keys: KeyManagement, alice_account: Account
) -> None:
    key = keys.issue_for_account(alice_account.uid, KeyWish("shop"), ADMIN).text
    foreign = client.post("/send-email", json={**MAIL, "key": bob}).get_json()["request_id"]
    answers = [
        client.get(f"/email-status/{id_}", headers={"Authorization": f"Bearer {key}"})
        for id_ in (foreign, foreign[:-1] + ("0" if foreign[-1] != "0" else "1"))
    ]
    assert answers[0].status_code == answers[1].status_code == 404
    assert answers[0].get_json() == answers[1].get_json()
