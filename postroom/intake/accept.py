"""`accept`: a Submission becomes a committed message, or is refused whole; checks the disk, then commits."""

from __future__ import annotations

from postroom.core import failpoint
from postroom.core.clock import Clock, system_clock
from postroom.core.errors import InvalidSubmission
from postroom.core.message import Accepted, Submission
from postroom.intake import checks
from postroom.intake.disk_share import DiskShares
from postroom.intake.prepare import prepare
from postroom.intake.request_id import new_request_id
from postroom.store.acceptance import IdempotencyClash
from postroom.store.pieces import accept_message
from postroom.store.store import Store


def accept(
    store: Store,
    submission: Submission,
    *,
    most_bytes: int,
    disk_reserve: int = 0,
    shares: DiskShares | None = None,
    clock: Clock = system_clock,
) -> Accepted:
    """Prepare and commit a submission; return only when it is durable.

    From then on the message ends as sent, failed or cancelled, whatever happens.
    Raises Rejected (InvalidSubmission, TooLarge) when it may not be sent, and
    StoreUnavailable when it could not be made durable, or when no more than `disk_reserve`
    bytes are free for the database (DiskFull), and QuotaExceeded where `shares` says that the account
    has used up its own; nothing is kept then.
    """
    failpoint.hit("accept.parsed")
    now = clock()
    message = prepare(submission, most_bytes=most_bytes, request_id=new_request_id(now), now=now)
    room = checks.check_disk_space(store.free_bytes(), disk_reserve)
    if shares is not None:
        shares.check(submission.account, len(message.mime), room)
    outcome = accept_message(message, store.write)
    failpoint.hit("accept.committed")
    return accepted_or_refused(outcome)


def accepted_or_refused(outcome: Accepted | IdempotencyClash) -> Accepted:
    """Return what the commit recorded. Raises InvalidSubmission for an idempotency key of another request."""
    if isinstance(outcome, IdempotencyClash):
        raise InvalidSubmission(
            "this idempotency key was used before for a different message; use a new key",
            field="Idempotency-Key",
        )
    return outcome
