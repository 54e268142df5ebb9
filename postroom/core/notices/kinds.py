"""The kinds of notices in one table: their words, and whether each is a state that ends or something that happens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a notice is about; docs/notices.md explains each."""

    FAILED = "failed"
    PAUSED = "paused"
    STUCK = "stuck"
    LIMIT = "limit"
    WORKER = "worker"
    DISK = "disk"
    SHARE = "share"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a kind. `lasts`: it is a state that ends, and its end is told; otherwise it happens and is counted."""

    lasts: bool
    one: str  # the title for one subject; {name} is the subject, {count} the number
    several: str
    effect: str  # what it does to messages
    fix: str
    over_one: str = ""  # the title once it is over
    over_several: str = ""


KINDS: Final[Mapping[Kind, Words]] = {
    Kind.FAILED: Words(
        lasts=False,
        one="1 message has failed",
        several="{count} messages have failed",
        effect="A failed message is given up: it is not tried again.",
        fix="Put right what the reason says and send the message again; `postroom status ID` shows each attempt.",
    ),
    Kind.PAUSED: Words(
        lasts=True,
        one="account {name} is paused",
        several="{count} accounts are paused",
        effect="The messages of a paused account wait, and nothing is lost.",
        fix="Put right what the reason says, then: postroom accounts resume {name}",
        over_one="account {name} works again",
        over_several="{count} accounts work again",
    ),
    Kind.STUCK: Words(
        lasts=True,
        one="messages of {name} are due and are not sent",
        several="messages of {count} accounts are due and are not sent",
        effect="They wait, and go out late; nothing is lost.",
        fix="Run `postroom doctor {name}`: it says what its server answers.",
        over_one="the messages of {name} go out again",
        over_several="the messages of {count} accounts go out again",
    ),
    Kind.LIMIT: Words(
        lasts=True,
        one="{name} has nearly used up a limit",
        several="{count} accounts have nearly used up a limit",
        effect="Messages beyond the limit wait until it has room again.",
        fix="Wait. If its provider allows more: postroom accounts set {name} --daily-limit NUMBER, or its row of data.csv.",
        over_one="{name} is within its limits again",
        over_several="{count} accounts are within their limits again",
    ),
    Kind.WORKER: Words(
        lasts=True,
        one="{name}",
        several="workers are in trouble",
        effect="Without a worker no message is sent; all of them wait.",
        fix="Look into the service's log for the reason, then: postroom serve",
        over_one="the workers run again",
        over_several="the workers run again",
    ),
    Kind.DISK: Words(
        lasts=True,
        one="the disk is nearly full",
        several="{count} disks are nearly full",
        effect="Below POSTROOM_DISK_RESERVE no message is accepted, and below a quarter of it none is sent.",
        fix="Make room there, or set POSTROOM_KEEP_BODIES and POSTROOM_KEEP_HISTORY shorter.",
        over_one="there is room on the disk again",
        over_several="there is room on {count} disks again",
    ),
    Kind.SHARE: Words(
        lasts=True,
        one="the share of messages that fail has risen",
        several="the share of messages that fail has risen",
        effect="Those messages are given up; providers distrust a sender of many failures.",
        fix="Look at the reasons: postroom log --status failed; stop what sends to addresses that do not exist.",
        over_one="the share of messages that fail is low again",
        over_several="the share of messages that fail is low again",
    ),
    Kind.DATABASE: Words(
        lasts=True,
        one="the database cannot be used",
        several="the database cannot be used",
        effect="No message is accepted (503) and none is sent; what was accepted is kept.",
        fix="Start the database, or correct DATABASE_URL.",
        over_one="the database works again",
        over_several="the database works again",
    ),
}


def parse_kinds(text: str) -> frozenset[Kind]:
    """Return the kinds that a list of names, separated by commas, names. Raises ValueError."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    known = ", ".join(Kind)
    if not names or not all(name in Kind.__members__.values() for name in names):
        raise ValueError(f"must be names of kinds, separated by commas: {known}")
    return frozenset(map(Kind, names))
