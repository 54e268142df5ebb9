"""Looking at an account by request: a real log-in, and the doctor; six times a minute at most."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from flask import Flask

from postroom.runtime.account_login import verify
from postroom.runtime.installation import Service
from postroom.settings import Settings
from postroom.web.admin import health
from postroom.web.app import create_app
from tests.conftest import StartScripted
from tests.http.admin import Admin, prepare
from tests.http.conftest import Travelling
from tests.servers.scripted import ScriptedServer

REFUSED = "535 5.7.8 Username and Password not accepted"


@pytest.fixture
def app(service: Service) -> Flask:
    prepare(service)
    app = create_app(Settings(rate_limit=""), service.store, service.vault, verify=partial(verify, service))
    app.test_client_class = Travelling
    return app


@pytest.fixture
def admin(app: Flask) -> Admin:
    return Admin(app.test_client())


@pytest.fixture
def server(scripted: StartScripted) -> ScriptedServer:
    return scripted()


def add(admin: Admin, server: ScriptedServer) -> str:
    made = admin.add(host="127.0.0.1", port=server.port, security="none")
    return f"/v1/accounts/{made['id']}"


def test_verify_is_a_real_log_in_and_sends_nothing(admin: Admin, server: ScriptedServer) -> None:
    path = add(admin, server)
    found = admin.done("POST", f"{path}/verify")
    assert (found["ok"], found["tried"]) == (True, True)
    assert "logged in" in found["reason"]
    assert server.messages == []
    assert admin.done("GET", path)["worked_at"] is not None
    assert admin.done("GET", "/v1/audit")["data"][0]["action"] == "account.verify"


LOOPBACK = "mail.example.com"  # a name that leads to this machine


@pytest.mark.parametrize(("by", "is_allowed"), [("key", False), ("key", True), ("admin", False)])
def test_a_name_that_leads_into_a_private_network_is_for_the_admin(
    service: Service, server: ScriptedServer, by: str, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(service)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    settings = Settings(rate_limit="", smtp_allow_private=is_allowed)
    looking = partial(verify, replace(service, settings=settings))
    app = create_app(settings, service.store, service.vault, verify=looking)
    app.test_client_class = Travelling
    admin = Admin(app.test_client())
    clerk = admin.as_key(admin.issue(scopes=["accounts"])["key"]) if by == "key" else admin
    path = f"/v1/accounts/{clerk.add(host=LOOPBACK, port=server.port)['id']}"
    refused = clerk.done("POST", f"{path}/verify")["reason"]
    if by == "key" and not is_allowed:
        [host] = [
            each for each in clerk.done("POST", f"{path}/health")["findings"] if each["subject"] == "host"
        ]
        assert "POSTROOM_SMTP_ALLOW_PRIVATE" in refused
        assert "127.0.0.1" not in refused
        assert host["fix"].endswith("POSTROOM_SMTP_ALLOW_PRIVATE=true")
        assert server.verbs == []
        admin.done("PATCH", path, {"host": LOOPBACK, "password": "again"})
        refused = admin.done("POST", f"{path}/verify")["reason"]
    assert "POSTROOM_SMTP_ALLOW_PRIVATE" not in refused
    assert "EHLO" in server.verbs


def test_a_refused_password_is_told_and_not_tried_again_before_it_changes(
    admin: Admin, server: ScriptedServer
) -> None:
    server.on("AUTH", reply=REFUSED, times=1)
    path = add(admin, server)
    first, second = admin.done("POST", f"{path}/verify"), admin.done("POST", f"{path}/verify")
    assert (first["ok"], first["tried"]) == (False, True)
    assert "535" in first["reason"]
    assert (second["ok"], second["tried"]) == (False, False)
    admin.done("PATCH", path, {"password": "another-password"})
    assert admin.done("POST", f"{path}/verify")["ok"] is True


def test_verify_lifts_the_breakers_pause_and_not_a_persons(
    admin: Admin, server: ScriptedServer, service: Service
) -> None:
    path = add(admin, server)
    uid = path.rpartition("/")[2]

    def suspend(transaction: Any) -> None:
        id_ = transaction.accounts.by_uid(uid).account.id
        transaction.accounts.suspend(id_, state="paused", reason="no", resume_at=1 << 51, now=1)

    service.store.write(suspend)
    assert admin.done("GET", path)["paused_by"] == "breaker"
    assert admin.done("POST", f"{path}/verify")["ok"] is True
    assert admin.done("GET", path)["state"] == "active"
    admin.done("POST", f"{path}/pause")
    assert admin.done("POST", f"{path}/verify")["ok"] is True
    assert admin.done("GET", path)["state"] == "paused"


@pytest.mark.parametrize("what", ["verify", "health"])
def test_an_account_is_looked_at_six_times_a_minute(
    admin: Admin, server: ScriptedServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(admin, server)
    for _ in range(6):
        admin.done("POST", f"{path}/{what}")
    refused = admin.call("POST", f"{path}/{what}")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert admin.call("GET", f"{path}/health").status_code == 200


def test_health_shows_what_was_found_last(admin: Admin, server: ScriptedServer) -> None:
    path = add(admin, server)
    assert admin.done("GET", f"{path}/health") == {"at": None, "findings": []}
    found = admin.done("POST", f"{path}/health")
    assert "route" in {each["subject"] for each in found["findings"]}
    assert admin.done("GET", f"{path}/health") == found


@pytest.mark.parametrize("what", ["verify", "health"])
def test_two_are_looked_at_at_once(admin: Admin, server: ScriptedServer, what: str) -> None:
    """The threads that look answer statuses too."""
    path = add(admin, server)
    with health._one_of_few(), health._one_of_few():
        refused = admin.call("POST", f"{path}/{what}")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
        assert admin.call("GET", f"{path}/health").status_code == 200
    admin.done("POST", f"{path}/{what}")
