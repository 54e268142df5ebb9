"""The real command line: every command, every exit status, and `serve` from its first start to its end."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import postroom
from postroom.core.clock import SECOND, rfc3339, system_clock
from postroom.core.decide import decision_of
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Blame, Failed
from postroom.settings import Settings, variables
from postroom.store.accounts import Accounts
from postroom.store.holds import Holds
from postroom.store.store import open_store
from tests.servers.forked import forker
from tests.servers.installation import (
    KEY,
    Client,
    Installation,
    StartedInstallation,
    account_rows,
    is_gone,
    kill,
)
from tests.servers.programs import end, free_port
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
OURS = {name for setting in Settings.model_fields for name in variables(setting)}
COMMANDS = [
    (),
    ("serve",),
    ("web",),
    ("worker",),
    ("send",),
    ("status",),
    ("release",),
    ("cancel",),
    ("accounts",),
    ("accounts", "resume"),
    ("accounts", "import"),
    ("accounts", "add"),
    ("accounts", "set"),
    ("accounts", "export"),
    ("keys", "add"),
    ("pools", "add"),
    ("audit",),
    ("secret", "replace"),
    ("secrets", "replace"),
    ("secrets", "rotate"),
    ("accounts", "check"),
    ("doctor",),
    ("list",),
    ("log",),
    ("stats",),
    ("top",),
    ("migrate",),
    ("backup",),
    ("restore",),
    ("inbox",),
    ("inbox", "show"),
    ("inbox", "serve"),
]
POSTROOM = ("-W", "error", "-m", "postroom")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


class Folder:
    """A folder in which commands are run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        return forker().run(*arguments, cwd=self.path, environment=environment(settings), stdin=stdin)

    def prepare(self, **settings: str) -> None:
        """Make the database, and take data.csv in where there is one, as `serve` does."""
        done = self.run("migrate", **settings)
        assert done.returncode == 0, done
        if (self.path / "data.csv").exists():
            done = self.run("accounts", "import", **settings)
            assert done.returncode == 0, done

    def accounts(self, *rows: str) -> None:
        text = "\n".join(("key,email,app_password,host", *rows)) + "\n"
        (self.path / "data.csv").write_text(text, encoding="utf-8")

    def accept(self) -> str:
        """Accept a message, and return its id."""
        done = self.run("send", "--to", "you@example.com", "--body", "x")
        assert done.returncode == 0, done
        return done.stdout.strip()


ROW = "the-key-of-alice,alice@example.com,,inbox"


def folder_with_messages(path: Path, messages: int) -> Folder:
    """Return a new installation with so many messages that wait: for what saves and restores one."""
    path.mkdir()
    made = Folder(path)
    made.accounts(ROW)
    made.prepare()
    for _ in range(messages):
        made.accept()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def check_failed(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Check the exit status, and that people are told on stderr, without a traceback."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(folder: Folder, command: tuple[str, ...]) -> None:
    done = folder.run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: postroom")
    assert folder.run(*command, "-h").stdout == done.stdout
    assert list(folder.path.iterdir()) == [], "help leaves nothing behind"


def test_version(folder: Folder) -> None:
    done = subprocess.run(
        [sys.executable, *POSTROOM, "--version"],
        cwd=folder.path,
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"postroom {postroom.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command 'nonsense'; see postroom --help"),
        (("--nonsense",), "; see postroom --help"),
        (("serve", "extra"), "Got unexpected extra argument (extra); see postroom serve --help"),
        (("status",), "Missing argument 'REQUEST_ID'; see postroom status --help"),
        (("status", "--nonsense"), "; see postroom status --help"),
        (("send",), "Missing option '--to'; see postroom send --help"),
        (
            ("healthy",),
            "Missing argument '{web|worker}'. Choose from: web, worker; see postroom healthy --help",
        ),
        (("inbox", "-n", "x"), "'x' is not a valid integer; see postroom inbox --help"),
        (("inbox", "nonsense"), "No such command 'nonsense'; see postroom inbox --help"),
        (
            ("cancel",),
            "give the id of one message, or --held for all that are held; see postroom cancel --help",
        ),
    ],
)
def test_wrong_usage_is_2(folder: Folder, arguments: tuple[str, ...], said: str) -> None:
    done = folder.run(*arguments)
    check_failed(done, 2, said)
    assert re.fullmatch(r"postroom: .*\n", done.stderr), "one line, as every other error"


