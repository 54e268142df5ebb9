"""A whole service that logs in with access tokens: at Postfix with Dovecot, which asks the token server about each."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from postroom.accounts.oauth import context
from postroom.accounts.vault import Vault
from postroom.core.clock import system_clock
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.store import open_store
from tests.servers.installation import Installation
from tests.servers.postfix import Postfix
from tests.servers.token_server import CLIENT_ID, CLIENT_SECRET, TokenServer
from tests.servers.waiting import eventually

pytestmark = pytest.mark.postfix
ALICE = "alice@postroom.example"


def grant(service: Installation, server: TokenServer, provider: str = "custom") -> None:
    """Give Alice a grant, and let her account go on, as `postroom accounts authorize` does."""
    vault = Vault.open(Settings(), service.folder / "var", create=False)
    with closing(open_store(f"sqlite:///{service.folder}/var/postroom.db")) as store:
        account = store.read(Accounts.all)[0].account

        def seal(text: str, name: str) -> bytes:
            return vault.seal(text, context(account.uid, name))

        new = OAuthGrant(
            account.id,
            provider,
            GrantKind.REFRESH_TOKEN,
            f"{server.url}/token",
            CLIENT_ID,
            "mail",
            seal(CLIENT_SECRET, "client_secret"),
            seal(server.give_refresh(ALICE), "grant_secret"),
        )
        store.write(OAuthGrants.set, new, system_clock())
        store.write(lambda transaction: transaction.accounts.note_worked(account.id, system_clock()))


def state_of(service: Installation) -> tuple[str, str]:
    (row,) = json.loads(service.command("accounts", "--json"))
    return row["state"], row["reason"] or ""


def test_messages_go_out_with_tokens_wait_while_none_is_given_and_go_on(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    with service:
        grant(service, token_server)
        service.wait_for(service.send())
        assert len(token_server.token_requests) == 1

        # The tokens are revoked: the one that we hold is refused by Dovecot, and there is no other.
        token_server.revoke_all()
        token_server.refusal = {"error": "invalid_grant", "error_description": "Token has been revoked."}
        service.stop()
    with service:
        waiting = service.send()
        said = service.wait_for(waiting, "deferred (account paused: ")
        assert "access was revoked" in said
        assert f"postroom accounts authorize {ALICE}" in said
        state, reason = state_of(service)
        assert state == "paused"
        assert "access was revoked" in reason
        others = [service.send() for _ in range(2)]
        for each in others:
            service.wait_for(each, "deferred (account paused: ")
        assert len([line for line in service.log().splitlines() if "access was revoked" in line]) == 1
        asked = len(token_server.token_requests)

        token_server.refusal = None
        grant(service, token_server)
        for each in (waiting, *others):
            service.wait_for(each)
        assert state_of(service)[0] == "active"
        assert len(token_server.token_requests) == asked + 1
    submission.mails(4)


def test_a_token_endpoint_that_is_down_is_nobodys_fault(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    token_server.answer = (503, b"busy")
    with service:
        grant(service, token_server)
        request_id = service.send()
        said = service.wait_for(request_id, "deferred")
        assert "no access token just now" in said
        assert state_of(service)[0] == "active"
        token_server.answer = None
        service.wait_for(request_id)
    submission.mails(1)


def test_a_token_of_google_is_shown_to_googles_servers_alone(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    with service:
        grant(service, token_server, "google")
        said = service.wait_for(service.send(), "deferred")
        assert "for its own mail servers, and localhost is none of them" in said
    eventually(lambda: "XOAUTH2" not in submission.log, 1)
