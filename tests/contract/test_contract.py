"""schemathesis against a started service, with all its checks: no server error, and no answer that is not described."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.http.admin import TOKEN
from tests.servers.installation import ROOT, Installation

# In `make test` a sample; in `make soak` more than ten thousand requests.
EXAMPLES = 250 if os.environ.get("POSTROOM_SOAK") == "1" else 3
# They look at other people's servers, by whatever name schemathesis makes up.
LOOKS = ("verifyAccount", "examineAccount")
CONFIG = f"""\
[auth.openapi.bearer]
bearer = "{TOKEN}"

[auth.openapi.header]
api_key = "{TOKEN}"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429]

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]

# A cursor is sealed: a text that only looks like one is a 400, which a schema cannot say.
[[operations]]
include-operation-id = "listEmails"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 422, 429]

[[operations]]
include-operation-id = "listStats"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 422, 429]

# Two different keys, in the body and in a header, are a 400, which a schema cannot say.
[[operations]]
include-operation-id = "sendEmail"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 422, 429]
"""


def test_the_service_answers_as_it_says(tmp_path: Path) -> None:
    rows = ["key,email,app_password,host", "a-key-for-the-tests,me@example.com,,inbox"]
    settings = {"POSTROOM_ADMIN_TOKEN": TOKEN, "POSTROOM_TRUSTED_PROXIES": "1"}
    installation = Installation(tmp_path / "service", rows, **settings)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    installation.start()
    try:
        url = f"http://127.0.0.1:{installation.port}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url),
                *("--max-examples", str(EXAMPLES), "--checks", "all", "--seed", "1", "--no-color"),
                *(part for name in LOOKS for part in ("--exclude-operation-id", name)),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.contract.hooks"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        installation.stop()
    assert done.returncode == 0, done.stdout[:40_000] + done.stderr[-5_000:]
