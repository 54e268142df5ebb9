"""Replies about how much or how fast an account sends: daily limits, rates, used-up allowances."""

from __future__ import annotations

from postroom.core.clock import DAY, MINUTE, SECOND
from postroom.core.outcome import Meaning
from postroom.core.reply_rows.row import ANYWHERE, LOGIN, NOT_RCPT, NOT_SETUP, SENDING, TEXT, Row
from postroom.core.reply_rows.words import (
    CPANEL,
    EXIM,
    GOOGLE_CODES,
    IONOS,
    LIMIT,
    LONG_WINDOW,
    MESSAGE_NOUN,
    MICROSOFT_NDR,
    POSTFIX,
    POSTFWD,
    RFC_5321,
    SENDER,
    SENDGRID,
    SES,
    SHORT_WINDOW,
    SPENT,
    USED_UP,
    ZOHO,
    both_of,
    one_of,
)

LIMITS = (
    Row(
        Meaning.RATE,
        r"peak smtp relay limit",
        at=NOT_SETUP,
        provider="google",
        period=MINUTE,
        explanation="messages come faster than the server takes them",
        fix="the limit is that of the organisation's SMTP relay, for all its senders together",
        source=GOOGLE_CODES,
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
        source=ZOHO,
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
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.LIMIT,
        one_of(
            r"daily smtp relay",
            r"daily user sending",
            r"daily sending",
        ),
        at=ANYWHERE,
        provider="google",
        period=DAY,
        explanation="the account's daily sending limit is reached",
        fix="messages wait; Google gives the limit back within 24 hours: support.google.com/a/answer/166852",
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.LIMIT,
        r"submissionquotaexceeded",
        at=ANYWHERE,
        provider="microsoft",
        period=DAY,
        explanation="the account's sending limit is reached",
        fix="messages wait; Microsoft counts recipients of 24 hours",
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.LIMIT,
        both_of(LONG_WINDOW, rf"{SPENT}|throttl") + rf"(?=.*{SENDER}|.*{SPENT})",
        at=NOT_SETUP,
        explanation="the account has used up what it may send for now",
        source=f"{CPANEL}; {POSTFWD}; {SES}; Rackspace; GoDaddy",
    ),
    Row(
        Meaning.RATE,
        both_of(SHORT_WINDOW, rf"{SPENT}|\brate\b|throttl"),
        at=SENDING,
        explanation="messages come faster than the server takes them",
        source=f"{EXIM}; mailtrap.io; {POSTFWD}",
    ),
    Row(
        Meaning.MESSAGE,
        one_of(
            r"(?:recipients?|rcpts?) (?:count|per (?:message|mail|e-?mail|transaction))",
            r"(?:recipients?|rcpts?).{0,20}(?:in|for) (?:this|one|a single|the) (?:message|mail|e-?mail)",
        ),
        at=TEXT,
        explanation="the message has more recipients than this server takes at once",
        source=RFC_5321,
    ),
)

PACE = (
    Row(
        Meaning.ACCOUNT,
        one_of(
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
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.RATE,
        one_of(
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
        source=f"{SES}; {POSTFIX}#smtpd_client_message_rate_limit; {EXIM}; IONOS",
    ),
    Row(
        Meaning.RATE,
        one_of(
            r"(?:too many|concurren|simultaneous|parallel|maximum (?:number of )?|limit of ).{0,30}"
            r"(?:connection|connect\b|session|thread|request)",
            r"connections? (?:rate |count )?limit",
            r"concurrent",
            r"thread limit",
        ),
        at=SENDING | LOGIN,
        period=MINUTE,
        explanation="the server takes no more connections or requests of this account just now",
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.RATE,
        r"(?:server|system|service|resources?|too) .{0,20}\b(?:busy|overload)",
        at=SENDING,
        code="4..",
        explanation="the server is busy or short of room just now",
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.RATE,
        one_of(
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
        source=f"{EXIM}; {MICROSOFT_NDR}",
    ),
    Row(
        Meaning.RATE,
        enhanced=r"4\.7\.28",
        at=SENDING,
        explanation="the server finds the pace unusual",
        source=GOOGLE_CODES,
    ),
)

ALLOWANCES = (
    Row(
        Meaning.LIMIT,
        one_of(
            rf"too (?:many|much) {MESSAGE_NOUN.replace('|recipients?|rcpts?', '')}",
            r"too (?:many|much) (?:sent|outgoing|outbound) ",
            r"send(?:ing)? (?:too (?:many|much)|limit|quota|allowance)",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source="Zimbra, qmail patches, Strato",
    ),
    Row(
        Meaning.LIMIT,
        one_of(
            rf"{SENDER}\b.{{0,60}}{LIMIT}.{{0,60}}{USED_UP}",
            rf"(?:{USED_UP}\w{{0,30}}|out of)\b.{{0,60}}(?:{LIMIT}|number of \w{{1,30}})",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source=f"{IONOS}; {SENDGRID}; GMX; OVH",
    ),
    Row(
        Meaning.LIMIT,
        one_of(
            rf"{LIMIT}.{{0,20}}{USED_UP}",
            r"maximum credits",
            r"\b(?:no|insufficient|not enough|out of) (?:\w{1,30} )?(?:credits?|quota|balance)\b",
        ),
        at=SENDING | LOGIN,
        explanation="the account has used up what it may send for now",
        source=SENDGRID,
    ),
)
