"""Keys, pools and the audit on the command line, beside a service that runs."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.core.clock import SECOND, system_clock
from tests.process.test_cli import Folder, check_failed
from tests.servers.installation import Answer, Installation
from tests.servers.waiting import eventually

ANN, BOB = "ann@postroom.example", "bob@postroom.example"
ROWS = [
    "key,email,app_password,host",
    f"the-key-of-ann-1234,{ANN},,inbox",
    f"the-key-of-bob-1234,{BOB},,inbox",
]
KEY = re.compile(r"pr_live_[A-Za-z0-9_-]{32}\n")
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("keys") / "service", ROWS) as started:
        yield started


def add(service: Installation, *options: str) -> tuple[str, str]:
    """Issue a key; return it and its id."""
    document = json.loads(service.command("keys", "add", *options, "--json"))
    return document["key"], document["id"]


def post(service: Installation, key: str, recipient: str = "you@postroom.example") -> Answer:
    return service.post(key=key, recipient=recipient)


def test_a_key_is_printed_alone_once_and_works(service: Installation) -> None:
    done = service.run("keys", "add", "--account", ANN, "--name", "the shop")
    assert done.returncode == 0, done
    assert KEY.fullmatch(done.stdout)
    assert "the shop" in done.stderr
    assert ANN in done.stderr
    key = done.stdout.strip()
    assert key not in done.stderr
    service.wait_for(service.send(key=key))
    for words in (("keys", "list"), ("keys", "list", "--json"), ("audit",), ("audit", "--json")):
        assert key not in service.command(*words)


def test_a_key_works_at_once_and_not_once_it_is_revoked(service: Installation) -> None:
    key, uid = add(service, "--account", ANN)
    assert post(service, key).status == 202
    done = service.run("keys", "revoke", uid)
    assert (done.returncode, done.stdout) == (0, "")
    assert post(service, key).status == 401
    check_failed(service.run("keys", "revoke", uid), 1, "there is no key with this id")


def test_a_rotated_key_works_beside_the_former_one_for_the_overlap(service: Installation) -> None:
    former, uid = add(service, "--account", ANN, "--name", "rotated", "--daily-limit", "5")
    key = service.command("keys", "rotate", uid, "--overlap", "1h").strip()
    assert [post(service, each).status for each in (former, key)] == [202, 202]
    [[expires_at]] = service.query(f"SELECT expires_at FROM issued_key WHERE uid = '{uid}'")
    assert 3500 * SECOND < expires_at - system_clock() <= 3600 * SECOND
    rotated = [each for each in keys(service) if each["name"] == "rotated"]
    assert [each["daily_limit"] for each in rotated] == [5, 5]
    newest = str(rotated[0]["id"])
    last = service.command("keys", "rotate", newest).strip()
    assert [post(service, each).status for each in (former, key, last)] == [202, 401, 202]


def keys(service: Installation, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(service.command("keys", "list", *options, "--json"))
    return found


def test_a_key_does_what_its_options_say(service: Installation) -> None:
    key, uid = add(
        service,
        *("--account", ANN, "--allow", "*@allowed.example", "--allow", "one@else.example"),
        *("--scope", "send", "--expires", "30d", "--network", "127.0.0.0/8", "--network", "::1/128"),
    )
    assert post(service, key, "you@allowed.example").status == 202
    assert post(service, key, "one@else.example").status == 202
    assert post(service, key, "two@else.example").status == 403
    [shown] = [each for each in keys(service) if each["id"] == uid]
    assert shown["allowed_recipients"] == ["*@allowed.example", "one@else.example"]
    assert (shown["scopes"], shown["networks"]) == (["send"], ["127.0.0.0/8", "::1/128"])
    away, _ = add(service, "--account", ANN, "--network", "192.0.2.0/24")
    assert post(service, away).status == 403
    limited, _ = add(service, "--account", ANN, "--daily-limit", "1")
    assert [post(service, limited).status for _ in range(2)] == [202, 429]


def test_a_test_key_and_a_key_of_the_installation(service: Installation) -> None:
    key, _ = add(service, "--account", ANN, "--test")
    assert key.startswith("pr_test_")
    answer = post(service, key)
    assert answer.status == 202
    eventually(lambda: "  test" in service.command("list"), message="the message to be listed as a test")
    key, uid = add(service, "--installation", "--scope", "admin", "--name", "CI")
    headers = {"Authorization": f"Bearer {key}"}
    assert service.client.call("GET", "/v1/audit", headers=headers).status == 200
    [shown] = [each for each in keys(service) if each["id"] == uid]
    assert (shown["owner"], shown["account"], shown["scopes"]) == ("installation", None, ["admin"])


def test_the_list_shows_the_first_use_after_one_request(service: Installation) -> None:
    key, uid = add(service, "--account", BOB, "--name", "used")

    def used(uid: str) -> object:
        [found] = [each for each in keys(service, "--account", BOB) if each["id"] == uid]
        return found["last_used_at"]

    assert used(uid) is None
    assert "never used" in service.command("keys", "list", "--account", BOB)
    request_id = service.send(key=key)
    assert used(uid) is not None
    reader, uid = add(service, "--account", BOB, "--scope", "read")
    assert used(uid) is None
    headers = {"Authorization": f"Bearer {reader}"}
    assert service.client.call("GET", f"/email-status/{request_id}", headers=headers).status == 200
    assert used(uid) is not None


def test_a_pool_from_its_first_member_to_its_removal(service: Installation) -> None:
    done = service.run("pools", "add", "sales", ANN, f"{BOB}=3")
    assert done.returncode == 0, done
    uid = done.stdout.strip()
    assert UID.fullmatch(uid)
    assert "2 accounts" in done.stderr
    assert members(service, uid) == {ANN: 1, BOB: 3}
    assert f"{BOB}=3" in service.command("pools", "list")
    key, key_id = add(service, "--pool", "sales")
    assert post(service, key).status == 202
    [shown] = [each for each in keys(service) if each["id"] == key_id]
    assert (shown["owner"], shown["pool"], shown["name"]) == ("pool", uid, "sales")
    assert "pool sales" in service.command("keys", "list")

    service.command("pools", "set", "sales", f"{ANN}=2")
    assert members(service, uid) == {ANN: 2}
    service.command("pools", "set", uid, "--name", "support")
    assert members(service, uid) == {ANN: 2}
    check_failed(service.run("pools", "remove", "sales"), 1, "there is no pool 'sales'")
    service.command("pools", "remove", "support")
    assert post(service, key).status == 401
    assert json.loads(service.command("pools", "list", "--json")) == []


def members(service: Installation, uid: str) -> dict[str, int]:
    [pool] = json.loads(service.command("pools", "list", "--json"))
    assert pool["id"] == uid
    return {member["email"]: member["weight"] for member in pool["members"]}


def test_the_audit_names_the_user_and_the_host(service: Installation) -> None:
    _, uid = add(service, "--account", ANN, "--name", "audited")
    service.command("keys", "revoke", uid)
    entries = [json.loads(line) for line in service.command("audit", "--most", "2", "--json").splitlines()]
    assert [(each["action"], each["target"]) for each in entries] == [
        ("key.revoke", "audited"),
        ("key.issue", "audited"),
    ]
    for each in entries:
        assert (each["actor"], each["source"]) == (f"user {getpass.getuser()}", socket.gethostname())
        assert (each["detail"]["id"], each["refused"]) == (uid, False)
    assert f"user {getpass.getuser()} from {socket.gethostname()}" in service.command("audit", "--most", "1")


def test_the_audit_marks_what_was_refused(service: Installation) -> None:
    key, _ = add(service, "--installation", "--scope", "accounts", "--name", "curious")
    headers = {"Authorization": f"Bearer {key}"}
    assert service.client.call("GET", "/v1/audit", headers=headers).status == 403
    eventually(lambda: "REFUSED" in service.command("audit"), message="the refusal in the audit")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("keys", "add"), 2, "give one of --account, --pool and --installation"),
        (("keys", "add", "--installation", "--pool", "x"), 2, "give one of --account, --pool and --inst"),
        (("keys", "add", "--account", "eve@example.com"), 1, "there is no account 'eve@example.com'"),
        (("keys", "add", "--pool", "none"), 1, "there is no pool 'none'"),
        (("keys", "add", "--account", ANN, "--scope", "all"), 2, "'--scope'"),
        (
            ("keys", "add", "--account", ANN, "--scope", "admin"),
            2,
            "'--scope': `accounts` and `admin` belong",
        ),
        (("keys", "add", "--account", ANN, "--expires", "soon"), 2, "'--expires': 'soon' is neither"),
        (("keys", "add", "--account", ANN, "--expires", "2020-01-01T00:00:00Z"), 2, "'--expires'"),
        (("keys", "add", "--account", ANN, "--expires", "2099-01-01T00:00:00"), 2, "'--expires'"),
        (("keys", "add", "--account", ANN, "--allow", "*.example"), 2, "'--allow': '*.example' is neither"),
        (("keys", "add", "--account", ANN, "--network", "1.2.3.4/8"), 2, "'--network': '1.2.3.4/8' is no"),
        (("keys", "add", "--account", ANN, "--daily-limit", "0"), 2, "'--daily-limit'"),
        (("keys", "add", "--account", ANN, "--name", " "), 2, "'--name'"),
        (("keys", "list", "--account", "eve@example.com"), 1, "there is no account 'eve@example.com'"),
        (("keys", "revoke", "none"), 1, "there is no key with this id"),
        (("keys", "rotate", "none"), 1, "there is no key with this id"),
        (("keys", "rotate", "none", "--overlap", "-1h"), 2, "'--overlap'"),
        (("pools", "add", "x"), 2, "Missing argument 'EMAIL|ID[=WEIGHT]"),
        (("pools", "add", " ", ANN), 2, "'NAME'"),
        (("pools", "add", "x", f"{ANN}=0"), 2, "'EMAIL|ID[=WEIGHT]"),
        (("pools", "add", "x", f"{ANN}=many"), 2, "'EMAIL|ID[=WEIGHT]"),
        (("pools", "add", "x", ANN, ANN), 2, "an account is named twice"),
        (("pools", "add", "x", "eve@example.com"), 1, "there is no account 'eve@example.com'"),
        (("pools", "set", "x"), 2, "give the members of the pool, or --name"),
        (("pools", "set", "x", "--name", "y"), 1, "there is no pool 'x'"),
        (("pools", "remove", "x"), 1, "there is no pool 'x'"),
        (("audit", "--most", "0"), 2, "'--most'"),
    ],
)
def test_bad_input_is_one_line(
    service: Installation, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = service.run(*arguments)
    check_failed(done, status, said)
    assert re.fullmatch(r"postroom: .*\n", done.stderr), "one line, as every other error"


def test_a_shell_completes_mailboxes_and_pools(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.accounts(*ROWS[1:])
    folder.prepare()
    assert folder.run("pools", "add", "sales", ANN).returncode == 0
    for words, begun, offered in (
        ("keys add --account", "b", BOB),
        ("keys list --account", "b", BOB),
        ("keys add --pool", "s", "sales"),
        ("pools add other", "a", ANN),
        ("pools set", "s", "sales"),
    ):
        done = folder.run(
            _POSTROOM_COMPLETE="bash_complete",
            COMP_WORDS=f"postroom {words} {begun}",
            COMP_CWORD=str(len(words.split()) + 1),
        )
        assert offered in done.stdout, (words, done)


@pytest.mark.parametrize(
    "command",
    [("keys",), ("pools",), ("audit",), *(("keys", each) for each in ("add", "list", "revoke", "rotate"))]
    + [("pools", each) for each in ("add", "list", "set", "remove")],
    ids=" ".join,
)
def test_help(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = Folder(tmp_path).run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: postroom")
    assert list(tmp_path.iterdir()) == [], "help leaves nothing behind"


def test_a_key_is_issued_before_the_first_start(tmp_path: Path) -> None:
    """`postroom migrate` alone has made the database: what digests keys is made with the first of them."""
    folder = Folder(tmp_path)
    assert folder.run("migrate").returncode == 0
    done = folder.run("keys", "add", "--installation", "--name", "ci", "--scope", "accounts")
    assert (done.returncode, KEY.fullmatch(done.stdout) is not None) == (0, True), done.stderr
