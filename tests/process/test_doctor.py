"""`postroom doctor`: findings with their fixes, the exit status, and nothing sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from postroom.accounts.doctor.finding import Severity
from postroom.core.clock import SECOND
from postroom.runtime.examination import PrivateFile, about_disk, about_files, about_workers
from postroom.store.workers import WorkerRecord
from tests.conftest import MakeContext, StartScripted
from tests.process.test_cli import Folder, check_failed
from tests.servers.installation import KEY, Installation
from tests.servers.postfix import Postfix
from tests.servers.postgres import Postgres
from tests.servers.programs import free_port

HEADER = "key,email,app_password,host,port,security"
ANN = "ann@postroom.example"


def _folder(path: Path, *rows: str, **settings: str) -> Folder:
    (path / "data.csv").write_text("\n".join((HEADER, *rows)) + "\n")
    (path / "data.csv").chmod(0o600)
    folder = Folder(path)
    folder.prepare(**settings)
    return folder


def _row(port: int, password: str = "a password", security: str = "none", email: str = ANN) -> str:
    return f"a-key-for-{email},{email},{password},127.0.0.1,{port},{security}"


def _json(folder: Folder, *words: str, **settings: str) -> Any:
    return json.loads(folder.run("doctor", "--json", *words, **settings).stdout)


def _of(findings: list[dict[str, str]], subject: str) -> dict[str, str]:
    (found,) = (each for each in findings if each["subject"] == subject)
    return found


def test_an_account_that_works(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted(users={ANN: "a password"}, auth_required=True)
    folder = _folder(tmp_path, _row(server.port))
    done = folder.run("doctor", ANN.upper())
    assert done.returncode == 0, done
    assert f"\n  ok         login      logged in at 127.0.0.1:{server.port}" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(server.logins) == 1
    assert "MAIL" not in server.verbs
    (found,) = _json(folder, ANN)["accounts"]
    assert found["account"] == ANN
    assert {each["severity"] for each in found["findings"]} <= {"ok", "note", "warning", "not_known"}
    check_failed(
        folder.run("doctor", "eve@postroom.example"), 1, "there is no account 'eve@postroom.example'"
    )


def test_postfix_that_refuses_the_password(tmp_path: Path, postfix: Postfix) -> None:
    row = f"a-key-of-alices,alice@postroom.example,not hers,localhost,{postfix.port},starttls"
    settings = {"POSTROOM_SMTP_CA_FILE": str(postfix.ca_file)}
    folder = _folder(tmp_path, row, **settings)
    done = folder.run("doctor", "alice@postroom.example", **settings)
    assert done.returncode == 1, done
    assert "  error      login      the server has refused the account's password\n" in done.stdout
    assert "535 5.7.8" in done.stdout
    fix = "fix: give the account its present password, then: postroom accounts check alice@postroom.example\n"
    assert fix in done.stdout
    assert "  ok         tls        TLSv1.3; " in done.stdout
    (found,) = _json(folder, "alice@postroom.example", **settings)["accounts"]
    login = _of(found["findings"], "login")
    assert login["severity"] == "error"
    assert "not tried again with the password that was refused" in login["detail"]


def test_a_certificate_that_has_expired_in_the_words_of_a_message(
    tmp_path: Path, scripted: StartScripted, certificates: MakeContext, ca_file: Path
) -> None:
    server = scripted(tls=certificates("expired"))
    row = f"{KEY},{ANN},a password,127.0.0.1,{server.port},starttls"
    service = Installation(tmp_path, [HEADER, row], POSTROOM_SMTP_CA_FILE=str(ca_file))
    with service:
        status = service.wait_for(service.send(), "failed (")
    found = json.loads(service.run("doctor", "--json", ANN).stdout)["accounts"][0]["findings"]
    assert status == f"failed ({_of(found, 'tls')['detail']})"
    assert _of(found, "login")["detail"] == _of(found, "tls")["detail"]
    assert _of(found, "state")["detail"] == _of(found, "tls")["detail"]
    assert _of(found, "state")["summary"].startswith("failing")
    assert server.logins == []


def test_the_installation(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    folder = _folder(tmp_path, _row(server.port), "a-key-for-the-inbox,demo@postroom.example,,inbox,,")
    done = folder.run("doctor")
    assert done.returncode == 0, done
    assert done.stdout.startswith("the installation\n  ok         versions   Postroom ")
    found = _json(folder)
    installation = found["installation"]
    subjects = ["versions", "database", "clock", "disk", "workers", "files"]
    assert [each["subject"] for each in installation] == subjects
    assert _of(installation, "workers")["fix"] == "start the service: postroom serve"
    assert [each["account"] for each in found["accounts"]] == [ANN, "demo@postroom.example"]
    (tmp_path / ".env").write_text("PORT=5000\n")
    (tmp_path / ".env").chmod(0o644)
    open_, private = (each for each in _json(folder)["installation"] if each["subject"] == "files")
    assert (open_["severity"], open_["fix"]) == ("warning", "chmod 600 .env")
    assert "var/secret.key" in private["summary"]


def test_a_service_that_runs(tmp_path: Path, sink: Any) -> None:
    row = f"{KEY},{ANN},,127.0.0.1,{sink.port},none"
    with Installation(tmp_path, [HEADER, row]) as service:
        service.wait_for(service.send())
        found = json.loads(service.run("doctor", "--json").stdout)
    assert _of(found["installation"], "workers")["summary"] == "1 worker runs"
    assert _of(found["accounts"][0]["findings"], "state")["summary"].startswith("active; it logged in")


def test_the_clock_of_postgresql(tmp_path: Path, postgres_server: Postgres) -> None:
    settings = {"DATABASE_URL": postgres_server.url(postgres_server.create_database())}
    installation = _json(_folder(tmp_path, **settings), **settings)["installation"]
    assert _of(installation, "clock")["severity"] == "ok"
    assert "PostgreSQL" in _of(installation, "versions")["summary"]
    assert _of(installation, "disk")["severity"] == "not_known"


def test_an_installation_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    done = folder.run("doctor")
    assert done.returncode == 1, done
    assert "fix: postroom migrate\n" in done.stdout
    found = _json(folder, POSTROOM_SMTP_PORT="nonsense")["installation"]
    assert _of(found, "settings")["fix"] == "correct POSTROOM_SMTP_PORT"
    found = _json(folder, DATABASE_URL=f"postgresql://me:{KEY}@127.0.0.1:{free_port()}/none")["installation"]
    assert _of(found, "database")["severity"] == "error"
    assert KEY not in json.dumps(found)


def test_colours_on_a_terminal_only_and_never_with_no_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from postroom.accounts.doctor.finding import error
    from postroom.cli.doctor import _lines

    lines = _lines(error("tls", "it ends " * 20, "a detail", "renew it " * 20), 80)
    assert lines[0].startswith("  \x1b[31merror    \x1b[0m  tls        it ends")
    assert all(len(line) <= 90 for line in lines[:-1])
    assert lines[-1] == f"{' ' * 23}fix: {'renew it ' * 20}", "a fix is one line, to be copied"


# --- values


@pytest.mark.parametrize(
    ("free", "severity"), [(99, Severity.ERROR), (100, Severity.WARNING), (400, Severity.OK)]
)
def test_the_room_on_the_disk(free: int, severity: Severity) -> None:
    assert about_disk(free, 100).severity is severity


@pytest.mark.parametrize(
    ("mode", "severity"),
    [
        (0o100600, Severity.OK),
        (0o100400, Severity.OK),
        (0o100640, Severity.NOTE),
        (0o100644, Severity.ERROR),
        (0o100602, Severity.ERROR),
    ],
)
def test_modes_of_files(mode: int, severity: Severity) -> None:
    (found,) = about_files([PrivateFile(Path("secret.key"), mode, Severity.ERROR)])
    assert found.severity is severity
    assert found.fix == (None if severity is Severity.OK else "chmod 600 secret.key")


def test_a_folder_that_others_can_enter() -> None:
    (found,) = about_files([PrivateFile(Path("var"), 0o040755, Severity.WARNING)])
    assert (found.severity, found.fix) == (Severity.WARNING, "chmod 700 var")


def test_a_worker_that_hangs_does_not_count() -> None:
    records = [WorkerRecord(1, "a", 1, "x", 100 * SECOND)]
    assert about_workers(records, 50 * SECOND).severity is Severity.OK
    assert about_workers(records, 99 * SECOND).severity is Severity.WARNING
