"""Findings about an account's server, from what it has shown: host, port, greeting, TLS, AUTH, clock. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from postroom.accounts.doctor.clock import about_clock, time_in_greeting
from postroom.accounts.doctor.finding import Finding, error, not_known, note, ok, warning
from postroom.core.account import Security
from postroom.core.classify import classify_fault
from postroom.core.clock import DAY, Instant, rfc3339
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Deferred, Failed
from postroom.core.replies import Circumstances, read
from postroom.core.reply_rows.row import Place
from postroom.core.text import counted
from postroom.providers import Server
from postroom.settings import is_loopback
from postroom.smtp.certificate import Certificate
from postroom.smtp.probe import Reach, ServerShown
from postroom.smtp.tls import has_expired, is_for_another_name, is_of_unknown_issuer

PASSWORD_MECHANISMS: Final = ("PLAIN", "LOGIN")
TOKEN_MECHANISMS: Final = ("XOAUTH2", "OAUTHBEARER")
SUBMISSION_PORTS: Final = {587: Security.STARTTLS, 465: Security.TLS}
_SOON: Final = 14 * DAY  # a certificate is renewed earlier as a rule
_SUBJECTS: Final = ("port", "greeting", "tls", "auth")


def about_server(
    server: Server,
    shown: ServerShown,
    now: Instant,
    *,
    mechanisms: Sequence[str],
    open_ports: Sequence[int] = (),
) -> Iterator[Finding]:
    """Yield what an account's server has shown, in the order of an SMTP session.

    `mechanisms` are those of AUTH that the account can log in with, none for one without credentials; `open_ports` are
    those of the submission ports that answer where the account's own does not.
    """
    if shown.fault is None:
        yield _host(server, shown)
        yield ok("port", f"port {server.port} is open")
        yield ok("greeting", shown.greeting or "it greets without words")
        yield _tls(server, shown, now)
        yield _auth(server, shown.mechanisms, mechanisms)
        if shown.greeting and (theirs := time_in_greeting(shown.greeting)):
            yield about_clock(now, theirs, server.host)
        return
    stopped = _stopped(server, shown, shown.fault, now, open_ports)
    if stopped.subject != "host":
        yield _host(server, shown)
        before = _SUBJECTS[: _SUBJECTS.index(stopped.subject)]
        if "port" in before:
            yield ok("port", f"port {server.port} is open")
    yield stopped
    yield not_known("auth", "which log-ins the server offers cannot be asked")


def _host(server: Server, shown: ServerShown) -> Finding:
    return ok(
        "host", f"{server.host} is at {shown.address}" if shown.address else f"{server.host} has an address"
    )


def _stopped(
    server: Server, shown: ServerShown, fault: SMTPFault, now: Instant, open_ports: Sequence[int]
) -> Finding:
    reason = _reason(server, fault)
    if shown.reach in (Reach.NO_SUCH_HOST, Reach.UNRESOLVED):
        return _unresolved(server, shown.reach, reason)
    if shown.reach is Reach.PRIVATE:
        fix = "name the host again with the admin token, or set POSTROOM_SMTP_ALLOW_PRIVATE=true"
        return error("host", f"{server.host} leads into a private network", reason, fix)
    if shown.reach is not Reach.CONNECTED:
        return _no_connection(server, shown.reach, reason, open_ports)
    if fault.verb == "STARTTLS":
        return error("tls", "no safe TLS with the server", reason, _tls_fix(server, shown, fault, now))
    if fault.kind is FaultKind.TIMEOUT and server.security is not Security.TLS:
        fix = "if the port speaks TLS from the start, as 465 does, set the account's security to tls"
        return error("greeting", "the server says nothing", reason, fix)
    return error("greeting", "the server does not let us in", reason, _fix_of(server, fault))


def _reason(server: Server, fault: SMTPFault) -> str:
    """Return the words that the status of a message would have: `failed (…)`."""
    outcome = classify_fault(fault, Circumstances(server.host))
    assert isinstance(outcome, Deferred | Failed)
    return outcome.reason


def _fix_of(server: Server, fault: SMTPFault) -> str:
    fix = ""
    if fault.reply is not None:
        fix = read(fault.reply, Place.of(fault.verb), Circumstances(server.host)).fix
    return fix or "try again later; if it stays so, show these words to the people who run the server"


def _unresolved(server: Server, reach: Reach, reason: str) -> Finding:
    name_server = "look at this machine's name server (/etc/resolv.conf)"
    if reach is Reach.UNRESOLVED:
        return error("host", f"{server.host} cannot be looked up", reason, name_server)
    fix = name_server if server.provider else "correct the account's host: its spelling, or who serves it"
    return error("host", f"there is no host of the name {server.host}", reason, fix)


def _no_connection(server: Server, reach: Reach, reason: str, open_ports: Sequence[int]) -> Finding:
    fixes: dict[Reach, Callable[[], str]] = {
        Reach.BLOCKED: lambda: (
            f"have outgoing port {server.port} opened where this machine is hosted (many hosters block 25, 465 and 587 "
            "until they are asked), and look at its own firewall"
        ),
        Reach.REFUSED: lambda: "correct the account's port: 587 (security starttls) and 465 (tls) are usual",
        Reach.NO_ROUTE: lambda: "look at this machine's network, and its firewall's rules for outgoing mail",
    }
    said = {
        Reach.BLOCKED: f"port {server.port} is blocked: nobody answers, so a firewall on the way drops the packets, or the "
        "host is off",
        Reach.REFUSED: f"port {server.port} is closed: the host answers that nothing listens there",
        Reach.NO_ROUTE: f"this machine has no way to {server.host}",
    }
    fix = fixes.get(reach, lambda: "try again later")()
    if other := next((port for port in open_ports if port != server.port), None):
        security = SUBMISSION_PORTS[other].value
        fix = f"port {other} of the same host answers: set the account's port to {other} and its security to {security}"
    return error("port", said.get(reach, f"no connection to port {server.port}"), reason, fix)


def _tls_fix(server: Server, shown: ServerShown, fault: SMTPFault, now: Instant) -> str:
    cause, certificate = fault.__cause__, shown.certificate
    if has_expired(cause):
        ended = (
            f" (it ended at {rfc3339(certificate.not_after)})"
            if certificate and certificate.not_after < now
            else ""
        )
        return f"renew the certificate of {server.host}{ended}; where another runs the server, tell them"
    if is_of_unknown_issuer(cause):
        return (
            "if the server is yours, name the file of its authority's certificate: POSTROOM_SMTP_CA_FILE=FILE"
        )
    if is_for_another_name(cause):
        names = [name for name in certificate.names if "*" not in name] if certificate else []
        return f"set the account's host to {names[0] if names else 'a name that the certificate is for'}"
    if fault.kind is not FaultKind.INSECURE:
        return "try again later; if it stays so, show these words to the people who run the server"
    if server.security is Security.TLS:
        return "if the server begins in clear, set the account's security to starttls and its port to 587"
    return (
        "if the server speaks TLS from the start, set the account's security to tls and its port to 465; otherwise it must "
        "be updated"
    )


def _tls(server: Server, shown: ServerShown, now: Instant) -> Finding:
    if server.security is Security.NONE:
        if is_loopback(server.host):
            return ok("tls", "none, within this machine")
        return warning(
            "tls",
            "none: password and messages cross the network in the clear",
            fix="set the account's security to starttls or tls",
        )
    certificate = shown.certificate
    if certificate is None:
        return ok("tls", f"{shown.tls_version or 'TLS'}; the certificate is trusted")
    said = f"{shown.tls_version or 'TLS'}; {_described(certificate)}"
    left = certificate.not_after - now
    if left < min(_SOON, (certificate.not_after - certificate.not_before) // 5):
        days = counted(max(0, left // DAY), "day")
        fix = (
            f"renew the certificate of {server.host} within {days}; where another runs the server, tell them"
        )
        return warning("tls", f"the certificate ends in {days}", said, fix)
    return ok("tls", said)


def _described(certificate: Certificate) -> str:
    names = ", ".join(certificate.names) or "no name"
    by = f", signed by {certificate.issuer}" if certificate.issuer else ""
    return (
        f"a certificate that is trusted, for {names}{by}, valid until {rfc3339(certificate.not_after)[:10]}"
    )


def _auth(server: Server, offered: Sequence[str], usable: Sequence[str]) -> Finding:
    shown = ", ".join(offered)
    if not usable:
        if offered:
            return note("auth", f"the server offers log-ins ({shown}), and the account has no credentials")
        return ok("auth", "the server offers no log-in, and the account has no credentials")
    if any(name in usable for name in offered):
        return ok("auth", f"the server offers {shown}")
    if not offered:
        fix = "set the account's security to starttls or tls" if server.security is Security.NONE else None
        fix = (
            fix
            or "check the account's host and port, or leave its password empty if this server asks for none"
        )
        return error("auth", "the server offers no log-in, but the account has credentials", fix=fix)
    if any(name in TOKEN_MECHANISMS for name in offered):
        fix = "log in by OAuth2: postroom accounts authorize"
    else:
        fix = f"have the server offer one of {', '.join(usable)}"
    return error("auth", f"the server offers no log-in that the account can use, only {shown}", fix=fix)
