"""Replies about one message or one recipient: full mailboxes, sizes, loops, spam, greylisting."""

from __future__ import annotations

from postroom.core.outcome import Meaning
from postroom.core.reply_rows.row import Place, Row
from postroom.core.reply_rows.words import GOOGLE_CODES, POSTFIX, RFC_3463, RFC_5321, SENDS_WORDS, one_of

# Some of these sound as if they were about the account.
OF_THE_MESSAGE = (
    Row(
        Meaning.RECIPIENT,
        r"separate transaction|try this recipient",
        at=frozenset({Place.RCPT}),
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.RECIPIENT,
        one_of(
            rf"^(?!.*{SENDS_WORDS}).*\b(?:mail ?box|inbox|maildir|mail ?drop|user|account)\b.{{0,60}}"
            r"(?:\bfull\b|quota|storage|disk|\bsize\b|exceeded (?:its|the|their))",
            rf"^(?!.*{SENDS_WORDS}).*(?:over|exceed\w{{0,30}}|out of|insufficient|not enough) (?!system).{{0,30}}"
            r"(?:mail ?box|storage|disk|inbox|\bspace\b(?! shortage))",
            rf"^(?!.*{SENDS_WORDS}).*(?:\bover ?quota\b|\bis full\b)",
        ),
        at=frozenset({Place.RCPT, Place.DOT}),
        enhanced=r"|[45]\.(?!3\.1).*",
        explanation="the recipient's mailbox is full",
        fix="ask the recipient to make room",
        source=RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        rf"^(?!.*{SENDS_WORDS}).*quota",
        at=frozenset({Place.RCPT}),
        explanation="the recipient's mailbox is full",
        fix="ask the recipient to make room",
        source=RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        r"^(?!.*\b(?:peak|sender|sending)\b)",
        enhanced=r"[45]\.2\.[12]",
        at=frozenset({Place.RCPT}),
        source=RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        one_of(
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
        source=RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        enhanced=r"[45]\.3\.4|[45]\.2\.3",
        explanation="the message is too large for this server",
        fix="send less, or fewer attachments",
        source=RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        one_of(
            r"\b(?:headers?|mime|parts?|nest\w{0,30}|lines?|boundar\w{1,30}|subject)\b.{0,40}"
            r"(?:too (?:many|long|deep)|exceed|limit)",
            r"too many (?:\w{1,30} )?(?:headers?|(?:mime )?parts|lines|links|urls|attachments)",
        ),
        explanation="the message is not built as this server wants it",
        source=RFC_3463,
    ),
    Row(
        Meaning.MESSAGE,
        r"too many hops|hop count|mail loop|rout\w{1,30} loop|loop(?:ing|s)? (?:detected|message|back)|looping",
        explanation="the message goes round in circles between servers",
        fix="look at the recipient's forwarding",
        source=RFC_3463,
    ),
    Row(
        Meaning.RECIPIENT,
        one_of(
            r"recipient thread limit",
            r"\b(?:user|recipient|mailbox|inbox|person|address)\b.{0,60}\breceiv\w{1,30} .{0,40}"
            r"(?:mail|messag|rate|too|many)",
            r"\brecipient\b.{0,60}(?:too (?:quickly|fast|many messages)|exceeded (?:the|their|its|his)|rate|threshold)",
        ),
        explanation="the recipient gets more than its server allows just now",
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.RECIPIENT,
        one_of(
            r"(?:tried|trying) to (?:reach|contact|send to)",
            r"not (?:allowed|authori[sz]ed|permitted) to send (?:\w{1,30} ){0,3}to\b",
            r"for (?:this |the )?(?:rcpt|recipient)",
            r"sending to this group|recipient that has been|same recipient",
            r"recipient (?:address )?(?:rejected|refused|denied)"
            r"(?!.{0,200}(?:gr[ea]y|quota|\bonly \d|\bper\b|\blimit|\brate|too many|exceed|throttl))",
        ),
        source=GOOGLE_CODES,
    ),
    Row(
        Meaning.LATER,
        r"gr[ea]y[- ]?list|postgrey",
        code="4..",
        explanation="the recipient's server puts unknown senders off for a while (greylisting)",
        fix="wait",
        source=f"{POSTFIX} (policy)",
    ),
    Row(
        Meaning.LATER,
        r"(?:time|timeout|idle|timed).{0,10}(?:limit|out|exceeded)|timed? ?out",
        code="4..",
        source=RFC_5321,
    ),
    Row(
        Meaning.MESSAGE,
        one_of(
            r"\b(?:spf|dkim|dmarc)\b|virus|malware|phish",
            r"\bspam (?:message|content|detected|filter)|\bspam\b.{0,12}(?:score|threshold|limit)|\bscore\b",
            r"(?:likely|classified as|considered|looks like|identified as|suspicion of|is) (?:\w{1,30} ){0,2}"
            r"(?:spam|unsolicited)",
            r"blocked using|dnsbl|\brbl\b|spamhaus|spamcop|barracuda|sorbs|client host",
            r"listed (?:in|on|at|by)|block ?list|black ?list(?:ed)? (?:by|at|in|on|using)",
        ),
        explanation="the server takes the message for spam, or its sender, links or servers stand on a list of bad ones",
        fix="see what its words name; `postroom doctor` checks SPF, DKIM and DMARC of the sender's domain",
        source="spamhaus.org/faqs",
    ),
)
