"""Detects a database that was set back (an old copy, another server): remembers its position in var/database.json.

An old primary that comes back, or a dump that was restored, knows nothing of what was accepted and sent later. What this
machine has seen is kept in a file beside its other ones; which server has the database, in the database too, where a
dump takes it along.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from postroom.core.clock import Instant
from postroom.core.errors import ConfigError
from postroom.core.files import read_plain, reason_of, write_plain
from postroom.core.message import InDoubtPolicy
from postroom.core.text import counted
from postroom.store.engine import Server
from postroom.store.holds import Holds
from postroom.store.messages import Messages
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.workers import Workers

log = logging.getLogger(__name__)

FILE = "database.json"
_SETTING = "server"
_LARGEST: Final = 4096
_LATEST: Final = 1 << 62
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SYSTEM: Final = re.compile(r"[!-~]{1,64}")
_FENCE = (
    "was not used: {}. Where a standby was promoted, the server that was the primary before must be fenced: stopped, or "
    "made a standby of the new one (pg_rewind), before Postroom can reach it. If it is right, because you have "
    "restored a dump or moved to another server, run `postroom migrate --accept-server` once: what is queued there is "
    "held then, since it may have been sent"
)


@dataclass(frozen=True, slots=True)
class Position:
    """The server, and the newest message on it."""

    system: str | None = None
    timeline: int = 0
    newest: str | None = None
    newest_at: Instant = 0


def read(path: Path, *, warns: bool = False) -> Position:
    """Return what is remembered; nothing where that cannot be read, of which `warns` has the log tell."""
    try:
        return _checked(Position(**json.loads(read_plain(path, _LARGEST).decode("utf-8"))))
    except FileNotFoundError:
        reason = "it is a link to nothing" if path.is_symlink() else ""
    except OSError as error:
        reason = reason_of(error)
    except (ValueError, TypeError, RecursionError):
        reason = "it is not what Postroom has written there"
    if reason and warns:
        log.warning(
            "%s cannot be read (%s): it is taken as not there, and whether the database has stepped back is not known",
            path,
            reason,
        )
    return Position()


def _checked(found: Position) -> Position:
    """Return a position whose values are of their kinds. Raises ValueError, TypeError."""
    if found.system is not None and not _SYSTEM.fullmatch(found.system):
        raise ValueError("no system identifier of PostgreSQL")
    if found.newest is not None and not _ID.fullmatch(found.newest):
        raise ValueError("no id of a message")
    for number in found.timeline, found.newest_at:
        if type(number) is not int or not 0 <= number < _LATEST:
            raise TypeError("no number")
    return found


def write(path: Path, position: Position) -> None:
    """Remember a position. A crash leaves the old one or the new one; a disk that is full, the old one."""
    if read(path) == position:
        return
    try:
        write_plain(path, json.dumps(asdict(position)).encode())
    except OSError as error:
        log.warning("cannot write %s: %s", path, reason_of(error))


def note(store: Store, path: Path) -> None:
    """Remember how far the database is now."""
    server = store.server() or Server(None, 0)
    newest = store.read(Messages.last_accepted) or (None, 0)
    write(path, Position(server.system, server.timeline, *newest))


def check(store: Store, path: Path, *, now: Instant, keep: Instant | None, accept: bool = False) -> int:
    """See that the database has not stepped back; what is queued is held where it has, and counted.

    Raises ConfigError when it is on another server, or on one of an older timeline, unless that is to be accepted.
    `keep` is how long messages are known: one that was forgotten for its age is not missed.
    """
    seen, server = read(path, warns=True), store.server()
    known = [Server(seen.system, seen.timeline)] if seen.system else []
    if (noted := store.read(StoredSettings.get, _SETTING)) is not None:
        system, _, timeline = noted.partition(" ")
        known.append(Server(system, int(timeline)))
    wrong = _what_is_wrong(server, known) if server is not None else None
    if wrong and not accept:
        raise ConfigError("DATABASE_URL", f"the server that it names {_FENCE.format(wrong)}")
    missed = seen.newest is not None and store.read(Messages.status, seen.newest) is None
    is_missed = missed and (keep is None or seen.newest_at + keep > now)
    held = 0
    if wrong or is_missed:
        held = store.write(Holds.hold_queued, now, until=now, claimed=True)
        _forget_workers(store, now)
        _tell(store, seen, wrong, held)
    if server is not None:
        described = f"{server.system} {server.timeline}"
        if described != noted:
            store.write(StoredSettings.set, _SETTING, described)
    note(store, path)
    return held


def _tell(store: Store, seen: Position, wrong: str | None, held: int) -> None:
    if not wrong and store.read(Messages.last_accepted) is None:
        log.warning(
            "the database is empty, and there was one here before: it does not know %s, which was accepted. It is begun "
            "afresh; where nobody has meant that, stop Postroom and restore a backup",
            seen.newest,
        )
        return
    log.warning(
        "the database has stepped back (%s): %s held, and may have been sent; "
        "`postroom release ID` sends one, `postroom cancel ID` gives it up",
        wrong or f"it does not know {seen.newest}, which was accepted",
        counted(held, "message that was queued is", "messages that were queued are"),
    )


def _forget_workers(store: Store, now: Instant) -> None:
    """Declare the workers of the backup's time dead at once: /readyz would count them, and their connections."""
    for record in store.read(Workers.living):
        if record.lease_until < now:
            store.write(
                lambda transaction, id_=record.id: transaction.recovery.reap(  # type: ignore[misc]
                    id_, now=now, in_doubt=InDoubtPolicy.HOLD
                )
            )


def _what_is_wrong(server: Server, known: list[Server]) -> str | None:
    for each in known:
        if server.system != each.system:
            return f"it is another server (system identifier {server.system}, before {each.system})"
        if server.timeline < each.timeline:
            return f"its timeline is {server.timeline}, and {each.timeline} was seen before"
    return None
