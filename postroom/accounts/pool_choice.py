"""Chooses the account of a pool that sends a message: by state, room in the daily limit, weight and load. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from postroom.core.account import Account, AccountState
from postroom.core.clock import Instant
from postroom.core.errors import NotPermitted

_NEVER: Final = 1 << 62


@dataclass(slots=True)
class Member:
    """An account of a pool as it was when it was last read, and what was given to it since."""

    account: Account
    weight: int
    daily_limit: int | None  # recipients in 24 hours; None: no limit
    used: int  # recipients of the last 24 hours
    room_at: Instant  # when the oldest of them no longer count
    waiting: int  # messages that have not ended
    taken: int = 0  # recipients of messages that were given to it since it was read
    turn: float = 0.0  # messages that were ever given to it, each divided by its weight
    is_able: bool = False  # whether it could send at the last choice


def choose(members: Sequence[Member], *, recipients: int, now: Instant, thread: int | None = None) -> Member:
    """Return the member that sends a message to so many recipients.

    That of `thread`, the account that has sent the message which this one answers. Else, of those that may send and
    have room, the one that is furthest behind its share, where waiting messages count. Where none is able, the one
    that will be first: the message waits for it. Raises NotPermitted for a pool without an account.
    """
    lasting = [member for member in members if member.account.closing_at is None]
    if not lasting:
        raise NotPermitted("this key's pool has no account to send through", field="key")
    for member in lasting:
        if member.account.id == thread:
            return member
    able = [member for member in lasting if is_able(member, recipients, now)]
    if able:
        return min(able, key=_place)
    return min(lasting, key=lambda member: (_able_at(member, recipients, now), *_place(member)))


def catch_up(members: Sequence[Member], *, recipients: int, now: Instant) -> None:
    """Have those that are able again after a while go on beside the others, rather than make up for all they missed."""
    able = [is_able(member, recipients, now) for member in members]
    level = min(
        (member.turn for member, goes in zip(members, able, strict=True) if goes and member.is_able),
        default=0.0,
    )
    for member, goes in zip(members, able, strict=True):
        if goes and not member.is_able:
            member.turn = max(member.turn, level)
        member.is_able = goes


def give(member: Member, recipients: int) -> None:
    """Count a message that was given to a member."""
    member.taken += recipients
    member.turn += 1 / member.weight


def is_able(member: Member, recipients: int, now: Instant) -> bool:
    """Whether an account may send now, and its daily limit has room behind what waits for it."""
    return member.account.closing_at is None and _able_at(member, recipients, now) <= now


def _able_at(member: Member, recipients: int, now: Instant) -> Instant:
    account = member.account
    at = now
    if account.state is not AccountState.ACTIVE:
        at = _NEVER if account.resume_at is None else max(now, account.resume_at)
    if member.daily_limit is not None:
        taken = member.used + member.waiting + member.taken
        if taken + recipients > member.daily_limit:
            at = max(at, member.room_at, now + 1)
    return at


def _place(member: Member) -> tuple[float, int, int]:
    """Return where a member stands in the order of choice, the same in every process."""
    return member.turn + (member.waiting + 1) / member.weight, -member.weight, member.account.id
