"""The table of docs/design.md §5, cell by cell: reply and stage in, Outcome out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.errors import FaultKind, SMTPFault
from postroom.model import SECOND, Blame, Deferred, Failed, Reply, Sent
from postroom.status import (
    Stage,
    account_is_busy,
    advice,
    classify,
    classify_fault,
    explain,
    explain_fault,
    park_for,
    parse_enhanced,
    printable,
    summarise,
)

IN_MAIL = [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT]
EVERYWHERE = list(Stage)


def reply(text: str) -> Reply:
    """Write a reply as a server does: `550 5.1.1 No such user`."""
    code, _, rest = text.partition(" ")
    enhanced = parse_enhanced(rest)
    return Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced)


def verdict(text: str, stage: Stage) -> tuple[str, str | None]:
    """Return the Outcome's kind and blame."""
    outcome = classify(reply(text), stage)
    blame = outcome.blame.value if isinstance(outcome, Deferred | Failed) else None
    return type(outcome).__name__, blame


# --- the table


@pytest.mark.parametrize("code", [200, 235, 250, 251, 252, 299])
def test_any_2xx_after_the_dot_is_sent(code: int) -> None:
    taken = Reply(code, "2.0.0 OK queued as 1")
    assert classify(taken, Stage.DOT) == Sent(taken)


@pytest.mark.parametrize("stage", [stage for stage in EVERYWHERE if stage is not Stage.DOT])
def test_a_2xx_before_the_dot_sends_nothing(stage: Stage) -> None:
    assert verdict("250 OK", stage) == ("Deferred", "connection")


@pytest.mark.parametrize(
    "text", ["450 4.2.1 receives too fast", "451 local error", "452 4.2.2 full", "499 ?"]
)
@pytest.mark.parametrize(
    ("stage", "blame"),
    [
        (Stage.SESSION, "connection"),
        (Stage.MAIL, "message"),
        (Stage.RCPT, "recipient"),
        (Stage.DATA, "message"),
        (Stage.DOT, "message"),
    ],
)
def test_4xx_is_deferred_and_blamed_by_stage(text: str, stage: Stage, blame: str) -> None:
    assert verdict(text, stage) == ("Deferred", blame)


@pytest.mark.parametrize("text", ["500 what", "550 5.1.1 No such user", "553 bad", "554 5.7.1 spam", "599 ?"])
@pytest.mark.parametrize(
    ("stage", "blame"),
    [
        (Stage.SESSION, "account"),
        (Stage.MAIL, "message"),
        (Stage.RCPT, "recipient"),
        (Stage.DATA, "message"),
        (Stage.DOT, "message"),
    ],
)
def test_5xx_is_failed_and_blamed_by_stage(text: str, stage: Stage, blame: str) -> None:
    assert verdict(text, stage) == ("Failed", blame)


@pytest.mark.parametrize("stage", EVERYWHERE)
@pytest.mark.parametrize(
    "text",
    [
        "421 closing",
        "421 4.7.0 Try again later",
        "421 5.7.0 disagrees",
        "300 what",
        "334 VXNlcm5hbWU6",
        "354 go on",
        "399 what",
        "100 hello",
        "199 hello",
        "600 hello",
        "999 hello",
        "0 hello",
    ],
)
def test_421_and_codes_that_mean_nothing_here_blame_the_connection(text: str, stage: Stage) -> None:
    assert verdict(text, stage) == ("Deferred", "connection")


@pytest.mark.parametrize("stage", EVERYWHERE)
@pytest.mark.parametrize(
    "text",
    [
        "454 4.7.0 Too many login attempts, please try again later.",
        "432 4.3.2 Concurrent connections limit exceeded",
        "550 5.4.5 Daily user sending limit exceeded.",
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed",
    ],
)
def test_a_busy_account_waits_and_burns_no_attempt(text: str, stage: Stage) -> None:
    outcome = classify(reply(text), stage)
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.burns_attempt) == (Blame.ACCOUNT, False)
    assert outcome.reply == reply(text)
    assert account_is_busy(reply(text))


