"""A submission becomes a message by a function of values: no store, no clock, no commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from postroom.core.account import Account
from postroom.core.clock import SECOND, Instant
from postroom.core.errors import InvalidSubmission, Rejected, TooLarge
from postroom.core.message import InDoubtPolicy, NewMessage, Submission
from postroom.intake import checks
from postroom.intake import prepare as module
from postroom.intake.prepare import prepare
from postroom.mime.message import UnsafeBytes

NOW: Instant = 1_700_000_000 * SECOND + 123_456
ID = "018bcfe5-6800-7000-8000-000000000000"
MOST = 100_000
ANNA = Account(id=7, email="anna@example.com", name="Anna")
LETTER = Submission(ANNA, ("bob@example.org",), "Hello", "How are you?")


def prepared(submission: Submission = LETTER, most_bytes: int = MOST, **changes: Any) -> NewMessage:
    return prepare(replace(submission, **changes), most_bytes=most_bytes, request_id=ID, now=NOW)


BECOMES: dict[str, tuple[dict[str, Any], Callable[[NewMessage], object], object]] = {
    "the id": ({}, lambda message: message.request_id, ID),
    "the account": ({}, lambda message: message.account_id, 7),
    "the time": ({}, lambda message: message.accepted_at, NOW),
    "the reverse-path": ({}, lambda message: message.reverse_path, "anna@example.com"),
    "each recipient once": (
        {"recipients": ("bob@example.org", "bob@EXAMPLE.org", "dora@example.org")},
        lambda message: message.forward_paths,
        ("bob@example.org", "dora@example.org"),
    ),
    "no SMTPUTF8": ({}, lambda message: message.smtputf8, False),
    "SMTPUTF8 for a recipient": (
        {"recipients": ("dora@example.org", "böb@example.org")}, lambda message: message.smtputf8, True,
    ),
    "SMTPUTF8 for the sender": (
        {"account": replace(ANNA, email="änna@example.com")}, lambda message: message.smtputf8, True,
    ),
    "an ASCII form of a domain": (
        {"recipients": ("bob@exämple.org",)},
        lambda message: (message.forward_paths, message.smtputf8),
        (("bob@xn--exmple-cua.org",), False),
    ),
    "the id in Message-ID": ({}, lambda message: b"Message-ID: <%s@example.com>" % ID.encode() in message.mime, True),
    "the text": ({}, lambda message: b"How are you?" in message.mime, True),
    "the policy in doubt": (
        {"in_doubt": InDoubtPolicy.HOLD}, lambda message: message.in_doubt, InDoubtPolicy.HOLD,
    ),
    "no fingerprint without a key": ({}, lambda message: message.fingerprint, None),
    "the idempotency key": ({"idempotency_key": "k"}, lambda message: message.idempotency_key, "k"),
}  # fmt: skip


@pytest.mark.parametrize("name", BECOMES)
def test_a_submission_becomes(name: str) -> None:
    changes, part, expected = BECOMES[name]
    assert part(prepared(**changes)) == expected


REFUSED: dict[str, tuple[dict[str, Any], type[Rejected], str]] = {
    "no recipient": ({"recipients": ()}, InvalidSubmission, "recipient"),
    "a bad recipient": ({"recipients": ("bob@example.org", "nobody")}, InvalidSubmission, "recipient"),
    "a smuggled recipient": ({"recipients": ("d@e.f>,<g@h.i",)}, InvalidSubmission, "recipient"),
    "a subject of two lines": ({"subject": "Hello\r\nBcc: x@y.z"}, InvalidSubmission, "subject"),
    "a subject with NUL": ({"subject": "Hel\0lo"}, InvalidSubmission, "subject"),
    "neither subject nor body": ({"subject": " ", "body": "\n"}, InvalidSubmission, "body"),
    "a body with half a surrogate pair": ({"body": "\udc80"}, InvalidSubmission, "body"),
    "too many tags": ({"body": "<" * (checks.MOST_TAGS + 1), "is_html": True}, InvalidSubmission, "body"),
    "a long body": ({"body": "x" * (MOST + 1)}, TooLarge, "body"),
    "a body that grows when encoded": ({"body": "ü" * (MOST // 2)}, TooLarge, "body"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_submission_is_refused_with_the_field_named(name: str) -> None:
    changes, kind, field = REFUSED[name]
    with pytest.raises(kind) as caught:
        prepared(**changes)
    assert caught.value.field == field


def test_the_limit_counts_the_encoded_message() -> None:
    size = len(prepared().mime)
    assert len(prepared(most_bytes=size).mime) == size
    with pytest.raises(TooLarge, match=f"has {size} bytes"):
        prepared(most_bytes=size - 1)


def test_the_same_values_give_the_same_message() -> None:
    letter = replace(LETTER, idempotency_key="k")
    assert prepared(letter) == prepared(letter)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipients": ("dora@example.org",)},
        {"subject": "Bye"},
        {"body": "Well?"},
        {"is_html": True},
        {"in_doubt": InDoubtPolicy.FAIL},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_asked_for_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    letter = replace(LETTER, idempotency_key="k")
    assert prepared(letter).fingerprint != prepared(letter, **changes).fingerprint


@pytest.mark.parametrize("unsafe", [b"a\rb\r\n", b"a\nb\r\n", b"a\0b\r\n", b"no end"])
def test_unsafe_bytes_are_refused_whoever_made_them(unsafe: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "render", lambda content: unsafe)
    with pytest.raises(UnsafeBytes):
        prepared()
