"""Secrets with a mark, in every field: none is found in a log, the database, an answer, an output, a process list."""

from __future__ import annotations

import base64
import tarfile
from contextlib import closing
from pathlib import Path

from postroom.accounts.sealed_values import oauth_context
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.clock import system_clock
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.store.accounts import Accounts
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.sealed_values import Place
from postroom.store.store import open_store
from tests.conftest import StartScripted
from tests.servers.installation import Answer, StartedInstallation
from tests.servers.waiting import eventually

MARK = "canary"
SECRET, FORMER = f"{MARK}-secret-key-of-the-service", f"{MARK}-former-key-of-the-service"
KEY, TOKEN = f"{MARK}-key-of-the-file-0123456789", f"{MARK}-admin-token-of-32-characters-or-more"
OF_THE_FILE, OF_THE_API, CHANGED = (f"{MARK}-password-{name}" for name in ("file", "api", "changed"))
CLIENT, REFRESH, ACCESS = (f"{MARK}-oauth-{name}" for name in ("client", "refresh", "access"))
USER = f"{MARK}-user@x.example"
GIVEN = (SECRET, FORMER, KEY, TOKEN, OF_THE_FILE, OF_THE_API, CHANGED, CLIENT, REFRESH, ACCESS)
HOLDS_SECRETS = {"data.csv", ".env", "secret.key", "admin.token"}  # by what they are for


def codings(secret: str) -> list[bytes]:
    """Return a secret as it might be written: in clear, in hexadecimal digits, and in base64 wherever it begins."""
    octets = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + octets)[4:-4] for shift in range(3)]
    return [octets, octets.hex().encode(), *shifted]


def found_in(place: str, data: bytes, secrets: tuple[str, ...]) -> list[str]:
    return [f"{secret} in {place}" for secret in secrets if any(each in data for each in codings(secret))]


class Hunt:
    """What a service has said and written, searched for what was given to it in secret."""

    def __init__(self, service: StartedInstallation) -> None:
        self._service = service
        self.answers: list[Answer] = []
        self.said: list[str] = []
        self.issued: tuple[str, ...] = ()

    def call(self, method: str, path: str, document: object = None, key: str | None = TOKEN) -> Answer:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = self._service.client.call(method, path, document, headers)
        self.answers.append(answer)
        return answer

    def run(self, *words: str) -> int:
        done = self._service.run(*words)
        self.said += [done.stdout, done.stderr]
        return done.returncode

    def check_command_lines(self) -> None:
        pids = [self._service.pid, *self._service.pids()]
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        assert len(lines) > 2
        assert not [hit for line in lines for hit in found_in("a command line", line, (*GIVEN, USER))]

    def hits(self) -> list[str]:
        """Return every secret that was found, and where."""
        secrets = (*GIVEN, *self.issued)
        hits = []
        for path in self._service.folder.rglob("*"):
            if path.is_file() and path.name not in HOLDS_SECRETS and path.suffix != ".tar":
                hits += found_in(path.name, path.read_bytes(), secrets)
        for answer in self.answers:
            if answer.document is not None and "key" not in answer.document:  # a new key is shown once
                hits += found_in(f"an answer {answer.status}", str(answer.document).encode(), secrets)
        for text in self.said:
            hits += found_in("an output", text.encode(), secrets)
        log = self._service.log().encode()
        return hits + found_in("the log", log, (USER,))


def add_grant(url: str) -> None:
    """Give the account of the API a grant of OAuth2, whose token endpoint refuses every connection."""
    with closing(open_store(url)) as store:
        vault = Vault((Secret(SECRET), Secret(FORMER)))
        [account] = [each.account for each in store.read(Accounts.all) if each.account.source == "api"]

        def sealed(secret: str, place: Place) -> bytes:
            return vault.seal(secret, oauth_context(account.uid, place))

        grant = OAuthGrant(
            account_id=account.id,
            provider="custom",
            kind=GrantKind.REFRESH_TOKEN,
            token_endpoint="https://127.0.0.1:1/token",
            client_id="an id",
            scope="mail",
            client_secret=sealed(CLIENT, Place.CLIENT_SECRET),
            grant_secret=sealed(REFRESH, Place.GRANT_SECRET),
            access_token=sealed(ACCESS, Place.ACCESS_TOKEN),
            expires_at=0,
        )
        store.write(OAuthGrants.set, grant, system_clock())


