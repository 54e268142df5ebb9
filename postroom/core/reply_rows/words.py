"""Pieces of the regular expressions of several rows, and the sources that several rows name."""

from __future__ import annotations

GOOGLE_CODES = "support.google.com/a/answer/3726730"
MICROSOFT_NDR = (
    "learn.microsoft.com/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online"
)
MICROSOFT_SMTP_AUTH = (
    "learn.microsoft.com/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission"
)
MICROSOFT_OAUTH = (
    "learn.microsoft.com/exchange/client-developer/legacy-protocols/"
    "how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth"
)
SES = "docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
SENDGRID = "twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
ZOHO = "zoho.com/mail/help/error-codes.html"
CPANEL = "docs.cpanel.net: Tweak Settings, Mail"
IONOS = "ionos.com/help/email/general-topics/what-are-the-mass-mailing-limits"
POSTFIX = "postfix.org/postconf.5.html"
EXIM = "exim.org, Specification §43.38 (rate limiting)"
POSTFWD = "postfwd.org/ratelimits.html"
RFC_3463 = "RFC 3463"
RFC_4954 = "RFC 4954 §6"
RFC_5321 = "RFC 5321 §4.2"
RFC_7628 = "RFC 7628 §3.2.2"

MESSAGE_NOUN = r"(?:e-?mails?|mails?|messages?|msgs?|transactions?|recipients?|rcpts?|envelopes)"
SPENT = (
    r"(?:exceed|reach|\bhit\b|\bover\b|too (?:many|much)|used up|exhaust|deplet|maxim|\bmax\b|\bonly \d|limit|quota"
    r"|allowance|allowed|no more)"
)
LONG_WINDOW = (
    r"(?:\bdaily\b|\bhourly\b|\bweekly\b|\bmonthly\b|\bper[- ](?:\d{1,9} ?)?(?:day|hour|week|month)"
    r"|\b(?:an?|this|each|every|one|last|past"
    r"|same|current|the) (?:day|hour|week|month)\b|/ ?\d{0,9} ?(?:d|day|h|hr|hour|hours|month)\b|"
    r"\b\d{1,9}[- ]?(?:h|hr|hour|day)s?\b|\btoday\b)"
)
LIMIT = r"\b(?:limits?\b|quota|credits?\b|allowance|threshold|maximum|volume)"
USED_UP = r"(?:exceed|reach|\bhit\b|\bover\b|exhaust|used up|deplet)"
SHORT_WINDOW = (
    r"(?:\bper[- ](?:\d{1,9} ?)?(?:second|minute|sec|min)|\b(?:a|this|each|every|one|last) (?:second|minute)\b"
    r"|/ ?\d{0,9} ?(?:s|sec|seconds?|m|min|minutes?)\b|\b\d{1,9} ?(?:s|sec|seconds?|m|min|minutes?)\b)"
)
SENDS_WORDS = (
    r"(?:send|submission|outgoing|outbound|smtp|relay|messages|e-?mails|credits|hour|\bday\b|daily|\brate)"
)
SENDER = (
    r"(?:send(?:ing|er'?s?)?|sent|submission|outgoing|outbound|smtp|relay(?:ing)?|account'?s?|user'?s?|customer|client"
    r"|domain|tenant|credits?|plan|subscription|your?|you'?ve|" + MESSAGE_NOUN + ")"
)
OWN = r"(?:your|sender|sending|from|outgoing|outbound|submission|tenant|customer|organi[sz]ation|subscription|smtp)"
STOPPED = (
    r"(?:suspend|suspension|block|disabl|\block(?:ed)?\b|banned|deactivat|terminat|restrict|on hold|inactive"
    r"|not (?:active|enabled|activated)|expired|prohibit|paus|compromis|blacklist|frozen|revoked|under review)"
)
NOT_ENTITLED = (
    r"(?:not|isn'?t|never|un)[- ]?(?:been )?(?:verif|authori[sz]|allow|permit|owned|registered|confirm|local|validated"
    r"|accepted|one of|yours|belong|an? (?:valid|verified|allowed|confirmed|registered|sender))"
)


def one_of(*alternatives: str) -> str:
    return "|".join(alternatives)


def both_of(one: str, other: str) -> str:
    """Match a text that has both, in either order. Looked for once, from its beginning."""
    return rf"\A(?=.*{one})(?=.*{other})"
