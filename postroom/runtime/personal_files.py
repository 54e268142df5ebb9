"""The files of this host that name a person: the folder of the inbox, and email_log.txt with its older files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from postroom.core.erasure import ErasedAddress
from postroom.core.errors import StoreUnavailable
from postroom.core.files import sync
from postroom.inbox.maildrop import names_to
from postroom.worker.email_log import EmailLog

_WAIT_S = 10.0  # for a process that is just writing the log
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class FilesErased:
    """How many messages of the inbox's folder, and lines of the log, named the address."""

    inbox_messages: int
    log_lines: int


def look_in_files(address: ErasedAddress, inbox: Path, email_log: EmailLog) -> FilesErased:
    """Return what `erase_from_files` would erase now. Raises OSError."""
    messages = sum(1 for _ in names_to(inbox, address.address))
    return FilesErased(messages, email_log.count(address.without_octets))


def erase_from_files(address: ErasedAddress, inbox: Path, email_log: EmailLog) -> FilesErased:
    """Delete the inbox's messages to the address, and put its substitute into the log. Raises OSError, StoreUnavailable."""
    deleted = 0
    for name in list(names_to(inbox, address.address)):
        (inbox / "mail" / name).unlink(missing_ok=True)
        deleted += 1
    if deleted:
        sync(inbox / "mail")
    return FilesErased(deleted, _revise(address, email_log))


def _revise(address: ErasedAddress, email_log: EmailLog) -> int:
    deadline = time.monotonic() + _WAIT_S
    while (changed := email_log.revise(address.without_octets)) is None:
        if time.monotonic() > deadline:
            raise StoreUnavailable("email_log.txt is being written by another process; run the command again")
        time.sleep(_PAUSE_S)
    return changed
