"""Access tokens by a real token server: one request for all who race, stored before they are used, refused in words."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from postroom.accounts.oauth import AccessTokens, context
from postroom.accounts.oauth_requests import TokenAnswer, _email_of
from postroom.accounts.vault import Vault
from postroom.core.account import Account, Secret
from postroom.core.clock import HOUR, MINUTE, Instant, system_clock
from postroom.core.errors import GrantRefused, TokenUnavailable
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.store import Store
from tests.servers.installation import ROOT
from tests.servers.token_server import CLIENT_ID, CLIENT_SECRET, TokenServer
from tests.store.database import Database, Post

SECRET = "the secret of this test"
EMAIL = "anna@example.com"
THREADS = 100  # in each of two processes

RACER = """
import sys, threading
from postroom.accounts.oauth import AccessTokens
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.store import open_store

url, secret, account_id, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = open_store(url)
tokens = AccessTokens(store, Vault((Secret(secret),)), Settings())
account = store.read(Accounts.get, account_id).account
found = []
print("ready", flush=True)
sys.stdin.readline()
racers = [threading.Thread(target=lambda: found.append(tokens.get(account).secret.reveal())) for _ in range(threads)]
for racer in racers:
    racer.start()
for racer in racers:
    racer.join()
store.close()
print(len(found), *set(found))
"""


class Bench:
    """Anna's account, with a grant at a token server."""

    def __init__(self, store: Store, post: Post, server: TokenServer) -> None:
        self.store, self.server = store, server
        self.vault = Vault((Secret(SECRET),))
        stored = store.read(Accounts.get, post.anna)
        assert stored is not None
        self.account: Account = stored.account
        self.ahead: Instant = 0
        self.tokens = self.new_tokens()

    def new_tokens(self, **settings: str) -> AccessTokens:
        return AccessTokens(
            self.store,
            self.vault,
            Settings(**settings),
            clock=lambda: system_clock() + self.ahead,
        )

    def seal(self, text: str, name: str) -> bytes:
        return self.vault.seal(text, context(self.account.uid, name))

    def grant(self, kind: GrantKind = GrantKind.REFRESH_TOKEN, **changes: object) -> OAuthGrant:
        grant = OAuthGrant(
            account_id=self.account.id,
            provider="custom",
            kind=kind,
            token_endpoint=f"{self.server.url}/token",
            client_id=CLIENT_ID,
            scope="mail",
            client_secret=self.seal(CLIENT_SECRET, "client_secret"),
            grant_secret=self.seal(self.server.give_refresh(EMAIL), "grant_secret"),
        )
        grant = replace(grant, **changes)  # type: ignore[arg-type]
        self.store.write(OAuthGrants.set, grant, system_clock())
        return grant

    def get(self) -> str:
        token = self.tokens.get(self.account)
        assert token is not None
        return token.secret.reveal()

    def stored(self) -> OAuthGrant:
        grant = self.store.read(OAuthGrants.get, self.account.id)
        assert grant is not None
        return grant

    @property
    def requests(self) -> int:
        return len(self.server.token_requests)


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with TokenServer(person=EMAIL) as server:
        yield server


@pytest.fixture
def bench(database: Database, server: TokenServer) -> Iterator[Bench]:
    with closing(database.open()) as store:
        yield Bench(store, Post(store, database), server)


def test_an_account_without_a_grant_has_no_token(bench: Bench) -> None:
    assert bench.tokens.get(bench.account) is None
    assert bench.requests == 0


def test_a_token_is_asked_for_once_and_then_used_until_five_minutes_before_its_end(bench: Bench) -> None:
    bench.grant()
    first = bench.get()
    assert bench.server.access[first].email == EMAIL
    assert bench.new_tokens().get(bench.account) is not None
    bench.ahead = 54 * MINUTE
    assert bench.get() == first
    assert bench.requests == 1
    bench.ahead = 56 * MINUTE
    assert bench.get() != first
    assert bench.requests == 2


