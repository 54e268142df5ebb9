"""DMARC (RFC 7489): the policy of the sender's domain, or of one above it, and what follows with SPF and DKIM. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from postroom.accounts.doctor.finding import Finding, Severity, error, not_known, note, ok, warning
from postroom.accounts.doctor.lookups import Texts

_MOST_NAMES: Final = 8  # of the walk towards the root
_POLICIES: Final = frozenset({"none", "quarantine", "reject"})


def dmarc_names(domain: str) -> tuple[str, ...]:
    """Return the names at which a domain's policy may be: its own first, then those of the domains above it.

    Without a list of public suffixes the organizational domain is the first above that has a policy.
    """
    labels = domain.split(".")
    above = [".".join(labels[at:]) for at in range(1, len(labels) - 1)][-(_MOST_NAMES - 1) :]
    return tuple(f"_dmarc.{name}" for name in (domain, *above))


def about_dmarc(domain: str, answers: Mapping[str, Texts], spf: Finding, dkim: Finding) -> Finding:
    """Return the policy that holds for a domain; `spf` and `dkim` are the findings about it."""
    for name in dmarc_names(domain):
        answer = answers.get(name, Texts(None, "nobody was asked"))
        if answer.texts is None:
            return not_known("dmarc", f"the DMARC policy of {domain} cannot be asked for", answer.reason)
        records = [text for text in answer.texts if re.match(r"v\s*=\s*DMARC1\s*(?:;|\Z)", text)]
        if len(records) > 1:
            detail = " | ".join(records)
            return error(
                "dmarc", f"{name} has several DMARC records, so none counts", detail, "publish one record"
            )
        if records:
            return _of_record(name, records[0], name != f"_dmarc.{domain}", spf, dkim)
    fix = f"publish as TXT of _dmarc.{domain}: v=DMARC1; p=none"
    return warning(
        "dmarc", f"{domain} has no DMARC policy", "large providers want one of those who send much", fix
    )


def _of_record(name: str, record: str, is_above: bool, spf: Finding, dkim: Finding) -> Finding:
    tags = _tags(record)
    policy = (tags.get("sp") if is_above else None) or tags.get("p", "")
    if policy.lower() not in _POLICIES:
        fix = f"publish as TXT of {name}: v=DMARC1; p=none"
        return warning("dmarc", f"the DMARC record at {name} has no policy (p=)", record, fix)
    said = f"{name} has the policy {policy.lower()}"
    if policy.lower() == "none":
        return note("dmarc", f"{said}: nothing happens to messages that fail", record)
    if Severity.OK in (spf.severity, dkim.severity):
        return ok("dmarc", said, record)
    if Severity.NOT_KNOWN in (spf.severity, dkim.severity):
        return note(
            "dmarc", f"{said}, and whether SPF or DKIM pass is not known", record, dkim.fix or spf.fix
        )
    done = "refuse" if policy.lower() == "reject" else "set apart as spam"
    return warning(
        "dmarc",
        f"{said}, and neither SPF nor DKIM is in order: receivers {done} the messages",
        record,
        dkim.fix or spf.fix,
    )


def _tags(record: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in record.split(";"))
    return {tag.strip().lower(): value.strip() for tag, equals, value in pairs if equals}
