"""Every step of the Dockerfile and every command of compose.yaml, without a container engine.

`make test` downloads no package that is installed here; `make soak` begins with nothing, as the image does.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.installation import KEY, ROOT, Client, account_rows
from tests.servers.postgres import Postgres
from tests.servers.programs import end, free_port
from tests.servers.redis import Redis
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

DOCKERFILE = (ROOT / "Dockerfile").read_text()
SOAK = os.environ.get("POSTROOM_SOAK") == "1"
COMPOSE = (ROOT / "compose.yaml").read_text()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def command_of(service: str) -> list[str]:
    section = re.search(rf"^  {service}:\n(?:    .*\n|\n)+", COMPOSE, re.MULTILINE)
    assert section, f"no service {service}"
    found = re.search(r"^    command: (\[.+\])$", section[0], re.MULTILINE)
    assert found, f"no command of {service}"
    command: list[str] = json.loads(found[1])
    return command


def environment_of_all() -> dict[str, str]:
    section = COMPOSE.split("environment: &environment\n")[1].split("\nservices:")[0]
    return dict(re.findall(r'^    (\w+): "?(.*?)"?$', section, re.MULTILINE))


def borrow_packages(environment: Path) -> None:
    """Let an environment of the same Python have what ours has, but for Postroom: pip finds each pinned version there."""
    [folder] = environment.glob("lib/python*/site-packages")
    ours, borrowed = Path(sysconfig.get_path("purelib")), environment / "borrowed"
    if folder.parent.name != ours.parent.name:
        return
    borrowed.mkdir()
    for entry in ours.iterdir():
        if "postroom" not in entry.name:
            (borrowed / entry.name).symlink_to(entry)
    (folder / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The image's /opt/postroom, made by the Dockerfile's own steps, stage by stage, in a folder that holds nothing else."""
    place = tmp_path / "opt"
    place.mkdir()
    for line in DOCKERFILE.splitlines():
        instruction, _, words = line.partition(" ")
        if instruction == "COPY" and "--from=" not in words:
            copy(words.split(), place)
        elif instruction == "RUN" and "/data" not in words:
            run_step(words.replace("/opt/postroom", str(place)), place)
    return place


def copy(words: list[str], place: Path) -> None:
    *sources, target = words
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            path = place / target / source if target.endswith("./") else place / target
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, path)


def run_step(words: str, place: Path) -> None:
    environment = {**os.environ, "PIP_NO_COMPILE": "1"}  # most of what is installed is never imported here
    subprocess.run(["sh", "-ec", words], cwd=place, env=environment, check=True, timeout=900)
    if "-m venv" in words and not SOAK:
        borrow_packages(place / ".venv")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_and_every_command(image: Path, tmp_path: Path, sink: Sink, redis_server: Redis) -> None:
    with Postgres() as server, ExitStack() as stack:
        declared = environment_of_all()
        assert set(declared) == {
            "DATABASE_URL", "REDIS_URL", "POSTROOM_ACCOUNTS_CSV", "POSTROOM_TRUSTED_PROXIES", "HOST", "PORT",
        }  # fmt: skip
        port = free_port()
        environment = {
            **declared,
            "PATH": f"{image}/program/bin:{image}/.venv/bin:{os.environ['PATH']}",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "POSTROOM_ACCOUNTS_CSV": "data.csv",
            "DATABASE_URL": server.url(server.create_database()),
            "REDIS_URL": redis_server.uri,
            "POSTROOM_SECRET_KEY": "a secret key for this test",
        }

        def run(service: str, folder: Path) -> subprocess.Popen[bytes]:
            folder.mkdir(exist_ok=True)
            with (folder / "log").open("ab") as log:
                return subprocess.Popen(
                    [str(image / "program/bin/postroom"), *command_of(service)],
                    cwd=folder,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )

        assert run("migrate", tmp_path / "migrate").wait(60) == 0
        (tmp_path / "worker").mkdir()
        (tmp_path / "worker/data.csv").write_text("\n".join(account_rows(sink.port)) + "\n")
        for service in ("worker", "web"):
            process = run(service, tmp_path / service)
            stack.callback(end, process, timeout=30)
        client = Client(port)
        stack.callback(client.close)

        def ready() -> bool:
            try:
                return client.call("GET", "/readyz").status == 200
            except (OSError, http.client.HTTPException):
                return False

        eventually(ready, 60, "readiness")
        mail = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
        answer = client.call("POST", "/send-email", mail)
        assert answer.status == 202, answer
        status = f"/email-status/{answer.document['request_id']}"
        eventually(lambda: client.call("GET", status).document["status"] == "sent", 20, "the mail to be sent")


def test_the_image_starts_what_a_newcomer_would() -> None:
    [entry], [command] = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) + json.loads(command) == ["postroom", "serve"]
