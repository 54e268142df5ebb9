"""The table of docs/design.md §5, cell by cell: reply and place in, Outcome out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.classify import classify, classify_fault, explain, explain_fault, parse_enhanced, summarise
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed, Meaning, Reply, Sent
from postroom.core.replies import Circumstances, Reading, read
from postroom.core.reply_rows.row import Place
from postroom.core.text import printable

EVERYWHERE = [place for place in Place if place is not Place.OTHER]
NO_LOGIN_STOOD = Circumstances()
LOGIN_STOOD = Circumstances(logged_in=True)
NOTHING = Reading(Meaning.LATER)


def reply(text: str) -> Reply:
    """Write a reply as a server does: `550 5.1.1 No such user`."""
    code, _, rest = text.partition(" ")
    enhanced = parse_enhanced(rest)
    return Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced)


def verdict(text: str, place: Place, circumstances: Circumstances = LOGIN_STOOD) -> tuple[str, str | None]:
    """Return the Outcome's kind and blame."""
    outcome = classify(reply(text), place, circumstances)
    blame = outcome.blame.value if isinstance(outcome, Deferred | Failed) else None
    return type(outcome).__name__, blame


# --- the table


@pytest.mark.parametrize("code", [200, 235, 250, 251, 252, 299])
def test_any_2xx_after_the_dot_is_sent(code: int) -> None:
    taken = Reply(code, "2.0.0 OK queued as 1")
    assert classify(taken, Place.DOT) == Sent(taken)


@pytest.mark.parametrize("place", [place for place in EVERYWHERE if place is not Place.DOT])
def test_a_2xx_before_the_dot_sends_nothing(place: Place) -> None:
    assert verdict("250 OK", place) == ("Deferred", "connection")


@pytest.mark.parametrize("text", ["450 4.2.1 no", "451 local error", "452 4.2.9 no", "499 ?"])
@pytest.mark.parametrize(
    ("place", "blame"),
    [
        (Place.GREETING, "connection"),
        (Place.EHLO, "connection"),
        (Place.STARTTLS, "connection"),
        (Place.AUTH, "connection"),
        (Place.MAIL, "account"),
        (Place.RCPT, "recipient"),
        (Place.DATA, "message"),
        (Place.DOT, "message"),
    ],
)
def test_4xx_is_deferred_and_blamed_by_place(text: str, place: Place, blame: str) -> None:
    assert verdict(text, place) == ("Deferred", blame)


@pytest.mark.parametrize("text", ["500 what", "550 5.1.1 No such user", "553 bad", "554 5.7.1 no", "599 ?"])
@pytest.mark.parametrize(
    ("place", "blame"),
    [
        (Place.GREETING, "account"),
        (Place.EHLO, "account"),
        (Place.STARTTLS, "account"),
        (Place.AUTH, "account"),
        (Place.MAIL, "message"),
        (Place.RCPT, "recipient"),
        (Place.DATA, "message"),
        (Place.DOT, "message"),
    ],
)
def test_5xx_is_failed_and_blamed_by_place(text: str, place: Place, blame: str) -> None:
    assert verdict(text, place) == ("Failed", blame)


@pytest.mark.parametrize("place", EVERYWHERE)
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
def test_421_and_codes_that_mean_nothing_here_blame_the_connection(text: str, place: Place) -> None:
    assert verdict(text, place) == ("Deferred", "connection")


@pytest.mark.parametrize("place", [Place.AUTH, Place.MAIL, Place.RCPT, Place.DATA, Place.DOT])
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("454 4.7.0 Too many requests, please slow down.", Meaning.RATE),
        ("550 5.4.5 Daily user sending limit exceeded.", Meaning.LIMIT),
        (
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed",
            Meaning.LIMIT,
        ),
    ],
)
def test_a_busy_account_waits_and_burns_no_attempt(text: str, meaning: Meaning, place: Place) -> None:
    outcome = classify(reply(text), place)
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.burns_attempt) == (Blame.ACCOUNT, False)
    assert (outcome.reply, outcome.meaning) == (reply(text), meaning)


@pytest.mark.parametrize("place", [Place.MAIL, Place.RCPT, Place.DATA, Place.DOT])
def test_too_many_connections_slows_the_account_once_it_sends(place: Place) -> None:
    outcome = classify(reply("432 4.3.2 Concurrent connections limit exceeded"), place)
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.burns_attempt) == (Blame.ACCOUNT, False)
    assert outcome.meaning is Meaning.RATE