def test_an_unknown_mailbox_is_1_everywhere(folder: Folder) -> None:
    folder.prepare()
    for arguments in (
        ("accounts", "resume"),
        ("accounts", "check"),
        ("accounts", "verify"),
        ("keys", "add", "--account"),
        ("list", "--account"),
    ):
        check_failed(folder.run(*arguments, "eve@example.com"), 1, "there is no account 'eve@example.com'")


def test_a_shell_completes_mailboxes_and_ids(folder: Folder) -> None:
    folder.accounts("key-1,alice@example.com,,inbox", "key-2,bob@example.com,,inbox")
    folder.prepare()
    ids = [
        folder.run(
            "send", "--from", "bob@example.com", "--to", "you@example.com", "--body", "x"
        ).stdout.strip()
    ]

    def offered(words: str, home: str = "") -> list[str]:
        settings = {"_POSTROOM_COMPLETE": "bash_complete", "COMP_WORDS": f"postroom {home}{words}"}
        done = folder.run(**settings, COMP_CWORD=str(len(settings["COMP_WORDS"].split(" ")) - 1))
        assert done.stderr == "", done
        return [line.split(",", 1)[1] for line in done.stdout.splitlines() if line]

    assert offered("send --from ") == ["alice@example.com", "bob@example.com"]
    assert offered("list --account b") == ["bob@example.com"]
    assert offered("accounts resume al") == ["alice@example.com"]
    assert offered("accounts check ", f"--home {folder.path} ") == ["alice@example.com", "bob@example.com"]
    assert offered(f"status {ids[0][:4]}") == ids
    assert offered("release ") == [], "none is held"
    assert offered("inbox show ") == ["latest"]
    assert offered("list --account ", "--home /nowhere ") == []


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("postroom.cli.main", ("asyncio", "pydantic", "rich", "postroom.runtime.installation")),
        ("postroom.runtime.installation", ("asyncio", "dotenv", "flask", "limits", "psycopg")),
    ],
)
def test_a_command_loads_no_more_than_it_needs(folder: Folder, module: str, spared: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sys.modules.keys() & {set(spared)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), cwd=folder.path, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split() == []


# ---------------------------------------------------------------- configuration: 78


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        (("serve",), "PORT", "99999"),
        (("web",), "POSTROOM_RATE_LIMIT", "often"),
        (("worker",), "POSTROOM_RETRY_FOR", "soon"),
        (("migrate",), "DATABASE_URL", "mysql://canary@x/y"),
        (("status", "x"), "POSTROOM_SECRET_KEY", "canary"),
    ],
)
def test_a_bad_setting_is_78_and_is_named(
    folder: Folder, command: tuple[str, ...], variable: str, value: str
) -> None:
    done = folder.run(*command, **{variable: value})
    check_failed(done, 78, f"postroom: {variable}: must")
    assert "canary" not in done.stderr
    assert not (folder.path / "data.csv").exists()


@pytest.mark.parametrize(
    "command", [("web",), ("worker",), ("status", "x"), ("send", "--to", "you@example.com")]
)
def test_an_unprepared_database_is_78_with_a_hint(folder: Folder, command: tuple[str, ...]) -> None:
    check_failed(folder.run(*command), 78, "postroom migrate")


def test_a_database_that_cannot_be_opened(folder: Folder) -> None:
    (folder.path / "file").write_text("in the way", encoding="utf-8")
    check_failed(folder.run("migrate", DATABASE_URL="sqlite:///file/x.db"), 78, "DATABASE_URL")


def test_a_damaged_database_is_left_untouched(folder: Folder) -> None:
    (folder.path / "var").mkdir()
    database = folder.path / "var/postroom.db"
    database.write_bytes(b"this is no database at all" * 1000)
    check_failed(folder.run("serve"), 78, "damaged", "backup")
    assert database.read_bytes() == b"this is no database at all" * 1000


# ---------------------------------------------------------------- migrate, send, status


def test_migrate(folder: Folder) -> None:
    first = folder.run("migrate")
    assert (first.returncode, first.stdout) == (0, "")
    assert "applied 0001" in first.stderr
    second = folder.run("migrate")
    assert (second.returncode, second.stderr) == (0, "the database is up to date\n")
    # What an earlier version has logged of a password is struck; the secret key is at hand here.
    folder.accounts("the-key-of-alice,alice@example.com,a-canary-password,mail.example.com")
    assert folder.run("accounts", "import").returncode == 0
    log = folder.path / "email_log.txt"
    line = "Request ID: 1, Sender: alice@example.com, Recipient: b@example.org, Date: d, Status: failed (535 {})\n"
    log.write_text(line.format("a-canary-password"))
    third = folder.run("migrate")
    assert third.returncode == 0, third
    assert log.read_text() == line.format("[struck]")


