"""`GET /v1/emails` through both runners: whose messages a key sees, each filter, pages, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient

from postroom.core.clock import system_clock
from postroom.runtime.installation import Service
from postroom.store.holds import Holds
from postroom.worker.listings import ListingRunner
from tests.http.admin import Admin
from tests.http.conftest import ALICE, BOB

pytestmark = pytest.mark.usefixtures("admin_token")

TOO_MANY_WORDS = " ".join(map(str, range(21)))
NO_ID = "01a20592-c517-410c-bfea-853adb5ce9ed"


@dataclass(frozen=True)
class House:
    """Two accounts, a pool of the first one, and messages of each; ids are oldest first."""

    admin: Admin
    alice: Admin
    bob: Admin
    pool: Admin
    accounts: dict[str, str]
    of_alice: list[str]
    of_bob: list[str]
    of_pool: list[str]

    def listed(self, whose: Admin | None = None, **query: str) -> list[str]:
        return [each["id"] for each in self.page(whose, **query)["data"]]

    def page(self, whose: Admin | None = None, **query: str) -> Any:
        return (whose or self.admin).done("GET", f"/v1/emails?{urlencode(query)}")


@pytest.fixture
def house(client: FlaskClient) -> House:
    admin = Admin(client)
    accounts = {each["email"]: each["id"] for each in admin.done("GET", "/v1/accounts")["data"]}
    members = {"name": "pool", "members": [{"account": accounts["alice@example.com"]}]}
    pool = admin.done("POST", "/v1/pools", members, 201)
    of_pool = admin.done("POST", f"/v1/pools/{pool['id']}/keys", {"name": "p"}, 201)["key"]
    made = House(admin, admin.as_key(ALICE), admin.as_key(BOB), admin.as_key(of_pool), accounts, [], [], [])
    for whose, ids in ((made.alice, made.of_alice), (made.bob, made.of_bob), (made.pool, made.of_pool)):
        for number in range(3):
            mail = {
                "subject": f"Invoice No. {number}",
                "recipient": f"Ada{number}@example.org",
                "body": "It works.",
            }
            ids.append(whose.done("POST", "/send-email", mail, 202)["request_id"])
    return made


def test_each_key_sees_its_own_messages_alone_and_the_installation_all(house: House) -> None:
    of_account = [*house.of_alice, *house.of_pool]
    assert house.listed(house.alice) == of_account[::-1]
    assert house.listed(house.bob) == house.of_bob[::-1]
    assert house.listed(house.pool) == house.of_pool[::-1]
    everything = [*house.of_alice, *house.of_bob, *house.of_pool][::-1]
    assert house.listed() == everything
    assert house.listed(house.admin.as_key(house.admin.issue(scopes=["accounts"])["key"])) == everything
    assert house.listed(house.admin.as_key(house.admin.issue(scopes=["read"])["key"])) == everything
    lacks = house.admin.as_key(house.admin.issue(scopes=["send"])["key"])
    assert lacks.call("GET", "/v1/emails").status_code == 403
    of_account_sending = house.admin.issue(house.accounts["bob@example.org"], scopes=["send"])["key"]
    assert house.admin.as_key(of_account_sending).call("GET", "/v1/emails").status_code == 403


def test_an_account_is_named_by_its_id_or_mailbox_and_a_foreign_one_is_unknown(house: House) -> None:
    for named in ("bob@example.org", "BOB@example.org", house.accounts["bob@example.org"]):
        assert house.listed(account=named) == house.of_bob[::-1]
        assert house.listed(house.bob, account=named) == house.of_bob[::-1]
    unknown = house.alice.call("GET", f"/v1/emails?account={NO_ID}")
    assert unknown.status_code == 404
    for named in (house.accounts["bob@example.org"], "bob@example.org", "nobody@example.org", "x"):
        foreign = house.alice.call("GET", f"/v1/emails?{urlencode({'account': named})}")
        assert (foreign.status_code, foreign.get_json()) == (404, unknown.get_json())
    of_pool = house.pool.call("GET", f"/v1/emails?account={house.accounts['alice@example.com']}")
    assert (of_pool.status_code, of_pool.get_json()) == (404, unknown.get_json())


def test_a_message_of_a_list_says_what_became_of_it(house: House, service: Service) -> None:
    service.store.write(Holds.cancel, house.of_bob[0], system_clock())
    cancelled = house.page(status="cancelled")
    [shown] = cancelled.pop("data")
    assert cancelled == {"has_more": False, "next": None, "partial": False}
    assert shown.pop("accepted_at") < shown.pop("finished_at")
    assert shown == {
        "id": house.of_bob[0],
        "status": "cancelled",
        "reason": None,
        "account": house.accounts["bob@example.org"],
        "from": "bob@example.org",
        "to": ["Ada0@example.org"],
        "subject": "Invoice No. 0",
        "test": False,
        "possible_duplicate": False,
    }
    queued = house.page(house.bob)["data"]
    assert [(each["status"], each["finished_at"]) for each in queued[:2]] == [("queued", None)] * 2


def test_a_message_of_a_test_key_is_marked(house: House) -> None:
    test = house.admin.issue(house.accounts["bob@example.org"], test=True)["key"]
    mail = {"subject": "Try", "recipient": "ada@example.org", "body": "It works."}
    accepted = house.admin.as_key(test).done("POST", "/send-email", mail, 202)
    newest = house.page(limit="1")["data"][0]
    assert (newest["id"], newest["test"]) == (accepted["request_id"], True)


@pytest.mark.parametrize("noted", [True, False])
def test_filters(house: House, service: Service, noted: bool) -> None:
    if noted:
        runner = ListingRunner(service.store, lambda: False)
        runner.run()
    assert house.listed(to="ada1@EXAMPLE.org") == [house.of_pool[1], house.of_bob[1], house.of_alice[1]]
    assert house.listed(house.bob, to="ada1@example.org") == [house.of_bob[1]]
    assert len(house.listed(to="@example.org")) == 9
    assert house.listed(to="@example.com") == []
    assert house.listed(house.bob, subject="inv 2") == [house.of_bob[2]]
    assert house.listed(house.bob, status="queued", to="ada0@example.org") == [house.of_bob[0]]
    assert house.listed(status="suppressed") == []
    at = {each["id"]: each["accepted_at"] for each in house.page()["data"]}
    assert house.listed(house.bob, since="2000-01-01T00:00:00Z", until="2001-01-01T00:00:00Z") == []
    since = min(at[id_] for id_ in house.of_pool)
    assert set(house.of_pool) <= set(house.listed(since=since))
    assert house.listed(since="2999-01-01T00:00:00+02:00") == []


def test_pages(house: House) -> None:
    ids: list[str] = []
    query: dict[str, str] = {"limit": "4"}
    while True:
        page = house.page(None, **query)
        ids += [each["id"] for each in page["data"]]
        assert page["has_more"] == (page["next"] is not None)
        if not page["has_more"]:
            break
        assert len(page["data"]) == 4
        query["after"] = page["next"]
    assert ids == house.listed()


def test_a_page_has_twenty_unless_it_is_said_and_up_to_a_hundred(house: House) -> None:
    mail = {"subject": "Hi", "recipient": "ada@example.org", "body": "It works."}
    for _ in range(12):
        house.bob.done("POST", "/send-email", mail, 202)
    assert len(house.page()["data"]) == 20
    assert len(house.page(limit="100")["data"]) == 21


def test_a_cursor_tells_a_tenant_nothing_of_others_and_is_of_one_list(house: House, make_app: Any) -> None:
    """A row number would say how many messages others had sent meanwhile, and so would one that is taken for a cursor."""
    tenants = (house.alice, house.pool)
    for whose in tenants:
        first = house.page(whose, limit="2")
        assert not any(part.isdecimal() for part in first["next"].split("."))
        rest = house.page(whose, limit="100", after=first["next"])
        assert [each["id"] for each in first["data"] + rest["data"]] == house.listed(whose)
        assert house.page(whose, limit="2")["next"] == first["next"]
        restarted = Admin(make_app().test_client(), whose.key)
        assert house.page(restarted, limit="100", after=first["next"]) == rest
        for former in ("4", "1000000"):
            assert whose.call("GET", f"/v1/emails?after={former}").status_code == 400
        assert whose.call("GET", f"/v1/stats?after={first['next']}").status_code in (400, 403)
        changed = first["next"][:-2] + ("AA" if first["next"][-2:] != "AA" else "BB")
        assert whose.call("GET", f"/v1/emails?after={changed}").status_code == 400
    assert house.listed(after="1000000") == house.listed(), (
        "the installation's keys may go on where they were"
    )


@pytest.mark.parametrize(
    "cursor", ["x", "-1", "1.5", "", "9" * 19, "1' OR '1", "A" * 32, "A" * 65, "…", "1.1"]
)
def test_a_bad_cursor_is_400(house: House, cursor: str) -> None:
    answer = house.alice.call("GET", f"/v1/emails?{urlencode({'after': cursor})}")
    assert answer.status_code == 400
    assert answer.content_type == "application/problem+json"
    [fault] = answer.get_json()["errors"]
    assert fault["field"] == "after"
    assert "`next` of the page before" in fault["message"] or not cursor


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "delivered"),
        ("status", ""),
        ("to", "nobody"),
        ("to", "@"),
        ("to", "a@b@c"),
        ("since", "yesterday"),
        ("since", "2027-01-31T12:00:00"),
        ("until", "2027-13-31T12:00:00Z"),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "many"),
        ("subject", "a\nb"),
        ("subject", TOO_MANY_WORDS),
        ("subject", ""),
        ("account", ""),
        ("after", ""),
        ("limit", ""),
        ("state", "sent"),
    ],
)
def test_a_bad_value_names_its_field(house: House, field: str, value: str) -> None:
    """400 where it is not of the form that the document describes; 422 where it is, and is of no use."""
    answer = house.alice.call("GET", f"/v1/emails?{urlencode({field: value})}")
    is_of_no_use = value == TOO_MANY_WORDS or (value and field in ("to", "since", "until"))
    assert answer.status_code == (422 if is_of_no_use else 400), answer.get_data(as_text=True)
    assert answer.get_json()["errors"][0]["field"] == field
    title = "A value cannot be used as it is" if is_of_no_use else "The request cannot be read"
    assert answer.get_json()["title"] == title


@pytest.mark.parametrize("path", ["/v1/emails", "/v1/stats"])
def test_both_lists_take_the_same_spans_and_refuse_the_same(house: House, path: str) -> None:
    for since in ("2027-01-31", "2027-01-31T00:00:00Z"):
        later = urlencode({"since": since, "until": "2027-02-01T01:00:00+01:00"})
        assert house.alice.done("GET", f"{path}?{later}")["data"] == []
        for until in ("2027-01-31", "2027-01-30T23:00:00-01:00", "2001-01-01"):
            answer = house.alice.call("GET", f"{path}?{urlencode({'since': since, 'until': until})}")
            [fault] = answer.get_json()["errors"]
            assert (answer.status_code, fault["field"]) == (422, "until")
            assert "give a later end" in fault["message"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("ann@exa mple.com", "may hold only letters, digits, hyphens and dots"),
        ("nobody", "has no @; give an address such as ada@example.org"),
        ("Ann <ann@example.com>", "give only the address"),
        ("a,b@example.com", "give one address only"),
    ],
)
def test_a_bad_address_says_what_is_wrong_with_it(house: House, to: str, says: str) -> None:
    [fault] = house.alice.call("GET", f"/v1/emails?{urlencode({'to': to})}").get_json()["errors"]
    assert says in fault["message"]


def test_a_time_that_ends_before_it_begins_and_an_unknown_filter_are_refused(house: House) -> None:
    times = {"since": "2027-01-31T12:00:00Z", "until": "2027-01-31T13:00:00+02:00"}
    assert (
        house.alice.call("GET", f"/v1/emails?{urlencode(times)}").get_json()["errors"][0]["field"] == "until"
    )
    unknown = house.alice.call("GET", "/v1/emails?state=sent")
    assert (unknown.status_code, unknown.get_json()["errors"][0]["field"]) == (400, "state")


# --- counts


def test_stats_are_of_ones_own_account_or_of_all(house: House, service: Service) -> None:
    service.store.write(Holds.cancel, house.of_bob[0], system_clock())
    ListingRunner(service.store, lambda: False).run()
    everything = house.admin.done("GET", "/v1/stats")
    assert (everything["has_more"], everything["next"]) == (False, None)
    counted = {each["mailbox"]: (each["accepted"], each["cancelled"]) for each in everything["data"]}
    assert counted == {"alice@example.com": (6, 0), "bob@example.org": (3, 1)}
    [of_bob] = house.bob.done("GET", "/v1/stats")["data"]
    assert of_bob in everything["data"]
    assert of_bob["account"] == house.accounts["bob@example.org"]
    assert (of_bob["sent"], of_bob["deferred"], of_bob["failed"]) == (0, 0, 0)
    assert (of_bob["median_seconds"], of_bob["p95_seconds"]) == (None, None)
    assert house.admin.done("GET", "/v1/stats?account=bob@example.org")["data"] == [of_bob]
    assert house.alice.call("GET", "/v1/stats?account=bob@example.org").status_code == 404
    assert house.pool.call("GET", "/v1/stats").status_code == 403


def test_stats_come_in_pages_and_of_days(house: House, service: Service) -> None:
    ListingRunner(service.store, lambda: False).run()
    whole = house.admin.done("GET", "/v1/stats")["data"]
    first = house.admin.done("GET", "/v1/stats?limit=1")
    second = house.admin.done("GET", f"/v1/stats?limit=1&after={first['next']}")
    assert first["data"] + second["data"] == whole
    assert (first["has_more"], second["has_more"]) == (True, False)
    day = whole[0]["day"]
    assert house.admin.done("GET", f"/v1/stats?since={day}")["data"] == whole
    assert house.admin.done("GET", f"/v1/stats?since=2000-01-01&until={day}")["data"] == []


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("after", "x", 400),
        ("after", "1", 400),
        ("since", "yesterday", 422),
        ("until", "2027-02-30", 422),
        ("limit", "0", 400),
        ("account", "", 400),
        ("day", "2027-02-28", 400),
    ],
)
def test_bad_values_of_stats_are_refused(house: House, field: str, value: str, status: int) -> None:
    answer = house.alice.call("GET", f"/v1/stats?{urlencode({field: value})}")
    assert answer.status_code == status
    assert answer.get_json()["errors"][0]["field"] == field
