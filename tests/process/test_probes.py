"""`postroom check` before a start, and `postroom healthy` for probes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.forked import forker
from tests.servers.installation import ROOT, Installation, account_rows
from tests.servers.programs import free_port
from tests.servers.waiting import eventually


def run(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **settings}
    return forker().run(*words, cwd=folder, environment=environment, stdin="")


def found(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return what `check` says of each thing: `ok`, or its line."""
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    return {name.rstrip(":"): state if state == "ok" else said for state, name, said in lines}


ALL_WELL = dict.fromkeys(
    (
        *(
            "settings",
            "folder",
            "data.csv",
            "database",
            "email_log",
            "limiter",
            "shipping",
            "traces",
            "notices",
        ),
        *("port", "metrics"),
    ),
    "ok",
)


TAKEN = "the port of another program"
NOBODYS = "mailto:ops@postroom.example?account=no@postroom.example"
TRACES = {"OTEL_TRACES_EXPORTER": "otlp"}


def test_check_of_an_empty_folder_changes_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "check", PORT=str(free_port()))
    assert (done.returncode, found(done)) == (0, ALL_WELL), done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"PORT": "no"}, "settings", "PORT"),
        (
            {"DATABASE_URL": "postgresql://postroom@127.0.0.1:1/none"},
            "database",
            "DATABASE_URL: the database 127.0.0.1:1",
        ),
        ({"RATELIMIT_STORAGE_URI": "redis://127.0.0.1:1/0"}, "limiter", "start it, or name another"),
        ({"POSTROOM_NOTIFY": "nosuch://h"}, "notices", "POSTROOM_NOTIFY"),
        ({"HOST": "192.0.2.1"}, "port", "HOST"),
        ({"POSTROOM_LOG_SHIP": "datadog:"}, "shipping", "DD_API_KEY: must be set"),
        ({"POSTROOM_METRICS_PORT": TAKEN}, "metrics", "POSTROOM_METRICS_PORT: metrics cannot be served"),
        (
            {"POSTROOM_METRICS_PORT": "9100", "POSTROOM_METRICS_HOST": "192.0.2.1"},
            "metrics",
            "POSTROOM_METRICS_HOST",
        ),
        ({"POSTROOM_NOTIFY": NOBODYS}, "notices", "the account no@postroom.example of 1 (mailto) is unknown"),
        ({"POSTROOM_EMAIL_LOG": "nosuch/log.txt"}, "email_log", "POSTROOM_EMAIL_LOG: there is no folder"),
        ({"POSTROOM_EMAIL_LOG": "."}, "email_log", "POSTROOM_EMAIL_LOG: . is a folder"),
        ({"DATABASE_URL": "sqlite:///nosuch/x.db"}, "database", "DATABASE_URL: there is no folder"),
        ({**TRACES, "OTEL_BSP_MAX_QUEUE_SIZE": "3"}, "traces", "OTEL_…: has a value"),
        ({"POSTROOM_ACCOUNTS_CSV": "."}, "data.csv", "POSTROOM_ACCOUNTS_CSV"),
    ],
)
def test_check_names_what_is_wrong(tmp_path: Path, settings: dict[str, str], name: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = str(other.getsockname()[1])
        settings = {key: number if value is TAKEN else value for key, value in settings.items()}
        done = run(tmp_path, "check", **{"PORT": str(free_port()), **settings})
    assert done.returncode == 78, done
    wrong = {each: said for each, said in found(done).items() if said != "ok"}
    assert list(wrong) == [name]
    assert words in wrong[name]


def test_check_says_that_opentelemetry_is_missing(tmp_path: Path) -> None:
    """As without `postroom[otel]`: a module of its name that cannot be imported comes first."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without/opentelemetry.py").write_text("raise ImportError\n", encoding="utf-8")
    command = "import sys; sys.path.insert(0, 'without'); from postroom.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(free_port()), **TRACES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78, done
    assert "pip install 'postroom[otel]'" in found(done)["traces"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_names_a_file_of_the_installation_that_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/log.lock").touch(mode=0o400)
    done = run(tmp_path, "check", PORT=str(free_port()))
    assert (done.returncode, "var/log.lock" in found(done)["folder"]) == (78, True), done


def test_a_start_warns_of_a_notice_that_no_account_sends(tmp_path: Path) -> None:
    with Installation(tmp_path, account_rows(9), POSTROOM_NOTIFY=NOBODYS) as service:
        eventually(lambda: "POSTROOM_NOTIFY: the account no@postroom.example" in service.log(), 20)
    known = NOBODYS.replace("no@", "me@")
    assert run(tmp_path, "check", PORT=str(free_port()), POSTROOM_NOTIFY=known).returncode == 0


def test_check_does_not_wait_at_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.csv")
    done = run(tmp_path, "check", PORT=str(free_port()))
    assert done.returncode == 78
    assert "a FIFO" in found(done)["data.csv"]


def test_check_of_rows_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("name,other\nx,y\n", encoding="utf-8")
    done = run(tmp_path, "check", PORT=str(free_port()))
    assert done.returncode == 78
    assert "line 1" in found(done)["data.csv"]


def test_check_beside_a_service_that_runs(tmp_path: Path) -> None:
    with Installation(tmp_path, account_rows(9)) as service:
        done = run(tmp_path, "check", PORT=str(free_port()))
        assert (done.returncode, found(done)) == (0, ALL_WELL), done
        done = run(tmp_path, "check", PORT=str(service.port))
        assert "in use" in found(done)["port"]
        other = run(tmp_path, "check", PORT=str(free_port()), POSTROOM_SECRET_KEY="another secret than that")
        assert "POSTROOM_SECRET_KEY" in found(other)["database"]


def test_healthy_tells_a_process_that_is_gone_and_a_worker_that_stands_still(tmp_path: Path) -> None:
    with Installation(tmp_path, account_rows(9)) as service:
        port = str(service.port)
        assert run(tmp_path, "healthy", "web", PORT=port).returncode == 0
        eventually(lambda: run(tmp_path, "healthy", "worker").returncode == 0, 20, "a worker to be healthy")
        [worker] = service.pids("-m", "postroom", "worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            service.change("UPDATE worker SET lease_until = lease_until - 40000000")  # as after 40 s
            done = run(tmp_path, "healthy", "worker")
            assert (done.returncode, "0 of 1" in done.stderr) == (1, True), done
        finally:
            os.kill(worker, signal.SIGCONT)
    for which in ("web", "worker"):
        done = run(tmp_path, "healthy", which, PORT=port)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False), done


def test_a_worker_is_healthy_while_the_database_is_away(tmp_path: Path) -> None:
    """To start it anew would not help."""
    with Installation(tmp_path, account_rows(9)):
        eventually(lambda: run(tmp_path, "healthy", "worker").returncode == 0, 20, "a worker to be healthy")
        done = run(tmp_path, "healthy", "worker", DATABASE_URL="postgresql://postroom@127.0.0.1:1/none")
        assert done.returncode == 0, done
        assert "cannot be asked" in done.stdout
