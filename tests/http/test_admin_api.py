"""The admin API through the server that granian calls: keys and rights before anything else, then each call.

The calls are plain Flask views. What a runner could change (no key, the method, the body) is shown through both.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from postroom.accounts.rights import RIGHTS, Owner, right_for, table
from postroom.runtime.installation import Service
from postroom.web.admin.call import Nothing, Reply, admin_call
from postroom.web.admin.views import CALLS, add_call
from tests.http.admin import ACCOUNT, TOKEN, Admin, bearer
from tests.http.conftest import each_runner

pytestmark = pytest.mark.usefixtures("admin_token")

NO_ID = "01a20592-c517-410c-bfea-853adb5ce9ed"
MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}


@pytest.fixture
def admin(served: FlaskClient) -> Admin:
    return Admin(served)


def calls() -> list[tuple[str, str]]:
    """Return the calls that an account's key may not make."""
    return [
        (call.method, call.path.replace("{id}", NO_ID))
        for call in CALLS
        if right_for(call.method, call.path).owners == {Owner.INSTALLATION}
    ]


# --- Who may call.


@each_runner
@pytest.mark.parametrize(("method", "path"), calls())
def test_without_a_key_it_is_401_and_with_one_that_lacks_the_scope_403(
    admin: Admin, alice: str, method: str, path: str
) -> None:
    without = admin.client.open(path, method=method, json={"key": TOKEN} if method == "POST" else None)
    assert without.status_code == 401
    assert without.headers["WWW-Authenticate"].startswith("Bearer")
    assert admin.as_key("nobody").call(method, path, {} if method == "POST" else None).status_code == 401
    lacks = admin.as_key(alice).call(method, path)
    assert lacks.status_code == 403, lacks.get_data(as_text=True)
    assert lacks.get_json()["type"] == "urn:problem:postroom:not-permitted"


def test_nothing_of_a_body_is_read_before_the_key_was_checked(app: Flask, alice: str) -> None:
    class Unread(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            raise AssertionError("the body was read")

    for headers, status in ({}, 401), (bearer("nobody"), 401), (bearer(alice), 403):
        answer = app.test_client().post(
            "/v1/accounts",
            headers=headers,
            environ_overrides={
                "wsgi.input": Unread(),
                "CONTENT_LENGTH": "10",
                "CONTENT_TYPE": "application/json",
            },
        )
        assert answer.status_code == status


def test_a_route_that_the_table_lacks_is_403_with_every_key(app: Flask, service: Service) -> None:
    call = admin_call(
        "GET /v1/forgotten", "forgotten", "", Nothing, lambda asked, taken: Reply(204), {204: None}
    )
    app._got_first_request = False
    add_call(app, call)  # type: ignore[arg-type]
    assert Admin(app.test_client()).call("GET", "/v1/forgotten").status_code == 403
    assert app.test_client().get("/v1/forgotten").status_code == 403
    assert app.test_client().get("/v1/unknown").status_code == 404


def test_the_table_names_the_calls_that_there_are_and_no_others(app: Flask) -> None:
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(("/v1/", "/send-email", "/email-status", "/metrics"))
    }
    assert routes == {(right.method, right.path) for right in RIGHTS}
    assert len(table()) == len(RIGHTS)


@each_runner
def test_an_unknown_method_is_405(admin: Admin) -> None:
    assert admin.call("PUT", "/v1/accounts").status_code == 405
    assert admin.call("OPTIONS", "/v1/accounts").status_code == 405


# --- Accounts.