@pytest.mark.parametrize("stage", EVERYWHERE)
@pytest.mark.parametrize(
    "text",
    [
        "535 5.7.8 Username and Password not accepted.",
        "535 authentication failed",
        "534 5.7.9 Application-specific password required.",
        "538 5.7.11 Encryption required",
        "530 5.7.0 Authentication Required.",
        "550 5.7.30 Basic authentication is not supported for Client Submission.",
    ],
)
def test_credentials_that_are_not_taken_blame_the_account_at_any_stage(text: str, stage: Stage) -> None:
    assert verdict(text, stage) == ("Failed", "account")


def test_552_to_rcpt_means_452_but_elsewhere_too_large() -> None:
    assert verdict("552 5.2.2 full", Stage.RCPT) == ("Deferred", "recipient")
    for stage in (Stage.MAIL, Stage.DATA, Stage.DOT):
        assert verdict("552 5.2.3 too large", stage) == ("Failed", "message")


@pytest.mark.parametrize(
    ("text", "stage", "expected"),
    [
        ("550 4.2.1 disagrees", Stage.RCPT, ("Failed", "recipient")),
        ("450 5.1.1 disagrees", Stage.RCPT, ("Deferred", "recipient")),
        ("250 5.0.0 disagrees", Stage.DOT, ("Sent", None)),
        ("554 2.0.0 disagrees", Stage.DOT, ("Failed", "message")),
        ("450 5.4.5 not the daily limit", Stage.DOT, ("Deferred", "message")),
        ("550 4.7.0 not too many log-ins", Stage.DOT, ("Failed", "message")),
        ("554 5.2.0 another reason", Stage.DOT, ("Failed", "message")),
        ("454 4.7.1 Relay access denied", Stage.RCPT, ("Deferred", "recipient")),
    ],
)
def test_the_basic_code_decides(text: str, stage: Stage, expected: tuple[str, str | None]) -> None:
    assert verdict(text, stage) == expected


@pytest.mark.parametrize("text", ["550 5.2.1 disabled", "450 4.2.1 too fast", "421 4.3.0 temporary"])
def test_every_outcome_holds_the_servers_reply(text: str) -> None:
    for stage in EVERYWHERE:
        outcome = classify(reply(text), stage)
        assert isinstance(outcome, Deferred | Failed)
        assert outcome.reply == reply(text)
        assert text in outcome.reason


@given(st.integers(-1, 1000), st.sampled_from(EVERYWHERE), st.none() | st.from_regex(r"[245]\.\d\.\d"))
def test_only_a_5xx_is_final(code: int, stage: Stage, enhanced: str | None) -> None:
    outcome = classify(Reply(code, "words", enhanced), stage)
    assert not isinstance(outcome, Failed) or 500 <= code < 600
    assert isinstance(outcome, Sent) == (200 <= code < 300 and stage is Stage.DOT)


# --- faults


@pytest.mark.parametrize(
    ("kind", "verb", "expected"),
    [
        (FaultKind.TIMEOUT, "EHLO", (Deferred, Blame.CONNECTION)),
        (FaultKind.DISCONNECTED, "connect", (Deferred, Blame.CONNECTION)),
        (FaultKind.UNRESOLVED, "connect", (Deferred, Blame.CONNECTION)),
        (FaultKind.GARBLED, "RCPT", (Deferred, Blame.CONNECTION)),
        (FaultKind.NO_SUCH_HOST, "connect", (Failed, Blame.ACCOUNT)),
        (FaultKind.INSECURE, "STARTTLS", (Failed, Blame.ACCOUNT)),
        (FaultKind.UNSUPPORTED, "AUTH", (Failed, Blame.ACCOUNT)),
        (FaultKind.UNSUPPORTED, "MAIL", (Failed, Blame.MESSAGE)),
    ],
)
def test_faults(kind: FaultKind, verb: str, expected: tuple[type[Deferred] | type[Failed], Blame]) -> None:
    outcome = classify_fault(SMTPFault(kind, verb, "what happened"))
    assert isinstance(outcome, Deferred | Failed)
    assert (type(outcome), outcome.blame, outcome.reason) == (*expected, "what happened")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("535 5.7.8 no", (Failed, Blame.ACCOUNT)),
        ("554 5.0.0 go away", (Failed, Blame.ACCOUNT)),
        ("421 4.7.0 later", (Deferred, Blame.CONNECTION)),
        ("450 later", (Deferred, Blame.CONNECTION)),
        ("454 4.7.0 too many", (Deferred, Blame.ACCOUNT)),
        ("334 go on", (Deferred, Blame.CONNECTION)),
    ],
)
def test_a_refusal_is_classified_by_its_reply(
    text: str, expected: tuple[type[Deferred] | type[Failed], Blame]
) -> None:
    outcome = classify_fault(SMTPFault(FaultKind.REFUSED, "AUTH", "refused", reply(text)))
    assert isinstance(outcome, Deferred | Failed)
    assert (type(outcome), outcome.blame) == expected
    assert outcome.reply == reply(text)


