"""`Doorway`: authenticate, parse, answer and refuse as functions; `run` takes a request through them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from postroom.accounts.keys import ApiKeys, Principal
from postroom.core import failpoint
from postroom.core.api_key import Scope
from postroom.core.errors import NotAuthenticated, StoreError
from postroom.core.message import Accepted, NewMessage, Submission
from postroom.core.stored_text import PIECE
from postroom.intake.accept import accepted_or_refused
from postroom.intake.checks import check_disk_space, takes_long
from postroom.intake.prepare import prepare
from postroom.intake.request_id import new_request_id
from postroom.store.acceptance import Acceptance, IdempotencyClash
from postroom.store.issued_keys import note_key_used
from postroom.store.pieces import accept_message
from postroom.store.transaction import work
from postroom.store.writer import Work
from postroom.web.answers import Answer, Problem
from postroom.web.api_request import ApiRequest
from postroom.web.pool_submission import submission_of_pool
from postroom.web.rate_limits import Kind
from postroom.web.services import Services
from postroom.web.waits import Waits

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

T = TypeVar("T")
Outcome: TypeAlias = Accepted | IdempotencyClash


@dataclass(frozen=True, slots=True)
class Doorway:
    """One way in. Each part is a plain function, which waits for nothing.

    `authenticate` and `parse` raise Rejected; `refuse` turns that, or any other error, into the answer.
    """

    path: str
    authenticate: Callable[[ApiRequest, ApiKeys], Principal]
    parse: Callable[[ApiRequest, Principal], Submission]
    answer: Callable[[Accepted], Answer]
    refuse: Callable[[Exception], Problem]


async def run(doorway: Doorway, request: ApiRequest, shared: Services, waits: Waits) -> Answer:
    """Answer a request to send; the message is durable when the answer says that it was accepted."""
    try:
        await admit(request, Kind.SEND, shared, waits)
        try:
            accepted = await _take(doorway, request, shared, waits)
        except NotAuthenticated:  # it may be newer than what is known here, or have just stopped working
            if request.key is None:
                raise
            await waits.read(partial(shared.keys.refresh, time.monotonic()))
            accepted = await _take(doorway, request, shared, waits)
        answer = doorway.answer(accepted)
    except Exception as error:
        answer = doorway.refuse(error)
    return await complete(request, answer, shared, waits)


async def _take(doorway: Doorway, request: ApiRequest, shared: Services, waits: Waits) -> Accepted:
    """Authenticate, parse and accept. Raises Rejected and StoreError."""
    principal = doorway.authenticate(request, shared.keys)
    pool_id = principal.key.pool_id
    if pool_id is None:
        request.account = principal.account.email
    principal.key.check_source(request.address)
    principal.key.check_scope(Scope.SEND)
    if pool_id is None:
        submission = doorway.parse(request, principal)
    else:
        submission = await submission_of_pool(
            pool_id, lambda account: doorway.parse(request, principal.for_account(account)), shared, waits
        )
        principal = principal.for_account(submission.account)
        request.account = submission.account.email
    if shared.begin_trace is not None:
        submission = replace(submission, traceparent=shared.begin_trace(submission.traceparent))
    return await _accept(submission, principal, shared, waits)


async def admit(request: ApiRequest, kind: Kind, shared: Services, waits: Waits) -> None:
    """Look at what stands before every call. Raises Rejected."""
    request.check_headers(behind_a_proxy=shared.settings.trusted_proxies > 0)
    await shared.limits.admit(request, kind, waits)


async def complete(request: ApiRequest, answer: Answer, shared: Services, waits: Waits) -> Answer:
    """Return the answer as it leaves: with the rate limit that the request counted against. A refusal is logged."""
    answer = await shared.limits.complete(request, answer, waits)
    if isinstance(answer, Problem):
        shared.refusals.note(request, answer)
    return answer


async def _accept(submission: Submission, principal: Principal, shared: Services, waits: Waits) -> Accepted:
    """Prepare, commit. `intake.accept` does the same for a caller that may block. Raises Rejected and StoreError."""
    failpoint.hit("accept.parsed")
    settings, now = shared.settings, shared.clock()
    make = partial(
        prepare, submission, most_bytes=settings.max_message_bytes, request_id=new_request_id(now), now=now
    )
    if takes_long(submission):
        message = await waits.compute(f"account {principal.account.id}", make)
    else:
        message = make()
    room = check_disk_space(shared.store.free_bytes(), settings.disk_reserve)
    if shared.shares.must_check(len(message.mime), room):
        await _check_share(principal, len(message.mime), room, shared, waits)
    outcome = await _commit(message, principal, shared, waits)
    if principal.is_new:
        shared.keys.note_used(principal.digest)
    failpoint.hit("accept.committed")
    return accepted_or_refused(outcome)


async def _check_share(principal: Principal, size: int, room: int, shared: Services, waits: Waits) -> None:
    """Count what an account's messages take, where that is not known; when it cannot be, what was known must do."""
    account = principal.account
    if not shared.shares.is_known(account.id):
        with suppress(StoreError, TimeoutError):
            await waits.read(lambda: shared.shares.count(account.id))
    shared.shares.check(account, size, room)


async def _commit(message: NewMessage, principal: Principal, shared: Services, waits: Waits) -> Outcome:
    if len(message.mime) <= PIECE:
        return await waits.commit(_with_first_use(work(Acceptance.accept, message), principal, shared))
    return await waits.commit_several(
        lambda write: accept_message(message, lambda each: write(_with_first_use(each, principal, shared)))
    )


def _with_first_use(main: Work[T], principal: Principal, shared: Services) -> Work[T]:
    """Return work that notes the first use of its key too."""
    if not principal.is_new:
        return main

    def both(transaction: Transaction) -> T:
        note_key_used(transaction, principal.key, shared.clock())
        return main(transaction)

    return both


async def note_use(principal: Principal, shared: Services, waits: Waits) -> None:
    """Store the first use of a key where nothing else is written; what fails is tried at the next use."""
    try:
        await waits.commit(_with_first_use(lambda transaction: None, principal, shared))
    except StoreError:
        return
    shared.keys.note_used(principal.digest)