@each_runner
def test_an_account_is_added_shown_listed_and_changed(admin: Admin) -> None:
    made = admin.add(name="Carol", daily_limit=10, aliases=["sales@example.com"])
    assert made["state"] == "active"
    assert made["source"] == "api"
    assert made["has_password"] is True
    assert made["aliases"] == [{"email": "sales@example.com", "verified_at": None, "verified_by": None}]
    assert made["limits"] == [
        {"name": "daily_limit", "limit": 10, "used": 0, "left": 10},
        {"name": "connections", "limit": 20, "used": 0, "left": 20},
        {"name": "logins_per_minute", "limit": None, "used": 0, "left": None},
    ]
    path = f"/v1/accounts/{made['id']}"
    assert admin.done("GET", path) == made
    listed = admin.done("GET", "/v1/accounts")
    assert [each["source"] for each in listed["data"]] == ["csv", "csv", "api"]
    assert listed["data"][2] == made
    assert (listed["has_more"], listed["next"]) == (False, None)
    changed = admin.done("PATCH", path, {"daily_limit": 20, "name": ""})
    assert (changed["daily_limit"], changed["name"]) == (20, "")
    assert changed["aliases"] == made["aliases"]
    confirm = f"/v1/accounts/{made['id']}/aliases/verify"
    assert admin.call("POST", confirm, {"email": "other@example.com"}).status_code == 404
    [alias] = admin.done("POST", confirm, {"email": "Sales@example.com"})["aliases"]
    assert (alias["email"], alias["verified_by"]) == ("sales@example.com", "admin")
    assert alias["verified_at"] is not None
    assert admin.done("GET", "/v1/audit")["data"][0]["action"] == "alias.verify"
    assert "canary" not in str(changed)


def test_a_list_comes_in_pages(admin: Admin) -> None:
    ids = [admin.add(email=f"u{number}@example.com")["id"] for number in range(5)]
    found: list[str] = []
    after = None
    while True:
        query = {"limit": "2", **({"after": after} if after else {})}
        page = admin.call("GET", "/v1/accounts", query_string=query).get_json()
        found += [each["id"] for each in page["data"]]
        after = page["next"]
        if not page["has_more"]:
            break
    assert found[2:] == ids
    admin.done("POST", f"/v1/accounts/{ids[3]}/pause")
    paused = admin.call("GET", "/v1/accounts", query_string={"state": "paused", "limit": "1"}).get_json()
    assert [each["id"] for each in paused["data"]] == [ids[3]]
    assert paused["has_more"] is False


def test_an_account_that_is_there_is_409(admin: Admin) -> None:
    admin.add()
    refused = admin.call("POST", "/v1/accounts", ACCOUNT)
    assert refused.status_code == 409
    assert refused.get_json()["errors"][0]["field"] == "email"


def test_an_account_of_the_file_is_changed_in_the_file(admin: Admin) -> None:
    of_file = admin.done("GET", "/v1/accounts")["data"][0]
    path = f"/v1/accounts/{of_file['id']}"
    for method in "PATCH", "DELETE":
        refused = admin.call(method, path, {"name": "x"} if method == "PATCH" else None)
        assert refused.status_code == 409
        assert "postroom accounts import" in refused.get_json()["detail"]
    assert admin.done("POST", f"{path}/pause")["state"] == "paused"
    assert admin.done("POST", f"{path}/resume")["state"] == "active"


def test_a_paused_account_accepts_and_its_messages_wait(admin: Admin, alice: str) -> None:
    of_file = admin.done("GET", "/v1/accounts")["data"][0]
    paused = admin.done("POST", f"/v1/accounts/{of_file['id']}/pause")
    assert (paused["state"], paused["paused_by"]) == ("paused", "person")
    assert admin.as_key(alice).call("POST", "/send-email", MAIL).status_code == 202


def test_an_account_with_queued_messages_is_deleted_on_a_word_only(admin: Admin) -> None:
    made = admin.add()
    path = f"/v1/accounts/{made['id']}"
    key = admin.issue(made["id"])["key"]
    assert admin.as_key(key).call("POST", "/send-email", MAIL).status_code == 202
    refused = admin.call("DELETE", path)
    assert refused.status_code == 409
    assert refused.get_json()["detail"].startswith("1 message of the account has not ended")
    closing = admin.call("DELETE", path, query_string={"queued": "finish"})
    assert closing.status_code == 202
    assert closing.get_json()["state"] == "closing"
    assert admin.as_key(key).call("POST", "/send-email", MAIL).status_code == 401
    gone = admin.call("DELETE", path, query_string={"queued": "cancel"})
    assert (gone.status_code, gone.data) == (204, b"")
    assert admin.call("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"host": "smtp.elsewhere.example"}, "host"),
        ({"port": 2525}, "port"),
        ({"username": "other"}, "username"),
        ({"security": "none"}, "security"),
        ({"dkim_selector": "a b"}, "dkim_selector"),
    ],
)
def test_a_change_that_cannot_be_names_its_field(admin: Admin, change: Any, field: str) -> None:
    made = admin.add()
    refused = admin.call("PATCH", f"/v1/accounts/{made['id']}", change)
    assert refused.status_code == 422
    assert refused.get_json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "email"),
        ({"email": "a@b.example", "port": "25"}, "port"),
        ({"email": "a@b.example", "port": 0}, "port"),
        ({"email": "a@b.example", "pipelining": 1}, "pipelining"),
        ({"email": "a@b.example", "name": "a\0b"}, "name"),
        ({"email": "a@b.example", "aliases": ["x@y.example", 1]}, "aliases.1"),
        ({"email": "a@b.example", "wrong": 1}, "wrong"),
        ({"email": "a@b.example", "password": 5}, "password"),
    ],
)
def test_a_body_that_is_none_names_every_fault(admin: Admin, document: Any, field: str) -> None:
    refused = admin.call("POST", "/v1/accounts", document)
    assert refused.status_code == 400
    assert [each["field"] for each in refused.get_json()["errors"]] == [field]


