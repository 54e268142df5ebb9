"""Two tenants: every route × id × key of the table of rights. Nothing of the other's is read or written, and no answer tells
that it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw
import pytest
from flask.testing import FlaskClient

from postroom.accounts.rights import RIGHTS, Owner, Right
from postroom.core.api_key import Scope
from tests.http.admin import Admin
from tests.http.conftest import ALICE, BOB

pytestmark = pytest.mark.usefixtures("admin_token")

NO_ID = "01a20592-c517-410c-bfea-853adb5ce9ed"
MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}
BODIES: dict[str, Any] = {
    "POST /v1/accounts": {"email": "new@example.com", "password": "x"},
    "PATCH /v1/accounts/{id}": {"name": "mine"},
    "POST /v1/accounts/{id}/keys": {"name": "mine"},
    "POST /v1/accounts/{id}/aliases/verify": {"email": "mine@example.com"},
    "POST /v1/keys": {"name": "mine", "scopes": ["send"]},
    "POST /v1/keys/{id}/rotate": {},
    "PATCH /v1/pools/{id}": {"name": "mine"},
    "POST /v1/pools/{id}/keys": {"name": "mine"},
    "POST /send-email": MAIL,
}
OWN_SCOPES = ["send", "read", "manage"]
# What may change although a call was refused: uses, and that it was refused.
TABLES = ("account", "account_alias", "issued_key", "pool", "pool_member", "message", "job", "finding")


@dataclass(frozen=True)
class Tenant:
    """One of the two: its keys, and the ids that are its own."""

    keys: tuple[str, ...]
    ids: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Two:
    admin: Admin
    one: Tenant
    other: Tenant
    accounts: str  # a key of the installation with the scope accounts


@pytest.fixture
def two(served: FlaskClient) -> Two:
    admin = Admin(served)
    found = {each["email"]: each["id"] for each in admin.done("GET", "/v1/accounts")["data"]}
    one = _tenant(admin, found["alice@example.com"], ALICE)
    other = _tenant(admin, found["bob@example.org"], BOB)
    return Two(admin, one, other, admin.issue(scopes=["accounts"])["key"])


def _tenant(admin: Admin, account: str, of_file: str) -> Tenant:
    issued = admin.issue(account, scopes=OWN_SCOPES)
    members = {"name": "pool", "members": [{"account": account}]}
    pool = admin.done("POST", "/v1/pools", members, 201)
    of_pool = admin.done("POST", f"/v1/pools/{pool['id']}/keys", {"name": "p", "scopes": OWN_SCOPES}, 201)
    accepted = admin.as_key(of_file).done("POST", "/send-email", MAIL, 202)
    ids = account, issued["id"], pool["id"], of_pool["id"]
    return Tenant((of_file, issued["key"], of_pool["key"]), ids, accepted["request_id"])


def state(database: apsw.Connection) -> list[Any]:
    """Return what a foreign key may not have changed."""
    found: list[Any] = []
    for table in TABLES:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        named = ", ".join(column for column in columns if column != "last_used_at")
        found += [table, *database.execute(f"SELECT {named} FROM {table} ORDER BY 1, 2")]
    return found


def call(admin: Admin, right: Right, id_: str) -> tuple[int, Any]:
    path = right.path.replace("{id}", id_).replace("{request_id}", id_)
    answer = admin.call(right.method, path, BODIES.get(f"{right.method} {right.path}"))
    return answer.status_code, answer.get_json(silent=True)


MANAGING = [right for right in RIGHTS if right.owners == {Owner.INSTALLATION}]


@pytest.mark.parametrize("right", MANAGING, ids=lambda right: f"{right.method} {right.path}")
def test_a_tenants_key_reads_and_writes_nothing_of_the_other(
    two: Two, right: Right, database: apsw.Connection
) -> None:
    before = state(database)
    for key in two.one.keys:
        answers = [
            call(two.admin.as_key(key), right, id_) for id_ in (*two.other.ids, *two.one.ids, NO_ID, "x")
        ]
        assert answers[0][0] == 403
        assert all(answer == answers[0] for answer in answers), "the answer tells which ids there are"
    assert state(database) == before


def test_a_tenant_sees_its_own_messages_alone(two: Two) -> None:
    (status,) = (right for right in RIGHTS if right.path == "/email-status/{request_id}")
    for mine, other in (two.one, two.other), (two.other, two.one):
        of_file, issued, of_pool = (two.admin.as_key(key) for key in mine.keys)
        assert call(of_file, status, mine.message)[0] == 200
        assert call(issued, status, mine.message)[0] == 200
        for admin in of_file, issued, of_pool:
            foreign, unknown = call(admin, status, other.message), call(admin, status, NO_ID)
            assert foreign[0] == 404
            assert foreign == unknown
        assert call(of_pool, status, mine.message) == call(of_pool, status, NO_ID)


@pytest.mark.parametrize("right", MANAGING, ids=lambda right: f"{right.method} {right.path}")
def test_a_key_of_the_installation_may_do_what_its_scopes_say(two: Two, right: Right) -> None:
    accounts = two.admin.as_key(two.accounts)
    allowed = call(accounts, right, NO_ID)[0] != 403
    assert allowed == (right.scope is Scope.ACCOUNTS)
    assert call(two.admin, right, NO_ID)[0] != 403


def test_every_route_with_an_id_answers_alike_for_what_is_gone_and_what_never_was(two: Two) -> None:
    """A key and a pool that were deleted are as unknown as any."""
    _, key, pool, _ = two.one.ids
    two.admin.done("DELETE", f"/v1/keys/{key}", status=204)
    two.admin.done("DELETE", f"/v1/pools/{pool}", status=204)
    for right in MANAGING:
        if "{id}" not in right.path:
            continue
        gone = pool if "pools" in right.path else key
        assert call(two.admin, right, gone) == call(two.admin, right, NO_ID)
