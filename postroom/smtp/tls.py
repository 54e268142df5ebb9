"""Explains a TLS error: whose fault it is, and the fix, in words. Pure.

OpenSSL's reasons are those of `ssl.SSLError.reason`; its own text, which names lines of C, is never shown.
"""

from __future__ import annotations

import os
import re
import ssl
from typing import Final

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.text import printable

# Reasons by which OpenSSL says that what came is no TLS record: the server spoke in clear.
_IN_CLEAR: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
    }
)
_TOO_OLD: Final = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "NO_PROTOCOLS_AVAILABLE",
        "VERSION_TOO_LOW",
        "WRONG_SSL_VERSION",
        "INAPPROPRIATE_FALLBACK",
        "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
    }
)
# What no retry changes: the two have no algorithm in common, or the server wants what we do not have. Every other reason
# is the server's trouble of the moment, such as an alert `internal_error`.
_LASTING: Final = frozenset(
    {
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV13_ALERT_MISSING_EXTENSION",
        "TLSV1_UNRECOGNIZED_NAME",
        "TLSV1_ALERT_UNRECOGNIZED_NAME",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
        "DH_KEY_TOO_SMALL",
        "EE_KEY_TOO_SMALL",
        "CA_KEY_TOO_SMALL",
        "CA_MD_TOO_WEAK",
        "BAD_DH_VALUE",
        "NO_CIPHERS_AVAILABLE",
        "UNKNOWN_CIPHER_RETURNED",
        "WRONG_CIPHER_RETURNED",
        "NO_SHARED_CIPHER",
    }
)
# X.509 verification errors (openssl/x509_vfy.h).
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 64})

_NOISE: Final = re.compile(r"\[(?:SSL|Errno)[^\]]*\]\s*|\s*\(_ssl\.c:\d+\)|Multiple exceptions: ")


def explain(error: BaseException) -> str:
    """Return an error of the connection in words, without OpenSSL's file names and without error numbers."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return printable(error.reason.replace("_", " ").lower())
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return os.strerror(error.errno)
    return printable(_NOISE.sub("", str(error)))


def spoke_in_clear(error: BaseException | None) -> bool:
    """Say whether something came in clear where TLS was meant."""
    return isinstance(error, ssl.SSLError) and error.reason in _IN_CLEAR


def is_for_another_name(error: BaseException | None) -> bool:
    """Say whether the certificate is good, but not for the host that was asked for."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _OTHER_NAME


def is_of_unknown_issuer(error: BaseException | None) -> bool:
    """Say whether nobody that this machine trusts has signed the certificate."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNKNOWN_ISSUER


def has_expired(error: BaseException | None) -> bool:
    """Say whether the certificate, or one above it, has expired."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code == _EXPIRED


def ended(error: Exception | None) -> str:
    """Return how a connection ended, TLS or not."""
    if error is None:
        return "the server closed the connection"
    if spoke_in_clear(error):
        return "the server broke off TLS and went on in clear"
    if isinstance(error, ssl.SSLError):
        return f"the server broke off TLS: {explain(error)}"
    return f"the server closed the connection: {explain(error)}"


def handshake_fault(where: str, error: BaseException) -> SMTPFault:
    """Tell what a person must put right (the account's fault) from the server's trouble of the moment."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"the certificate of {where} cannot be trusted: {_certificate(error)}"
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", message)
    if not isinstance(error, ssl.SSLError):
        message = f"{where} broke off the TLS handshake: {explain(error)}"
        return SMTPFault(FaultKind.DISCONNECTED, "STARTTLS", message)
    if spoke_in_clear(error):
        message = f"{where} answered in clear where TLS had to begin"
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", message)
    if error.reason in _TOO_OLD:
        message = (
            f"no TLS with {where}: it offers no TLS 1.2 or newer, and nothing older is safe; "
            "the server must be updated"
        )
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", message)
    if error.reason in _LASTING:
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", f"no TLS with {where}: {explain(error)}")
    message = f"{where} broke off the TLS handshake: {explain(error)}"
    return SMTPFault(FaultKind.DISCONNECTED, "STARTTLS", message)


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    words = printable(error.verify_message).rstrip(".")
    if error.verify_code in _UNKNOWN_ISSUER:
        return (
            f"{words}; nobody that this machine trusts has signed it. If the server is yours, name the file of its "
            "authority in POSTROOM_SMTP_CA_FILE"
        )
    if error.verify_code in _OTHER_NAME:
        return f"{words}; the host must be a name that it is for"
    if error.verify_code == _EXPIRED:
        return f"{words}; the people who run the server must renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"{words}; is the clock of this machine right?"
    return words
