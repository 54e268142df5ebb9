"""A submission with the key of a pool: chooses the account that sends it, and where its idempotency key stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from postroom.core.account import Account
from postroom.core.errors import NotPermitted
from postroom.core.message import Submission
from postroom.store.pools import Pools
from postroom.web.services import Services
from postroom.web.waits import Waits


async def submission_of_pool(
    pool_id: int, parse: Callable[[Account], Submission], shared: Services, waits: Waits
) -> Submission:
    """Return what `parse` makes of the request, with the account that is chosen for it. Raises Rejected and StoreError."""
    pools = shared.pools
    if not pools.is_fresh(pool_id):
        await waits.read(lambda: pools.refresh(pool_id))
    anyone = pools.anyone(pool_id)
    if anyone is None:
        raise NotPermitted("this key's pool has no account to send through", field="key")
    submission = parse(anyone)
    thread = await _thread(pool_id, submission.in_reply_to, shared, waits)
    account = pools.choose(pool_id, recipients=len(submission.recipients), thread=thread)
    submission = replace(submission, account=account)
    if submission.idempotency_key is None:
        return submission
    # A repeated request may come when another account is chosen: its key stands in one place for the whole pool.
    anchor = await waits.read(lambda: shared.store.read(Pools.anchor_of, pool_id))
    return replace(
        submission,
        idempotency_key=f"pool {pool_id}\n{submission.idempotency_key}",
        idempotency_account=anchor,
    )


async def _thread(pool_id: int, in_reply_to: str | None, shared: Services, waits: Waits) -> int | None:
    """Return the account that has sent the message which is answered; its Message-ID begins with its request id."""
    if in_reply_to is None:
        return None
    request_id = in_reply_to.strip().lstrip("<").partition("@")[0].lower()
    return await waits.read(lambda: shared.store.read(Pools.member_that_sent, pool_id, request_id))
