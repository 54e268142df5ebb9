"""Every refusal and every deferral has a plain explanation: all of IANA's registry, and all replies of the tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from postroom.core.classify import classify, parse_enhanced
from postroom.core.dialogue import step_of
from postroom.core.enhanced_codes import CODES, SUBJECTS
from postroom.core.outcome import Deferred, Failed, Reply
from postroom.core.plain_words import explanation, plain_words, with_explanation
from postroom.core.replies import Circumstances, read
from postroom.core.reply_rows.row import Place
from postroom.core.reply_table import TABLE

# How many details each subject has in the registry (RFC 3463, 3886, 4468, 4954, 6531, 6710, 7293, 7372, 7505, 8617, 8689).
REGISTRY = {"0": 0, "1": 10, "2": 4, "3": 6, "4": 7, "5": 6, "6": 10, "7": 30}
PHASES = (None, "CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "DATA end")
BASIC = [*range(400, 460), *range(500, 560)]
WHOSE = ("recipient", "message", "account", "server", "sender", "machine", "connection", "content")


def reply(text: str) -> Reply:
    code, _, rest = text.partition(" ")
    enhanced = parse_enhanced(rest)
    return Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced)


def replies() -> list[tuple[Place, Reply]]:
    found = []
    for name in ("replies.csv", "more_replies.csv"):
        text = (Path(__file__).parent / "cases" / name).read_text(encoding="utf-8")
        found += [(Place(row["at"]), reply(row["reply"])) for row in csv.DictReader(text.splitlines())]
    return found


def test_the_whole_registry_is_there() -> None:
    assert set(CODES) == {f"{subject}.{n}" for subject, last in REGISTRY.items() for n in range(last + 1)}
    assert set(SUBJECTS) == set(REGISTRY) - {"0"}


def test_each_sentence_says_what_happened_whose_matter_it_is_and_what_to_do() -> None:
    for phase in PHASES:
        codes: list[str | None] = [None, *(f"{kind}.{code}" for kind in "45" for code in CODES), "5.7.705"]
        for basic in BASIC:
            for enhanced in codes:
                words = plain_words(Reply(basic, "no", enhanced), phase)
                assert words.what, enhanced
                assert words.fix, enhanced
                assert any(whose in words.what for whose in WHOSE), words.what


@pytest.mark.parametrize("outcome", ["failed", "deferred"])
def test_an_explanation_is_there_for_every_reply_at_every_step(outcome: str) -> None:
    for place, said in replies():
        for circumstances in (Circumstances(logged_in=True), Circumstances(logged_in=True, carried=True)):
            found = classify(said, place, circumstances)
            if not isinstance(found, Deferred | Failed):
                continue
            phase = step_of(place.value)
            text = explanation(found.reason, said, outcome=outcome, phase=phase, blame=found.blame.value)
            assert ";" in (text or ""), (said, text)
            assert said.text not in (text or ""), "the server's own words are not repeated"
            assert with_explanation(found.reason, said).endswith("]")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("outcome", ["failed", "deferred", "in_doubt"])
def test_without_a_reply_or_a_reason_there_is_one_too(outcome: str, phase: str | None) -> None:
    for blame in (None, "recipient", "message", "connection", "account"):
        for reason in (None, "no answer to MAIL within 30 s"):
            for said in (None, Reply(550, "no"), Reply(250, "odd")):
                assert explanation(reason, said, outcome=outcome, phase=phase, blame=blame)
    assert explanation(None, Reply(250, "ok"), outcome="sent", phase=phase) is None


def test_each_row_of_the_table_that_explains_says_what_to_do() -> None:
    for row in TABLE:
        assert not row.fix or row.explanation
    for place, said in replies():
        found = read(said, place)
        assert bool(found.explanation) == bool(found.fix), said


@pytest.mark.parametrize(
    ("text", "phase", "says"),
    [
        ("550 5.1.1 user unknown", "RCPT", "the recipient's server knows no such mailbox; check the address"),
        ("550 no", "RCPT", "has no such mailbox, or lets no messages of this sender in"),
        ("550 5.7.1 no", "DATA end", "does not let this sender send this message to this recipient"),
        ("552 5.2.2 over quota", "RCPT", "the recipient's mailbox is full; ask the recipient to make room"),
        ("554 no", "DATA end", "the server refuses the message by a rule of its own; change the message"),
        ("421 4.3.2 bye", "MAIL", "the server ends the connection"),
        ("450 4.2.1 no", "RCPT", "the recipient's mailbox is disabled, or takes no messages; ask"),
        ("550 5.1.0 no", "MAIL", "the server takes no messages from this sender"),
        ("554 no", "CONNECT", "the server lets this machine not connect"),
        ("550 5.7.705 no", "DATA end", "refuses the message by a rule of security"),
        ("550 5.0.0 no", "RCPT", "has no such mailbox"),
    ],
)
def test_what_plain_refusals_mean(text: str, phase: str, says: str) -> None:
    said = reply(text)
    assert says in (explanation(str(said), said, outcome="failed", phase=phase) or "")


def test_what_the_table_knows_comes_first_and_why_it_was_given_up_before_it() -> None:
    said = Reply(535, "no [x]", "5.7.8")
    known = "535 5.7.8 no [x] [the server does not accept this; give the right one]"
    plain = "the server does not accept this; give the right one"
    assert explanation(known, said, outcome="failed") == plain
    assert explanation(f"given up after too many tries: {known}", said, outcome="failed") == (
        f"given up after too many tries; {plain}"
    )
    assert (
        explanation(f"{known}; no log-in was tried", said, outcome="failed")
        == f"{plain}; no log-in was tried"
    )
    assert (
        explanation(known, said, outcome="deferred", blame="message")
        == f"{plain}; it is tried again by itself"
    )
    assert (explanation("535 5.7.8 no [x]", said, outcome="failed") or "").startswith(
        "the server does not accept the account's user name"
    )
    assert explanation("another fault", said, outcome="failed") == "another fault"
    assert with_explanation(known, said) == known
    assert with_explanation("535 5.7.8 no [x]", said).startswith("535 5.7.8 no [x] [the server does not")


def test_an_account_that_has_never_worked_needs_the_message_again() -> None:
    said = explanation("nobody has named the server", None, outcome="failed", phase="AUTH", blame="account")
    assert said == (
        "nobody has named the server; it is about the account: put it right, then send the message again"
    )
    waits = explanation("its token is refused", None, outcome="deferred", phase="AUTH", blame="account")
    assert (waits or "").endswith("put it right, then: postroom accounts resume EMAIL")