# --- words


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("534 5.7.9 Application-specific password required", "app password"),
        ("535 5.7.8 Username and Password not accepted", "revoked"),
        ("535 nope", "user name and password"),
        ("550 5.7.30 Basic authentication is not supported", "OAuth2"),
        ("550 5.4.5 Daily user sending limit exceeded", "daily sending limit"),
        ("554 5.2.0 SubmissionQuotaExceeded", "sending limit"),
    ],
)
def test_the_advice_follows_the_servers_words(text: str, hint: str) -> None:
    assert hint in (advice(reply(text)) or "")
    assert explain(reply(text)).startswith(f"{text} [")
    assert hint in explain(reply(text))


def test_no_advice_where_we_know_none() -> None:
    assert advice(reply("550 5.1.1 No such user")) is None
    assert explain(reply("550 5.1.1 No such user")) == "550 5.1.1 No such user"


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    fault = SMTPFault(FaultKind.GARBLED, "DATA", f"server said {text}")
    for safe in (printable(text), explain(Reply(550, text)), explain_fault(fault)):
        assert not [char for char in safe if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        assert len(safe.splitlines()) <= 1
        safe.encode()


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))))
def test_what_is_printable_stays(text: str) -> None:
    assert printable(text) == text


def test_control_characters_can_be_read() -> None:
    assert printable("a\r\nb\x1b[2J\x00\x7f\u2028") == r"a\x0d\x0ab\x1b[2J\x00\x7f\x2028"


@given(st.integers(400, 599), st.text(min_size=400))
def test_a_reason_is_bounded(code: int, text: str) -> None:
    assert len(explain(Reply(code, text * 10))) <= 700


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [
        ("5.7.8 no", "5.7.8"),
        ("2.0.0", "2.0.0"),
        ("4.123.456 x", "4.123.456"),
        ("3.0.0 x", None),
        ("5.7.8no", None),
        ("5.7.8-no", None),
        ("5.7 no", None),
        ("5.1234.0 no", None),
        (" 5.7.8 no", None),
        ("", None),
    ],
)
def test_enhanced_status_codes(text: str, enhanced: str | None) -> None:
    assert parse_enhanced(text) == enhanced


@pytest.mark.parametrize(
    ("deliveries", "phrase"),
    [
        ([], None),
        ([("a@x.example", None)], None),
        ([("a@x.example", "550 no")], "550 no"),
        ([("a@x.example", None), ("b@x.example", "550 no")], "b@x.example: 550 no"),
        (
            [("a@x.example", "450 later"), ("b@x.example", "550 no")],
            "a@x.example: 450 later; b@x.example: 550 no",
        ),
    ],
)
def test_summarise(deliveries: list[tuple[str, str | None]], phrase: str | None) -> None:
    assert summarise(deliveries) == phrase
    assert summarise(iter(deliveries)) == phrase


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("454 4.7.0 Too many login attempts", 120),
        ("432 4.3.2 Concurrent connections", 60),
        ("550 5.4.5 Daily limit", 3600),
        ("554 5.2.0 SubmissionQuotaExceeded", 3600),
    ],
)
def test_how_long_a_busy_account_rests(text: str, seconds: int) -> None:
    assert park_for(reply(text)) == seconds * SECOND
