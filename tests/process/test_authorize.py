"""`postroom accounts authorize` with a real authorization server, and Dovecot that asks it about each token."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from postroom.accounts.oauth_authorize import begin, check_answer, code_in
from postroom.accounts.oauth_providers import provider_named
from postroom.accounts.oauth_requests import Client, TokenAnswer
from postroom.core.account import Secret
from postroom.core.clock import HOUR
from postroom.core.errors import GrantRefused
from postroom.settings import Settings
from tests.process.conftest import ALICE
from tests.servers.installation import Installation
from tests.servers.postfix import Postfix
from tests.servers.token_server import CLIENT_SECRET, TokenServer


def begun(service: Installation, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "postroom", "accounts", "authorize", ALICE, *options],
        cwd=service.folder,
        env=service.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address_of(command: subprocess.Popen[str]) -> str:
    """Return the address that a person is to open."""
    assert command.stdout is not None
    for line in command.stdout:
        if found := re.match(r"https?://\S+", line):
            return found[0]
    raise AssertionError(command.communicate()[1])


def ended(command: subprocess.Popen[str], said: str | None = None) -> tuple[int, str]:
    """Return the exit status and the words on standard error."""
    _, words = command.communicate(said, timeout=60)
    return command.returncode, words


def agree(url: str) -> str:
    """Open the address as a browser does, and follow it; return the last address, where nobody may answer."""
    try:
        with urllib.request.urlopen(url, timeout=20) as page:
            assert b"You can close this page" in page.read()
            found: str = page.url
    except urllib.error.URLError:
        opener = urllib.request.build_opener(_Stay)
        try:
            opener.open(url, timeout=20)
        except urllib.error.HTTPError as redirect:
            return redirect.headers["Location"]
        raise
    return found


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def grants(service: Installation) -> list[tuple[str, str]]:
    rows = service.query("SELECT provider, kind FROM oauth_grant")
    return [(provider, kind) for provider, kind in rows]


pytestmark = pytest.mark.postfix


def test_a_person_agrees_in_a_browser_and_messages_go_out(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    with service:
        command = begun(service)
        url = address_of(command)
        assert "code_challenge_method=S256" in url
        agree(url)
        status, words = ended(command)
        assert status == 0, words
        assert f"{ALICE} logs in by OAuth2 at localhost" in words
        service.wait_for(service.send())
        request = token_server.authorize_requests[0]
        assert (request["access_type"], request["prompt"], request["login_hint"]) == (
            "offline",
            "consent",
            ALICE,
        )
        assert grants(service) == [("custom", "refresh_token")]
        assert service.query("SELECT action, target FROM audit WHERE action = 'account.authorize'") == [
            ("account.authorize", ALICE)
        ]
    submission.mails(1)
    stored = (service.folder / "var/postroom.db").read_bytes()
    for secret in (*token_server.access, *token_server.refresh, CLIENT_SECRET):
        assert secret.encode() not in stored


def test_the_address_of_the_page_that_failed_to_load_is_pasted(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    with service:
        command = begun(service, "--paste")
        address = agree(address_of(command))
        assert ended(command, f"{address}\n")[0] == 0
        assert grants(service) == [("custom", "refresh_token")]


def test_a_device_code(service: Installation, submission: Postfix, token_server: TokenServer) -> None:
    with service:
        command = begun(service, "--device")
        out, words = command.communicate(timeout=60)
        assert command.returncode == 0, words
        assert f"{token_server.url}/enter as {ALICE} and enter the code WXYZ-1234" in out
        assert grants(service) == [("custom", "refresh_token")]


def test_client_credentials_and_a_service_account(
    service: Installation, submission: Postfix, token_server: TokenServer, tmp_path: Path
) -> None:
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    found = {
        "client_email": "robot@project.example",
        "private_key": pem.decode(),
        "token_uri": f"{token_server.url}/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(found))
    with service:
        status, words = ended(begun(service, "--client-credentials"))
        assert status == 0, words
        assert grants(service) == [("custom", "client_credentials")]
        status, words = ended(begun(service, "--service-account", "key.json", "--provider", "custom"))
        assert status == 0, words
        assert grants(service) == [("custom", "service_account")]
        service.wait_for(service.send())
        (tmp_path / "key.json").write_text('{"private_key": "a canary"}')
        status, words = ended(begun(service, "--service-account", "key.json", "--provider", "custom"))
        assert status == 78
        assert "is not the key file" in words
        assert "canary" not in words


def test_a_token_of_another_mailbox_is_named_and_nothing_is_stored(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    token_server.person = "bob@postroom.example"
    with service:
        command = begun(service)
        agree(address_of(command))
        status, words = ended(command)
        assert status == 1
        assert f"this token belongs to bob@postroom.example: log in at the provider as {ALICE}" in words
        assert "nothing was stored" in words
        assert grants(service) == []


def test_an_authorization_that_brings_no_refresh_token_is_told_at_once(
    service: Installation, submission: Postfix, token_server: TokenServer
) -> None:
    token_server.asks_for_offline = True
    with service:
        command = begun(service, "--paste")
        url = address_of(command).replace("prompt=consent", "prompt=none")
        status, words = ended(command, f"{agree(url)}\n")
        assert status == 1
        assert "no refresh token" in words
        assert "myaccount.google.com/connections" in words
        assert grants(service) == []


@pytest.mark.parametrize(
    ("pasted", "words"),
    [
        ("http://127.0.0.1:47811/", "has no code="),
        ("nonsense", "has no code="),
        ("http://127.0.0.1:47811/?code=abc&state=of-another", "its state differs"),
        ("http://127.0.0.1:47811/?code=abc", "its state differs"),
    ],
)
def test_an_address_that_is_not_the_answer_is_refused(
    service: Installation, submission: Postfix, token_server: TokenServer, pasted: str, words: str
) -> None:
    with service:
        command = begun(service, "--paste")
        address_of(command)
        status, said = ended(command, f"{pasted}\n")
        assert status == 1
        assert words in said
        assert token_server.token_requests == []


# --- without a service


def test_googles_and_microsofts_requests_are_as_they_document_them() -> None:
    settings = Settings(google_client_id="g", microsoft_client_id="m", microsoft_tenant="contoso.example")
    google, microsoft = provider_named("google", settings), provider_named("microsoft", settings)
    url = begin(google, Client("g"), "http://127.0.0.1:1", "ann@gmail.com").url
    assert url.startswith("https://accounts.google.com/o/oauth2/v2/auth?response_type=code&client_id=g&")
    for part in ("access_type=offline", "prompt=consent", "mail.google.com", "login_hint=ann%40gmail.com"):
        assert part in url
    url = begin(microsoft, Client("m"), "http://localhost:1", "ann@contoso.example").url
    assert url.startswith("https://login.microsoftonline.com/contoso.example/oauth2/v2.0/authorize?")
    assert "SMTP.Send" in url
    assert "offline_access" in url


def test_a_refusal_at_the_provider_is_told_and_each_authorization_has_its_own_state() -> None:
    google = provider_named("google", Settings(google_client_id="g"))
    one, other = (begin(google, Client("g"), "http://127.0.0.1:1", "ann@gmail.com") for _ in range(2))
    assert one.state != other.state
    assert one.verifier != other.verifier
    assert code_in(one, f"http://127.0.0.1:1/?code=abc&state={one.state}").reveal() == "abc"
    with pytest.raises(GrantRefused, match="did not give access: access_denied"):
        code_in(one, f"http://127.0.0.1:1/?error=access_denied&state={one.state}")
    with pytest.raises(GrantRefused, match="permission for mail was not given"):
        check_answer(google, TokenAnswer(Secret("t"), HOUR, Secret("r"), scope="openid email"))
