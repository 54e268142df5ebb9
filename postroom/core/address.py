"""Parses mailboxes (`local-part@domain`) strictly; the result is used in the database and in the envelope.

A mailbox here is the bare `local-part@domain` of RFC 5321 §4.1.2, with UTF-8
local parts (RFC 6531 §3.3) and internationalised domains (RFC 5890). Display
names, angle brackets, comments, source routes and encoded-words belong to
other grammars; letting them in is how one address becomes two.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass

import idna

MAX_LOCAL_PART = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 §4.5.3.1.2
MAX_PATH = 254  # octets: RFC 5321 §4.5.3.1.3 allows 256 with the angle brackets

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"  # RFC 5322 §3.2.3
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 1035 §2.3.1, RFC 1123 §2.1
_DOT_ATOM = rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*"

_PLAIN_MAILBOX = re.compile(rf"({_DOT_ATOM})@((?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?)")
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UTF8_DOT_ATOM = re.compile(rf"[{_ATEXT}\x80-\U0010FFFF]+(?:\.[{_ATEXT}\x80-\U0010FFFF]+)*")
_QUOTED_CONTENT = re.compile(r'(?:[^"\\]|\\[ -~])*')  # RFC 5321 §4.1.2 QcontentSMTP
_QUOTED_PAIR = re.compile(r"\\(.)")

# C0, DEL and C1 controls, the Unicode line separators, halves of surrogate pairs.
_NOT_IN_HEADERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CHARACTER_NAMES = {
    "\0": "a NUL character (U+0000)",
    "\t": "a tab (U+0009)",
    "\n": "a line feed (U+000A)",
    "\r": "a carriage return (U+000D)",
    "\u2028": "a line separator (U+2028)",
    "\u2029": "a paragraph separator (U+2029)",
}


class InvalidAddress(ValueError):
    """The text is not a mailbox that can be sent to. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox in its one canonical form; only `parse_mailbox` makes them.

    `local_part` is a dot-atom, or a quoted string where it needs to be one.
    `domain` is in lower case and in A-labels (RFC 5890 §2.3.2.1), or an address
    literal in brackets.
    """

    local_part: str
    domain: str

    @property
    def path(self) -> str:
        """What stands between the angle brackets of MAIL FROM and RCPT TO."""
        return f"{self.local_part}@{self.domain}"

    @property
    def smtputf8(self) -> bool:
        """True when a server must offer SMTPUTF8 (RFC 6531) to take this mailbox."""
        return not self.local_part.isascii()


def parse_mailbox(text: str) -> Mailbox:
    """Return the mailbox that `text` names, or raise InvalidAddress.

    The text must be the address and nothing else. Two spellings of one mailbox
    (case of the domain, U-labels, needless quotes) give equal results.
    """
    plain = _PLAIN_MAILBOX.fullmatch(text)
    if plain is not None and "=?" not in text and len(text) <= MAX_PATH:
        local_part, domain = plain.groups()
        domain = domain.lower()
        if len(local_part) <= MAX_LOCAL_PART and "xn--" not in domain:
            return Mailbox(local_part, domain)
    return _parse_carefully(text)


def header_fault(text: str) -> str | None:
    """Name the first character of `text` that no header field may hold, or return None.

    CR and LF would end the field (RFC 5322 §2.2); the others are cut, altered
    or taken for line ends by one receiver or another.
    """
    found = _NOT_IN_HEADERS.search(text)
    return None if found is None else _character_name(found.group())


def _parse_carefully(text: str) -> Mailbox:
    """Parse a text that the fast pattern did not match, or raise with its fault."""
    _refuse_other_grammars(text)
    # RFC 6532 §3.1: NFC. Before the checks, since it can turn other characters into ASCII (U+037E is ";").
    text = unicodedata.normalize("NFC", text)
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise InvalidAddress(f"{_shown(text)} has no @; give an address such as ada@example.org")
    mailbox = Mailbox(_parse_local_part(local_part), _parse_domain(domain))
    if len(mailbox.path.encode()) > MAX_PATH:
        raise InvalidAddress(f"the address is longer than {MAX_PATH} octets; give a shorter one")
    return mailbox


def _refuse_other_grammars(text: str) -> None:
    """Refuse, by their right names, the things that people and attackers write instead of an address."""
    if not text:
        raise InvalidAddress("the address is empty; give one such as ada@example.org")
    if len(text) > 4 * MAX_PATH:  # no normalisation makes it short enough
        raise InvalidAddress(f"the address is longer than {MAX_PATH} octets; give a shorter one")
    fault = header_fault(text)
    if fault is not None:
        raise InvalidAddress(f"the address contains {fault}; remove it")
    if text != text.strip():
        raise InvalidAddress("the address begins or ends with a space; remove it")
    if "<" in text or ">" in text:
        raise InvalidAddress("give only the address, without a name or angle brackets")
    if "=?" in text:
        raise InvalidAddress("the address contains an encoded-word (=?…?=); write the address out")
    if text.startswith("@"):
        raise InvalidAddress("the address begins with @; give a local part before it, and no source route")


def _parse_local_part(text: str) -> str:
    """Return the local part in canonical form: quoted only where a dot-atom does not do."""
    quoted = len(text) >= 2 and text.startswith('"') and text.endswith('"')
    content = _unquote(text) if quoted else text
    _refuse_invisible(content)
    if _UTF8_DOT_ATOM.fullmatch(content):
        local_part = content
    elif quoted:
        local_part = '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        raise InvalidAddress(_local_part_fault(text))
    if "=?" in local_part:  # the escapes of a quoted string can hide one from the first look
        raise InvalidAddress("the address contains an encoded-word (=?…?=); write the address out")
    if len(local_part.encode()) > MAX_LOCAL_PART:
        raise InvalidAddress(
            f"the part before the @ is longer than {MAX_LOCAL_PART} octets; give a shorter one"
        )
    return local_part


def _unquote(text: str) -> str:
    """Return what a quoted string (RFC 5321 §4.1.2) stands for."""
    inner = text[1:-1]
    if not inner:
        raise InvalidAddress("the part before the @ is empty; give one such as ada@example.org")
    if _QUOTED_CONTENT.fullmatch(inner) is None:
        raise InvalidAddress(
            f"{_shown(text)} has a quotation mark or backslash out of place; put a backslash before it"
        )
    return _QUOTED_PAIR.sub(r"\1", inner)


def _refuse_invisible(text: str) -> None:
    """Refuse characters that are invisible or displace others: format, bidi, private, unassigned, odd spaces."""
    for character in text:
        if character != " " and unicodedata.category(character)[0] in "CZ":
            raise InvalidAddress(f"the address contains {_character_name(character)}; remove it")


def _local_part_fault(text: str) -> str:
    """Say why `text` is not a dot-atom (RFC 5322 §3.2.3)."""
    if "," in text or ";" in text:
        return "give one address only; this one contains a comma or semicolon"
    if "(" in text or ")" in text:
        return "the address contains a comment in parentheses; remove it"
    if text.startswith(".") or text.endswith(".") or ".." in text:
        return f"{_shown(text)} has a dot at its beginning, at its end, or two in a row; remove it"
    for character in text:
        if character != "." and _UTF8_DOT_ATOM.fullmatch(character) is None:
            return f"the part before the @ contains {_character_name(character)}; remove it"
    raise AssertionError("a dot-atom after all")  # pragma: no cover


def _parse_domain(text: str) -> str:
    """Return the domain in lower-case A-labels, or an address literal in canonical form."""
    if text.startswith("["):
        return _parse_literal(text)
    if not text:
        raise InvalidAddress("there is no domain after the @; give an address such as ada@example.org")
    domain = _to_ascii(text)
    if not 0 < len(domain) <= MAX_DOMAIN or _HOST_NAME.fullmatch(domain) is None:
        raise InvalidAddress(_domain_fault(text, domain))
    if domain.rpartition(".")[2].isdigit():  # RFC 3696 §2: no top-level domain is all digits
        raise InvalidAddress(f"{_shown(text)} ends in a number; write an IP address in brackets, [192.0.2.1]")
    return domain


def _to_ascii(text: str) -> str:
    """Convert a domain to A-labels (IDNA 2008 after the mapping of UTS #46).

    ASCII that is no A-label goes through as it is: the caller checks it.
    """
    lowered = text.lower()
    if lowered.isascii() and "xn--" not in lowered:
        return lowered
    _refuse_invisible(text)
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise InvalidAddress(
            f"{_shown(text)} is not a valid domain name (IDNA 2008); check its spelling"
        ) from None


def _domain_fault(text: str, domain: str) -> str:
    """Say why a domain in ASCII is not a host name."""
    labels = domain.split(".")
    if not all(labels):
        return f"the domain {_shown(text)} has an empty label; remove the extra dot"
    if len(domain) > MAX_DOMAIN or any(len(label) > 63 for label in labels):
        return f"the domain {_shown(text)} is too long: 63 octets a label and {MAX_DOMAIN} in all"
    if any(label.startswith("-") or label.endswith("-") for label in labels):
        return f"the domain {_shown(text)} has a label that begins or ends with a hyphen; check its spelling"
    if "," in text or ";" in text:
        return "give one address only; this one contains a comma or semicolon"
    return f"the domain {_shown(text)} may hold only letters, digits, hyphens and dots; check its spelling"


def _parse_literal(text: str) -> str:
    """Return an address literal (RFC 5321 §4.1.3) in canonical form."""
    inner = text[1:-1]
    try:
        if not text.endswith("]") or "%" in inner:  # "%" would name an interface of somebody else's machine
            raise ValueError(text)
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise InvalidAddress(
            f"{_shown(text)} is not an address literal; write [192.0.2.1] or [IPv6:2001:db8::1]"
        ) from None


def _character_name(character: str) -> str:
    """Name a character in words that are safe to print."""
    if character in _CHARACTER_NAMES:
        return _CHARACTER_NAMES[character]
    if character == " ":
        return "a space"
    if "!" <= character <= "~":
        return f"the character {character}"
    kind = {"Cc": "control character", "Cf": "invisible character", "Cs": "lone surrogate"}.get(
        unicodedata.category(character), "character"
    )
    return f"the {kind} U+{ord(character):04X}"


def _shown(text: str) -> str:
    """Quote what the client wrote: ASCII only, escaped, and not too much of it."""
    shown = ascii(text)
    return shown if len(shown) <= 60 else shown[:57] + "…'"