def test_a_bad_address_of_an_account_says_what_is_wrong_with_it(admin: Admin) -> None:
    for document, field, says in (
        ({"email": "x"}, "email", "no mailbox such as ann@example.com"),
        ({"email": "a b@example.com"}, "email", "contains a space"),
        (
            {"email": "a@b.example", "password": "x", "aliases": ["a@b@c"]},
            "aliases",
            "contains the character @",
        ),
    ):
        refused = admin.call("POST", "/v1/accounts", document)
        assert refused.status_code == 422
        [fault] = refused.get_json()["errors"]
        assert fault["field"] == field
        assert says in fault["message"]


def test_titles_and_details_are_about_the_call(admin: Admin) -> None:
    for refused in (
        admin.call("POST", "/v1/accounts", {"email": "x"}),
        admin.call("POST", "/v1/accounts", {"email": "a@b.example", "name": "x" * 70_000}),
        admin.call("GET", "/v1/accounts?limit=0"),
        admin.call("GET", "/v1/accounts?limit="),
        admin.call("GET", "/v1/keys?account=x"),
    ):
        problem = refused.get_json()
        assert "message" not in (problem["title"] + problem["detail"]).lower(), problem
    [fault] = admin.call("GET", "/v1/keys?account=x").get_json()["errors"]
    assert "is not an id: give one as the service shows it" in fault["message"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "state=",
        "limit=",
        "after=",
        "limit=x",
        "after=x",
        "state=gone",
        "wrong=1",
        "limit=1&limit=2",
    ],
)
def test_a_query_that_is_none_is_400(admin: Admin, query: str) -> None:
    assert admin.call("GET", f"/v1/accounts?{query}").status_code == 400


@each_runner
def test_a_body_that_is_no_json_or_too_large_is_refused(admin: Admin) -> None:
    assert admin.call("POST", "/v1/accounts", data=b"{", content_type="application/json").status_code == 400
    assert admin.call("POST", "/v1/accounts", data=b"{}", content_type="text/plain").status_code == 415
    large = b'{"email": "' + b"a" * 70_000 + b'"}'
    assert admin.call("POST", "/v1/accounts", data=large, content_type="application/json").status_code == 413


@pytest.mark.parametrize(("method", "path"), [each for each in calls() if NO_ID in each[1]])
@pytest.mark.parametrize("id_", [NO_ID, "x", "%00", "01A20592-C517-410C-BFEA-853ADB5CE9ED"])
def test_an_unknown_id_is_404(admin: Admin, method: str, path: str, id_: str) -> None:
    body = {"name": "x"} if method in ("POST", "PATCH") and path.endswith(("keys", NO_ID)) else None
    if path.endswith("aliases/verify"):
        body = {"email": "x@example.com"}
    found = admin.call(method, path.replace(NO_ID, id_), body or ({} if path.endswith("rotate") else None))
    assert found.status_code == 404, found.get_data(as_text=True)


# --- Keys.


