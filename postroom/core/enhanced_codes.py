"""What each enhanced status code says, and the fix, in plain words: all of IANA's registry, without the class. Pure.

The registry is "SMTP Enhanced Status Codes" (RFC 5248; most of it is RFC 3463 §3). A code is subject.detail here, since
what it says is the same for a failure (5) and a deferral (4). Each sentence names whose matter it is.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Plain(NamedTuple):
    """What happened, with the one whose matter it is, and what to do."""

    what: str
    fix: str


CHECK_ADDRESS: Final = "check the address, and send the message to the right one"
ASK_RECIPIENT: Final = "ask the recipient by another way, and send the message again then"
ASK_PROVIDER: Final = "ask the provider of the account"
_LATER: Final = "send the message again later"
_SMALLER: Final = "send less, or fewer attachments, or a link"
_OTHER_CONTENT: Final = "send the message in another form"
_OWN_ADDRESS: Final = (
    "set the account's mailbox to an address that exists and that its provider lets it send as"
)
_OWN_DOMAIN: Final = (
    "put right what SPF, DKIM and DMARC say of the sender's domain; `postroom doctor` shows it"
)
_ENCRYPT: Final = "set the security of the account to starttls or tls"
_REPORT: Final = (
    "report this with the dialogue of the attempt; a server may also only mean something else by it"
)

CODES: Final[dict[str, Plain]] = {
    "0.0": Plain("the server refuses it without saying why", ASK_PROVIDER),
    # Addresses
    "1.0": Plain("the server does not take an address of the message", CHECK_ADDRESS),
    "1.1": Plain("the recipient's server knows no such mailbox", CHECK_ADDRESS),
    "1.2": Plain("the recipient's domain does not exist, or takes no messages", CHECK_ADDRESS),
    "1.3": Plain("the recipient's address is not written as the server wants it", CHECK_ADDRESS),
    "1.4": Plain("the recipient's address fits several mailboxes of its server", CHECK_ADDRESS),
    "1.5": Plain("the recipient's address is right, and the server refuses all the same", ASK_RECIPIENT),
    "1.6": Plain("the recipient's mailbox has moved, and its server forwards nothing", CHECK_ADDRESS),
    "1.7": Plain("the sender's address is not written as the server wants it", _OWN_ADDRESS),
    "1.8": Plain("the domain of the sender's address does not exist, or takes no messages", _OWN_ADDRESS),
    "1.9": Plain("the recipient's server passed the message on to one that reports nothing", ASK_RECIPIENT),
    "1.10": Plain("the recipient's domain takes no messages at all (null MX)", CHECK_ADDRESS),
    # Mailboxes
    "2.0": Plain("the recipient's mailbox takes no messages, for a reason of its own", ASK_RECIPIENT),
    "2.1": Plain("the recipient's mailbox is disabled, or takes no messages", ASK_RECIPIENT),
    "2.2": Plain("the recipient's mailbox is full", "ask the recipient to make room"),
    "2.3": Plain("the message is larger than the recipient's mailbox takes", _SMALLER),
    "2.4": Plain("the recipient is a mailing list, and its server could not expand it", ASK_RECIPIENT),
    # The server
    "3.0": Plain("the server has a fault of its own", _LATER),
    "3.1": Plain("the server has no room left", _LATER),
    "3.2": Plain("the server takes no messages just now, such as during maintenance", _LATER),
    "3.3": Plain("the server lacks a feature that the message needs", _OTHER_CONTENT),
    "3.4": Plain("the message is larger than the server takes", _SMALLER),
    "3.5": Plain("the server is set up wrongly", "tell the operator of the server its words"),
    "3.6": Plain("the server has changed the priority of the message", "send it without a priority"),
    # Network and routes
    "4.0": Plain("the server cannot reach the recipient's server", _LATER),
    "4.1": Plain("the recipient's server does not answer the server that the message was given to", _LATER),
    "4.2": Plain("the connection of the server to the recipient's server broke", _LATER),
    "4.3": Plain("the server could not look up the recipient's domain or a directory", _LATER),
    "4.4": Plain("the server finds no way to the recipient's domain", CHECK_ADDRESS),
    "4.5": Plain("the server has more messages than it can pass on just now", _LATER),
    "4.6": Plain("the message goes round in circles between servers", "look at the recipient's forwarding"),
    "4.7": Plain("the server has tried for too long to pass the message on", _LATER),
    # The protocol
    "5.0": Plain("the server did not take a command of SMTP", _REPORT),
    "5.1": Plain("the server does not take this command of SMTP now, or at all", _REPORT),
    "5.2": Plain("the server does not understand a command of SMTP", _REPORT),
    "5.3": Plain(
        "the message has more recipients than the server takes at once",
        "send it to fewer recipients at a time",
    ),
    "5.4": Plain("the server does not take a parameter of a command of SMTP", _REPORT),
    "5.5": Plain("the server and Postroom do not speak the same version of SMTP", _REPORT),
    "5.6": Plain(
        "the log-in is longer than the server takes", "give the account a shorter password or token"
    ),
    # The content
    "6.0": Plain("the server does not take the content of the message", _OTHER_CONTENT),
    "6.1": Plain("the recipient's server does not take content of this kind", _OTHER_CONTENT),
    "6.2": Plain("the content of the message would have to be converted, which is forbidden", _OTHER_CONTENT),
    "6.3": Plain(
        "the content of the message would have to be converted, which the server cannot", _OTHER_CONTENT
    ),
    "6.4": Plain("the server converted the content of the message, and some of it was lost", _OTHER_CONTENT),
    "6.5": Plain("the server could not convert the content of the message", _OTHER_CONTENT),
    "6.6": Plain("the server could not fetch the content of the message", _LATER),
    "6.7": Plain(
        "the server does not take addresses with characters other than ASCII, as the message has",
        "give an address of the sender or recipient in ASCII",
    ),
    "6.8": Plain("the server would have to answer in UTF-8, which was not asked for", _REPORT),
    "6.9": Plain("the recipient's server does not take headers in UTF-8, as the message has", _OTHER_CONTENT),
    "6.10": Plain(
        "the recipient's server does not take headers in UTF-8, as the message has", _OTHER_CONTENT
    ),
    # Security and policy
    "7.0": Plain("the server refuses the message by a rule of security", ASK_PROVIDER),
    "7.1": Plain(
        "the server does not let this sender send this message to this recipient, by a rule of its own",
        "see what its words say; else ask the recipient, or the provider of the account, to let the sender in",
    ),
    "7.2": Plain(
        "the sender may not send to this mailing list", "ask the owner of the list to let the sender in"
    ),
    "7.3": Plain("the message would need another encryption on its way, which is not possible", ASK_PROVIDER),
    "7.4": Plain("the server lacks a security feature that is needed", ASK_PROVIDER),
    "7.5": Plain("the server could not decrypt or check the message", _LATER),
    "7.6": Plain("the server does not know the kind of encryption or signature", ASK_PROVIDER),
    "7.7": Plain("the server finds that the message was altered on its way", _LATER),
    "7.8": Plain(
        "the server does not accept the account's user name and password",
        "give the account the right ones: postroom accounts set EMAIL --password-stdin",
    ),
    "7.9": Plain(
        "the server wants a stronger way of log-in of the account, such as an app password or OAuth2",
        "give the account one: postroom accounts set, or postroom accounts authorize",
    ),
    "7.10": Plain("the server wants an encrypted connection from the account", _ENCRYPT),
    "7.11": Plain("the server wants an encrypted connection for the account's log-in", _ENCRYPT),
    "7.12": Plain(
        "the server wants the account to log in once in another way, to take its password over",
        "log in at the provider's web site, then: postroom accounts resume EMAIL",
    ),
    "7.13": Plain(
        "the account is disabled at its provider",
        "have the provider enable it, then: postroom accounts resume EMAIL",
    ),
    "7.14": Plain("the server takes messages from servers alone that it trusts", ASK_PROVIDER),
    "7.15": Plain("the priority of the message is too low for the server just now", _LATER),
    "7.16": Plain("the message is too large for its priority", _SMALLER),
    "7.17": Plain("the recipient's mailbox belongs to somebody else now", CHECK_ADDRESS),
    "7.18": Plain("the recipient's domain belongs to somebody else now", CHECK_ADDRESS),
    "7.19": Plain("the recipient's server cannot tell since when the mailbox has its owner", ASK_RECIPIENT),
    "7.20": Plain("the message has no DKIM signature that is right", _OWN_DOMAIN),
    "7.21": Plain("the message has no DKIM signature that the server accepts", _OWN_DOMAIN),
    "7.22": Plain("the message has no DKIM signature of its sender's domain", _OWN_DOMAIN),
    "7.23": Plain("the SPF record of the sender's domain does not name the provider's servers", _OWN_DOMAIN),
    "7.24": Plain("the SPF record of the sender's domain cannot be read", _OWN_DOMAIN),
    "7.25": Plain(
        "the IP address of the sending server has no name, or not its own (reverse DNS)",
        "have the operator of that address set its reverse DNS",
    ),
    "7.26": Plain("the message has passed neither SPF nor DKIM for its sender's domain", _OWN_DOMAIN),
    "7.27": Plain("the domain of the sender's address takes no messages (null MX)", _OWN_ADDRESS),
    "7.28": Plain("the server sees a flood of messages from the account or its provider", "send more slowly"),
    "7.29": Plain("the message lost its proof of origin while it was forwarded (ARC)", ASK_RECIPIENT),
    "7.30": Plain(
        "the message may go over encrypted ways alone, and a server on its way lacks that", ASK_PROVIDER
    ),
}

SUBJECTS: Final[dict[str, Plain]] = {
    "1": CODES["1.0"],
    "2": CODES["2.0"],
    "3": CODES["3.0"],
    "4": CODES["4.0"],
    "5": CODES["5.0"],
    "6": CODES["6.0"],
    "7": CODES["7.0"],
}
"""For details that are in no registry: providers have their own, such as Microsoft's 5.7.705."""