@pytest.mark.parametrize("place", [Place.GREETING, Place.EHLO, Place.STARTTLS, Place.AUTH])
@pytest.mark.parametrize(
    "text",
    [
        "421 4.7.0 Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
        "421 4.3.2 Too many open connections.",
        "452 4.3.2 Connection rate limit exceeded.",
        "421 4.7.0 mail.example Error: too many connections from 127.0.0.1",
        "421 mail.example Too many connected clients, try again in a moment",
        "421 4.7.0 Too many concurrent SMTP sessions",
        "432 4.3.2 Concurrent connections limit exceeded",
        "450 4.3.2 No more connections allowed",
        "421 4.4.5 Too many sessions opened",
        "421 you have exceeded your 10 connections",
        "554 5.7.1 Too many simultaneous connections from your address",
    ],
)
def test_too_many_connections_are_the_connections_before_a_message(text: str, place: Place) -> None:
    outcome = classify(reply(text), place)
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.burns_attempt) == (Blame.CONNECTION, False)
    assert outcome.meaning is Meaning.CONNECTIONS


@pytest.mark.parametrize(
    ("text", "place", "meaning"),
    [
        ("421 4.7.0 Try again later", Place.GREETING, Meaning.CONNECTIONS),
        ("421 4.3.2 All server ports are busy", Place.EHLO, Meaning.CONNECTIONS),
        ("421 4.7.0 Try again later", Place.AUTH, Meaning.LATER),
        ("454 4.7.0 Too many login attempts, please try again later", Place.AUTH, Meaning.RATE),
        ("535 5.7.0 Too many failed attempts over this connection", Place.AUTH, Meaning.ACCOUNT),
        ("535 Authentication failed: daily limit of this session exceeded", Place.AUTH, Meaning.LIMIT),
        ("554 5.7.1 Connection refused", Place.GREETING, Meaning.ACCOUNT),
    ],
)
def test_what_sounds_like_too_many_connections(text: str, place: Place, meaning: Meaning) -> None:
    assert read(reply(text), place).meaning is meaning


NOT_TAKEN = [
    "535 5.7.8 Username and Password not accepted.",
    "535 authentication failed",
    "534 5.7.9 Application-specific password required.",
    "538 5.7.11 Encryption required",
    "530 5.7.0 Authentication Required.",
]


@pytest.mark.parametrize("text", [*NOT_TAKEN, "550 5.7.30 Basic authentication is not supported."])
def test_credentials_that_are_not_taken_blame_the_account(text: str) -> None:
    assert verdict(text, Place.AUTH) == ("Failed", "account")


@pytest.mark.parametrize("text", NOT_TAKEN)
@pytest.mark.parametrize(
    ("place", "blame"),
    [(Place.MAIL, "message"), (Place.RCPT, "recipient"), (Place.DATA, "message"), (Place.DOT, "message")],
)
def test_where_the_log_in_stood_they_speak_of_a_server_behind_this_one(
    text: str, place: Place, blame: str
) -> None:
    assert verdict(text, place, LOGIN_STOOD) == ("Deferred", blame)


@pytest.mark.parametrize(
    "text", ["530 5.7.0 Must issue a STARTTLS command first", "550 authentication required"]
)
@pytest.mark.parametrize("place", [Place.MAIL, Place.RCPT, Place.DATA, Place.DOT])
def test_a_message_without_a_log_in_that_needs_one_blames_the_account(text: str, place: Place) -> None:
    assert verdict(text, place, NO_LOGIN_STOOD) == ("Failed", "account")


def test_552_to_rcpt_means_452_but_elsewhere_too_large() -> None:
    assert verdict("552 5.2.2 full", Place.RCPT) == ("Deferred", "recipient")
    for place in (Place.MAIL, Place.DATA, Place.DOT):
        assert verdict("552 5.2.3 too large", place) == ("Failed", "message")


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("550 4.2.1 disagrees", Place.RCPT, ("Failed", "recipient")),
        ("450 5.1.1 disagrees", Place.RCPT, ("Deferred", "recipient")),
        ("250 5.0.0 disagrees", Place.DOT, ("Sent", None)),
        ("554 2.0.0 disagrees", Place.DOT, ("Failed", "message")),
        ("450 5.4.5 no", Place.DOT, ("Deferred", "message")),
        ("550 4.7.0 no", Place.DOT, ("Failed", "message")),
        ("554 5.2.0 another reason", Place.DOT, ("Failed", "message")),
        ("454 4.7.1 Relay access denied", Place.RCPT, ("Deferred", "recipient")),
    ],
)
def test_the_basic_code_decides(text: str, place: Place, expected: tuple[str, str | None]) -> None:
    assert verdict(text, place) == expected