def test_no_secret_is_stored_in_clear_and_none_opens_in_another_row(bench: Bench) -> None:
    bench.server.rotates = True
    bench.grant()
    token = bench.get()
    grant = bench.stored()
    for sealed in (grant.access_token, grant.grant_secret, grant.client_secret):
        assert sealed is not None
        assert token.encode() not in sealed
        assert not bench.vault.opens(sealed)
    assert token not in repr(grant)


def test_a_rotated_refresh_token_is_stored_before_the_access_token_is_used(bench: Bench) -> None:
    """Microsoft hands out a new one with each refresh."""
    bench.server.rotates = True
    before = bench.grant().grant_secret
    bench.get()
    assert bench.stored().grant_secret != before
    bench.ahead = 2 * HOUR
    bench.get()
    used = [form["refresh_token"] for form in bench.server.token_requests]
    assert len(set(used)) == 2, "the second refresh used what the first one brought"


def test_those_who_race_in_two_processes_make_one_token_request(bench: Bench, database: Database) -> None:
    bench.grant()
    bench.server.before_answer = threading.Event()
    command = [sys.executable, "-c", RACER, database.url, SECRET, str(bench.account.id), str(THREADS)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    bench.server.before_answer.set()
    said = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert [count for count, *_ in said] == [str(THREADS)] * 2
    assert len({token for _, *tokens in said for token in tokens}) == 1
    assert bench.requests == 1


def test_who_waits_for_another_process_gets_its_refusal_too(bench: Bench) -> None:
    bench.grant()
    bench.server.before_answer = threading.Event()
    bench.server.refusal = {"error": "invalid_grant"}
    faults: list[BaseException] = []

    def ask(tokens: AccessTokens) -> None:
        try:
            tokens.get(bench.account)
        except GrantRefused as refused:
            faults.append(refused)

    threads = [threading.Thread(target=ask, args=(bench.new_tokens(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    bench.server.before_answer.set()
    for thread in threads:
        thread.join()
    assert len({str(fault) for fault in faults}) == 1
    assert (len(faults), bench.requests) == (4, 1)


# --- a token endpoint that is down is nobody's fault


@pytest.mark.parametrize(
    "answer",
    [
        (503, b"busy"),
        (500, b'{"error": "invalid_grant"}'),
        (429, b'{"error": "invalid_grant"}'),
        (302, b""),
        (404, b"<html>"),
        (200, b"<html>captive portal"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"access_token": "with space"}'),
        (200, b"x" * 300_000),
        (400, b'{"error": "temporarily_unavailable"}'),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1][:20].decode()}",
)
def test_an_endpoint_in_trouble_refuses_nothing(bench: Bench, answer: tuple[int, bytes]) -> None:
    bench.grant()
    bench.server.answer = answer
    with pytest.raises(TokenUnavailable):
        bench.get()
    assert bench.stored().refused is None
    bench.server.answer = None
    assert bench.get(), "the claim was given back"


def test_an_endpoint_that_nobody_answers_at_refuses_nothing(bench: Bench) -> None:
    bench.grant(token_endpoint="http://127.0.0.1:9/token")
    with pytest.raises(TokenUnavailable, match=r"127\.0\.0\.1:9 gave no answer: connection refused"):
        bench.get()


def test_a_token_that_is_still_good_is_used_while_the_endpoint_is_down(bench: Bench) -> None:
    bench.grant()
    first = bench.get()
    bench.server.answer = (503, b"")
    bench.ahead = 57 * MINUTE
    assert bench.get() == first
    assert bench.requests == 2
    bench.ahead = 60 * MINUTE
    with pytest.raises(TokenUnavailable):
        bench.get()


# --- refusals


@pytest.mark.parametrize(
    ("provider", "error", "words"),
    [
        ("google", "invalid_grant: Token has been expired or revoked.", ["revoked", "password was changed", "hundred"]),
        ("google", "invalid_grant", ["accounts authorize anna@example.com"]),
        ("google", "invalid_grant: reauth related error (invalid_rapt)", ["session control"]),
        ("google", "admin_policy_enforced", ["App access control"]),
        ("microsoft", "invalid_grant: AADSTS50173: The provided grant has expired due to it being revoked", ["password"]),
        ("microsoft", "invalid_grant: AADSTS700082: The refresh token has expired due to inactivity", ["90 days"]),
        ("microsoft", "invalid_grant: AADSTS65001: The user or administrator has not consented", ["admin consent"]),
        ("microsoft", "invalid_client: AADSTS7000222: The provided client secret keys are expired", ["client secret"]),
        ("microsoft", "unauthorized_client: AADSTS700016: Application was not found", ["MICROSOFT_TENANT"]),
        ("custom", "invalid_grant", ["revoked, or the password was changed"]),
        ("custom", "invalid_client", ["client's id and secret"]),
        ("custom", "consent_required", ["agree again"]),
        ("custom", "invalid_scope", ["SMTP.Send"]),
        ("custom", "something_else", ["gives no token", "something_else"]),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_plain_words_with_its_fix(
    bench: Bench, provider: str, error: str, words: list[str]
) -> None:
    bench.grant(provider=provider)
    code, _, description = error.partition(": ")
    bench.server.refusal = {"error": code, "error_description": description}
    with pytest.raises(GrantRefused) as caught:
        bench.get()
    for each in words:
        assert each in str(caught.value)
    assert bench.stored().refused == str(caught.value)
    with pytest.raises(GrantRefused):
        bench.get()
    assert bench.requests == 1, "what was refused is not tried again"


def test_a_grant_that_was_not_used_for_six_months_says_so(bench: Bench) -> None:
    bench.grant(provider="google")
    bench.server.refusal = {"error": "invalid_grant"}
    bench.ahead = 200 * 24 * HOUR
    with pytest.raises(GrantRefused, match="not used for six months"):
        bench.get()


def test_a_refusal_repeats_nothing_that_it_was_given(bench: Bench) -> None:
    bench.grant()
    token = next(iter(bench.server.refresh))
    bench.server.refusal = {"error": "invalid_grant", "error_description": f"{token} with {CLIENT_SECRET}"}
    with pytest.raises(GrantRefused) as caught:
        bench.get()
    assert token[:12] not in str(caught.value)
    assert CLIENT_SECRET[:12] not in str(caught.value)


# --- the other kinds, and the client of the settings


def test_client_credentials(bench: Bench) -> None:
    bench.grant(GrantKind.CLIENT_CREDENTIALS, grant_secret=None)
    assert bench.get() in bench.server.access
    assert bench.server.token_requests[0]["grant_type"] == "client_credentials"


def test_a_service_account_asks_for_its_mailbox(bench: Bench) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    bench.grant(
        GrantKind.SERVICE_ACCOUNT,
        client_id="robot@project.example",
        client_secret=None,
        grant_secret=bench.seal(pem, "grant_secret"),
    )
    assert bench.server.access[bench.get()].email == EMAIL


def test_a_client_of_the_settings_is_used_where_the_grant_names_it(bench: Bench) -> None:
    bench.grant(client_secret=None)
    ours = {
        "oauth_client_id": CLIENT_ID,
        "oauth_client_secret": CLIENT_SECRET,
        "oauth_token_url": f"{bench.server.url}/token",
        "oauth_scope": "mail",
    }
    assert bench.new_tokens(**ours).get(bench.account) is not None
    bench.ahead = 2 * HOUR
    with pytest.raises(GrantRefused):
        bench.new_tokens(**{**ours, "oauth_token_url": "https://elsewhere.example/token"}).get(bench.account)


def test_a_token_that_the_mail_server_refused_is_replaced(bench: Bench) -> None:
    bench.grant()
    token = bench.tokens.get(bench.account)
    assert token is not None
    bench.tokens.reject(bench.account, token)
    assert bench.get() != token.secret.reveal()


@pytest.mark.parametrize("id_token", [None, 7, "a.b", "a.!.c", "a.W10.c", "a.eyJlbWFpbCI6Nn0.c"])
@pytest.mark.only("sqlite")
def test_an_id_token_that_says_nothing_is_no_error(engine: str, id_token: object) -> None:
    assert _email_of(id_token) is None
    assert "x" not in repr(TokenAnswer(Secret("x" * 9), HOUR, Secret("x" * 9)))
