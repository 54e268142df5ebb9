"""`postroom accounts check`: a log-in and nothing else, never twice with a password that was refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from postroom.store.connections import LOGINS_AT_ONCE
from tests.conftest import StartScripted
from tests.process.test_cli import Folder, check_failed
from tests.servers.installation import Installation
from tests.servers.scripted import ScriptedServer
from tests.servers.waiting import eventually

REFUSED = "535 5.7.8 Username and Password not accepted"
HEADER = "key,email,app_password,host,port,security\n"


def _folder(path: Path, *servers: ScriptedServer, password: str = "secret") -> Folder:
    rows = [
        f"key-{number},me{number}@x.example,{password},127.0.0.1,{server.port},none\n"
        for number, server in enumerate(servers)
    ]
    (path / "data.csv").write_text(HEADER + "".join(rows))
    return Folder(path)


def test_each_account_is_logged_in_and_nothing_is_sent(tmp_path: Path, scripted: StartScripted) -> None:
    well, ill = scripted(), scripted()
    ill.on("AUTH", reply=REFUSED)
    folder = _folder(tmp_path, well, ill)
    folder.prepare()
    done = folder.run("accounts", "check")
    assert done.returncode == 1, done
    lines = sorted(done.stdout.splitlines())
    assert lines[0].startswith(f"failed   me1@x.example: {REFUSED} [")
    assert lines[1].startswith("ok       me0@x.example: logged in at ")
    assert "not tested: whether the servers take messages" in done.stderr
    assert "MAIL" not in well.verbs
    assert len(well.logins) == 1
    assert folder.run("accounts", "check", "Me0@x.example").returncode == 0
    check_failed(folder.run("accounts", "check", "eve@x.example"), 1, "there is no account 'eve@x.example'")


def test_a_refused_password_is_not_tried_again_before_it_changes(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("AUTH", reply=REFUSED)
    folder = _folder(tmp_path, server)
    folder.prepare()
    assert folder.run("accounts", "check").returncode == 1
    tries = server.verbs.count("AUTH")
    for _ in range(2):
        (line,) = folder.run("accounts", "check").stdout.splitlines()
        assert line.startswith("skipped  me0@x.example: not tried again with the password that was refused")
    (tmp_path / "data.csv").write_text((tmp_path / "data.csv").read_text() + "# the same password\n")
    folder.prepare()
    assert folder.run("accounts", "check").stdout.startswith("skipped")
    assert server.verbs.count("AUTH") == tries
    _folder(tmp_path, server, password="another")
    done = folder.run("accounts", "check")
    assert done.stdout.startswith("skipped"), "only serve, worker and accounts import take data.csv in"
    assert "not tested: what is new in data.csv; postroom accounts import takes it in" in done.stderr
    folder.prepare()
    assert folder.run("accounts", "check").stdout.startswith("failed")
    assert server.verbs.count("AUTH") > tries
    server.clear()
    assert folder.run("accounts", "check").stdout.startswith("skipped")
    assert folder.run("accounts", "resume", "me0@x.example").returncode == 0
    assert folder.run("accounts", "check").stdout.startswith("ok")


@pytest.mark.parametrize("has_worked", [False, True])
def test_what_a_worker_was_refused_is_not_tried_again_either(
    tmp_path: Path, scripted: StartScripted, has_worked: bool
) -> None:
    server = scripted()
    rows = [HEADER.strip(), f"a-key-for-the-tests,me@x.example,secret,127.0.0.1,{server.port},none"]
    service = Installation(tmp_path, rows)
    with service:
        if has_worked:
            service.wait_for(service.send())
        server.on("AUTH", reply=REFUSED)
    with service:
        waits = "deferred (account paused" if has_worked else "failed"
        service.wait_for(service.send(), waits)
    tries = server.verbs.count("AUTH")
    done = service.run("accounts", "check")
    assert done.stdout.startswith("skipped  me@x.example: not tried again"), done
    assert REFUSED in done.stdout
    assert server.verbs.count("AUTH") == tries


def test_a_password_that_a_worker_logged_in_with_is_tried_again(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    service = Installation(
        tmp_path, [HEADER.strip(), f"a-key-for-the-tests,me@x.example,secret,127.0.0.1,{server.port},none"]
    )
    with service:
        service.wait_for(service.send())
    server.on("AUTH", reply=REFUSED)
    assert service.run("accounts", "check").stdout.startswith("failed")
    assert service.run("accounts", "check").stdout.startswith("skipped")
    server.clear()
    with service:
        service.wait_for(service.send())
        eventually(
            lambda: service.run("accounts", "check").stdout.startswith("ok"), 10, "the check to log in"
        )


def test_log_ins_keep_to_the_pace_that_all_share(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    rows = "key,email,app_password,host,port,security,logins_per_minute\n"
    (tmp_path / "data.csv").write_text(rows + f"key,me@x.example,secret,127.0.0.1,{server.port},none,1\n")
    folder = Folder(tmp_path)
    folder.prepare()
    for _ in range(LOGINS_AT_ONCE):
        assert folder.run("accounts", "check").stdout.startswith("ok")
    with closing(apsw.Connection(str(tmp_path / "var" / "postroom.db"))) as database:
        until = "UPDATE account SET logins_until = logins_until + 1800000000 RETURNING logins_until"
        (taken,) = database.execute(until).fetchall()
        done = folder.run("accounts", "check")
        assert done.stdout.startswith("skipped  me@x.example: its pace allows the next log-in in "), done
        assert database.execute("SELECT logins_until FROM account").fetchall() == [taken], (
            "the turn is not used up"
        )
    assert "not tested: the accounts that are skipped" in done.stderr
    assert len(server.logins) == LOGINS_AT_ONCE
