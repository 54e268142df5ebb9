"""What servers say when they refuse, as data: who says it, where, with which codes and words, and what it means.

The first row that fits decides (`replies.read`). The sources are providers' pages, programs' documentation, and
replies that their users have posted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from postroom.core.clock import SECOND
from postroom.core.outcome import Meaning

MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR


class Place(Enum):
    """The step of the conversation that a reply answers."""

    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "dot"
    OTHER = "other"  # RSET, NOOP, QUIT

    @classmethod
    def of(cls, verb: str) -> Place:
        """Return the place of an SMTPFault's verb."""
        return _PLACES.get(verb, cls.OTHER)


_PLACES = {place.value: place for place in Place} | {
    "connect": Place.GREETING,
    "HELO": Place.EHLO,
    "BDAT": Place.DOT,
}


ANYWHERE = frozenset(Place)
SETUP = frozenset({Place.GREETING, Place.EHLO, Place.STARTTLS, Place.OTHER})
LOGIN = frozenset({Place.AUTH})
TEXT = frozenset({Place.DATA, Place.DOT})
OPENING = SETUP - {Place.OTHER} | LOGIN  # before a message
SENDING = frozenset({Place.MAIL, Place.RCPT, Place.DATA, Place.DOT})
BEFORE_RCPT = frozenset({Place.AUTH, Place.MAIL})
NOT_SETUP = ANYWHERE - SETUP
NOT_RCPT = NOT_SETUP - {Place.RCPT}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that servers say. `words` and `code` are regular expressions; what is empty fits everything.

    `logged_in`: only where that was (True) or was not (False) so. `transient`: deferred whatever the basic code.
    """

    meaning: Meaning
    words: str = ""
    at: frozenset[Place] = SENDING
    code: str = ""
    enhanced: str = ""
    provider: str | None = None
    logged_in: bool | None = None
    transient: bool = False
    period: int | None = None
    explanation: str = ""
    fix: str = ""
    source: str = ""


_GOOGLE_CODES = "support.google.com/a/answer/3726730"
_MICROSOFT_NDR = (
    "learn.microsoft.com/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online"
)
_MICROSOFT_SMTP_AUTH = (
    "learn.microsoft.com/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission"
)
_SES = "docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
_SENDGRID = "twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
_ZOHO = "zoho.com/mail/help/error-codes.html"
_CPANEL = "docs.cpanel.net: Tweak Settings, Mail"
_IONOS = "ionos.com/help/email/general-topics/what-are-the-mass-mailing-limits"
_POSTFIX = "postfix.org/postconf.5.html"
_EXIM = "exim.org, Specification §43.38 (rate limiting)"
_POSTFWD = "postfwd.org/ratelimits.html"
_RFC_3463 = "RFC 3463"
_RFC_4954 = "RFC 4954 §6"
RFC_5321 = "RFC 5321 §4.2"

_MESSAGE_NOUN = r"(?:e-?mails?|mails?|messages?|msgs?|transactions?|recipients?|rcpts?|envelopes)"
_SPENT = (
    r"(?:exceed|reach|\bhit\b|\bover\b|too (?:many|much)|used up|exhaust|deplet|maxim|\bmax\b|\bonly \d|limit|quota"
    r"|allowance|allowed|no more)"
)
_LONG_WINDOW = (
    r"(?:\bdaily\b|\bhourly\b|\bweekly\b|\bmonthly\b|\bper[- ](?:\d{1,9} ?)?(?:day|hour|week|month)"
    r"|\b(?:an?|this|each|every|one|last|past"
    r"|same|current|the) (?:day|hour|week|month)\b|/ ?\d{0,9} ?(?:d|day|h|hr|hour|hours|month)\b|"
    r"\b\d{1,9}[- ]?(?:h|hr|hour|day)s?\b|\btoday\b)"
)
_LIMIT = r"\b(?:limits?\b|quota|credits?\b|allowance|threshold|maximum|volume)"
_USED_UP = r"(?:exceed|reach|\bhit\b|\bover\b|exhaust|used up|deplet)"
_SHORT_WINDOW = (
    r"(?:\bper[- ](?:\d{1,9} ?)?(?:second|minute|sec|min)|\b(?:a|this|each|every|one|last) (?:second|minute)\b"
    r"|/ ?\d{0,9} ?(?:s|sec|seconds?|m|min|minutes?)\b|\b\d{1,9} ?(?:s|sec|seconds?|m|min|minutes?)\b)"
)
_SENDS_WORDS = (
    r"(?:send|submission|outgoing|outbound|smtp|relay|messages|e-?mails|credits|hour|\bday\b|daily|\brate)"
)
_SENDER = (
    r"(?:send(?:ing|er'?s?)?|sent|submission|outgoing|outbound|smtp|relay(?:ing)?|account'?s?|user'?s?|customer|client"
    r"|domain|tenant|credits?|plan|subscription|your?|you'?ve|" + _MESSAGE_NOUN + ")"
)
_OWN = r"(?:your|sender|sending|from|outgoing|outbound|submission|tenant|customer|organi[sz]ation|subscription|smtp)"
_STOPPED = (
    r"(?:suspend|suspension|block|disabl|\block(?:ed)?\b|banned|deactivat|terminat|restrict|on hold|inactive"
    r"|not (?:active|enabled|activated)|expired|prohibit|paus|compromis|blacklist|frozen|revoked|under review)"
)
_NOT_ENTITLED = (
    r"(?:not|isn'?t|never|un)[- ]?(?:been )?(?:verif|authori[sz]|allow|permit|owned|registered|confirm|local|validated"
    r"|accepted|one of|yours|belong|an? (?:valid|verified|allowed|confirmed|registered|sender))"
)


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


def _both(one: str, other: str) -> str:
    """Match a text that has both, in either order. Looked for once, from its beginning."""
    return rf"\A(?=.*{one})(?=.*{other})"


# A server that takes no more connections says so at any step before MAIL. Exim, Postfix and smtp-server in the greeting,
# Dovecot in its answer to AUTH, Sendmail in the answer to every command.
_FULL = (
    Row(
        Meaning.CONNECTIONS,
        r"^(?!.*(?:fail|invalid|wrong|\bbad\b|errors|password|daily|messages (?:per|in)\b)).*(?:"
        + _any(
            r"(?:too many|no more|concurren|simultaneous|parallel|maxim|\bmax\b|limit (?:of|on|for)|number of).{0,40}"
            r"(?:connect|session|client|socket|process)",
            r"(?:connections?|sessions?|clients?) (?:[\w+]{1,30} ){0,3}(?:limit|exceed|reached|too many)",
            r"exceed.{0,30}connections?\b",
            r"\bconcurren|\bsimultaneous",
        )
        + ")",
        at=OPENING,
        transient=True,
        explanation="the server takes no more connections just now",
        source=f"{_EXIM}; {_POSTFIX}#smtpd_client_connection_count_limit; Dovecot, mail_max_userip_connections",
    ),
    Row(
        Meaning.CONNECTIONS,
        _any(
            r"(?:server|system|service|ports?|resources?|too|is|are)\b.{0,20}\b(?:busy|overload)",
            r"load (?:average|is )?.{0,10}too high",
            r"high load",
        ),
        at=OPENING - LOGIN,
        code="4..",
        explanation="the server is too busy for another connection just now",
        source=f"{_POSTFIX}#smtpd_timeout; {_EXIM}",
    ),
)

# What is said of one message or one recipient, and sounds as if it were said of the account.
_OF_THE_MESSAGE = (
    Row(
        Meaning.RECIPIENT,
        r"separate transaction|try this recipient",
        at=frozenset({Place.RCPT}),
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.RECIPIENT,
        _any(
            rf"^(?!.*{_SENDS_WORDS}).*\b(?:mail ?box|inbox|maildir|mail ?drop|user|account)\b.{{0,60}}"
            r"(?:\bfull\b|quota|storage|disk|\bsize\b|exceeded (?:its|the|their))",
            rf"^(?!.*{_SENDS_WORDS}).*(?:over|exceed\w{{0,30}}|out of|insufficient|not enough) (?!system).{{0,30}}"
            r"(?:mail ?box|storage|disk|inbox|\bspace\b(?! shortage))",
            rf"^(?!.*{_SENDS_WORDS}).*(?:\bover ?quota\b|\bis full\b)",
        ),
        at=frozenset({Place.RCPT, Place.DOT}),
        enhanced=r"|[45]\.(?!3\.1).*",
        explanation="the recipient's mailbox is full",
        source=_RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        rf"^(?!.*{_SENDS_WORDS}).*quota",
        at=frozenset({Place.RCPT}),
        explanation="the recipient's mailbox is full",
        source=_RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        r"^(?!.*\b(?:peak|sender|sending)\b)",
        enhanced=r"[45]\.2\.[12]",
        at=frozenset({Place.RCPT}),
        source=_RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        _any(
            r"(?:message|mail|content|attachment|body|size=?).{0,40}too (?:large|big|long)",
            r"(?:message|mail|content|attachment|body).{0,40}exceed\w{0,30} .{0,40}(?:size|length)",
            r"\bsize\b.{0,40}(?:limit|exceed|too|maximum|policy|violation)",
            r"exceed.{0,50}\bsize\b",
            r"(?:max\w{0,30}|allowed) .{0,20}size",
            r"too (?:large|big)\b",
            r"attachments?\b.{0,40}(?:limit|exceed|too|not allowed|block)",
        ),
        explanation="the message is too large for this server",
        fix="send less, or fewer attachments",
        source=_RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        enhanced=r"[45]\.3\.4|[45]\.2\.3",
        explanation="the message is too large for this server",
        fix="send less, or fewer attachments",
        source=_RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        _any(
            r"\b(?:headers?|mime|parts?|nest\w{0,30}|lines?|boundar\w{1,30}|subject)\b.{0,40}"
            r"(?:too (?:many|long|deep)|exceed|limit)",
            r"too many (?:\w{1,30} )?(?:headers?|(?:mime )?parts|lines|links|urls|attachments)",
        ),
        explanation="the message is not built as this server wants it",
        source=_RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        r"too many hops|hop count|mail loop|rout\w{1,30} loop|loop(?:ing|s)? (?:detected|message|back)|looping",
        explanation="the message goes round in circles between servers",
        fix="look at the recipient's forwarding",
        source=_RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        _any(
            r"recipient thread limit",
            r"\b(?:user|recipient|mailbox|inbox|person|address)\b.{0,60}\breceiv\w{1,30} .{0,40}"
            r"(?:mail|messag|rate|too|many)",
            r"\brecipient\b.{0,60}(?:too (?:quickly|fast|many messages)|exceeded (?:the|their|its|his)|rate|threshold)",
        ),
        explanation="the recipient gets more than its server allows just now",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.RECIPIENT,
        _any(
            r"(?:tried|trying) to (?:reach|contact|send to)",
            r"not (?:allowed|authori[sz]ed|permitted) to send (?:\w{1,30} ){0,3}to\b",
            r"for (?:this |the )?(?:rcpt|recipient)",
            r"sending to this group|recipient that has been|same recipient",
            r"recipient (?:address )?(?:rejected|refused|denied)"
            r"(?!.{0,200}(?:gr[ea]y|quota|\bonly \d|\bper\b|\blimit|\brate|too many|exceed|throttl))",
        ),
        source=_GOOGLE_CODES,
    ),
    Row(Meaning.LATER, r"gr[ea]y[- ]?list|postgrey", code="4..", source=f"{_POSTFIX} (policy)"),
    Row(
        Meaning.LATER,
        r"(?:time|timeout|idle|timed).{0,10}(?:limit|out|exceeded)|timed? ?out",
        code="4..",
        source=RFC_5321,
    ),
    Row(
        Meaning.MESSAGE,
        _any(
            r"\b(?:spf|dkim|dmarc)\b|virus|malware|phish",
            r"\bspam (?:message|content|detected|filter)|\bspam\b.{0,12}(?:score|threshold|limit)|\bscore\b",
            r"(?:likely|classified as|considered|looks like|identified as|suspicion of|is) (?:\w{1,30} ){0,2}"
            r"(?:spam|unsolicited)",
            r"blocked using|dnsbl|\brbl\b|spamhaus|spamcop|barracuda|sorbs|client host",
            r"listed (?:in|on|at|by)|block ?list|black ?list(?:ed)? (?:by|at|in|on|using)",
        ),
        source="spamhaus.org/faqs",
    ),
)

# What is said of this connection, which has carried enough.
_OF_THE_SESSION = (
    Row(
        Meaning.SESSION,
        r"^(?=.*(?:too many|max|limit|exceed|reach|enough|quota|only|allow|no more))"
        r".*\b(?:per|in|this|one|single|same|for|on|within|over|each)[- ](?:\w{1,30} )?(?:smtp )?(?:session|connection)\b"
        r"(?! with|s? (?:rate|from|limit exceeded from))",
        explanation="the server takes no more over this connection",
        source="IONOS, nodemailer smtp-server, Exim smtp_accept_max_per_connection, Stalwart",
    ),
    Row(
        Meaning.SESSION,
        _any(
            r"too many messages sent\W{0,20}$",
            r"session (?:message |transaction )?(?:count )?limit",
            r"\bre-?connect\b",
            r"(?:transaction|message)s? (?:count )?limit.{0,20}(?:session|connection)",
            r"too many (?:\w{1,30} )?(?:errors|commands|mistakes)",
        ),
        explanation="the server takes no more over this connection",
        source="OpenSMTPD limit max-mails, Postfix smtpd_hard_error_limit",
    ),
)

# What is said of the sender's right to send as this address.
OF_THE_RIGHT = (
    Row(
        Meaning.ACCOUNT,
        _any(
            r"sendasdenied",
            r"not allowed to send as",
            r"send(?:ing)? (?:as|on behalf)",
            r"permissions? to send as",
        ),
        at=SENDING,
        provider="microsoft",
        explanation="the account may not send as this address",
        fix="give the mailbox the right Send As for this address, or set the row's email to the mailbox's own",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        r"not one of your addresses",
        at=SENDING,
        provider="icloud",
        explanation="the account may not send as this address",
        fix="make the address an alias of the Apple Account, or set the row's email to one that is",
        source="support.apple.com/102198",
    ),
    Row(
        Meaning.ACCOUNT,
        r"(?:address|identit(?:y|ies)|domain) (?:is|are) not verified",
        at=SENDING,
        provider="ses",
        explanation="the account may not send as this address",
        fix="verify the address or its domain in the console of Amazon SES, in the region of this host",
        source=_SES,
    ),
    Row(
        Meaning.ACCOUNT,
        _both(
            r"\b(?:senders?|from|envelope|return[- ]?path|address|e-?mail|domain|identity|sent)\b"
            rf".{{0,80}}{_NOT_ENTITLED}",
            r"^(?!.*\brecipient\b)",
        )
        + rf"|{_NOT_ENTITLED}.{{0,50}}"
        r"(?:\bas\b|\bfrom\b|using|\b(?:this|that|the|your) (?:sender|from|address|domain|e-?mail))",
        at=SENDING,
        code="5..|4..",
        explanation="the account may not send as this address",
        fix="set the row's email to an address of this log-in, or let the provider add the address to it",
        source="postfix.org/postconf.5.html#reject_sender_login_mismatch, OVH, Yandex, GMX",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"(?:sender|from|envelope|address|user).{0,60}(?:(?:must|should) (?:be|equal|match)|same as|mis ?match)",
            r"(?:sender|from|envelope|address|user).{0,60}(?:not|n't) (?:match|correspond|equal)",
            r"sender (?:mis ?match|spoof)",
            r"not local sender",
            r"relay\w{0,30} disallowed as",
            r"only send (?:from|as)",
            r"own (?:e-?mail )?address only",
        ),
        at=SENDING,
        explanation="the account may not send as this address",
        fix="set the row's email to an address of this log-in, or let the provider add the address to it",
        source="QQ, NetEase, Mail.ru, Zoho",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"sender (?:address |domain )?.{0,80}(?:rejected|refused|denied|not exist|unknown|invalid)",
            r"sender verify fail",
            r"(?:invalid|unknown|bad) (?:sender|from address)",
        ),
        at=SENDING,
        code="5..",
        explanation="the server does not take this sender's address",
        fix="set the row's email to an address that exists and belongs to this log-in",
        source=f"{_POSTFIX}#reject_unknown_sender_domain",
    ),
)

# What is said of an account that is stopped, or set up wrongly, at its provider.
_STOPPED_ACCOUNTS = (
    Row(
        Meaning.ACCOUNT,
        _any(
            r"smtpclientauth\w{0,30} is disabled for the tenant",
            r"5\.7\.139.{0,200}tenant",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="the log-in over SMTP (SMTP AUTH) is switched off for the whole organisation; the password may be right",
        fix="an administrator switches it on for this mailbox alone (Microsoft 365 admin centre, Mail, Manage email apps, "
        "Authenticated SMTP), or for all: aka.ms/smtp_auth_disabled",
        source=_MICROSOFT_SMTP_AUTH,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"smtpclientauth\w{0,30} is disabled",
            r"5\.7\.139.{0,200}(?:mailbox|disabled)",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="the log-in over SMTP (SMTP AUTH) is switched off for this mailbox; the password may be right",
        fix="an administrator switches on Authenticated SMTP for the mailbox: aka.ms/smtp_auth_disabled",
        source=_MICROSOFT_SMTP_AUTH,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"basic auth\w{0,30} is (?:not supported|disabled|deprecated)",
            r"basic authentication",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="basic authentication is switched off for this mailbox: use OAuth2",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        at=ANYWHERE,
        code="550",
        enhanced=r"5\.7\.30",
        explanation="basic authentication is switched off for this mailbox: use OAuth2",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"tenant has exceeded",
            r"bad outbound sender",
            r"spam abuse detected",
            r"banned send",
            r"unregistered domain",
            r"access denied, traffic not accepted",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="the provider has blocked the account's outgoing messages",
        fix="an administrator looks at Restricted entities in the Defender portal, and asks Microsoft to lift the block",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"outgoing blocked",
            r"sender address blocked",
        ),
        at=ANYWHERE,
        provider="zoho",
        explanation="the provider has blocked the account's outgoing messages",
        fix="unblock it at mail.zoho.com/UnblockMe, or let the organisation's administrator do so",
        source=_ZOHO,
    ),
    Row(
        Meaning.ACCOUNT,
        r"not authori[sz]ed to perform|(?:has|have) no (?:permission|right)|not have (?:access|permission|the right)",
        at=NOT_RCPT,
        explanation="the account has no right to send at this provider",
        fix="give it that right at the provider",
        source=f"{_SES}; NetEase; Yandex",
    ),
    Row(
        Meaning.ACCOUNT,
        r"outgoing mail suspension",
        at=ANYWHERE,
        explanation="the hosting provider has suspended outgoing messages",
        fix="ask the hosting provider why, and to lift the suspension",
        source=_CPANEL,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"\b(?:credits|quota|plan|subscription|trial|licen[cs]e)\b.{0,20}\b(?:expired|blocked|ended)\b",
        ),
        at=ANYWHERE,
        explanation="the account's plan at the provider has ended",
        fix="renew it at the provider",
        source="zoho.com/zeptomail/help/api/smtp-error-codes.html",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"unauthori[sz]ed ip",
            r"(?:\bip\b|\[\d{1,9}\.\d{1,9}\.\d{1,9}\.\d{1,9}\]).{0,80}not (?:authori|allow|permit|white|regist)",
            r"\bip\b.{0,80}(?:does not|doesn't) match",
            r"relay denied",
            r"credentials for relay",
        ),
        at=ANYWHERE,
        explanation="the provider does not take messages from this machine's IP address",
        fix="add the IP address to those that the account may send from",
        source=f"{_SENDGRID}, {_GOOGLE_CODES}",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            rf"\b{_OWN}\b.{{0,60}}{_STOPPED}",
            rf"{_STOPPED}.{{0,40}}\b(?:for|by|of|from) sending",
            rf"{_STOPPED}.{{0,40}}\b(?:for|by|of|from) (?:this|your|the) (?:account|tenant|sender|customer|organi)",
        ),
        at=NOT_SETUP,
        explanation="the account is blocked or suspended at the provider",
        fix="log in at the provider, see why, and have it lifted; then: postroom accounts resume",
        source="Mail.ru, Yahoo, GMX, hosting providers",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            rf"\b(?:account|user|mail ?box|service|log-?in|authentication|domain|client)\b.{{0,60}}{_STOPPED}",
            rf"{_STOPPED}.{{0,40}}\b(?:account|user|mail ?box)",
        ),
        at=NOT_RCPT,
        enhanced=r"|[45]\.[^12]\..*",
        explanation="the account is blocked or suspended at the provider",
        fix="log in at the provider, see why, and have it lifted; then: postroom accounts resume",
        source="Mail.ru, Yahoo, GMX, hosting providers",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"mail ?box.{0,30}(?:full|quota)",
            r"over ?quota",
            r"sender.{0,40}(?:over quota|mailbox is full)",
        ),
        at=frozenset({Place.MAIL}),
        explanation="the sender's own mailbox is full, and the server sends nothing for it",
        fix="make room in the mailbox",
        source=_RFC_3463,
    ),
)

# What is said of how much an account sends.
_LIMITS = (
    Row(
        Meaning.RATE,
        r"peak smtp relay limit",
        at=NOT_SETUP,
        provider="google",
        period=MINUTE,
        explanation="messages come faster than the server takes them",
        fix="the limit is that of the organisation's SMTP relay, for all its senders together",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.RATE,
        r"sending rate exceeded",
        at=NOT_SETUP,
        provider="ses",
        period=SECOND,
        explanation="messages come faster than the server takes them",
        fix="ask Amazon SES for a higher sending rate, where this is too slow",
        source="docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html",
    ),
    Row(
        Meaning.LIMIT,
        r"unusual sending activity",
        at=ANYWHERE,
        provider="zoho",
        explanation="the account has used up what it may send for now",
        fix="Zoho lifts this by itself; send less at once until then",
        source=_ZOHO,
    ),
    Row(
        Meaning.LIMIT,
        at=ANYWHERE,
        code="5..",
        enhanced=r"5\.4\.5",
        provider="google",
        period=DAY,
        explanation="the account's daily sending limit is reached",
        fix="messages wait; Google gives the limit back within 24 hours: support.google.com/a/answer/166852",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.LIMIT,
        _any(
            r"daily smtp relay",
            r"daily user sending",
            r"daily sending",
        ),
        at=ANYWHERE,
        provider="google",
        period=DAY,
        explanation="the account's daily sending limit is reached",
        fix="messages wait; Google gives the limit back within 24 hours: support.google.com/a/answer/166852",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.LIMIT,
        r"submissionquotaexceeded",
        at=ANYWHERE,
        provider="microsoft",
        period=DAY,
        explanation="the account's sending limit is reached",
        fix="messages wait; Microsoft counts recipients of 24 hours",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.LIMIT,
        _both(_LONG_WINDOW, rf"{_SPENT}|throttl") + rf"(?=.*{_SENDER}|.*{_SPENT})",
        at=NOT_SETUP,
        explanation="the account has used up what it may send for now",
        source=f"{_CPANEL}; {_POSTFWD}; {_SES}; Rackspace; GoDaddy",
    ),
    Row(
        Meaning.RATE,
        _both(_SHORT_WINDOW, rf"{_SPENT}|\brate\b|throttl"),
        at=SENDING,
        explanation="messages come faster than the server takes them",
        source=f"{_EXIM}; mailtrap.io; {_POSTFWD}",
    ),
    Row(
        Meaning.MESSAGE,
        _any(
            r"(?:recipients?|rcpts?) (?:count|per (?:message|mail|e-?mail|transaction))",
            r"(?:recipients?|rcpts?).{0,20}(?:in|for) (?:this|one|a single|the) (?:message|mail|e-?mail)",
        ),
        at=TEXT,
        explanation="the message has more recipients than this server takes at once",
        source=RFC_5321,
    ),
)

_PACE = (
    Row(
        Meaning.ACCOUNT,
        _any(
            r"\b(?:attempts?|tries|passwords?|failures?)\b.{0,40}(?:exceed|limit|too many)",
            r"too many .{0,30}(?:attempts|failures|tries)",
        ),
        at=LOGIN,
        code="5..",
        explanation="the server has locked the log-in after too many that failed",
        fix="see that the password is right; then: postroom accounts resume",
        source="help.yahoo.com",
    ),
    Row(
        Meaning.RATE,
        r"too many (?:\w{1,30} )?(?:log-?ins?|login attempts|authentications)(?!.{0,20}(?:fail|invalid|wrong))",
        at=LOGIN,
        period=2 * MINUTE,
        explanation="the account logs in more often than the server likes",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.RATE,
        _any(
            r"\brate[- ]?limit",
            r"\brates?\b.{0,60}(?:exceed|limit|reach|too|high|violat)",
            r"(?:exceed\w{0,30}|maximum|unusual|high|too|excessive)\b.{0,40}\brate\b",
            r"\bthrottl",
            r"too (?:fast|quick|frequent|rapid|often)",
            r"slow(?:ing)? down",
            r"too much mail",
            r"\bfrequency\b",
        ),
        at=SENDING | LOGIN,
        explanation="messages come faster than the server takes them",
        source=f"{_SES}; {_POSTFIX}#smtpd_client_message_rate_limit; {_EXIM}; IONOS",
    ),
    Row(
        Meaning.RATE,
        _any(
            r"(?:too many|concurren|simultaneous|parallel|maximum (?:number of )?|limit of ).{0,30}"
            r"(?:connection|connect\b|session|thread|request)",
            r"connections? (?:rate |count )?limit",
            r"concurrent",
            r"thread limit",
        ),
        at=SENDING | LOGIN,
        period=MINUTE,
        explanation="the server takes no more connections or requests of this account just now",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.RATE,
        r"(?:server|system|service|resources?|too) .{0,20}\b(?:busy|overload)",
        at=SENDING,
        code="4..",
        explanation="the server is busy or short of room just now",
        source=_MICROSOFT_NDR,
    ),
    Row(
        Meaning.RATE,
        _any(
            r"load (?:average|is )?.{0,10}too high",
            r"high load",
            r"space shortage",
            r"insufficient (?:system |disk )?(?:storage|resources?|space)",
            r"out of (?:memory|disk)",
            r"resources? temporarily",
            r"temporarily (?:overload|unavailable due to load)",
        ),
        at=NOT_RCPT - LOGIN,
        code="4..",
        explanation="the server is busy or short of room just now",
        source=f"{_EXIM}; {_MICROSOFT_NDR}",
    ),
    Row(
        Meaning.RATE,
        enhanced=r"4\.7\.28",
        at=SENDING,
        explanation="the server finds the pace unusual",
        source=_GOOGLE_CODES,
    ),
)

_ALLOWANCES = (
    Row(
        Meaning.LIMIT,
        _any(
            rf"too (?:many|much) {_MESSAGE_NOUN.replace('|recipients?|rcpts?', '')}",
            r"too (?:many|much) (?:sent|outgoing|outbound) ",
            r"send(?:ing)? (?:too (?:many|much)|limit|quota|allowance)",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source="Zimbra, qmail patches, Strato",
    ),
    Row(
        Meaning.LIMIT,
        _any(
            rf"{_SENDER}\b.{{0,60}}{_LIMIT}.{{0,60}}{_USED_UP}",
            rf"(?:{_USED_UP}\w{{0,30}}|out of)\b.{{0,60}}(?:{_LIMIT}|number of \w{{1,30}})",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source=f"{_IONOS}; {_SENDGRID}; GMX; OVH",
    ),
    Row(
        Meaning.LIMIT,
        _any(
            rf"{_LIMIT}.{{0,20}}{_USED_UP}",
            r"maximum credits",
            r"\b(?:no|insufficient|not enough|out of) (?:\w{1,30} )?(?:credits?|quota|balance)\b",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source=_SENDGRID,
    ),
)

# What answers AUTH, or a message that came without a log-in.
_MAKE_ONE = (
    "Google wants an app password here: switch on 2-step verification and make one at "
    "myaccount.google.com/apppasswords"
)


def _wrong_password(provider: str | None, fix: str) -> Row:
    """Return what 535 means; what a first-timer is most likely to lack comes first."""
    return Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="535",
        provider=provider,
        explanation="the server does not accept this user name and password",
        fix=fix,
        source=_RFC_4954,
    )


_LOGINS = (
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="534|535",
        enhanced=r"5\.7\.9",
        provider="google",
        explanation="the server wants an app password, not the account's own",
        fix=_MAKE_ONE,
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"application-specific password",
            r"app(?:lication)?[- ]?password",
        ),
        at=LOGIN,
        provider="google",
        explanation="the server wants an app password, not the account's own",
        fix=_MAKE_ONE,
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="535",
        enhanced=r"5\.7\.8",
        provider="google",
        explanation="the server does not accept this user name and password",
        fix=_MAKE_ONE + ". One that worked is revoked when the account's password changes: make a new one",
        source="support.google.com/accounts/answer/185833",
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"web browser",
            r"web ?login",
        ),
        at=LOGIN,
        code="53.",
        explanation="the provider wants somebody to log in with a browser first",
        fix="log in at the provider's web site, confirm that it is you, then: postroom accounts resume",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.RATE,
        r"busy",
        at=LOGIN,
        explanation="the server is too busy to log anybody in",
        source="QQ, NetEase",
    ),
    Row(
        Meaning.RATE,
        r"too many",
        at=LOGIN,
        code="4..",
        period=2 * MINUTE,
        explanation="the account logs in more often than the server likes",
        source=_GOOGLE_CODES,
    ),
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="432",
        explanation="the server asks for a change of the password before it logs this account in",
        fix="log in once as the provider says (often with a mail program or a browser)",
        source=_RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        at=LOGIN,
        code="538",
        explanation="the server wants an encrypted connection for the log-in",
        fix="set the row's security to starttls or tls",
        source=_RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"try again later",
            r"temporar\w{1,30} (?:locked|blocked|disabled|suspended|denied)",
        ),
        at=LOGIN,
        code="5..",
        explanation="the provider takes no log-ins from this account for now, often after several with a wrong password",
        fix="wait as long as the provider says, see that the password in data.csv is right, then: postroom accounts resume",
        source=_RFC_4954,
    ),
    _wrong_password(
        "yahoo", "Yahoo wants an app password: login.yahoo.com/account/security, Generate app password"
    ),
    _wrong_password(
        "icloud", "Apple wants an app-specific password: account.apple.com, Sign-In and Security"
    ),
    _wrong_password(
        "fastmail", "Fastmail wants an app password: Settings, Privacy & Security, Manage app passwords"
    ),
    _wrong_password(
        "zoho",
        "with two-factor log-in Zoho wants an app password: accounts.zoho.com, Security, App passwords",
    ),
    _wrong_password(
        "microsoft",
        "with two-step verification Microsoft wants an app password: account.microsoft.com/security; many organisations "
        "take no passwords over SMTP at all",
    ),
    _wrong_password(
        "gmx",
        "switch on POP3 and IMAP for the mailbox in its settings on the web; with two-factor log-in, make an app password",
    ),
    _wrong_password(
        None,
        "if the provider has app passwords, it may want one in place of the mailbox's own; else compare email, username and "
        "app_password in data.csv with what a mail program uses",
    ),
    Row(Meaning.ACCOUNT, at=LOGIN, code="5..", explanation="the server refuses the log-in", source=_RFC_4954),
    Row(
        Meaning.ACCOUNT,
        at=SENDING,
        code="530|538",
        logged_in=False,
        explanation="the server wants a log-in, or an encrypted connection, before it takes messages",
        fix="set security to starttls or tls, and a user name and password",
        source=_RFC_4954,
    ),
    Row(
        Meaning.ACCOUNT,
        _any(
            r"auth\w{0,30} (?:is )?(?:required|needed|first)",
            r"(?:must|need to|please) (?:\w{1,30} ){0,3}(?:authenticate|log ?in|issue a starttls)",
            r"not (?:logged in|authenticated)",
            r"(?:log ?in|starttls) (?:is )?(?:required|first)",
            r"unauthenticated (?:senders|mail|user)",
        ),
        at=SENDING,
        code="5..",
        logged_in=False,
        explanation="the server wants a log-in, or an encrypted connection, before it takes messages",
        fix="set security to starttls or tls, and a user name and password",
        source=_RFC_4954,
    ),
    Row(
        Meaning.MESSAGE,
        at=SENDING,
        code="530|534|535|538",
        transient=True,
        explanation="a server behind this one was refused its log-in",
        source=_RFC_4954,
    ),
)

_NAMES = (
    Row(
        Meaning.ACCOUNT,
        _any(
            r"\b(?:helo|ehlo)\b.{0,80}(?:reject|invalid|refus|denied|not found|fully|bad|illegal|malformed|resolv)",
            r"(?:invalid|bad|illegal|malformed|reject\w{0,30}|forged|fake|need)\b.{0,40}\b(?:helo|ehlo)\b",
        ),
        at=SENDING | {Place.EHLO},
        code="4(?!21)..|5(?!0[023])..",
        explanation="the server does not accept the name that this machine gives in EHLO",
        fix="set POSTROOM_EHLO_NAME to a fully qualified name of this machine",
        source="postfix.org/postconf.5.html#smtpd_helo_restrictions",
    ),
)

TABLE = (
    *_NAMES,
    *_FULL,
    *_OF_THE_MESSAGE,
    *_OF_THE_SESSION,
    *OF_THE_RIGHT,
    *_STOPPED_ACCOUNTS,
    *_LIMITS,
    *_PACE,
    *_ALLOWANCES,
    *_LOGINS,
)
