"""The text of a dialogue."""

from __future__ import annotations

from postroom.core.dialogue import (
    MOST_OCTETS,
    NOTHING,
    AttemptRecord,
    Speaker,
    Spoken,
    bounded,
    line_of,
    parse,
    step_of,
)
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp.tape import Tape


def taken(tape: Tape) -> list[tuple[Speaker, str]]:
    dialogue = tape.take().dialogue
    assert dialogue is not None
    return [(line.speaker, line.text) for line in parse(dialogue)]


def test_lines_are_read_as_they_were_kept() -> None:
    lines = [
        Spoken(0, Speaker.NOTE, "CONNECT a:25"),
        Spoken(12, Speaker.SERVER, "250 a: b"),
        Spoken(12, Speaker.CLIENT, ""),
    ]
    assert parse("\n".join(line_of(*line) for line in lines)) == lines


def test_a_short_dialogue_is_kept_whole_and_of_a_long_one_the_middle_is_left_out() -> None:
    lines = [line_of(number, Speaker.CLIENT, f"RCPT TO:<né{number}@example.com>") for number in range(1000)]
    short = "\n".join(lines[:10])
    assert bounded(short) == short
    kept = bounded("\n".join(lines))
    assert MOST_OCTETS * 0.95 < len(kept.encode()) <= MOST_OCTETS
    shown = kept.split("\n")
    [gap] = [number for number, line in enumerate(shown) if "*: …" in line]
    assert shown[:gap] == lines[:gap]
    assert shown[gap + 1 :] == lines[len(lines) - (len(shown) - gap - 1) :]
    assert parse(shown[gap])[0].text == f"… {len(lines) - len(shown) + 1} lines left out"


def test_one_line_that_is_too_long_is_left_out() -> None:
    assert bounded(line_of(3, Speaker.SERVER, "x" * 2 * MOST_OCTETS)) == "0 *: … 1 lines left out"


def test_steps_are_named_by_their_verbs() -> None:
    verbs = ("connect", "greeting", "EHLO", "HELO", "STARTTLS", "AUTH XOAUTH2", "RCPT", "BDAT", "dot")
    steps = ["CONNECT", "CONNECT", "EHLO", "EHLO", "STARTTLS", "AUTH", "RCPT", "BDAT", "DATA end"]
    assert list(map(step_of, verbs)) == steps


def test_an_attempt_over_two_connections_has_both_dialogues() -> None:
    first, second = AttemptRecord("MAIL", "0 C: MAIL"), AttemptRecord("RCPT", "0 C: RCPT")
    assert second.after(first) == AttemptRecord("RCPT", "0 C: MAIL\n0 C: RCPT")
    assert second.after(NOTHING) == second


def test_a_reply_is_shown_as_it_came_and_what_is_not_seen_escaped() -> None:
    tape = Tape()
    tape.heard(Reply(250, "mx.example\nSIZE 1000\nOK\x1b[31m\u202e\r"))
    tape.heard(Reply(550, "no\nsuch user", "5.1.1"))
    tape.heard(Reply(250, ""))
    assert [text for _, text in taken(tape)] == [
        "250-mx.example",
        "250-SIZE 1000",
        "250 OK\\x1b[31m\\u202e",
        "550-5.1.1 no",
        "550 5.1.1 such user",
        "250",
    ]


def test_of_a_log_in_only_the_mechanism_is_kept() -> None:
    tape = Tape()
    for line in ("AUTH PLAIN AGEAYg==", "AUTH LOGIN", "YWxpY2U=", "*", ""):
        tape.said_secret(line)
    said = [text for _, text in taken(tape)]
    assert said == ["AUTH PLAIN [struck]", "AUTH LOGIN", "[struck]", "*", "[struck]"]


def test_a_fault_without_a_reply_is_noted_and_one_with_a_reply_is_not_said_twice() -> None:
    tape = Tape()
    tape.failed(SMTPFault(FaultKind.TIMEOUT, "MAIL", "no answer to MAIL within 1 s"))
    tape.failed(SMTPFault(FaultKind.REFUSED, "MAIL", "refused", Reply(550, "no")))
    assert taken(tape) == [(Speaker.NOTE, "no answer to MAIL within 1 s")]
    assert tape.take().dialogue is None, "it begins anew"


def test_many_entries_are_bounded_before_they_become_text() -> None:
    tape = Tape()
    for number in range(100_000):
        tape.said(f"BDAT {number}")
    texts = [text for _, text in taken(tape)]
    assert texts[0] == "BDAT 0"
    assert texts[-1] == "BDAT 99999"
    assert len("\n".join(texts)) < MOST_OCTETS
