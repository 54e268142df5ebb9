"""The history of one message as values: recipients, attempts, events; and what it waits for, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.core.clock import SECOND, Instant, rfc3339
from postroom.core.dialogue import Spoken
from postroom.core.message import MessageStatus
from postroom.core.outcome import Reply
from postroom.core.plain_words import explanation
from postroom.core.status_word import StatusWord


@dataclass(frozen=True, slots=True)
class RecipientHistory:
    """What became of one recipient. `state` is its delivery's: pending, sent or failed."""

    address: str
    state: str
    reason: str | None
    reply: Reply | None
    possible_duplicate: bool
    finished_at: Instant | None

    def word(self, of_message: StatusWord) -> StatusWord:
        """Return its status: as long as it has no end of its own, that of the message."""
        return of_message if self.state == "pending" else StatusWord(self.state)


@dataclass(frozen=True, slots=True)
class AttemptHistory:
    """One attempt. `phase` is the verb of the step at which it ended; an earlier version recorded none."""

    number: int
    started_at: Instant
    finished_at: Instant
    outcome: str
    phase: str | None
    blame: str | None
    reply: Reply | None
    reason: str | None  # as the event of its outcome says it
    dialogue: tuple[Spoken, ...] | None

    @property
    def explanation(self) -> str | None:
        """What happened, whose matter it is, and the fix, without the server's own words. None: it was sent."""
        return explanation(self.reason, self.reply, outcome=self.outcome, phase=self.phase, blame=self.blame)


@dataclass(frozen=True, slots=True)
class PastEvent:
    """Something that happened to a message, or to one of its recipients."""

    at: Instant
    kind: str
    recipient: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """All that is known of a message but its content."""

    status: MessageStatus
    account: str  # its mailbox
    account_uid: str
    account_state: str
    account_reason: str | None  # why it is parked or paused
    account_until: Instant | None
    subject: str
    size: int
    accepted_at: Instant
    due_at: Instant | None
    claimed_at: Instant | None  # since when a worker has it in hand
    finished_at: Instant | None
    recipients: tuple[RecipientHistory, ...]
    attempts: tuple[AttemptHistory, ...]
    events: tuple[PastEvent, ...]

    def waits_for(self, now: Instant) -> str | None:
        """Say what a message waits for that has not ended; None: for nothing but its turn, or it has."""
        word, status = self.status.word(now), self.status
        if word is StatusWord.HELD:
            return "a person: `postroom release ID` sends it, `postroom cancel ID` gives it up"
        if word is StatusWord.SENDING and self.claimed_at is not None:
            seconds = max(now - self.claimed_at, 0) // SECOND
            return (
                f"its server: a worker has had it in hand since {rfc3339(self.claimed_at)}, for {seconds} s"
            )
        if word not in (StatusWord.SCHEDULED, StatusWord.QUEUED, StatusWord.DEFERRED) or status.is_test:
            return None
        if word is StatusWord.SCHEDULED and status.not_before is not None:
            return f"the time that its sender chose, {rfc3339(status.not_before)}"
        if self.account_state in ("parked", "paused"):
            until = "" if self.account_until is None else f" until {rfc3339(self.account_until)}"
            why = f": {self.account_reason}" if self.account_reason else ""
            return f"its account, which is {self.account_state}{until}{why}"
        if self.due_at is not None and self.due_at > now:
            return f"its next try at {rfc3339(self.due_at)}"
        return None