def test_the_dot_env_file_is_read_and_the_environment_wins(folder: Folder) -> None:
    (folder.path / ".env").write_text("# ours\nDATABASE_URL='sqlite:///from-file.db'\n", encoding="utf-8")
    assert folder.run("migrate").returncode == 0
    assert (folder.path / "from-file.db").exists()
    assert folder.run("migrate", DATABASE_URL="sqlite:///from-environment.db").returncode == 0
    assert (folder.path / "from-environment.db").exists()
    (folder.path / ".env").write_text("PORT=none\n", encoding="utf-8")
    check_failed(folder.run("migrate"), 78, "PORT: must be")


@pytest.mark.parametrize("options", [(), ("--wait", "--timeout", "60")], ids=["", "wait"])
def test_a_message_whose_id_cannot_be_printed_is_said_to_be_accepted(
    folder: Folder, options: tuple[str, ...]
) -> None:
    """To try again would send it twice."""
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, *POSTROOM, "send", "--to", "you@example.com", "--body", "x", *options],
            cwd=folder.path,
            env=environment({}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 74, done
    [row] = json.loads(folder.run("list", "--json").stdout.replace("}\n{", "},{").join("[]"))
    assert f"{row['id']} was accepted; do not send it again" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_send_and_status_without_a_server(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox", "the-key-of-bob,bob@example.com,,inbox")
    folder.prepare()
    mail = ("send", "--to", "you@example.com", "--subject", "Hello")
    done = folder.run(*mail, "--from", "Alice@Example.com", stdin="Grüße\n")
    assert done.returncode == 0, done
    request_id = str(uuid.UUID(done.stdout.strip()))
    shown = folder.run("status", request_id)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[0] == f"{request_id}  queued"
    document = json.loads(folder.run("status", request_id.upper(), "--json").stdout)
    assert (document["id"], document["status"]) == (request_id, "queued")
    assert [event["event"] for event in document["events"]] == ["accepted"]
    as_json = json.loads(folder.run(*mail, "--from", "bob@example.com", "--body", "x", "--json").stdout)
    assert as_json["status"] == "queued"
    check_failed(folder.run(*mail, "--body", "x"), 2, "--from", "alice@example.com, bob@example.com")
    check_failed(folder.run(*mail, "--body", "x", "--from", "eve@example.com"), 2, "--from names none")


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    ids = [folder.run("send", "--to", "you@example.com", "--body", "x").stdout.strip() for _ in range(3)]
    for request_id in ids:
        beginning = next(
            request_id[:count]
            for count in range(4, 37)
            if sum(each.startswith(request_id[:count]) for each in ids) == 1
        )
        assert folder.run("status", beginning.upper()).stdout.startswith(f"{request_id}  queued")
    common = next(
        ids[0][:count] for count in range(36, 0, -1) if all(each.startswith(ids[0][:count]) for each in ids)
    )
    check_failed(folder.run("status", common), 1, "several messages begin with", "…")
    assert folder.run("cancel", ids[0]).returncode == 0


def test_a_reason_is_said_once(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    request_id = folder.run("send", "--to", "you@example.com", "--body", "x").stdout.strip()
    store, now = open_store(f"sqlite:///{folder.path / 'var/postroom.db'}"), system_clock()
    store.write(Holds.hold_queued, now, until=now + SECOND, claimed=False)
    store.close()
    shown = folder.run("status", request_id).stdout
    assert shown.count("may have been sent already") == 1
    assert "  held" in shown


def test_list(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox", "key-of-bob,bob@example.com,,inbox")
    folder.prepare()
    ids = {
        sender: folder.run(
            "send", "--from", sender, "--to", f"{'x' * 60}@example.com", "--body", "x"
        ).stdout.strip()
        for sender in ("alice@example.com", "bob@example.com")
    }
    folder.run("cancel", ids["alice@example.com"])
    lines = folder.run("list").stdout.splitlines()
    assert [line.split()[:2] for line in lines[::2]] == [
        [ids["alice@example.com"], "cancelled"],
        [ids["bob@example.com"], "queued"],
    ]
    assert f"bob@example.com -> {'x' * 60}@example.com" in lines[3]
    assert max(len(line) for line in lines[::2]) <= 80
    (row,) = [json.loads(line) for line in folder.run("list", "--json", "-n", "1").stdout.splitlines()]
    assert (row["id"], row["status"], row["from"]) == (
        ids["bob@example.com"], "queued", "bob@example.com",
    )  # fmt: skip
    assert len(folder.run("list", "--account", "alice@example.com").stdout.splitlines()) == 2
    assert folder.run("list", "--held").stdout == ""


def test_list_follows_what_comes_and_changes(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    following = subprocess.Popen(
        [sys.executable, *POSTROOM, "list", "--follow", "--json"],
        cwd=folder.path,
        env=environment({}),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        request_id = folder.run("send", "--to", "you@example.com", "--body", "x").stdout.strip()
        first = json.loads(following.stdout.readline())
        folder.run("cancel", request_id)
        second = json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stdout.read()) == (0, "")
    finally:
        following.kill()
        following.communicate()
    assert [(row["id"], row["status"]) for row in (first, second)] == [
        (request_id, "queued"),
        (request_id, "cancelled"),
    ]


def test_waiting_has_an_end(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    done = folder.run("send", "--to", "you@example.com", "--body", "x", "--wait", "--timeout", "0.1")
    assert done.returncode == 75
    request_id, change = done.stdout.splitlines()
    assert change == "  queued"
    assert f"{request_id} has not ended within 0.1 s" in done.stderr
    assert folder.run("status", request_id).stdout.startswith(f"{request_id}  queued")


def test_cancel_and_release(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    request_id = folder.run("send", "--to", "you@example.com", "--body", "x").stdout.strip()
    check_failed(folder.run("release", request_id), 1, f"it is not held: {request_id} is queued")
    done = folder.run("cancel", request_id.upper())
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == f"{request_id}  cancelled"
    check_failed(folder.run("cancel", request_id), 1, f"can be cancelled: {request_id} is cancelled")
    for command in ("cancel", "release"):
        check_failed(folder.run(command, "none"), 1, "there is no message with the id 'none'")


def test_accounts_and_what_is_the_matter_with_them(folder: Folder) -> None:
    folder.accounts(
        "the-key-of-alice,alice@gmail.com,abcd efgh ijkl mnop,", "the-key-of-bob,bob@example.com,,inbox"
    )
    folder.prepare()
    folder.run("send", "--from", "bob@example.com", "--to", "you@example.com", "--body", "x")
    store, now = open_store(f"sqlite:///{folder.path / 'var/postroom.db'}"), system_clock()
    alice = next(
        stored.account for stored in store.read(Accounts.all) if stored.account.email == "alice@gmail.com"
    )
    store.write(
        Accounts.suspend,
        alice.id,
        state="parked",
        reason="550 5.4.5 the limit",
        resume_at=now + 3600 * SECOND,
        now=now,
    )
    store.close()
    found = {row["account"]: row for row in json.loads(folder.run("accounts", "--json").stdout)}
    assert found["bob@example.com"]["state"] == "active"
    parked = found["alice@gmail.com"]
    assert (parked["server"], parked["state"], parked["reason"]) == (
        "smtp.gmail.com:587",
        "parked",
        "550 5.4.5 the limit",
    )
    assert (parked["since"], parked["until"]) == (rfc3339(now), rfc3339(now + 3600 * SECOND))
    assert (parked["recipients_in_24h"], parked["daily_limit"]) == (0, 450)
    shown = folder.run("accounts", COLUMNS="200").stdout
    assert "0 of 450" in shown
    assert "no limit, 1 waiting" in shown
    unlimited = found["bob@example.com"]
    assert (unlimited["recipients_in_24h"], unlimited["daily_limit"]) == (None, None)
    assert found["bob@example.com"]["messages"] == {
        "waiting": 1,
        "held": 0,
        "sent": 0,
        "failed": 0,
        "cancelled": 0,
    }
    assert "550 5.4.5 the limit" in shown
    check_failed(
        folder.run("accounts", "resume", "eve@example.com"), 1, "there is no account 'eve@example.com'"
    )
    assert folder.run("accounts", "resume", "Alice@gmail.com").returncode == 0
    states = {row["state"] for row in json.loads(folder.run("accounts", "--json").stdout)}
    assert states == {"active"}


def test_accounts_that_never_worked_or_were_removed(folder: Folder) -> None:
    mailbox = f"somebody.with.a.long.name.{'x' * 30}@a-long-domain.example.com"
    folder.accounts(
        f"the-key-of-alice,{mailbox},secret,mail.example.com", "key-of-bob,bob@example.com,,inbox"
    )
    folder.prepare()
    ids = [
        folder.run("send", "--from", mailbox, "--to", "you@example.com", "--body", "x").stdout.strip()
        for _ in range(2)
    ]
    reason = "535 5.7.8 no [the server does not accept this user name and password; " + "a fix " * 30 + "]"
    store, now = open_store(f"sqlite:///{folder.path / 'var/postroom.db'}"), system_clock()
    worker = store.write(
        lambda t: t.workers.register(host="here", pid=1, lock_file="x", now=now, lease_until=now + SECOND)
    )
    (job,) = store.write(
        lambda t: t.queue.claim(account_id=1, worker_id=worker, most=1, most_bytes=10**6, now=system_clock())
    )
    outcomes = {job.deliveries[0].id: Failed(reason, Blame.ACCOUNT)}
    failed = decision_of(job, outcomes, InDoubtPolicy.RETRY, now=now)
    store.write(lambda t: t.attempts.finish(job, failed, worker_id=worker, started_at=now, now=now))
    folder.accounts(f"the-key-of-alice,{mailbox},secret,mail.example.com")
    folder.run("accounts", "import")
    rows = {row["account"]: row for row in json.loads(folder.run("accounts", "--json").stdout)}
    assert (rows[mailbox]["state"], rows[mailbox]["reason"]) == ("failing", reason)
    assert rows["bob@example.com"]["state"] == "removed"
    shown = folder.run("accounts", COLUMNS="80").stdout
    assert max(len(line) for line in shown.splitlines() if mailbox not in line) <= 80
    assert f"failing  {mailbox}\n" in shown
    one = folder.run("accounts", "show", mailbox).stdout.splitlines()
    assert f"{'state:':19}failing" in one
    assert f"{'reason:':19}{reason}" in one
    assert "\x1b" not in shown, "colours are for terminals"
    assert " ".join(reason.split()) in " ".join(shown.split())
    assert "queued" in folder.run("status", ids[1]).stdout
    store.write(
        lambda t: t.accounts.suspend(1, state="paused", reason="535 no", resume_at=now + SECOND, now=now)
    )
    store.close()
    assert f"{ids[1]}  deferred (account paused: 535 no)" in folder.run("status", ids[1]).stdout
    assert "account paused" not in folder.run("status", ids[0]).stdout, "it has had its end"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "nonsense", "--body", "x"), "has no @"),
        (("--to", "you@example.com", "--body", ""), "both empty"),
        (("--to", "you@example.com", "--subject", "a\nBcc: b@example.com"), "one line"),
    ],
)
def test_a_refused_mail_is_2(folder: Folder, arguments: tuple[str, ...], words: str) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    check_failed(folder.run("send", *arguments), 2, words)


def test_no_account_is_2_and_no_such_message_is_1(folder: Folder) -> None:
    folder.prepare()
    check_failed(folder.run("send", "--to", "you@example.com", "--body", "x"), 2, "none yet", "data.csv")
    for unknown in ("nonsense", str(uuid.uuid4()), "", "0", "%", "01a2'", f"{uuid.uuid4()}0"):
        check_failed(folder.run("status", unknown), 1, "no message with the id")


def test_an_empty_inbox(folder: Folder) -> None:
    folder.prepare()
    assert folder.run("inbox", "--json").stdout == "[]\n"
    listed = folder.run("inbox")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "the inbox is empty\n")
    check_failed(folder.run("inbox", "show", "latest"), 1, "postroom: ")


def test_a_store_that_is_busy_is_75(folder: Folder) -> None:
    folder.accounts("the-key-of-alice,alice@example.com,,inbox")
    folder.prepare()
    with (folder.path / "var/postroom.db-lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.run("send", "--to", "you@example.com", "--body", "x")
    check_failed(done, 75, "postroom.db-lock")


# ---------------------------------------------------------------- serve: the newcomer's run


class Newcomer:
    """Somebody who starts Postroom in an empty folder; `command` is what follows `python`."""

    def __init__(self, folder: Path, *command: str, python: str = sys.executable, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.client = Client(self.port)
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, *command],
                cwd=folder,
                env=environment({"PORT": str(self.port), **settings}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(self._answers, 30, f"no answer: {self.text}")

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.text
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.client.call("GET", "/email-status/none").status == 404
        return False

    def stop(self) -> int:
        self.client.close()
        return end(self.process, timeout=40)


Arrive = Callable[..., Newcomer]


@pytest.fixture
def arrive(tmp_path: Path) -> Iterator[Arrive]:
    """Start newcomers' services, each in an empty folder `tmp_path/here`; they end with the test."""
    started: list[Newcomer] = []
    (tmp_path / "here").mkdir()

    def start(*command: str, **settings: str) -> Newcomer:
        started.append(Newcomer(tmp_path / "here", *command, **settings))
        return started[-1]

    yield start
    for newcomer in started:
        newcomer.stop()


def test_the_first_run(arrive: Arrive) -> None:
    newcomer = arrive(*POSTROOM, "serve")
    here = Folder(newcomer.folder)
    written = (here.path / "data.csv").read_text(encoding="utf-8").splitlines()
    key = written[1].split(",")[0]
    assert (here.path / "data.csv").stat().st_mode & 0o777 == 0o600
    assert written == ["key,email,app_password,host", f"{key},demo@postroom.example,,inbox"]
    assert len(key) >= 32

    command = newcomer.text.partition("  curl ")[2].partition("\n\n")[0]
    assert f"http://127.0.0.1:{newcomer.port}/send-email" in command
    began = int(time.time())
    answer = subprocess.run(f"curl -sS {command}", shell=True, capture_output=True, text=True, check=True)
    document = json.loads(answer.stdout)
    assert list(document) == ["message", "request_id"]
    request_id = document["request_id"]

    client = newcomer.client
    eventually(lambda: client.call("GET", f"/email-status/{request_id}").document["status"] == "sent", 20)
    status = json.loads(here.run("status", request_id, "--json").stdout)
    assert (status["id"], status["status"]) == (request_id, "sent")
    assert "sent" in [event["event"] for event in status["events"]]
    check_log_line(here.path, request_id, began)

    mail = json.loads(here.run("inbox", "show", "latest", "--json").stdout)
    assert (mail["subject"], mail["text"].strip()) == ("Hello", "It works.")
    assert (mail["envelope_from"], mail["envelope_to"]) == ("demo@postroom.example", ["you@example.com"])
    assert mail["id"] in here.run("inbox", COLUMNS="200").stdout
    assert json.loads(here.run("inbox", "--json").stdout)[0]["id"] == mail["id"]
    assert "It works." in here.run("inbox", "show").stdout
    assert f"Message-ID: <{request_id}@" in here.run("inbox", "show", mail["id"], "--raw").stdout

    sent = here.run(
        "send", "--to", "you@example.com", "--subject", "From the shell", "--wait", stdin="Body\n"
    )
    assert sent.returncode == 0, sent
    assert sent.stdout.splitlines()[-1] == "  sent"
    assert newcomer.stop() == 0
    assert key not in newcomer.text.replace(command, "")


def check_log_line(folder: Path, request_id: str, began: int) -> None:
    """Check the seed's log, letter by letter."""
    log = folder / "email_log.txt"
    eventually(lambda: log.exists() and log.read_text(encoding="utf-8"), 10)
    dates = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began + second)) for second in range(30)]
    head = f"Request ID: {request_id}, Sender: demo@postroom.example, Recipient: you@example.com, Date: "
    assert log.read_text(encoding="utf-8") in [f"{head}{date}, Status: sent\n" for date in dates]


def test_mail_server_py_keeps_its_files_where_it_is_started(arrive: Arrive) -> None:
    before = set(ROOT.iterdir())
    newcomer = arrive("-W", "error", str(ROOT / "mail_server.py"))
    found = {path.name for path in newcomer.folder.iterdir()}
    assert {"data.csv", "var"} <= found
    assert (newcomer.folder / "var/secret.key").stat().st_mode & 0o777 == 0o600
    assert not {"data.csv", "var", "email_log.txt"} & {path.name for path in set(ROOT.iterdir()) - before}
    assert newcomer.stop() == 0


def test_mail_server_py_needs_only_the_packages(arrive: Arrive) -> None:
    """As after `pip install -r requirements/run.txt`: Postroom itself is nowhere but beside mail_server.py."""
    bare = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = sysconfig.get_path("purelib")  # given like this, its .pth files count for nothing
    newcomer = arrive(str(ROOT / "mail_server.py"), python=str(bare), PYTHONPATH=packages)
    assert newcomer.stop() == 0


def test_serve_reads_dot_env(tmp_path: Path, arrive: Arrive) -> None:
    settings = "POSTROOM_ACCOUNTS_CSV=ours.csv\nPORT=1\nPOSTROOM_RATE_LIMIT=1/minute\n"
    (tmp_path / "here/.env").write_text(settings, encoding="utf-8")
    newcomer = arrive(*POSTROOM, "serve")
    key = (newcomer.folder / "ours.csv").read_text(encoding="utf-8").splitlines()[1].split(",")[0]
    client = newcomer.client
    mail = {"subject": "a", "recipient": "you@example.com", "body": "b", "key": key}
    assert [client.call("POST", "/send-email", mail).status for _ in range(2)] == [202, 429]


def test_a_start_names_what_is_likely_a_mistake(tmp_path: Path) -> None:
    settings = {"POSTROOM_SMTP_HOSTS": "mail.example", "POSTROOM_STOP_DELAY": "0"}
    service = Installation(tmp_path, account_rows(free_port()), **settings)
    (tmp_path / "data.csv").chmod(0o644)
    with service:
        assert "there is no setting POSTROOM_SMTP_HOSTS; did you mean POSTROOM_SMTP_HOST?" in service.log()
        assert "POSTROOM_STOP_DELAY is called POSTROOM_DRAIN now: rename it" in service.log()
        assert "data.csv holds passwords and is readable by every user" in service.log()
        assert service.log().count("POSTROOM_SMTP_HOSTS") == 1, "its processes do not say it again"


def test_a_second_start_keeps_the_key(arrive: Arrive) -> None:
    first = arrive(*POSTROOM, "serve")
    written = (first.folder / "data.csv").read_bytes()
    first.stop()
    second = arrive(*POSTROOM, "serve")
    assert (second.folder / "data.csv").read_bytes() == written
    assert "curl" not in second.text


# ---------------------------------------------------------------- serve: its processes


@pytest.fixture
def sent_to(tmp_path: Path) -> Iterator[Sink]:
    with Sink(tmp_path / "ledger") as sink:
        yield sink


def make_service(kind: type[Installation], folder: Path, sink: Sink) -> Installation:
    settings = {"POSTROOM_RETRY_SCHEDULE": "200ms", "POSTROOM_TRUSTED_PROXIES": "1"}
    return kind(folder / "service", account_rows(sink.port), **settings)


@pytest.fixture
def service(tmp_path: Path, sent_to: Sink) -> Iterator[Installation]:
    with make_service(Installation, tmp_path, sent_to) as installation:
        yield installation


@pytest.fixture
def started(tmp_path: Path, sent_to: Sink) -> Iterator[Installation]:
    """A service whose processes are all started as `python -m`: for the tests of how they begin and end."""
    with make_service(StartedInstallation, tmp_path, sent_to) as installation:
        yield installation


def all_pids(service: Installation) -> set[int]:
    return {pid for name in ("web", "worker") for pid in service.pids("-m", "postroom", name)}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_processes_in_order(started: Installation, how: signal.Signals) -> None:
    request_id = started.send()
    started.wait_for(request_id)
    pids = all_pids(started)
    assert len(pids) >= 3, "granian, its worker, ours"
    assert started.stop(how) == 0
    assert not (started.folder / "var/postroom.db-wal").exists(), "each closed the database: none was killed"
    assert not [pid for pid in pids if not is_gone(pid)]
    assert "Traceback" not in started.log()


def test_a_kill_of_the_supervisor_ends_its_children(started: Installation) -> None:
    pids = all_pids(started)
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not [pid for pid in pids if not is_gone(pid)], 15, f"{pids} live on")


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_killed_child_is_started_again(started: Installation, name: str) -> None:
    started.wait_for(started.send())
    pids = started.pids("-m", "postroom", name)
    main = min(pids)
    assert kill(main)
    eventually(
        lambda: started.pids("-m", "postroom", name) and main not in started.pids("-m", "postroom", name), 15
    )
    eventually(lambda: not [pid for pid in pids if not is_gone(pid)], 15, "what the killed one left behind")
    request_id = eventually(lambda: accepted(started), 20)
    started.wait_for(request_id)
    assert f"postroom {name} was killed by signal 9 (SIGKILL): out of memory?" in started.log()


