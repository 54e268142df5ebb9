"""The calls that erase personal data: by an admin for an address, by an owner for the content of one message."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from postroom.runtime.installation import Service
from postroom.store.holds import Holds
from tests.http.admin import Admin
from tests.store.database import NOW

pytestmark = pytest.mark.usefixtures("admin_token")

MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}
NO_ID = "01a20592-c517-410c-bfea-853adb5ce9ed"


@pytest.fixture
def admin(client: FlaskClient) -> Admin:
    return Admin(client)


def test_an_address_is_erased_by_an_admin(admin: Admin, alice: str) -> None:
    request_id = admin.client.post("/send-email", json=MAIL | {"key": alice}).get_json()["request_id"]
    wanted = {"address": "You@example.com"}
    looked = admin.done("POST", "/v1/erasures", wanted | {"dry_run": True})
    assert looked["messages"]["cancelled"] == 1
    assert admin.client.get(f"/email-status/{request_id}").get_json()["status"] == "queued"
    done = admin.done("POST", "/v1/erasures", wanted)
    assert (done["complete"], done["messages"]["cancelled"]) == (True, 1)
    assert done["files"] is False, "email_log.txt is the command's"
    assert done["substitute"] == looked["substitute"]
    assert admin.client.get(f"/email-status/{request_id}").get_json()["status"] == "cancelled"
    entries = admin.done("GET", "/v1/audit")["data"]
    assert [entry["target"] for entry in entries if entry["action"] == "person.erase"] == [done["substitute"]]
    assert admin.as_key(alice).call("POST", "/v1/erasures", wanted).status_code == 403


def test_a_quoted_local_part_is_an_address(admin: Admin, alice: str) -> None:
    mail = MAIL | {"key": alice, "recipient": '"a b"@example.com'}
    assert admin.client.post("/send-email", json=mail).status_code == 202
    done = admin.done("POST", "/v1/erasures", {"address": '"A B"@example.com'})
    assert done["messages"]["cancelled"] == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nobody", "'nobody' has no @; give an address such as ada@example.org"),
        ("a b@example.com", "the part before the @ contains a space; remove it"),
        ("a\nb@example.com", "the address contains a line feed (U+000A); remove it"),
        ("", "the address is empty; give one such as ada@example.org"),
        ("x" * 1100, "the address is longer than 254 octets; give a shorter one"),
    ],
)
def test_what_is_no_address_is_named_with_the_reason(admin: Admin, address: str, says: str) -> None:
    answer = admin.call("POST", "/v1/erasures", {"address": address})
    problem = answer.get_json()
    assert (answer.status_code, problem["title"]) == (422, "A value cannot be used as it is")
    assert problem["errors"] == [{"field": "address", "message": says}]


def test_the_content_of_a_message_is_erased_by_its_owner(
    admin: Admin, service: Service, alice: str, bob: str
) -> None:
    accounts = {each["email"]: each["id"] for each in admin.done("GET", "/v1/accounts")["data"]}
    keys = [
        admin.issue(accounts[email], scopes=["send", "read", "manage"])["key"]
        for email in ("alice@example.com", "bob@example.org")
    ]
    request_id = admin.client.post("/send-email", json=MAIL | {"key": alice}).get_json()["request_id"]
    path = f"/v1/emails/{request_id}/content"
    assert admin.as_key(alice).call("DELETE", path).status_code == 403  # keys of the file do not manage
    assert admin.as_key(keys[0]).call("DELETE", path).status_code == 409
    service.store.write(Holds.cancel, request_id, NOW)
    foreign = admin.as_key(keys[1]).call("DELETE", path)
    unknown = admin.as_key(keys[1]).call("DELETE", f"/v1/emails/{NO_ID}/content")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.get_json()["detail"] == unknown.get_json()["detail"]
    assert admin.as_key(keys[0]).call("DELETE", path).status_code == 204
