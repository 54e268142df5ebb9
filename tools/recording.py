"""Make the picture of the README: the first message, from a real run in an empty folder, as an SVG that plays it.

    python -m tools.recording docs/first-message.svg

`postroom serve` runs on a free port, which the picture shows as 5000; everything else is what the programs print.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 128
_SHOWN_PORT = "5000"
_DEADLINE_S = 60.0
_TYPED_S, _PRINTED_S, _READ_S = 0.9, 0.12, 1.4  # a command, a line of output, and a pause after it
_LINE, _CHARACTER, _PADDING, _BAR = 19, 8.43, 16, 30


@dataclass(frozen=True)
class Step:
    """A command and what it printed."""

    command: str
    printed: str


def record() -> list[Step]:
    """Send the first message as the README says, and return each command with its output."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        (folder / ".venv").symlink_to(Path(sys.prefix))
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PORT": str(port),
            "POSTROOM_LOG_LEVEL": "WARNING",
            "COLUMNS": str(COLUMNS),
        }
        log = folder / "serve.log"
        with log.open("wb") as file:
            serve = subprocess.Popen(
                [".venv/bin/python", "-m", "postroom", "serve"],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=file,
            )
        try:
            greeting = _awaited(lambda: _greeting(log))
            command = re.search(r"curl .*\n.*", greeting)
            assert command, greeting
            _awaited(lambda: _is_open(port))
            steps = [Step(".venv/bin/postroom serve", greeting)]
            for shown in (
                command[0].replace("\n    ", "\n  "),
                ".venv/bin/postroom inbox show latest",
                ".venv/bin/postroom list",
            ):
                steps.append(Step(shown, _output(shown, folder, environment)))
                _awaited(lambda: _output(".venv/bin/postroom list", folder, environment).count("sent"))
        finally:
            serve.send_signal(signal.SIGTERM)
            serve.wait()
    return [
        Step(*(text.replace(f":{port}", f":{_SHOWN_PORT}") for text in (step.command, step.printed)))
        for step in steps
    ]


def _output(command: str, folder: Path, environment: dict[str, str]) -> str:
    first, *words = shlex.split(command.replace("\\\n", ""))
    program = [".venv/bin/python", "-m", "postroom"] if first.endswith("postroom") else [first, "--silent"]
    done = subprocess.run(  # noqa: S603
        [*program, *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip("\n")


def _greeting(log: Path) -> str:
    text = log.read_text(encoding="utf-8")
    return text.strip("\n") if "inbox show latest" in text else ""


def _awaited(look: object) -> str:
    assert callable(look)
    until = time.monotonic() + _DEADLINE_S
    while not (found := look()):
        if time.monotonic() > until:
            raise TimeoutError("the service did not do what the README says")
        time.sleep(0.05)
    return str(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def draw(steps: Sequence[Step]) -> str:
    """Return the SVG. Whoever asks for reduced motion, or prints it, sees the last picture."""
    lines: list[str] = []
    at, row = 0.5, 0
    for step in steps:
        for kind, text, pause in (("typed", step.command, _TYPED_S), ("printed", step.printed, _PRINTED_S)):
            for number, line in enumerate(_wrapped(text)):
                sign = '<tspan class="sign">$ </tspan>' if kind == "typed" and number == 0 else ""
                y = _BAR + _PADDING + row * _LINE + 13
                lines.append(
                    f'<text class="{kind}" x="{_PADDING}" y="{y}" style="animation-delay:{at:.2f}s">'
                    f"{sign}{escape(line)}</text>"
                )
                at, row = at + (pause if number == 0 or kind == "printed" else 0), row + 1
        at, row = at + _READ_S, row + 1
    width, height = round(COLUMNS * _CHARACTER + 2 * _PADDING), _BAR + 2 * _PADDING + row * _LINE
    return _FRAME.format(width=width, height=height, lines="\n".join(lines))


def _wrapped(text: str) -> list[str]:
    """Return the lines of a text as a terminal breaks them."""
    width = COLUMNS - 2
    return [
        line[start : start + width]
        for line in text.split("\n")
        for start in range(0, max(len(line), 1), width)
    ]


_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>The first message: make run, a curl, and the message in the built-in inbox</title>
<style>
text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; fill: #d6deeb }}
.typed {{ fill: #ffffff; font-weight: 600 }} .sign {{ fill: #7fdb8a }}
@media screen and (prefers-reduced-motion: no-preference) {{ text {{ opacity: 0; animation: show .01s forwards }} }}
@keyframes show {{ to {{ opacity: 1 }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#16202c"/>
<circle cx="18" cy="16" r="5" fill="#ff6058"/>
<circle cx="36" cy="16" r="5" fill="#ffbd2e"/><circle cx="54" cy="16" r="5" fill="#28c940"/>
{lines}
</svg>
"""


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(draw(record()), encoding="utf-8")
    sys.stderr.write(f"{path} is written\n")


if __name__ == "__main__":
    main()