def accepted(service: Installation) -> str:
    with contextlib.suppress(OSError, http.client.HTTPException):
        answer = service.post()
        return str(answer.document["request_id"]) if answer.status == 202 else ""
    return ""


def test_a_killed_web_worker_is_started_again(service: Installation) -> None:
    main, *workers = sorted(service.pids("-m", "postroom", "web"))
    assert workers
    for pid in workers:
        kill(pid)
    eventually(lambda: not [pid for pid in workers if not is_gone(pid)], 10)
    service.wait_for(eventually(lambda: accepted(service), 20))
    assert not is_gone(main)


def test_a_web_process_that_stops_closes_the_database(service: Installation) -> None:
    service.stop()
    web = subprocess.Popen(
        [sys.executable, *POSTROOM, "web"],
        cwd=service.folder,
        env=service.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: accepted(service), 20, "the web process to answer")
        web.send_signal(signal.SIGTERM)
        assert web.wait(10) == 0
    finally:
        service.client.close()
        web.kill()
        web.wait()
    assert not (service.folder / "var/postroom.db-wal").exists(), "all is in the one file"


@pytest.mark.parametrize("pause", [0.0, 0.0015, 0.005, 0.02, 0.1])
def test_a_stop_while_a_web_worker_starts(service: Installation, pause: float) -> None:
    """A signal that a worker gets before it can heed it must not hold up the stop until the worker is killed."""
    pids = all_pids(service)
    _, worker = sorted(service.pids("-m", "postroom", "web"))
    assert kill(worker)
    time.sleep(pause)
    began = time.monotonic()
    assert service.stop() == 0
    seconds = time.monotonic() - began  # usually less than one
    assert seconds < 9.5, (
        f"the stop took {seconds:.1f} s: granian kills after ten what does not end by itself"
    )
    assert not [pid for pid in pids if not is_gone(pid)]


