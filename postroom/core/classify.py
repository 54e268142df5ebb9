"""Classifies a server's reply or an SMTP fault into an Outcome; says when 421 after the dot leaves doubt. Pure.

The table is docs/design.md §5; `replies` says what a reply means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed, Meaning, Outcome, Reply, Sent
from postroom.core.replies import UNKNOWN, Circumstances, Reading, read
from postroom.core.reply_rows.row import SENDING, Place
from postroom.core.text import printable

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")
_REASON_LENGTH = 500
_OF_THE_SYSTEM = re.compile(r"4\.[034]\.[0-9]+")  # undefined, the mail system, the network (RFC 3463 §3)
_LOST_BEHIND = "4.4.2"  # the connection to the next server broke within the message (RFC 3463 §3.5)


def parse_enhanced(text: str) -> str | None:
    """Return the enhanced status code at the start of a reply line, or None (RFC 2034 §4)."""
    match = _ENHANCED.match(text)
    return match[1] if match else None


def explain(reply: Reply, reading: Reading) -> str:
    """Return the server's own reply, made printable, followed by what it means and what to do about it."""
    words = explain_reply(reply)
    hint = "; ".join(part for part in (reading.explanation, reading.fix) if part)
    return f"{words} [{hint}]" if hint else words


def explain_reply(reply: Reply) -> str:
    """Return the server's own reply, made printable."""
    return printable(str(reply))[:_REASON_LENGTH]


def explain_fault(fault: SMTPFault) -> str:
    """Return what went wrong, made printable: a server's words may be among ours."""
    return printable(str(fault))[:_REASON_LENGTH]


def classify(reply: Reply, place: Place, circumstances: Circumstances = UNKNOWN) -> Outcome:
    """Turn one reply into the Outcome of the recipients that it concerns (`replies.read` says what it means).

    Where it speaks of them, the basic code decides between deferred and failed. Whatever is
    not understood is transient, so that nothing is given up by mistake.
    """
    if reply.positive and place is Place.DOT:
        return Sent(reply)
    reading = read(reply, place, circumstances)
    reason, meaning = explain(reply, reading), reading.meaning
    if meaning in (Meaning.LIMIT, Meaning.RATE):
        return Deferred(reason, Blame.ACCOUNT, reply, False, meaning, reading.period)
    if meaning in (Meaning.SESSION, Meaning.CONNECTIONS):
        return Deferred(reason, Blame.CONNECTION, reply, False, meaning)
    blame = _blame(meaning, reply, place)
    if reply.permanent and meaning is not Meaning.LATER and not reading.transient:
        return Failed(reason, blame, reply, meaning)
    return Deferred(reason, blame, reply, meaning is not Meaning.ACCOUNT, meaning)


def _blame(meaning: Meaning, reply: Reply, place: Place) -> Blame:
    if meaning is Meaning.ACCOUNT:
        return Blame.ACCOUNT
    if reply.code == 421 or place not in SENDING or not (reply.transient or reply.permanent):
        return Blame.CONNECTION
    return Blame.RECIPIENT if place is Place.RCPT else Blame.MESSAGE


_ACCOUNT_FAULTS = frozenset({FaultKind.INSECURE, FaultKind.NO_SUCH_HOST, FaultKind.PRIVATE})


def classify_fault(fault: SMTPFault, circumstances: Circumstances = UNKNOWN) -> Outcome:
    """Turn a conversation that ended before the dot into an Outcome for all its recipients."""
    if fault.kind is FaultKind.REFUSED and fault.reply is not None:
        return classify(fault.reply, Place.of(fault.verb), circumstances)
    reason = explain_fault(fault)
    if fault.kind in _ACCOUNT_FAULTS:
        return Failed(reason, Blame.ACCOUNT, fault.reply)
    # The installation's own fault, or that of a grant, which a person can mend: its messages wait.
    if fault.kind in (FaultKind.UNDECRYPTABLE, FaultKind.GRANT_REFUSED):
        return Deferred(reason, Blame.ACCOUNT, burns_attempt=False, meaning=Meaning.ACCOUNT)
    if fault.kind is FaultKind.UNSUPPORTED:
        blame = Blame.ACCOUNT if fault.verb == "AUTH" else Blame.MESSAGE
        return Failed(reason, blame, fault.reply)
    return Deferred(reason, Blame.CONNECTION, fault.reply)


def leaves_open(reply: Reply, circumstances: Circumstances = UNKNOWN) -> bool:
    """Whether a reply to the end of a message says that the server goes, and not what became of the message.

    RFC 5321 §3.8 has 421 in place of the answer to any command. Dovecot's submission service ends so when it is
    stopped, with messages that the server behind it has already taken.
    """
    enhanced = reply.enhanced
    if reply.code == 421:
        says_little = enhanced is None or _OF_THE_SYSTEM.fullmatch(enhanced) is not None
    else:
        says_little = reply.transient and enhanced == _LOST_BEHIND
    return says_little and read(reply, Place.DOT, circumstances).meaning is Meaning.LATER


def is_refused_login(fault: SMTPFault) -> bool:
    """Whether the server has refused user name and password for good."""
    reply = fault.reply
    return fault.kind is FaultKind.REFUSED and fault.verb == "AUTH" and reply is not None and reply.permanent


def summarise(deliveries: Iterable[tuple[str, str | None]]) -> str | None:
    """Join the reasons of several recipients: `(forward_path, reason)` pairs to one phrase.

    One recipient's reason stands alone; of several, each is named.
    """
    pairs = list(deliveries)
    given = [(path, reason) for path, reason in pairs if reason]
    if not given:
        return None
    if len(pairs) == 1:
        return given[0][1]
    return "; ".join(f"{path}: {reason}" for path, reason in given)
