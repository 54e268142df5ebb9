"""Replies about the account: no right to send as this address, blocked or suspended, the sender's mailbox full."""

from __future__ import annotations

from postroom.core.outcome import Meaning
from postroom.core.reply_rows.row import ANYWHERE, NOT_RCPT, NOT_SETUP, SENDING, Place, Row
from postroom.core.reply_rows.words import (
    CPANEL,
    GOOGLE_CODES,
    MICROSOFT_NDR,
    MICROSOFT_SMTP_AUTH,
    NOT_ENTITLED,
    OWN,
    POSTFIX,
    RFC_3463,
    SENDGRID,
    SES,
    STOPPED,
    ZOHO,
    both_of,
    one_of,
)

# Replies about the sender's right to send as this address.
OF_THE_RIGHT = (
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"sendasdenied",
            r"not allowed to send as",
            r"send(?:ing)? (?:as|on behalf)",
            r"permissions? to send as",
        ),
        at=SENDING,
        provider="microsoft",
        explanation="the account may not send as this address",
        fix="give the mailbox the right Send As for this address, or set the row's email to the mailbox's own",
        source=MICROSOFT_NDR,
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
        source=SES,
    ),
    Row(
        Meaning.ACCOUNT,
        both_of(
            r"\b(?:senders?|from|envelope|return[- ]?path|address|e-?mail|domain|identity|sent)\b"
            rf".{{0,80}}{NOT_ENTITLED}",
            r"^(?!.*\brecipient\b)",
        )
        + rf"|{NOT_ENTITLED}.{{0,50}}"
        r"(?:\bas\b|\bfrom\b|using|\b(?:this|that|the|your) (?:sender|from|address|domain|e-?mail))",
        at=SENDING,
        code="5..|4..",
        explanation="the account may not send as this address",
        fix="set the row's email to an address of this log-in, or let the provider add the address to it",
        source="postfix.org/postconf.5.html#reject_sender_login_mismatch, OVH, Yandex, GMX",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
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
        one_of(
            r"sender (?:address |domain )?.{0,80}(?:rejected|refused|denied|not exist|unknown|invalid)",
            r"sender verify fail",
            r"(?:invalid|unknown|bad) (?:sender|from address)",
        ),
        at=SENDING,
        code="5..",
        explanation="the server does not take this sender's address",
        fix="set the row's email to an address that exists and belongs to this log-in",
        source=f"{POSTFIX}#reject_unknown_sender_domain",
    ),
)

# Replies about an account that is stopped, or set up wrongly, at its provider.
STOPPED_ACCOUNTS = (
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"smtpclientauth\w{0,30} is disabled for the tenant",
            r"5\.7\.139.{0,200}tenant",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="the log-in over SMTP (SMTP AUTH) is switched off for the whole organisation; the password may be right",
        fix="an administrator switches it on for this mailbox alone (Microsoft 365 admin centre, Mail, Manage email apps, "
        "Authenticated SMTP), or for all: aka.ms/smtp_auth_disabled",
        source=MICROSOFT_SMTP_AUTH,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"smtpclientauth\w{0,30} is disabled",
            r"5\.7\.139.{0,200}(?:mailbox|disabled)",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="the log-in over SMTP (SMTP AUTH) is switched off for this mailbox; the password may be right",
        fix="an administrator switches on Authenticated SMTP for the mailbox: aka.ms/smtp_auth_disabled",
        source=MICROSOFT_SMTP_AUTH,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"basic auth\w{0,30} is (?:not supported|disabled|deprecated)",
            r"basic authentication",
        ),
        at=ANYWHERE,
        provider="microsoft",
        explanation="basic authentication is switched off for this mailbox: use OAuth2",
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        at=ANYWHERE,
        code="550",
        enhanced=r"5\.7\.30",
        explanation="basic authentication is switched off for this mailbox: use OAuth2",
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
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
        source=MICROSOFT_NDR,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"outgoing blocked",
            r"sender address blocked",
        ),
        at=ANYWHERE,
        provider="zoho",
        explanation="the provider has blocked the account's outgoing messages",
        fix="unblock it at mail.zoho.com/UnblockMe, or let the organisation's administrator do so",
        source=ZOHO,
    ),
    Row(
        Meaning.ACCOUNT,
        r"not authori[sz]ed to perform|(?:has|have) no (?:permission|right)|not have (?:access|permission|the right)",
        at=NOT_RCPT,
        explanation="the account has no right to send at this provider",
        fix="give it that right at the provider",
        source=f"{SES}; NetEase; Yandex",
    ),
    Row(
        Meaning.ACCOUNT,
        r"outgoing mail suspension",
        at=ANYWHERE,
        explanation="the hosting provider has suspended outgoing messages",
        fix="ask the hosting provider why, and to lift the suspension",
        source=CPANEL,
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"\b(?:credits|quota|plan|subscription|trial|licen[cs]e)\b.{0,20}\b(?:expired|blocked|ended)\b",
        ),
        at=ANYWHERE,
        explanation="the account's plan at the provider has ended",
        fix="renew it at the provider",
        source="zoho.com/zeptomail/help/api/smtp-error-codes.html",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"unauthori[sz]ed ip",
            r"(?:\bip\b|\[\d{1,9}\.\d{1,9}\.\d{1,9}\.\d{1,9}\]).{0,80}not (?:authori|allow|permit|white|regist)",
            r"\bip\b.{0,80}(?:does not|doesn't) match",
            r"relay denied",
            r"credentials for relay",
        ),
        at=ANYWHERE,
        explanation="the provider does not take messages from this machine's IP address",
        fix="add the IP address to those that the account may send from",
        source=f"{SENDGRID}, {GOOGLE_CODES}",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            rf"\b{OWN}\b.{{0,60}}{STOPPED}",
            rf"{STOPPED}.{{0,40}}\b(?:for|by|of|from) sending",
            rf"{STOPPED}.{{0,40}}\b(?:for|by|of|from) (?:this|your|the) (?:account|tenant|sender|customer|organi)",
        ),
        at=NOT_SETUP,
        explanation="the account is blocked or suspended at the provider",
        fix="log in at the provider, see why, and have it lifted; then: postroom accounts resume",
        source="Mail.ru, Yahoo, GMX, hosting providers",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            rf"\b(?:account|user|mail ?box|service|log-?in|authentication|domain|client)\b.{{0,60}}{STOPPED}",
            rf"{STOPPED}.{{0,40}}\b(?:account|user|mail ?box)",
        ),
        at=NOT_RCPT,
        enhanced=r"|[45]\.[^12]\..*",
        explanation="the account is blocked or suspended at the provider",
        fix="log in at the provider, see why, and have it lifted; then: postroom accounts resume",
        source="Mail.ru, Yahoo, GMX, hosting providers",
    ),
    Row(
        Meaning.ACCOUNT,
        one_of(
            r"mail ?box.{0,30}(?:full|quota)",
            r"over ?quota",
            r"sender.{0,40}(?:over quota|mailbox is full)",
        ),
        at=frozenset({Place.MAIL}),
        explanation="the sender's own mailbox is full, and the server sends nothing for it",
        fix="make room in the mailbox",
        source=RFC_3463,
    ),
)
