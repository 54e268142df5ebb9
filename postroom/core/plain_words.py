"""Explains every refusal and deferral in plain words: what happened, whose matter it is, what to do. Pure.

What `reply_table` knows of a reply comes first, and stands in the reason. For all others it is said by the enhanced status
code (RFC 3463), else by the basic code and the step that it answers (RFC 5321 §4.2): nothing is without one.
"""

from __future__ import annotations

from typing import Final

from postroom.core.classify import explain_reply
from postroom.core.enhanced_codes import (
    ASK_PROVIDER,
    ASK_RECIPIENT,
    CHECK_ADDRESS,
    CODES,
    SUBJECTS,
    Plain,
)
from postroom.core.outcome import Blame, Reply

_SAYS_NOTHING: Final = "0.0"
_SETUP: Final = "CONNECT"  # and EHLO, STARTTLS
_TEXT: Final = "DATA"  # and BDAT, DATA end
_GROUPS: Final = {
    "CONNECT": _SETUP,
    "EHLO": _SETUP,
    "STARTTLS": _SETUP,
    "AUTH": "AUTH",
    "MAIL": "MAIL",
    "RCPT": "RCPT",
}
_RULES: Final = "see what its words say; `postroom doctor` checks what this machine can see of it"
_RIGHTS: Final = "see that the account may send as its mailbox, then: postroom accounts resume EMAIL"
_LATER: Final = "send the message again later"
_REPORT: Final = "report this with the dialogue of the attempt"
_MAILBOX: Final = Plain(
    "the recipient's server has no such mailbox, or lets no messages of this sender in", CHECK_ADDRESS
)
_NOT_NOW: Final = Plain("the recipient's mailbox takes nothing from this sender just now", ASK_RECIPIENT)

# By step and basic code; "4" and "5" are for all others.
_BY_CODE: Final[dict[tuple[str, str], Plain]] = {
    (_SETUP, "4"): Plain("the server takes no connection just now", "see whether the server has a fault"),
    (_SETUP, "5"): Plain(
        "the server lets this machine not connect",
        "see that host and port of the account are right, and ask its provider whether this machine's address is let in",
    ),
    ("AUTH", "4"): Plain("the server cannot check the account's log-in just now", ASK_PROVIDER),
    ("AUTH", "5"): Plain(
        "the server refuses the account's log-in",
        "put the log-in right (postroom accounts set EMAIL), then: postroom accounts resume EMAIL",
    ),
    ("MAIL", "4"): Plain("the server takes no messages from this sender just now", _RIGHTS),
    ("MAIL", "5"): Plain("the server takes no messages from this sender", _RIGHTS),
    ("MAIL", "452"): Plain("the server has no room for messages just now", _LATER),
    ("MAIL", "552"): Plain("the message is larger than the server takes", "send less, or fewer attachments"),
    ("RCPT", "4"): _NOT_NOW,
    ("RCPT", "5"): Plain("the server does not take messages for this recipient", CHECK_ADDRESS),
    ("RCPT", "451"): Plain("the recipient's server has a fault, or puts unknown senders off for a while", ASK_RECIPIENT),
    ("RCPT", "452"): Plain("the recipient's mailbox or server has no room just now", ASK_RECIPIENT),
    ("RCPT", "550"): _MAILBOX,
    ("RCPT", "551"): Plain("the recipient's mailbox is elsewhere; the server's words may name where", CHECK_ADDRESS),
    ("RCPT", "552"): CODES["2.2"],
    ("RCPT", "553"): CODES["1.3"],
    ("RCPT", "556"): CODES["1.10"],
    (_TEXT, "4"): Plain("the server could not take the message just now", ASK_PROVIDER),
    (_TEXT, "5"): Plain("the server does not take this message", f"change the message: {_RULES}"),
    (_TEXT, "452"): Plain("the server has no room for the message just now", _LATER),
    (_TEXT, "552"): Plain("the message is larger than the server takes", "send less, or fewer attachments"),
    (_TEXT, "550"): Plain("the server refuses the message by a rule of its own", f"change the message: {_RULES}"),
    (_TEXT, "554"): Plain("the server refuses the message by a rule of its own", f"change the message: {_RULES}"),
    ("", "4"): Plain("the server could not take the message just now", ASK_PROVIDER),
    ("", "5"): Plain("the server does not take the message", ASK_PROVIDER),
    ("", "421"): Plain("the server ends the connection: it is busy, stops, or has waited too long", ASK_PROVIDER),
    ("", "500"): Plain("the server does not understand a command of SMTP", _REPORT),
    ("", "501"): Plain("the server does not take a parameter of a command of SMTP", _REPORT),
    ("", "502"): Plain("the server does not know a command of SMTP", _REPORT),
    ("", "503"): Plain("the server did not expect this command of SMTP now", _REPORT),
    ("", "504"): Plain("the server does not take a parameter of a command of SMTP", _REPORT),
    ("", "521"): Plain("the server takes no messages at all", "see that host and port of the account are right"),
    ("", "530"): CODES["7.10"],
    ("", "555"): Plain("the server does not take a parameter of MAIL or RCPT", _REPORT),
}  # fmt: skip
_OF_SENDER: Final = ("1", "2")  # subjects that are about the sender in the answer to MAIL
_BY_PHASE: Final = {
    _SETUP: Plain("there was no connection to the server", "see that host and port of the account are right"),
    "AUTH": Plain("the account's log-in did not end", ASK_PROVIDER),
}
_NO_WORDS: Final = Plain("the server or the network did not let the attempt end", ASK_PROVIDER)