def test_a_port_that_is_taken(service: Installation, tmp_path: Path) -> None:
    """Two installations on one port would get half of each other's requests."""
    second = Folder(tmp_path / "second")
    second.path.mkdir()
    port = str(service.port)
    check_failed(second.run("serve", PORT=port), 75, f"PORT: cannot listen on 127.0.0.1:{port}", "in use")
    assert not (second.path / "data.csv").exists()
    check_failed(second.run("web", PORT=port), 75, f"PORT: cannot listen on 127.0.0.1:{port}", "in use")
    assert service.post().status == 202


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_ours(folder: Folder, host: str) -> None:
    check_failed(folder.run("serve", HOST=host), 78, f"postroom: HOST: cannot listen on {host}:5000")


# ---------------------------------------------------------------- serve: data.csv while it runs


def row(key: str, port: int) -> str:
    return f"{key},me@postroom.example,,127.0.0.1,{port},none"


ADDRESSES = itertools.count()


def knock(service: Installation, key: str = KEY) -> int:
    """Post, and return the status; each time as if from another address, or the limit on wrong guesses would speak."""
    mail = {"subject": "a", "recipient": "you@postroom.example", "body": "b", "key": key}
    headers = {"X-Forwarded-For": f"198.51.{next(ADDRESSES) // 250}.{next(ADDRESSES) % 250}"}
    return service.client.call("POST", "/send-email", mail, headers).status