def test_no_secret_is_found_anywhere(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("AUTH", reply=f"535 5.7.8 {OF_THE_FILE} is not the password of {OF_THE_FILE}")
    rows = [
        "key,email,app_password,host,port,security,username",
        f"{KEY},me@x.example,{OF_THE_FILE},127.0.0.1,{server.port},none,{USER}",
        f"{KEY},faulty,{OF_THE_FILE},127.0.0.1,0,none",
        f"{KEY},me@x.example,{OF_THE_FILE},127.0.0.1,{server.port},none,x,y,z,{OF_THE_FILE}",
    ]
    home = tmp_path / "home"
    service = StartedInstallation(
        home, rows, POSTROOM_LOG_LEVEL="DEBUG", POSTROOM_ADMIN_TOKEN=TOKEN, POSTROOM_RETRY_SCHEDULE="200ms"
    )
    (home / "var").mkdir(mode=0o700)
    key_file = home / "var/secret.key"
    key_file.write_text(f"{SECRET},{FORMER}")
    key_file.chmod(0o600)
    with service:
        hunt = Hunt(service)
        refuse_in_every_way(hunt, server.port)
        waiting = service.send(key=KEY)
        eventually(lambda: "535" in service.status(waiting), 20, "the log-in to be refused")
        add_grant(f"sqlite:///{home}/var/postroom.db")
        hunt.check_command_lines()
        for words in COMMANDS:
            hunt.run(*words)
        hunt.run("status", waiting)
        hunt.run("backup", str(home / "a.tar"))
        # An exception of each process, with secrets in hand: what is stored of keys and accounts makes no sense.
        service.change("UPDATE issued_key SET scopes = 'nonsense'")
        service.change("UPDATE setting SET value = '1' || value WHERE name = 'accounts_version'")
        eventually(lambda: hunt.call("GET", "/v1/accounts").status >= 500, 20, "a fault of the web process")
        service.change("UPDATE account SET server_lacks = 'nonsense'")
        hunt.call("POST", "/send-email", {"key": KEY, "recipient": "you@x.example", "body": "x"}, None)
        hunt.run("accounts")
        assert not hunt.hits()
    assert "Traceback" in service.log()
    assert not hunt.hits()
    check_backup(home / "a.tar", hunt)


COMMANDS = (
    ("accounts",),
    ("accounts", "--json"),
    ("accounts", "check"),
    ("accounts", "import"),
    ("list", "--json"),
    ("check",),
    ("doctor", "me@x.example"),
    ("secrets", "rotate"),
    ("secrets", "rotate", "--status"),
    ("secrets", "replace"),
    ("send", "--to", "you@x.example", "--body", "x"),
)


def refuse_in_every_way(hunt: Hunt, port: int) -> None:
    """Call the API with secrets in hand, rightly and wrongly."""
    wanted = {
        "email": "api@x.example",
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "username": USER,
        "password": OF_THE_API,
    }
    created = hunt.call("POST", "/v1/accounts", wanted)
    assert created.status == 201, created
    uid = created.document["id"]
    assert hunt.call("POST", "/v1/accounts", wanted).status == 409
    for wrong in {"port": "x"}, {"security": "no"}, {"password": [OF_THE_API]}, {"unknown": OF_THE_API}:
        assert hunt.call("POST", "/v1/accounts", {**wanted, **wrong}).status in (400, 422)
    hunt.call("PATCH", f"/v1/accounts/{uid}", {"password": CHANGED, "port": "x"})
    hunt.call("PATCH", f"/v1/accounts/{uid}", {"password": CHANGED})
    hunt.call("POST", f"/v1/accounts/{uid}/verify")
    issued = hunt.call("POST", f"/v1/accounts/{uid}/keys", {"name": "ci"})
    assert issued.status == 201, issued
    hunt.issued = (issued.document["key"],)
    message = {"recipient": "you@x.example", "subject": "s", "body": "b"}
    mistakes: list[dict[str, object]] = [
        {},
        {"recipient": "nobody"},
        {"recipient": 1},
        {"unknown": KEY},
        {"subject": None},
        {"key": [KEY]},
    ]
    for key in KEY, f"{OF_THE_API}-as-a-key", *hunt.issued:
        for mistake in mistakes:
            hunt.call("POST", "/send-email", {"key": key, **message, **mistake}, None)
        hunt.call("GET", "/v1/audit", None, key)
        hunt.call("GET", f"/email-status/none?key={key}", None, key)
        hunt.call("POST", "/send-email", [key], key)
    hunt.call("GET", "/v1/audit")
    hunt.call("GET", "/v1/accounts")


def check_backup(path: Path, hunt: Hunt) -> None:
    """See that a backup holds the secrets in the files that are for them alone, and tells none of them in its listing."""
    with tarfile.open(path) as archive:
        for member in archive:
            assert not found_in("a name", member.name.encode(), GIVEN)
            file = archive.extractfile(member)
            if file is not None and Path(member.name).name not in HOLDS_SECRETS:
                assert not found_in(member.name, file.read(), (*GIVEN, *hunt.issued))
