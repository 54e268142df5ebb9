"""Delivers one job: runs the SMTP transaction and returns an Outcome for each recipient."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from postroom.core.classify import classify, classify_fault, explain_fault, explain_reply, leaves_open
from postroom.core.errors import ContentDamaged, FaultKind
from postroom.core.job import ClaimedJob
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Meaning, Outcome, Reply, Sent
from postroom.core.replies import UNKNOWN, Circumstances, read
from postroom.core.reply_rows.row import Place
from postroom.core.text import printable
from postroom.smtp.client import Connection
from postroom.smtp.transcript import Envelope, Suspicion, Text, Transcript

_ENVELOPE = ("MAIL", "RCPT", "DATA")
_NO_ANSWER = "the server did not say whether it took the message: {}"


_OF_THE_ACCOUNT = (Meaning.LIMIT, Meaning.RATE, Meaning.ACCOUNT)
_BELIEVED = (*_OF_THE_ACCOUNT, Meaning.MESSAGE)


class NotBegun(Exception):
    """Nothing was sent, and nothing is concluded of the message: it is to go on over another connection."""

    def __init__(self, why: str = "", doubted: Suspicion | None = None) -> None:
        super().__init__(why)
        self.doubted = doubted  # then one command at a time


async def deliver(
    connection: Connection,
    job: ClaimedJob,
    before_dot: Callable[[], Awaitable[None]],
    doubted: Suspicion | None = None,
    text: Text | None = None,
) -> Mapping[int, Outcome]:
    """Send a claimed job over an open connection; return one Outcome for each of its delivery ids.

    `before_dot` is awaited before the final dot; what it raises passes through and the
    message was not sent. Raises NotBegun when the message has to go over another connection: this one turned out to
    be closed, or to have carried as many messages as the server wants of one, or the server may not take commands in
    groups. `doubted` is what it said then. `text` is the content of a job that does not have it.
    """
    envelope = _envelope(job, job.mime if text is None else text)
    shortcoming = connection.shortcoming(envelope)
    if shortcoming is not None:
        connection.tape.ended_at = "MAIL"
        return for_all(job, Failed(shortcoming, Blame.MESSAGE))
    try:
        transcript = await connection.transact(envelope, before_dot, doubted)
    except ContentDamaged as error:
        return for_all(job, Failed(str(error), Blame.MESSAGE))
    if transcript.was_taken_for_all:
        assert transcript.final is not None
        return for_all(job, Sent(transcript.final))
    if transcript.not_begun or connection.wants_another_name(_refusals(transcript)):
        raise NotBegun(str(transcript.fault or "the server wants another name in EHLO"))
    circumstances = Circumstances(connection.host, connection.authenticated, transcript.carried)
    suspicion = transcript.suspicion
    if suspicion is not None and not _speaks_of_the_account(transcript, circumstances):
        raise NotBegun(f"the server may not take commands in groups: {printable(suspicion.said)}", suspicion)
    outcomes = {
        delivery.id: outcome_of(transcript, delivery.forward_path, circumstances)
        for delivery in job.deliveries
    }
    if _is_spent(transcript, circumstances):
        raise NotBegun(f"the server takes no more messages over this one: {printable(str(transcript.mail))}")
    hint = connection.skipped_login
    return outcomes if hint is None else {id_: _with_hint(outcome, hint) for id_, outcome in outcomes.items()}


def _refusals(transcript: Transcript) -> list[Reply]:
    """Return the refusals of a message that went to nobody."""
    if transcript.is_in_doubt:
        return []
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


def _speaks_of_the_account(transcript: Transcript, circumstances: Circumstances) -> bool:
    """Whether what may have been said of a group is plainly about the account instead."""
    refused = transcript.refused_at()
    if refused is None or transcript.fault is not None:
        return False
    verb, reply = refused
    return read(reply, Place.of(verb), circumstances).meaning in _OF_THE_ACCOUNT


def _is_spent(transcript: Transcript, circumstances: Circumstances) -> bool:
    """Whether the connection may have carried as many messages as the server wants of one: a fresh one will tell.

    Only what is plainly said of the account or of this message is believed at once.
    """
    mail = transcript.mail
    if not transcript.carried or mail is None or mail.positive:
        return False
    return read(mail, Place.MAIL, circumstances).meaning not in _BELIEVED


def _envelope(job: ClaimedJob, text: Text) -> Envelope:
    forward_paths = tuple(delivery.forward_path for delivery in job.deliveries)
    return Envelope(job.reverse_path, forward_paths, text, job.smtputf8)


def for_all(job: ClaimedJob, outcome: Outcome) -> Mapping[int, Outcome]:
    """Give every recipient of the job the same outcome."""
    return {delivery.id: outcome for delivery in job.deliveries}


def outcome_of(transcript: Transcript, forward_path: str, circumstances: Circumstances = UNKNOWN) -> Outcome:
    """Read one recipient's outcome off a transcript, from the recipient's own answer outwards."""
    circumstances = replace(
        circumstances, some_taken=any(reply.positive for reply in transcript.rcpt.values())
    )
    answer, fault = transcript.rcpt.get(forward_path), transcript.fault
    if fault is not None and transcript.is_in_doubt and fault.verb in _ENVELOPE:
        return InDoubt(_NO_ANSWER.format(explain_fault(fault)))  # it left together with its envelope
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
        if transcript.dot_sent and leaves_open(transcript.final, circumstances):
            return InDoubt(_NO_ANSWER.format(explain_reply(transcript.final)))
        return classify(transcript.final, Place.DOT, circumstances)
    if fault is not None and transcript.dot_sent:
        return InDoubt(_NO_ANSWER.format(explain_fault(fault)))
    if fault is not None:
        return classify_fault(fault, circumstances)
    return Deferred("the server refused the transaction without a reason", Blame.CONNECTION)
