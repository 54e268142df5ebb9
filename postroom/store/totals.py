"""Totals of the installation: raised by the transaction that causes them, and read, with what there is now, for metrics.

Messages that were accepted or have ended are counted by account, in `job_count`: at acceptance by `Transaction.accepted`,
at the end by a trigger of `job`. `Totals.all` reads them as JOBS. Everything else is raised by `Totals.add`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from postroom.core.clock import Instant
from postroom.core.events import EventKind
from postroom.store.noun import Noun
from postroom.store.usage import BUCKETS_A_DAY, bucket_of

ATTEMPTS: Final = "attempts"  # by outcome and blame
EVENTS: Final = "message_events"  # by kind
TESTS_ACCEPTED: Final = "test_messages_accepted"
TESTS_CAPTURED: Final = "test_messages_captured"
MOST_HELD: Final = 100_000  # held messages that are counted: all after a database has stepped back


class _Total(NamedTuple):
    """A total of the installation, of one value of each of its labels."""

    name: str
    label: str
    value: int


class _Accounts(NamedTuple):
    state: str
    accounts: int


class LimitUsed(NamedTuple):
    """How many recipients an account has used of its daily limit."""

    account_id: int
    recipients: int


def total_of(name: str, *labels: str) -> tuple[str, str]:
    """Return the key of a total: its name, and the values of its labels with a space between them."""
    return name, " ".join(labels)


JOBS: Final = "jobs"  # by state
NOBODY: Final = "none"  # is to blame: it was sent, or nothing is known of it
SENT_ATTEMPTS: Final = total_of(ATTEMPTS, EventKind.SENT.value, NOBODY)
SENT_EVENTS: Final = total_of(EVENTS, EventKind.SENT.value)


class Totals(Noun):
    def add(self, name: str, *labels: str, amount: int = 1) -> None:
        """Raise a total in this transaction: written once for all its works, and undone with a work that is undone."""
        self._tx.totalled[total_of(name, *labels)] += amount

    def add_to_sent(self, amount: int) -> None:
        """Correct the totals of sent messages, which `all` derives from the messages that have ended as done."""
        self._tx.totalled[SENT_ATTEMPTS] += amount
        self._tx.totalled[SENT_EVENTS] += amount

    def all(self) -> dict[tuple[str, str], int]:
        """Return all totals by name and label, as of one moment.

        JOBS are messages without those of test keys: how many were ever accepted, and how many have ended, by state.
        Most end as sent in one attempt to one recipient: they are counted there, and cost no statement of their own.
        """
        found = {(each.name, each.label): each.value for each in self._tx.rows(_Total, "totals")}
        for key in (SENT_ATTEMPTS, SENT_EVENTS):
            found[key] = found.get(key, 0) + found.get((JOBS, "done"), 0)
        return found

    def accounts(self) -> dict[str, int]:
        """Return the number of accounts by state."""
        return dict(self._tx.rows(_Accounts, "account_states"))

    def oldest_due(self) -> Instant | None:
        """Return since when the message has been due that has waited longest, of the accounts that may send now."""
        return self._tx.value(int, "oldest_due")

    def held(self) -> int:
        """Return how many messages wait for a person, up to MOST_HELD."""
        return self._tx.value(int, "held_up_to", most=MOST_HELD) or 0

    def sending(self) -> int:
        return self._tx.value(int, "claimed_jobs") or 0

    def limits_used(self, now: Instant) -> list[LimitUsed]:
        """Return what each account has used of its daily limit, of those that have sent within a day."""
        current = bucket_of(now)
        return self._tx.rows(
            LimitUsed,
            "limits_used",
            bucket=current - BUCKETS_A_DAY + 1,
            latest=current + BUCKETS_A_DAY,
        )