@each_runner
def test_a_key_is_issued_used_listed_rotated_and_revoked(admin: Admin) -> None:
    account = admin.add()
    made = admin.issue(account["id"], allowed_recipients=["*@example.com"], networks=["0.0.0.0/0"])
    assert made["key"].startswith("pr_live_")
    assert (made["owner"], made["account"], made["scopes"]) == ("account", account["id"], ["read", "send"])
    key = admin.as_key(made["key"])
    assert key.call("POST", "/send-email", MAIL).status_code == 202
    assert admin.client.post("/send-email", json={**MAIL, "key": made["key"]}).status_code == 202
    assert key.call("POST", "/send-email", {**MAIL, "recipient": "a@elsewhere.org"}).status_code == 403
    listed = admin.done("GET", f"/v1/keys?account={account['id']}")["data"]
    assert [each["id"] for each in listed] == [made["id"]]
    assert listed[0]["last_used_at"] is not None
    assert "key" not in listed[0]
    second = admin.done("POST", f"/v1/keys/{made['id']}/rotate", {"overlap": "24h"}, 201)
    assert second["allowed_recipients"] == ["*@example.com"]
    assert key.call("POST", "/send-email", MAIL).status_code == 202
    third = admin.done("POST", f"/v1/keys/{second['id']}/rotate", {}, 201)
    assert admin.as_key(second["key"]).call("POST", "/send-email", MAIL).status_code == 401
    admin.done("DELETE", f"/v1/keys/{third['id']}", status=204)
    assert admin.as_key(third["key"]).call("POST", "/send-email", MAIL).status_code == 401
    assert admin.call("DELETE", f"/v1/keys/{third['id']}").status_code == 404


def test_a_test_key_says_so(admin: Admin) -> None:
    made = admin.issue(admin.add()["id"], test=True)
    assert made["key"].startswith("pr_test_")
    accepted = admin.as_key(made["key"]).done("POST", "/send-email", MAIL, 202)
    assert admin.client.get(f"/email-status/{accepted['request_id']}").get_json()["test"] is True


def test_no_key_makes_or_widens_a_key_beyond_its_own_scopes(admin: Admin) -> None:
    manager = admin.as_key(admin.issue(scopes=["accounts"])["key"])
    owner = admin.issue(scopes=["admin"])
    assert manager.call("POST", "/v1/keys", {"name": "x", "scopes": ["admin"]}).status_code == 403
    assert manager.call("POST", f"/v1/keys/{owner['id']}/rotate", {}).status_code == 403
    assert manager.call("DELETE", f"/v1/keys/{owner['id']}").status_code == 403
    for path in "/v1/audit", "/v1/pools":
        assert manager.call("GET", path).status_code == 403
    made = manager.add()
    assert manager.issue(made["id"])["scopes"] == ["read", "send"]
    asked = manager.call("POST", f"/v1/accounts/{made['id']}/keys", {"name": "x", "scopes": ["admin"]})
    assert asked.status_code == 422


def test_a_revoked_key_of_the_installation_is_401_at_once(admin: Admin, app: Flask, make_app: Any) -> None:
    """Also in a process that has not heard of it yet."""
    other = Admin(make_app().test_client())
    made = admin.issue(scopes=["accounts"])
    assert other.as_key(made["key"]).call("GET", "/v1/accounts").status_code == 200
    admin.done("DELETE", f"/v1/keys/{made['id']}", status=204)
    assert other.as_key(made["key"]).call("GET", "/v1/accounts").status_code == 401
    assert other.as_key(made["key"]).call("POST", "/v1/accounts", ACCOUNT).status_code == 401


def test_the_admin_token_is_no_key_that_the_calls_show_or_change(admin: Admin, service: Service) -> None:
    assert admin.done("GET", "/v1/keys")["data"] == []
    token = service.store.read(lambda transaction: transaction.issued_keys.of_source("admin"))[0]
    assert admin.call("DELETE", f"/v1/keys/{token.key.uid}").status_code == 404
    assert admin.call("POST", f"/v1/keys/{token.key.uid}/rotate", {}).status_code == 404


def test_a_key_works_from_its_networks_only(admin: Admin) -> None:
    made = admin.issue(scopes=["accounts"], networks=["192.0.2.0/24"])
    assert admin.as_key(made["key"]).call("GET", "/v1/accounts").status_code == 403


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, 422, "expires_at"),
        ({"expires_at": "tomorrow"}, 422, "expires_at"),
        ({"networks": ["192.0.2.1/24"]}, 422, "networks"),
        ({"allowed_recipients": ["nobody"]}, 422, "allowed_recipients"),
        ({"scopes": ["everything"]}, 400, "scopes.0"),
        ({"scopes": []}, 400, "scopes"),
        ({"daily_limit": 0}, 400, "daily_limit"),
        ({"name": ""}, 400, "name"),
    ],
)
def test_a_key_that_cannot_be_names_its_field(admin: Admin, fields: Any, status: int, field: str) -> None:
    refused = admin.call("POST", "/v1/keys", {"name": "x", **fields})
    assert refused.status_code == status
    assert refused.get_json()["errors"][0]["field"] == field


