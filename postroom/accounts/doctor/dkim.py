"""DKIM (RFC 6376): is a key published under the account's selector, or one of its provider's? Pure.

A domain's selectors cannot be listed, so a domain without a key under those that are known is "not known".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from postroom.accounts.doctor.finding import Finding, error, not_known, note, ok, warning
from postroom.accounts.doctor.lookups import Texts

# The selectors under which providers have their customers publish their keys.
SELECTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "gmail": ("google",),
    "office365": ("selector1", "selector2"),
    "outlook": ("selector1", "selector2"),
    "yahoo": ("s2048", "s1024"),
    "icloud": ("sig1",),
    "fastmail": ("fm1", "fm2", "fm3"),
    "zoho": ("zoho", "zmail"),
}
_LEAST_BITS: Final = 1024  # RFC 8301 §3.2: below that no signature counts
_FIX: Final = (
    "name the selector (s= in the DKIM-Signature of a message that the account has sent) as its dkim_selector"
)


def selectors_of(own: str | None, provider: str | None) -> Sequence[str]:
    """Return the selectors to ask for: the account's own one alone, else those of its provider."""
    return (own,) if own else SELECTORS.get(provider or "", ())


def name_of(selector: str, domain: str) -> str:
    return f"{selector}._domainkey.{domain}"


def about_dkim(domain: str, own: str | None, answers: Mapping[str, Texts]) -> Finding:
    """Return whether a key is published; the answers are those to `name_of` of each selector."""
    if not answers:
        return not_known("dkim", f"which DKIM selector {domain} has is not known", fix=_FIX)
    found = {name: text for name, answer in answers.items() for text in answer.texts or () if _is_key(text)}
    if found:
        name, text = next(iter(sorted(found.items(), key=lambda each: not _tag(each[1], "p"))))
        return _of_key(name, text)
    reason = next((answer.reason for answer in answers.values() if answer.texts is None), None)
    asked = ", ".join(answers)
    if reason is not None:
        return not_known("dkim", f"the DKIM key of {domain} cannot be asked for", reason)
    if own:
        fix = f"publish the key that the provider shows as TXT of {asked}, or correct the account's dkim_selector"
        return warning("dkim", f"no DKIM key is published under the account's selector: {asked}", fix=fix)
    return not_known(
        "dkim", f"whether {domain} has a DKIM key is not known: there is none at {asked}", fix=_FIX
    )


def _is_key(text: str) -> bool:
    version = _tag(text, "v")
    return version in (None, "DKIM1") and _tag(text, "p") is not None


def _of_key(name: str, text: str) -> Finding:
    key = _tag(text, "p") or ""
    if not key:
        return error(
            "dkim", f"the DKIM key at {name} is revoked: it is empty", fix=f"publish a key at {name} anew"
        )
    bits = _bits(key)
    if _tag(text, "k") in (None, "rsa") and bits is not None and bits < _LEAST_BITS:
        said = f"the DKIM key at {name} has {bits} bits, and none below {_LEAST_BITS} counts"
        return error("dkim", said, fix="make a key of 2048 bits at the provider, and publish it")
    if "y" in (_tag(text, "t") or "").split(":"):
        return note(
            "dkim",
            f"a DKIM key is at {name}, for testing only (t=y)",
            fix="take t=y out once signatures are right",
        )
    return ok("dkim", f"a DKIM key is published at {name}", f"RSA of {bits} bits" if bits else None)


def _tag(text: str, name: str) -> str | None:
    """Return the value of a tag, without the white space in it (RFC 6376 §3.2); None where there is none."""
    for part in text.split(";"):
        tag, equals, value = part.partition("=")
        if equals and tag.strip() == name:
            return "".join(value.split())
    return None


def _bits(key: str) -> int | None:
    """Return the length of an RSA key; None for another kind, or what cannot be read."""
    try:
        found = load_der_public_key(base64.b64decode(key))
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        return None
    return found.key_size if isinstance(found, RSAPublicKey) else None