_TAILS: Final = {
    Blame.CONNECTION.value: "the server or the network is at fault",
    Blame.RECIPIENT.value: "it is about this recipient alone",
    Blame.MESSAGE.value: "it is about this message alone",
    Blame.ACCOUNT.value: "it is about the account: put it right, then: postroom accounts resume EMAIL",
}
_BY_ITSELF: Final = "it is tried again by itself"
_DOCTOR: Final = "if that does not help: postroom doctor EMAIL"
_SEND_AGAIN: Final = "it is about the account: put it right, then send the message again"
_OF_ONE_MESSAGE: Final = (Blame.RECIPIENT.value, Blame.MESSAGE.value)


def explanation(
    reason: str | None,
    reply: Reply | None,
    *,
    outcome: str,
    phase: str | None = None,
    blame: str | None = None,
) -> str | None:
    """Return what an attempt's end means and the fix, without the server's own words. None: it was sent."""
    if outcome == "sent":
        return None
    if reply is None:
        return _without_reply(reason, outcome, phase, blame)
    before, found, rest = (reason or "").partition(explain_reply(reply))
    if reason is not None and not found:
        return _without_reply(reason, outcome, phase, blame)
    known, hint = _told(rest)
    plain = known or _sentence(plain_words(reply, phase), outcome, blame)
    if known and outcome == "deferred" and blame in _OF_ONE_MESSAGE:
        plain = f"{known}; {_BY_ITSELF}"
    return "; ".join(filter(None, (before.rstrip(": "), plain, hint)))


def _told(rest: str) -> tuple[str, str]:
    """Return what `reply_table` knows of a reply, which stands in brackets behind it, and what is said behind that."""
    rest = rest.strip()
    if not rest.startswith("["):
        return "", rest.lstrip("; ")
    known, _, hint = rest.partition("]; ") if not rest.endswith("]") else (rest[:-1], "", "")
    return known[1:], hint


def with_explanation(reason: str, reply: Reply | None) -> str:
    """Return the reason of a failure followed by what it means, where it does not say that itself."""
    if reply is None:
        return reason
    _, found, rest = reason.partition(explain_reply(reply))
    if not found or _told(rest)[0]:
        return reason
    return f"{reason} [{_sentence(plain_words(reply), 'failed', None)}]"


def plain_words(reply: Reply, phase: str | None = None) -> Plain:
    """Return what a refusal says: by its enhanced status code, else by its basic code and the step that it answers."""
    group = _GROUPS.get(phase or "", _TEXT if phase else "")
    by_code = _by_code(reply, group)
    _, _, code = (reply.enhanced or "").partition(".")
    subject = code.partition(".")[0]
    if not code or code == _SAYS_NOTHING or reply.code == 421:
        return by_code
    if group == "MAIL" and subject in _OF_SENDER:
        return CODES[code] if code in ("1.7", "1.8") else _BY_CODE["MAIL", "5"]
    return CODES.get(code) or SUBJECTS.get(subject) or by_code


def _by_code(reply: Reply, group: str) -> Plain:
    code = str(reply.code)
    kind = "5" if reply.permanent else "4"
    keys = ((group, code), ("", code), (group, kind), ("", kind))
    return next(_BY_CODE[key] for key in keys if key in _BY_CODE)


def _sentence(words: Plain, outcome: str, blame: str | None) -> str:
    if outcome != "deferred" or blame == Blame.ACCOUNT.value:
        return f"{words.what}; {words.fix}"
    return f"{words.what}; {_BY_ITSELF}; if that does not help: {words.fix}"


def _without_reply(reason: str | None, outcome: str, phase: str | None, blame: str | None) -> str:
    """Add to a reason that is Postroom's own, which says what happened, whose matter it is and what comes."""
    if reason is None:
        words = _BY_PHASE.get(_GROUPS.get(phase or "", ""), _NO_WORDS)
        return _sentence(words, outcome, blame)
    if blame == Blame.ACCOUNT.value and outcome == "failed":
        return f"{reason}; {_SEND_AGAIN}"  # of an account that has never worked: it is not paused
    last = _BY_ITSELF if outcome == "deferred" and blame != Blame.ACCOUNT.value else ""
    look = _DOCTOR if last and blame == Blame.CONNECTION.value else ""
    return "; ".join(filter(None, (reason, _TAILS.get(blame or ""), last, look)))
