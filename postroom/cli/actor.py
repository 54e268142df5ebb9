"""Who runs a command, as the audit names it: the Unix user and this machine."""

from __future__ import annotations

import os
import pwd
import socket
from typing import TYPE_CHECKING

from postroom.core.text import printable

if TYPE_CHECKING:
    from postroom.core.audit import Actor


def actor() -> Actor:
    """Return who runs this command: the user of the process, or the one who called sudo."""
    from postroom.core.audit import Actor

    return Actor(f"user {printable(_user())}", printable(socket.gethostname()))


def _user() -> str:
    uid = os.getuid()
    if uid == 0 and (caller := os.environ.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"
