"""Places where the tests kill a process: `POSTROOM_FAILPOINT=name:n:file` kills it at the n-th `failpoint.hit("name")`.

A line is added to `file` first, so that the tests can count the deaths; once there is a file
`file.over`, no process is killed any more. It is not a setting: only the tests set it, so it is read
here and not in settings.py. Unset, a point costs one look at a global.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "POSTROOM_FAILPOINT"

# In the order of a message's way (docs/design.md §5).
POINTS = (
    "accept.parsed",
    "accept.piece",
    "accept.inserted",
    "accept.committed",
    "accept.answered",
    "store.commit",
    "claim.committed",
    "session.connect",
    "session.tls",
    "session.auth",
    "send.mail",
    "send.rcpt",
    "send.data",
    "send.body",
    "send.before_mark",
    "send.marked",
    "send.dot",
    "send.replied",
    "finish.inside",
    "recover.inside",
    "migrate.inside",
    "move.copied",
    "restore.step",
    "secrets.rotate",
)


class _Target:
    """The armed point, and how many times it is still let through."""

    def __init__(self, text: str) -> None:
        self.name, count, self.file = text.split(":", 2)
        self.left = int(count)

    def pass_by(self) -> None:
        self.left -= 1
        if self.left == 0 and not Path(f"{self.file}.over").exists():
            with open(self.file, "a", encoding="ascii") as file:
                file.write(f"{self.name}\n")
            os.kill(os.getpid(), signal.SIGKILL)


_target: _Target | None = None


def arm() -> None:
    """Read the environment: at the start, and where a process takes over the environment of another."""
    global _target
    _target = _Target(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


arm()


def hit(name: str) -> None:
    """Kill this process here, if this is the armed point and its count is reached."""
    if _target is not None and _target.name == name:
        _target.pass_by()
