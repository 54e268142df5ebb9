"""Why a provider gives no token any more, case by case: what can be told apart is told, with the fix, and mail waits.

The other cases have tests of their own: an authorization without a refresh token in tests/process/test_authorize.py, a
rotated refresh token in test_oauth_tokens.py, a token endpoint that is down in tests/process/test_oauth.py.
"""

from __future__ import annotations

import pytest

from postroom.accounts.oauth_refusals import explain_refusal
from postroom.core.classify import classify_fault
from postroom.core.clock import DAY, HOUR, Instant
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.oauth_grant import GrantKind, OAuthGrant
from postroom.core.outcome import Blame, Deferred

GIVEN = 1_000 * DAY
EXPIRED = "Token has been expired or revoked."
AGAIN = "postroom accounts authorize"
TESTING, UNUSED, OTHERS = 'in "Testing"', "not used for six months", "revoked, the password was changed"


def told(
    *, provider: str = "google", used: Instant, now: Instant, given: Instant = GIVEN, said: str = EXPIRED
) -> str:
    """Return what is said of a grant that last brought a token at `used`, and is refused `now`."""
    grant = OAuthGrant(
        account_id=1,
        provider=provider,
        kind=GrantKind.REFRESH_TOKEN,
        token_endpoint="https://provider.example/token",
        client_id="client",
        scope="mail",
        updated_at=used,
        granted_at=given,
    )
    return explain_refusal(grant, "invalid_grant", said, now=now)


def check(words: str, cause: str) -> None:
    assert [each for each in (TESTING, UNUSED, OTHERS) if each in words] == [cause]
    assert AGAIN in words


def test_seven_days_of_an_app_in_testing() -> None:
    words = told(used=GIVEN + 7 * DAY - HOUR, now=GIVEN + 7 * DAY + HOUR)
    check(words, TESTING)
    assert '"In production"' in words


@pytest.mark.parametrize(
    ("used", "now"), [(2 * DAY, 2 * DAY + HOUR), (7 * DAY + HOUR, 7 * DAY + 2 * HOUR), (60 * DAY, 61 * DAY)]
)
def test_a_password_change_or_a_revocation_at_google(used: Instant, now: Instant) -> None:
    """Google says the same of both; the other causes are ruled out."""
    check(told(used=GIVEN + used, now=GIVEN + now), OTHERS)


def test_a_password_change_at_microsoft() -> None:
    said = "AADSTS50173: The provided grant has expired due to it being revoked"
    assert "password of the mailbox was changed" in told(
        provider="microsoft", said=said, used=GIVEN, now=GIVEN + DAY
    )


def test_six_months_unused() -> None:
    check(told(used=GIVEN + 20 * DAY, now=GIVEN + 201 * DAY), UNUSED)


def test_the_hundredth_token_of_a_client() -> None:
    """Google says of it what it says of a revocation: it is named beside that."""
    assert "over a hundred grants" in told(used=GIVEN + 20 * DAY, now=GIVEN + 21 * DAY)


def test_a_grant_of_which_the_time_is_not_known_names_all_causes() -> None:
    words = told(used=GIVEN, now=GIVEN + DAY, given=0)
    assert TESTING in words
    assert OTHERS in words


def test_its_messages_wait() -> None:
    fault = SMTPFault(FaultKind.GRANT_REFUSED, "AUTH", told(used=GIVEN, now=GIVEN + DAY))
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.burns_attempt) == (Blame.ACCOUNT, False)
