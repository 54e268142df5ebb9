"""`GET /metrics`: who may read it, in which form, and what it tells of requests and messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.http.admin import Admin
from tests.http.conftest import ALICE

pytestmark = pytest.mark.usefixtures("admin_token")

MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}


def scraped(admin: Admin) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = admin.call("GET", "/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.get_data(as_text=True))
        for sample in family.samples
    }


def value(admin: Admin, name: str, **labels: str) -> float | None:
    return scraped(admin).get((f"postroom_{name}", frozenset(labels.items())))


def test_the_admin_alone_may_read_it(client: FlaskClient) -> None:
    admin = Admin(client)
    assert client.get("/metrics").status_code == 401
    assert admin.as_key(ALICE).call("GET", "/metrics").status_code == 403
    accounts = admin.issue(scopes=["accounts"])["key"]
    assert admin.as_key(accounts).call("GET", "/metrics").status_code == 403
    assert admin.as_key(admin.issue(scopes=["admin"])["key"]).call("GET", "/metrics").status_code == 200
    answer = admin.call("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"


def test_openmetrics_is_for_those_who_ask_for_it(client: FlaskClient) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = Admin(client).call("GET", "/metrics", headers=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    parse: Any = parse_openmetrics  # it has no types
    names = {family.name for family in parse(answer.get_data(as_text=True))}
    assert "postroom_messages_accepted" in names


def test_what_was_asked_and_answered_is_counted_by_route(client: FlaskClient) -> None:
    admin = Admin(client)
    admin.as_key(ALICE).done("POST", "/send-email", MAIL, 202)
    admin.as_key(ALICE).done("POST", "/send-email", {**MAIL, "recipient": "nobody"}, 422)
    admin.done("GET", "/v1/accounts/01a20592-c517-410c-bfea-853adb5ce9ed", status=404)
    client.open("/no/such/place", method="BREW")
    found = scraped(admin)

    def requests(route: str, method: str, status: str) -> float | None:
        labels = {"process": "web", "route": route, "method": method, "status": status}
        return found.get(("postroom_http_requests_total", frozenset(labels.items())))

    assert requests("/send-email", "POST", "202") == 1
    assert requests("/send-email", "POST", "422") == 1
    assert requests("/v1/accounts/{id}", "GET", "404") == 1
    routes = {dict(labels).get("route") for name, labels in found if name == "postroom_http_requests_total"}
    methods = {dict(labels).get("method") for name, labels in found if name == "postroom_http_requests_total"}
    assert methods <= {"POST", "GET", "other"}
    assert routes <= {"/send-email", "/v1/accounts/{id}", "other", "/metrics"}
    refused = {"process": "web", "type": "invalid-submission"}
    assert found["postroom_http_refusals_total", frozenset(refused.items())] == 1
    seconds = {"process": "web", "route": "/send-email"}
    assert found["postroom_http_request_duration_seconds_count", frozenset(seconds.items())] == 2
    assert found["postroom_messages_accepted_total", frozenset({("scope", "installation")})] == 1
    assert found["postroom_queue_messages", frozenset({("scope", "installation")})] == 1


@pytest.mark.parametrize("named", [False, True])
def test_accounts_are_named_where_that_is_asked_for(make_app: Callable[..., Flask], named: bool) -> None:
    app = make_app(metrics_accounts=named)
    admin = Admin(app.test_client())
    admin.as_key(ALICE).done("POST", "/send-email", MAIL, 202)
    text = admin.call("GET", "/metrics").get_data(as_text=True)
    assert ('account="alice@example.com"' in text) == named
    assert ("example" in text) == named
    if named:
        assert 'postroom_account_queue_messages{account="alice@example.com",scope="installation"} 1.0' in text
