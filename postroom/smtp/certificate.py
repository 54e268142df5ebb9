"""The certificate that a server has shown, as a value: its names, its issuer, its validity. Nothing is verified here."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from postroom.core.clock import SECOND, Instant
from postroom.core.text import printable
from postroom.smtp.stream import Wire

_MOST_NAMES: Final = 3
_LONGEST_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate; its texts are printable, and hold none of the credentials that the wire knows."""

    names: tuple[str, ...]  # the first few
    issuer: str
    not_before: Instant
    not_after: Instant


def certificate_of(wire: Wire) -> Certificate | None:
    """Return the certificate that the other end of a TLS connection has shown. Raises ValueError where it cannot be read."""
    tls = None if wire.transport is None else wire.transport.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLObject) else None
    if not shown:
        return None
    found = x509.load_der_x509_certificate(shown)
    return Certificate(
        _names_of(wire, found),
        _shown(wire, _issuer_of(found)),
        int(found.not_valid_before_utc.timestamp()) * SECOND,
        int(found.not_valid_after_utc.timestamp()) * SECOND,
    )


def tls_version(wire: Wire) -> str | None:
    """Return the version of TLS that a connection speaks; None for one in clear."""
    tls = None if wire.transport is None else wire.transport.get_extra_info("ssl_object")
    return tls.version() if isinstance(tls, ssl.SSLObject) else None


def _names_of(wire: Wire, certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    found = [*names.value.get_values_for_type(x509.DNSName)]
    found += [str(address) for address in names.value.get_values_for_type(x509.IPAddress)]
    return tuple(_shown(wire, name) for name in found[:_MOST_NAMES])


def _issuer_of(certificate: x509.Certificate) -> str:
    for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        if found := certificate.issuer.get_attributes_for_oid(kind):
            return str(found[0].value)
    return ""


def _shown(wire: Wire, text: str) -> str:
    return printable(wire.struck(text[:_LONGEST_NAME]))
