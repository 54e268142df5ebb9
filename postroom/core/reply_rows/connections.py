"""Replies about the connection: too many of them, a busy server, one that has carried enough, the name in EHLO."""

from __future__ import annotations

from postroom.core.outcome import Meaning
from postroom.core.reply_rows.row import LOGIN, OPENING, SENDING, Place, Row
from postroom.core.reply_rows.words import EXIM, POSTFIX, one_of

NAMES = (
    Row(
        Meaning.ACCOUNT,
        one_of(
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

# A server that takes no more connections says so at any step before MAIL. Exim, Postfix and smtp-server in the greeting,
# Dovecot in its answer to AUTH, Sendmail in the answer to every command.
FULL = (
    Row(
        Meaning.CONNECTIONS,
        r"^(?!.*(?:fail|invalid|wrong|\bbad\b|errors|password|daily|messages (?:per|in)\b)).*(?:"
        + one_of(
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
        source=f"{EXIM}; {POSTFIX}#smtpd_client_connection_count_limit; Dovecot, mail_max_userip_connections",
    ),
    Row(
        Meaning.CONNECTIONS,
        one_of(
            r"(?:server|system|service|ports?|resources?|too|is|are)\b.{0,20}\b(?:busy|overload)",
            r"load (?:average|is )?.{0,10}too high",
            r"high load",
        ),
        at=OPENING - LOGIN,
        code="4..",
        explanation="the server is too busy for another connection just now",
        source=f"{POSTFIX}#smtpd_timeout; {EXIM}",
    ),
)

# Replies about this connection, which has carried enough messages.
OF_THE_SESSION = (
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
        one_of(
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
