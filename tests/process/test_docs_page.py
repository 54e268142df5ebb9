"""`/docs` in a real browser, cut off from every other server: it renders all calls, and nothing is refused by its policy.

For `make soak`, where a Chromium is installed (`apt-get install chromium-headless-shell`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from postroom.web.admin.views import CALLS
from tests.servers.installation import Installation, account_rows
from tests.servers.programs import free_port
from tests.soak import SOAK

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
CONSOLE = re.compile(r":CONSOLE[:(].*")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--virtual-time-budget=20000",  # of its timers, after which the page is printed
)

pytestmark = pytest.mark.skipif(not (SOAK and BROWSER), reason="a soak test, and needs a Chromium")


def browse(address: str, profile: Path) -> tuple[str, list[str]]:
    """Return the page as it is rendered, and what was written to its console."""
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, CONSOLE.findall(done.stderr)


def test_the_page_renders_every_call_without_an_error(tmp_path: Path) -> None:
    with Installation(tmp_path / "service", account_rows(free_port())) as service:
        page, console = browse(f"http://127.0.0.1:{service.port}/docs", tmp_path / "profile")
    assert console == []
    rendered = set(re.findall(r'id="operations-\w+-(\w+)"', page))
    assert rendered >= {call.name for call in CALLS} | {"sendEmail", "emailStatus"}


def test_an_error_on_the_console_is_seen(tmp_path: Path) -> None:
    """So that the test above could fail."""
    policy = "<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\">"
    _, console = browse(f"data:text/html,{policy}<script>1</script>", tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