@pytest.mark.parametrize("text", ["550 5.2.1 disabled", "450 4.2.1 too fast", "421 4.3.0 temporary"])
def test_every_outcome_holds_the_servers_reply(text: str) -> None:
    for place in EVERYWHERE:
        outcome = classify(reply(text), place)
        assert isinstance(outcome, Deferred | Failed)
        assert outcome.reply == reply(text)
        assert text in outcome.reason


@given(st.integers(-1, 1000), st.sampled_from(EVERYWHERE), st.none() | st.from_regex(r"[245]\.\d\.\d"))
def test_only_a_5xx_is_final(code: int, place: Place, enhanced: str | None) -> None:
    outcome = classify(Reply(code, "words", enhanced), place)
    assert not isinstance(outcome, Failed) or 500 <= code < 600
    assert isinstance(outcome, Sent) == (200 <= code < 300 and place is Place.DOT)


# --- faults


@pytest.mark.parametrize(
    ("kind", "verb", "expected"),
    [
        (FaultKind.TIMEOUT, "EHLO", (Deferred, Blame.CONNECTION)),
        (FaultKind.DISCONNECTED, "connect", (Deferred, Blame.CONNECTION)),
        (FaultKind.UNRESOLVED, "connect", (Deferred, Blame.CONNECTION)),
        (FaultKind.GARBLED, "RCPT", (Deferred, Blame.CONNECTION)),
        (FaultKind.NO_SUCH_HOST, "connect", (Failed, Blame.ACCOUNT)),
        (FaultKind.PRIVATE, "connect", (Failed, Blame.ACCOUNT)),
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
    ("text", "host", "hint"),
    [
        ("534 5.7.9 Application-specific password required", "smtp.gmail.com", "myaccount.google.com"),
        ("535 5.7.8 Username and Password not accepted", "smtp.gmail.com", "revoked"),
        ("535 nope", "mail.corp.example", "user name and password"),
        ("550 5.7.30 Basic authentication is not supported", "smtp.office365.com", "OAuth2"),
        ("550 5.4.5 Daily user sending limit exceeded", "smtp.gmail.com", "daily sending limit"),
        ("554 5.2.0 SubmissionQuotaExceeded", "smtp.office365.com", "sending limit"),
    ],
)
def test_the_advice_follows_the_servers_words(text: str, host: str, hint: str) -> None:
    outcome = classify(reply(text), Place.AUTH, Circumstances(host))
    assert isinstance(outcome, Deferred | Failed)
    assert outcome.reason.startswith(f"{text} [")
    assert hint in outcome.reason


def test_no_advice_where_we_know_none() -> None:
    outcome = classify(reply("550 5.1.1 No such user"), Place.RCPT, LOGIN_STOOD)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "550 5.1.1 No such user"


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    fault = SMTPFault(FaultKind.GARBLED, "DATA", f"server said {text}")
    for safe in (printable(text), explain(Reply(550, text), NOTHING), explain_fault(fault)):
        assert not [char for char in safe if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        assert len(safe.splitlines()) <= 1
        safe.encode()


@given(st.integers(400, 599), st.text(min_size=400))
def test_a_reason_is_bounded(code: int, text: str) -> None:
    assert len(explain(Reply(code, text * 10), NOTHING)) <= 700


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
    ("reply", "host", "said", "unsaid"),
    [
        (
            "535 5.7.8 Username and Password not accepted.",
            "smtp.gmail.com",
            "myaccount.google.com/apppasswords",
            "",
        ),
        (
            "535 5.7.0 (#AUTH005) Too many bad auth attempts.",
            "smtp.mail.yahoo.com",
            "locked the log-in",
            "app password",
        ),
        ("535 5.7.0 Authentication failed", "smtp.mail.yahoo.com", "login.yahoo.com", ""),
        (
            "535 Authentication failed, try again later",
            "mail.corp.example",
            "wait as long",
            "app passwords",
        ),
        ("535 5.7.8 Error: authentication failed:", "mail.corp.example", "app passwords", ""),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
            "smtp.office365.com",
            "whole organisation",
            "app password",
        ),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
            "smtp.office365.com",
            "for this mailbox; the password may be right",
            "organisation",
        ),
        ("535 5.7.3 Authentication unsuccessful", "smtp.office365.com", "app password", "switched off"),
    ],
)
def test_the_advice_on_a_refused_log_in(reply: str, host: str, said: str, unsaid: str) -> None:
    code, _, text = reply.partition(" ")
    enhanced = parse_enhanced(text)
    outcome = classify(
        Reply(int(code), text.removeprefix(f"{enhanced} "), enhanced), Place.AUTH, Circumstances(host)
    )
    assert isinstance(outcome, Failed)
    assert outcome.blame is Blame.ACCOUNT
    advice = outcome.reason.partition(" [")[2]
    assert said in advice
    assert not unsaid or unsaid not in advice
