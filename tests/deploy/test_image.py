"""The image, run as docs/deployment.md says: floods over kills, restarts, a rotated log and a full disk, ids counted."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import USER, Container, build, described
from tests.servers.installation import account_rows, kill
from tests.servers.ledger import all_ended, check_ledger, held_mails
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

pytestmark = [
    pytest.mark.skipif(os.environ.get("POSTROOM_DEPLOY") != "1", reason="make deploy-test"),
    pytest.mark.timeout(900),
]
CLIENTS = 4
MIB = 1 << 20


@pytest.fixture(scope="module")
def image() -> str:
    return build()


class Flood:
    """Clients that post until they are told to stop, over whatever happens; `accepted` has each id that got its 202."""

    def __init__(self, service: Container) -> None:
        self._service = service
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(CLIENTS)]
        self.accepted: list[str] = []
        self.refused: list[int] = []

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._service.post(body="x" * 2000)
            except (OSError, http.client.HTTPException):
                self._over.wait(0.02)
                continue
            if answer.status == 202:
                self.accepted.append(answer.document["request_id"])
            else:
                self.refused.append(answer.status)

    def goes_on(self, messages: int = 200) -> None:
        """Wait until so many more were accepted."""
        goal = len(self.accepted) + messages
        eventually(lambda: len(self.accepted) >= goal, 120, "messages to be accepted")


def test_the_image_runs_read_only_without_rights_as_any_user(image: str, tmp_path: Path) -> None:
    found = described(image)
    assert found["Config"]["User"] == f"{USER}:0"
    assert found["Config"]["Entrypoint"] == ["postroom"]
    with Sink() as sink:
        with Container(image, tmp_path / "data", account_rows(sink.port), user=12345) as service:
            eventually(lambda: service.inside("postroom", "healthy", "web").returncode == 0, 60)
            eventually(lambda: service.inside("postroom", "healthy", "worker").returncode == 0, 60)
            assert service.inside("sh", "-c", "touch /opt/postroom/x").returncode != 0
            assert service.inside("python", "-m", "pip", "--version").returncode != 0
            service.wait_for(service.send())
            zombies = subprocess.run(
                ["ps", "--no-headers", "-o", "stat", "--ppid", str(service.pid)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "Z" not in zombies.stdout
            log = service.log()
            assert service.stop() == 0
        assert "Traceback" not in log
        assert service.log().rstrip().endswith("postroom.runtime.supervisor: stopped")


def test_a_flood_over_kills_restarts_and_a_rotated_log(image: str, tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Container(image, tmp_path / "data", account_rows(sink.port), POSTROOM_DRAIN="500ms")
        with service, Flood(service) as flood:
            flood.goes_on()
            rotated = service.folder / "email_log.txt.1"
            (service.folder / "email_log.txt").rename(rotated)
            for words in (("postroom", "worker"), ("postroom", "web")):
                assert kill(service.pids(*words)[-1])
                flood.goes_on()
            service.halt(signal.SIGKILL)  # the container as a whole
            service.start()
            flood.goes_on()
            assert service.halt() == 0
            service.start()
            flood.goes_on()
        with service:
            eventually(lambda: all_ended(service), 60, "all to be sent")
            accepted = flood.accepted
            twice = check_ledger(WithRotated(service, rotated), sink, accepted, held_mails(service))
            print(f"{len(accepted)} accepted, each sent once but for {len(twice)} that are flagged")
            assert len(twice) <= 3 * 20, "only what was at its dot when something was killed"


class WithRotated:
    """An installation whose log was rotated once."""

    def __init__(self, service: Container, rotated: Path) -> None:
        self.query = service.query
        self._logs = (rotated, service.folder / "email_log.txt")

    def log_lines(self) -> list[str]:
        return [line for log in self._logs for line in log.read_text(encoding="utf-8").splitlines()]


def test_a_stop_in_a_flood_into_the_built_in_inbox_makes_no_copy(image: str, tmp_path: Path) -> None:
    """The inbox is there until the worker has its answers."""
    rows = ["key,email,app_password,host", "a-key-for-the-tests,me@postroom.example,,inbox"]
    service = Container(image, tmp_path / "data", rows, POSTROOM_DRAIN="0")
    for _ in range(3):
        with service, Flood(service) as flood:
            flood.goes_on(100)
            assert service.halt() == 0
    with service:
        eventually(lambda: all_ended(service), 60, "all to be sent")
        [[messages]] = service.query("SELECT count(*) FROM message")
        assert service.query("SELECT count(*) FROM delivery WHERE possible_duplicate = 1") == [(0,)]
        assert len(list((service.folder / "var/inbox/mail").glob("*.eml"))) == messages


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_disk_that_fills_up_in_a_flood_and_is_emptied(image: str, tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        small_disk(tmp_path / "disk", 256) as disk,
        Container(image, disk / "data", account_rows(sink.port)) as service,
    ):
        with Flood(service) as flood:
            flood.goes_on()
            ballast = disk / "ballast"
            with ballast.open("wb") as file:
                while free(disk) > 20 * MIB:
                    file.write(bytes(min(MIB, free(disk) - 20 * MIB + 1)))
                    file.flush()
            eventually(lambda: len(flood.refused) > 500, 120, "refusals")
            assert set(flood.refused) == {503}
            lines = service.log().count("not accepted:") + service.log().count("refused 503")
            assert lines < 20, "once, and then once a minute"
            ballast.unlink()
            flood.goes_on()
        eventually(lambda: all_ended(service), 60, "all to be sent")
        assert check_ledger(service, sink, flood.accepted) == set()
