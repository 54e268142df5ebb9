"""Job kind "delivery": one SMTP transaction, and an Outcome for each recipient."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from postroom.errors import FaultKind
from postroom.model import Blame, ClaimedJob, Deferred, Failed, InDoubt, Outcome, Reply
from postroom.replies import UNKNOWN, Circumstances
from postroom.reply_table import Place
from postroom.smtp import Connection, Envelope, Transcript
from postroom.status import classify, classify_fault, explain_fault

_ENVELOPE = ("MAIL", "RCPT", "DATA")
_NO_ANSWER = "the server did not say whether it took the message: {}"


class NotBegun(Exception):
    """The server had closed the connection before it heard of this message."""


async def deliver(
    connection: Connection, job: ClaimedJob, before_dot: Callable[[], Awaitable[None]]
) -> Mapping[int, Outcome]:
    """Send a claimed job over an open connection; return one Outcome for each of its delivery ids.

    `before_dot` is awaited before the final dot; what it raises passes through and the
    message was not sent. Raises NotBegun when the connection turned out to be closed:
    try on another one.
    """
    envelope = _envelope(job)
    shortcoming = connection.shortcoming(envelope)
    if shortcoming is not None:
        return for_all(job, Failed(shortcoming, Blame.MESSAGE))
    transcript = await connection.transact(envelope, before_dot)
    if transcript.not_begun or connection.wants_another_name(_refusals(transcript)):
        raise NotBegun
    circumstances = Circumstances(connection.host, connection.authenticated, transcript.reused)
    outcomes = {
        delivery.id: outcome_of(transcript, delivery.forward_path, circumstances)
        for delivery in job.deliveries
    }
    hint = connection.skipped_login
    return outcomes if hint is None else {id_: _with_hint(outcome, hint) for id_, outcome in outcomes.items()}


def _refusals(transcript: Transcript) -> list[Reply]:
    """Return the refusals of a message that went to nobody."""
    answers = [*transcript.rcpt.values(), *filter(None, [transcript.mail])]
    return (
        []
        if any(each.positive for each in transcript.rcpt.values())
        else [each for each in answers if not each.positive]
    )


def _with_hint(outcome: Outcome, hint: str) -> Outcome:
    """Say of a refusal that asks for a log-in, or speaks of relaying, that none was tried."""
    if not isinstance(outcome, Deferred | Failed) or outcome.reply is None:
        return outcome
    if outcome.blame is not Blame.ACCOUNT and "relay" not in outcome.reply.text.lower():
        return outcome
    return replace(outcome, reason=f"{outcome.reason}; {hint}")


def _envelope(job: ClaimedJob) -> Envelope:
    forward_paths = tuple(delivery.forward_path for delivery in job.deliveries)
    return Envelope(job.reverse_path, forward_paths, job.mime, job.smtputf8)


def for_all(job: ClaimedJob, outcome: Outcome) -> Mapping[int, Outcome]:
    """Give every recipient of the job the same outcome."""
    return {delivery.id: outcome for delivery in job.deliveries}


def outcome_of(transcript: Transcript, forward_path: str, circumstances: Circumstances = UNKNOWN) -> Outcome:
    """Read one recipient's outcome off a transcript, from the recipient's own answer outwards."""
    circumstances = replace(
        circumstances, some_taken=any(reply.positive for reply in transcript.rcpt.values())
    )
    answer, fault = transcript.rcpt.get(forward_path), transcript.fault
    if fault is not None and fault.kind is FaultKind.GARBLED and fault.verb in _ENVELOPE:
        return classify_fault(
            fault, circumstances
        )  # answers may belong to other commands than we think: none is final
    if transcript.mail is not None and not transcript.mail.positive:
        return classify(transcript.mail, Place.MAIL, circumstances)
    if answer is not None and not answer.positive:
        return classify(answer, Place.RCPT, circumstances)
    if transcript.data is not None and transcript.data.code != 354:
        return classify(transcript.data, Place.DATA, circumstances)
    if transcript.final is not None:
        return classify(transcript.final, Place.DOT, circumstances)
    if fault is not None and transcript.dot_sent:
        return InDoubt(_NO_ANSWER.format(explain_fault(fault)))
    if fault is not None:
        return classify_fault(fault, circumstances)
    return Deferred("the server refused the transaction without a reason", Blame.CONNECTION)
