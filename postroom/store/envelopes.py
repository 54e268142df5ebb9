"""Checksums of stored contents and envelopes: a message that was altered on the disk is not sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from postroom.core.errors import DAMAGED
from postroom.core.outcome import Blame, Failed


class Recipient(NamedTuple):
    """One recipient of a stored message, and the checksum of its envelope, if there is one."""

    id: int
    forward_path: str
    checksum: int | None


def envelope_checksum(reverse_path: str, forward_path: str, content: int) -> int:
    """Return the CRC-32 of an envelope, begun with that of its content, so that neither passes with another one."""
    return crc32(f"{reverse_path}\0{forward_path}".encode(), content)


def damage(
    reverse_path: str, recipients: Sequence[Recipient], mime: bytes | None, checksum: int | None
) -> dict[int, Failed]:
    """Return the end of each delivery whose content or envelope is not what was accepted.

    Without `mime` the content is looked at when it is read.
    """
    if checksum is None:  # it was accepted before there was one
        return {}
    content = checksum if mime is None else crc32(mime)
    if content != checksum:
        return {each.id: Failed(DAMAGED.format("content"), Blame.MESSAGE) for each in recipients}
    return {
        each.id: Failed(DAMAGED.format("envelope"), Blame.MESSAGE)
        for each in recipients
        if each.checksum is not None
        and envelope_checksum(reverse_path, each.forward_path, content) != each.checksum
    }