# --- Pools.


def test_a_pool_is_added_changed_given_a_key_and_deleted(admin: Admin) -> None:
    first, second = (admin.add(email=f"{name}@example.com") for name in ("one", "two"))
    made = admin.done("POST", "/v1/pools", {"name": "all", "members": [{"account": first["id"]}]}, 201)
    assert made["members"] == [{"account": first["id"], "email": "one@example.com", "weight": 1}]
    path = f"/v1/pools/{made['id']}"
    both = [{"account": each["id"], "weight": 3} for each in (first, second)]
    changed = admin.done("PATCH", path, {"members": both})
    assert [(each["account"], each["weight"]) for each in changed["members"]] == [
        (first["id"], 3),
        (second["id"], 3),
    ]
    assert admin.done("PATCH", path, {"name": "both"})["name"] == "both"
    assert [each["id"] for each in admin.done("GET", "/v1/pools")["data"]] == [made["id"]]
    key = admin.done("POST", f"{path}/keys", {"name": "of the pool"}, 201)
    assert (key["owner"], key["pool"], key["account"]) == ("pool", made["id"], None)
    assert admin.as_key(key["key"]).call("GET", "/v1/pools").status_code == 403
    admin.done("DELETE", path, status=204)
    assert admin.call("GET", path).status_code == 404
    assert admin.as_key(key["key"]).call("GET", "/v1/pools").status_code == 401
    actions = [each["action"] for each in admin.done("GET", "/v1/audit")["data"]]
    assert [each for each in actions if each.startswith("pool")] == [
        "pool.delete",
        "pool.change",
        "pool.change",
        "pool.create",
    ]


@pytest.mark.parametrize("members", [[NO_ID], [NO_ID, NO_ID.upper()], [NO_ID, NO_ID]])
def test_a_pool_of_unknown_accounts_is_refused(admin: Admin, members: list[str]) -> None:
    document = {"name": "x", "members": [{"account": each} for each in members]}
    refused = admin.call("POST", "/v1/pools", document)
    assert refused.status_code == 422
    assert refused.get_json()["errors"][0]["field"] == "members"


# --- The audit.


@each_runner
def test_the_audit_names_who_changed_what_and_who_was_refused(admin: Admin, alice: str) -> None:
    named = admin.as_key(admin.issue(name="ci", scopes=["admin"])["key"])
    made = named.add()
    assert admin.as_key(alice).call("GET", "/v1/accounts").status_code == 403
    entries = admin.done("GET", "/v1/audit")["data"]
    refused, added, issued = entries
    assert (added["actor"], added["action"], added["target"]) == ("key ci", "account.create", made["email"])
    assert (issued["actor"], issued["action"]) == ("admin token", "key.issue")
    assert (refused["refused"], refused["action"]) == (True, "GET /v1/accounts")
    assert "canary" not in str(entries)
    first = admin.done("GET", "/v1/audit?limit=1")
    assert first["data"] == [refused]
    assert admin.done("GET", f"/v1/audit?limit=1&after={first['next']}")["data"] == [added]


def test_a_key_with_the_name_of_the_admin_token_does_not_pass_for_it(admin: Admin) -> None:
    admin.as_key(admin.issue(name="admin token", scopes=["admin"])["key"]).add()
    assert admin.done("GET", "/v1/audit")["data"][0]["actor"] == "key admin token"


def test_refusals_are_written_once_a_source_and_for_so_many_sources_only(
    app: Flask, service: Service
) -> None:
    client = app.test_client()
    for number in range(110):
        for _ in range(2):
            environ = {"REMOTE_ADDR": f"198.51.{number}.7"}
            assert client.get("/v1/accounts", environ_overrides=environ).status_code == 401
    entries = service.store.read(lambda transaction: transaction.audit.page(1000))
    assert len(entries) == len({entry.source for entry in entries}) == 100
