"""What providers say when they give no token, in plain words, each with its fix. Pure.

The codes are those of RFC 6749 §5.2; `AADSTS…` are Microsoft's (learn.microsoft.com/entra/identity-platform/
reference-error-codes), the causes of Google's `invalid_grant` are those of developers.google.com/identity/protocols/oauth2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from postroom.core.clock import DAY, Instant
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.core.text import printable

_AGAIN: Final = "postroom accounts authorize EMAIL"
_HALF_A_YEAR: Final = 180 * DAY
_TESTING: Final = 7 * DAY  # how long Google's grants to an app in "Testing" last
_IN_PRODUCTION: Final = 'in the Google Auth Platform, Audience, set the app to "In production"'
_GOOGLE_CAUSES: Final = (
    "Google takes this grant no more: access was revoked, the password was changed, or over a hundred grants were given to "
    "this client for the mailbox, which ends the oldest"
)
_GOOGLE_CAUSES_EARLY: Final = f'{_GOOGLE_CAUSES}; or the app is in "Testing", where grants end after 7 days'
_SHOWN: Final = 160  # characters of the provider's own words
_AADSTS: Final = re.compile(r"\bAADSTS(\d{4,9})\b")
# Errors that pass by themselves.
TEMPORARY: Final = frozenset({"temporarily_unavailable", "server_error"})


@dataclass(frozen=True, slots=True)
class _Row:
    """One thing that token endpoints say. What is empty fits everything."""

    words: str
    fix: str
    error: str = ""
    codes: str = ""  # of Microsoft, a regular expression
    said: str = ""  # in the description, a regular expression
    kind: GrantKind | None = None


_SERVICE, _APPLICATION = GrantKind.SERVICE_ACCOUNT, GrantKind.CLIENT_CREDENTIALS
_ROWS: Final = (
    _Row(
        "an administrator has not agreed that this application sends mail (admin consent)",
        "an administrator grants consent: Microsoft Entra admin centre, App registrations, API permissions, "
        f"Grant admin consent; then: {_AGAIN}",
        codes="65001|65004|90094|900941|90095",
    ),
    _Row(
        "its administrator, or the person, must agree again",
        _AGAIN,
        error="consent_required|interaction_required",
    ),
    _Row(
        "the password of the mailbox was changed or its sessions were revoked",
        _AGAIN,
        codes="50173|50133|50132|500133|700084",
    ),
    _Row("the grant was not used for 90 days", _AGAIN, codes="700082|70008|700081"),
    _Row("Microsoft asks the person for a second factor", _AGAIN, codes="50076|50079|50078|500121"),
    _Row(
        "a rule of the organisation (Conditional Access) forbids it",
        "an administrator exempts this application or this server's address from the rule",
        codes="53000|53001|53002|53003|530032",
    ),
    _Row(
        "the person's account is disabled or gone", "an administrator enables it", codes="50034|50057|50020"
    ),
    _Row(
        "the application's client secret is wrong or has ended",
        "make a new one at the provider and set it: POSTROOM_MICROSOFT_CLIENT_SECRET, POSTROOM_GOOGLE_CLIENT_SECRET or "
        "POSTROOM_OAUTH_CLIENT_SECRET; then restart",
        codes="7000215|7000222|7000218",
    ),
    _Row(
        "the provider does not know this application in this tenant",
        "compare POSTROOM_MICROSOFT_CLIENT_ID and POSTROOM_MICROSOFT_TENANT with the app's registration",
        codes="700016|90002|900023|700054",
    ),
    _Row(
        "the provider does not take this client id and client secret",
        "compare the client's id and secret with what the provider shows",
        error="invalid_client",
    ),
    _Row(
        "the service account may not act for this mailbox (domain-wide delegation), or not with this scope",
        "an administrator enters its client id with the scope https://mail.google.com/: admin.google.com, Security, "
        "API controls, Domain-wide delegation",
        error="unauthorized_client",
        kind=_SERVICE,
    ),
    _Row(
        "this application may not ask for tokens in this way",
        "allow it at the provider: for the device code and the loopback address, a public client or desktop app",
        error="unauthorized_client",
    ),
    _Row(
        "the provider does not know the scope that was asked for, or the application may not have it",
        "give the application the permission to send mail over SMTP (Google: https://mail.google.com/, Microsoft: "
        f"SMTP.Send, for applications SMTP.SendAsApp); then: {_AGAIN}",
        error="invalid_scope",
    ),
    _Row(
        "the service account or the mailbox does not exist",
        "see that the mailbox is in the organisation, and the service account's key is not deleted",
        error="invalid_grant",
        kind=_SERVICE,
        said=r"(?i)not found|invalid email|account.*(?:deleted|disabled)",
    ),
    _Row(
        "the provider does not take the service account's signature",
        "see that this machine's clock is right and the key was not deleted; else make a new key",
        error="invalid_grant",
        kind=_SERVICE,
    ),
    _Row(
        "the organisation has its people log in again from time to time (Google Cloud session control)",
        "an administrator exempts this application from it: admin.google.com, Security, Google Cloud session control; "
        f"then: {_AGAIN}",
        error="invalid_grant",
        said=r"(?i)invalid_rapt|rapt_required",
    ),
    _Row("the Google account was deleted", "use another mailbox", said=r"(?i)account has been deleted"),
    _Row(
        "an administrator of the organisation does not let this application have access",
        "an administrator trusts it: admin.google.com, Security, API controls, App access control",
        error="admin_policy_enforced|org_internal|access_denied",
    ),
)


def explain_refusal(
    grant: OAuthGrant, error: str, description: str = "", *, now: Instant | None = None
) -> str:
    """Return why there is no token any more and what to do; `description` must hold nothing secret."""
    code = _AADSTS.search(description)
    row = next(
        (each for each in _ROWS if _matches(each, grant, error, code[1] if code else "", description)), None
    )
    words, fix = (row.words, row.fix) if row else _of_invalid_grant(grant, error, now)
    own = printable(f"{error}: {description}" if description else error)[:_SHOWN]
    return f"OAuth2: {words}; {fix} [the provider says: {own}]"


def _matches(row: _Row, grant: OAuthGrant, error: str, code: str, description: str) -> bool:
    if row.kind is not None and row.kind is not grant.kind:
        return False
    if row.error and not re.fullmatch(row.error, error):
        return False
    if row.codes and not re.fullmatch(row.codes, code):
        return False
    return not row.said or re.search(row.said, description) is not None


def _of_invalid_grant(grant: OAuthGrant, error: str, now: Instant | None) -> tuple[str, str]:
    """Return the words for a grant that is not good any more, of which providers do not say why: likely causes first.

    Times tell some of them apart: `updated_at` is when the grant last brought a token.
    """
    if error != "invalid_grant":
        return "the provider gives no token", f"authorize the account again: {_AGAIN}"
    if now is not None and now - grant.updated_at > _HALF_A_YEAR:
        return "the grant was not used for six months", _AGAIN
    if grant.provider == "google":
        return _of_google(grant, now)
    return "the provider takes this grant no more: access was revoked, or the password was changed", _AGAIN


def _of_google(grant: OAuthGrant, now: Instant | None) -> tuple[str, str]:
    """Return the causes that are left: one that ended between two uses on its seventh day is of an app in "Testing"."""
    if not grant.granted_at or now is None:
        return _GOOGLE_CAUSES_EARLY, f"{_AGAIN}; and {_IN_PRODUCTION}"
    testing_ends = grant.granted_at + _TESTING
    if grant.updated_at < testing_ends <= now:
        return (
            'seven days after it was given the grant has ended: the app is in "Testing"',
            f"{_IN_PRODUCTION}; then: {_AGAIN}",
        )
    return _GOOGLE_CAUSES, _AGAIN
