"""From a server's reply to what is to be done about it. Pure.

The table is docs/design.md §5; the codes are those of RFC 5321 §4.2,
RFC 3463 and RFC 4954, and the providers' pages named in `_ADVICE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from postroom.errors import FaultKind, SMTPFault
from postroom.model import SECOND, Blame, Deferred, Failed, Outcome, Reply, Sent

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_REASON_LENGTH = 500


class Stage(Enum):
    """Where in the conversation a reply was given."""

    SESSION = "session"  # greeting, EHLO, STARTTLS, AUTH
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "dot"


def parse_enhanced(text: str) -> str | None:
    """Return the enhanced status code at the start of a reply line, or None (RFC 2034 §4)."""
    match = _ENHANCED.match(text)
    return match[1] if match else None


def printable(text: str) -> str:
    """Make a server's words safe for one line of a log: each control character becomes \\xNN."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


# What a person can do about it: (code, enhanced, words in the text; empty: any) and the advice. Sources:
# support.google.com/a/answer/3726730, support.google.com/accounts/answer/185833, learn.microsoft.com/exchange.
_MAKE_ONE = (
    "Google wants an app password here: switch on 2-step verification and make one at "
    "myaccount.google.com/apppasswords"
)
_REVOKED = (
    "the server does not accept this user name and password; app passwords are revoked when the account's "
    "password changes: make a new one"
)
_ADVICE: tuple[tuple[int, str, str, str], ...] = (
    (534, "5.7.9", "", _MAKE_ONE),
    (535, "5.7.8", "", _REVOKED),
    (535, "", "", "the server does not accept this user name and password"),
    (550, "5.7.30", "", "basic authentication is switched off for this mailbox: use OAuth2"),
    (550, "5.4.5", "", "the account's daily sending limit is reached"),
    (554, "5.2.0", "SubmissionQuotaExceeded", "the account's sending limit is reached"),
)

# Replies that say "this account, not now". (code, enhanced, words in the text; empty: any)
_ACCOUNT_BUSY: tuple[tuple[int, str, str], ...] = (
    (454, "4.7.0", ""),
    (432, "4.3.2", ""),
    (550, "5.4.5", ""),
    (554, "5.2.0", "SubmissionQuotaExceeded"),
)
_LOGIN_REFUSED: tuple[tuple[int, str, str], ...] = (
    (530, "", ""),
    (534, "", ""),
    (535, "", ""),
    (538, "", ""),
    (550, "5.7.30", ""),
)


def _matches(reply: Reply, row: tuple[int, str, str]) -> bool:
    code, enhanced, words = row
    return reply.code == code and enhanced in ("", reply.enhanced) and words in reply.text


def advice(reply: Reply) -> str | None:
    """Return what a person can do about this reply, where we know it."""
    return next((row[3] for row in _ADVICE if _matches(reply, row[:3])), None)


def explain(reply: Reply) -> str:
    """Return the server's own reply, made printable, followed by what to do about it."""
    words = printable(str(reply))[:_REASON_LENGTH]
    hint = advice(reply)
    return f"{words} [{hint}]" if hint else words


def explain_fault(fault: SMTPFault) -> str:
    """Return what went wrong, made printable: a server's words may be among ours."""
    return printable(str(fault))[:_REASON_LENGTH]


def account_is_busy(reply: Reply) -> bool:
    """Say whether the reply asks the account, not the message, to wait."""
    return any(_matches(reply, row) for row in _ACCOUNT_BUSY)


def classify(reply: Reply, stage: Stage) -> Outcome:
    """Turn one reply into the Outcome of the recipients that it concerns.

    The basic code decides where the enhanced code disagrees. Whatever is
    not understood is transient, so that nothing is given up by mistake.
    """
    if reply.positive and stage is Stage.DOT:
        return Sent(reply)
    reason = explain(reply)
    if account_is_busy(reply):
        return Deferred(reason, Blame.ACCOUNT, reply, burns_attempt=False)
    if reply.code == 421 or not (reply.transient or reply.permanent):
        return Deferred(reason, Blame.CONNECTION, reply)
    if stage is Stage.SESSION or any(_matches(reply, row) for row in _LOGIN_REFUSED):
        return _session_refusal(reply, reason)
    blame = Blame.RECIPIENT if stage is Stage.RCPT else Blame.MESSAGE
    if stage is Stage.RCPT and reply.code == 552:
        return Deferred(reason, blame, reply)  # RFC 5321 §4.5.3.1.10: 552 to RCPT means 452
    return Failed(reason, blame, reply) if reply.permanent else Deferred(reason, blame, reply)


def _session_refusal(reply: Reply, reason: str) -> Outcome:
    if reply.permanent:
        return Failed(reason, Blame.ACCOUNT, reply)
    return Deferred(reason, Blame.CONNECTION, reply)


_ACCOUNT_FAULTS = frozenset({FaultKind.INSECURE, FaultKind.NO_SUCH_HOST})


def classify_fault(fault: SMTPFault) -> Outcome:
    """Turn a conversation that ended before the dot into an Outcome for all its recipients."""
    if fault.kind is FaultKind.REFUSED and fault.reply is not None:
        return classify(fault.reply, Stage.SESSION)
    reason = explain_fault(fault)
    if fault.kind in _ACCOUNT_FAULTS:
        return Failed(reason, Blame.ACCOUNT, fault.reply)
    if fault.kind is FaultKind.UNSUPPORTED:
        blame = Blame.ACCOUNT if fault.verb == "AUTH" else Blame.MESSAGE
        return Failed(reason, blame, fault.reply)
    return Deferred(reason, Blame.CONNECTION, fault.reply)


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


_PARK_S: tuple[tuple[int, str, int], ...] = (
    (454, "4.7.0", 120),  # too many log-ins: soon again, but slower
    (432, "4.3.2", 60),  # too many connections at once
)
_PARK_DEFAULT_S = 3600  # a daily limit: Google gives it back within 1 to 24 hours, so look every hour


def park_for(reply: Reply) -> int:
    """Return how long an account that is busy by this reply should rest, in microseconds."""
    seconds = next(
        (rest for code, enhanced, rest in _PARK_S if (reply.code, reply.enhanced) == (code, enhanced)),
        _PARK_DEFAULT_S,
    )
    return seconds * SECOND