def rewrite(service: Installation, *rows: str) -> None:
    text = "\n".join(("key,email,app_password,host,port,security", *rows)) + "\n"
    (service.folder / "data.csv").write_text(text, encoding="utf-8")


def test_a_new_key_works_and_a_removed_one_does_not(service: Installation, sent_to: Sink) -> None:
    other = "another-key-for-the-tests"
    assert knock(service, other) == 401
    rewrite(service, row(KEY, sent_to.port), row(other, sent_to.port))
    eventually(lambda: knock(service, other) == 202, 3)
    rewrite(service, row(other, sent_to.port))
    eventually(lambda: knock(service) == 401, 3)
    assert knock(service, other) == 202


def test_the_queued_mail_of_a_removed_key_still_goes_out(service: Installation, sent_to: Sink) -> None:
    sent_to.stop()
    request_id = service.send()
    service.wait_for(request_id, "deferred")
    rewrite(service, row("another-key-for-the-tests", sent_to.port))
    eventually(lambda: knock(service) == 401, 3)
    sent_to.start()
    service.wait_for(request_id)


def test_bad_rows_are_reported_by_line_and_the_good_ones_keep_working(
    service: Installation, sent_to: Sink
) -> None:
    other = "another-key-for-the-tests"
    rewrite(
        service,
        "secret-canary-1,nonsense,,x,1,none",
        row(KEY, sent_to.port),
        "too,few",
        row(other, sent_to.port),
    )
    eventually(lambda: knock(service, other) == 202, 3)
    assert knock(service) == 202
    assert re.search(r"data\.csv line 2: email", service.log())
    assert re.search(r"data\.csv line 4: 2 fields", service.log())
    assert "canary" not in service.log()
    rewrite(service)
    (service.folder / "data.csv").write_text("not a header\n", encoding="utf-8")
    eventually(lambda: "was not read" in service.log(), 3)
    assert knock(service, other) == 202, "a file that cannot be read changes nothing"
