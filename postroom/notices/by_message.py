"""Sends a notice as a message of an account: a submission through `accept`, like every other one."""

from __future__ import annotations

from postroom.core.account import Account
from postroom.core.clock import Clock
from postroom.core.errors import Rejected
from postroom.core.message import Submission
from postroom.core.notices.values import Notice
from postroom.core.notices.ways import Way
from postroom.intake.accept import accept
from postroom.notices.answer import Answer
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.notices import Notices
from postroom.store.store import Store


def send_by_message(way: Way, notice: Notice, settings: Settings, store: Store, clock: Clock) -> Answer:
    """Submit a notice; return the id it was accepted under. Raises StoreError.

    Its idempotency key is the notice's id: a repeat after a kill is no second message.
    """
    account = _account(store, way.account)
    if account is None:
        return Answer(False, f"there is no account {way.account}")
    key = f"notice-{notice.id}-{way.recipient}"
    submission = Submission(account, (way.recipient,), notice.title, notice.text, idempotency_key=key)
    try:
        accepted = accept(
            store,
            submission,
            most_bytes=settings.max_message_bytes,
            disk_reserve=settings.disk_reserve,
            clock=clock,
        )
    except Rejected as error:
        return Answer(False, str(error))
    store.write(Notices.note_message, accepted.request_id)
    return Answer(True, f"accepted as {accepted.request_id}", accepted.request_id)


def _account(store: Store, email: str) -> Account | None:
    """Return the account of a mailbox, one that is not being deleted."""
    found = [
        each.account
        for each in store.read(Accounts.all)
        if each.account.email.lower() == email and each.account.closing_at is None
    ]
    return found[0] if found else None
