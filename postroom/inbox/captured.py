"""All messages of the inbox: those in its folder on this host, and those of test keys, which are in the database."""

from __future__ import annotations

import re
from pathlib import Path

from postroom.core.errors import NotFound
from postroom.inbox.maildrop import id_of, names_in
from postroom.inbox.reader import (
    CapturedMessage,
    MessageSummary,
    list_messages,
    message_of,
    printable,
    read_message,
)
from postroom.store.captures import Captured, Captures
from postroom.store.store import Store

_HEAD = 65_536  # octets that are read of each for a listing
_ID_FORM = "00000000-0000-0000-0000-000000000000"


def list_all(folder: Path, store: Store | None, limit: int) -> list[MessageSummary]:
    """Return the newest messages first; without a store, those of the folder."""
    found = list_messages(folder, limit)
    if store is not None:
        found += [
            _summary(each) for each in store.read(lambda tx: tx.captures.newest(max(limit, 0), octets=_HEAD))
        ]
    found.sort(key=lambda message: message.received, reverse=True)
    return found[: max(limit, 0)]


def read_any(folder: Path, store: Store | None, which: str) -> CapturedMessage:
    """Return one message: by its id, the start of its id, or "latest". Raises NotFound."""
    which = which.strip().lower()
    if which == "latest":
        which = next((message.id for message in list_all(folder, store, 1)), which)
    stored = [] if store is None else _beginning_with(store, which)
    if not stored:
        return read_message(folder, which)
    filed = [name for name in names_in(folder) if id_of(name).startswith(which)]
    if len(filed) + len(stored) > 1:
        raise NotFound(f"several messages have ids that start with {which!r}: give more of it.")
    assert store is not None
    found = store.read(Captures.whole, stored[0])
    if found is None:
        raise NotFound(f"The content of the message {printable(stored[0])!r} is not kept any more.")
    return _message(found)


def _beginning_with(store: Store, begun: str) -> list[str]:
    """Return up to two ids of captured messages that begin so."""
    rest = _ID_FORM[len(begun) :]
    first = begun + rest
    if not begun or not re.fullmatch(_ID_FORM.replace("0", "[0-9a-f]"), first):
        return []
    last = begun + rest.replace("0", "f")
    return [each.request_id for each in store.read(Captures.between, first, last, 2)]


def _summary(found: Captured) -> MessageSummary:
    head = found.mime.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    message = _message(found, head)
    return MessageSummary(
        id=message.id,
        received=message.received,
        envelope_from=message.envelope_from,
        envelope_to=message.envelope_to,
        subject=message.subject,
        sender=message.sender,
        size=found.size,
        is_test=True,
    )


def _message(found: Captured, raw: bytes | None = None) -> CapturedMessage:
    return message_of(
        found.mime if raw is None else raw,
        id_=found.request_id,
        received=found.captured_at,
        envelope_from=found.reverse_path,
        envelope_to=found.forward_paths,
        is_test=True,
    )
