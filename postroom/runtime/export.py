"""Exports messages with all that is known of them: a line of JSON for each, and its content as a file (RFC 5322)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from postroom.core.clock import Instant
from postroom.core.errors import PlaceTaken
from postroom.core.files import private, sync
from postroom.core.listing import Filter
from postroom.core.message_history import MessageHistory
from postroom.core.stored_text import PIECE
from postroom.store.contents import Contents
from postroom.store.histories import Histories
from postroom.store.listings import NEWEST, Listings
from postroom.store.store import Store

LINES = "messages.ndjson"
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Exported:
    """How many messages were exported, and of how many the content is still kept."""

    messages: int
    contents: int


def make_folder(folder: Path) -> None:
    """Make the folder of an export. Raises OSError, and PlaceTaken where something is in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise PlaceTaken(f"{folder} is not empty; name a new folder")


def export(
    store: Store, wanted: Filter, folder: Path, line_of: Callable[[MessageHistory], str], now: Instant
) -> Exported:
    """Write the messages of a filter, the newest first, into a new or empty folder, which only its owner may read.

    Raises OSError, and PlaceTaken where something is in the folder.
    """
    make_folder(folder)
    messages = contents = 0
    with open(folder / LINES, "x", encoding="utf-8", opener=private) as lines:
        for history in _histories(store, wanted, now):
            lines.write(line_of(history) + "\n")
            messages += 1
            contents += _write_content(store, history.status.request_id, folder)
        lines.flush()
        os.fsync(lines.fileno())
    sync(folder)
    return Exported(messages, contents)


def _histories(store: Store, wanted: Filter, now: Instant) -> Iterator[MessageHistory]:
    before: int | None = NEWEST
    while before is not None:
        page = store.read(Listings.page, wanted, _PAGE, before=before, now=now)
        for listed in page.messages:
            history = store.read(Histories.of, listed.status.request_id)
            if history is not None:  # retention may have removed it meanwhile
                yield history
        before = page.reached


def _write_content(store: Store, request_id: str, folder: Path) -> bool:
    """Write a message's content, piece by piece; False where it is not kept."""
    content = store.read(Contents.find, request_id)
    if content is None:
        return False
    with open(folder / f"{request_id}.eml", "xb", opener=private) as file:
        left = content.size
        for number in range(-(-content.size // PIECE)):
            piece = store.read(Contents.piece, content, number)[:left]
            file.write(piece)
            left -= len(piece)
        file.flush()
        os.fsync(file.fileno())
    return True
