"""Places where the tests kill a process: `POSTROOM_FAILPOINT=name:n` kills it at the n-th passing of `name`.

Not a setting: nobody but the tests sets it, so it is read here and not in config. Unset, a
passing costs one look at a global.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

VARIABLE = "POSTROOM_FAILPOINT"

# The way of a message (docs/design.md §5), in its order.
POINTS = (
    "accept.parsed",
    "accept.inserted",
    "accept.committed",
    "accept.answered",
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
    "recover.sweep",
    "store.checkpoint",
    "store.migration",
)


def _armed() -> tuple[str, Iterator[int]] | None:
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    return (name, iter(range(int(count) - 1, -1, -1))) if name else None


_target = _armed()


def passing(name: str) -> None:
    """Die here, if this is the place and its time has come."""
    if _target is not None and _target[0] == name and next(_target[1], 1) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
