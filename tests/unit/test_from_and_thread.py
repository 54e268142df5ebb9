"""The From of a message is its account's mailbox or an alias of it; its thread is named by In-Reply-To and References."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import Message

import pytest

from postroom.core.account import Account
from postroom.core.errors import InvalidSubmission
from postroom.core.message import NewMessage, Submission
from postroom.intake.prepare import prepare

ANN = Account(id=1, email="Ann@Example.com", name="Ann")
ASKED = Submission(ANN, ("you@example.org",), "s", "b", aliases=("sales@example.com", "ann@other.example"))
NOW = 1_700_000_000_000_000


def prepared(submission: Submission) -> NewMessage:
    return prepare(submission, most_bytes=1_000_000, request_id="an-id", now=NOW)


def head(submission: Submission) -> Message:
    return message_from_bytes(prepared(submission).mime)


@pytest.mark.parametrize("sender", ["sales@example.com", "SALES@example.com", "ann@other.example"])
def test_an_alias_is_the_from_and_the_account_the_envelopes(sender: str) -> None:
    asked = replace(ASKED, sender=sender)
    assert head(asked)["From"].lower() == f"ann <{sender.lower()}>"
    assert prepared(asked).reverse_path == "Ann@example.com"
    assert head(asked)["Message-ID"] == "<an-id@example.com>"


def test_without_a_from_it_is_the_accounts_own() -> None:
    assert (
        head(ASKED)["From"]
        == "Ann <Ann@example.com>"
        == head(replace(ASKED, sender="ann@example.com"))["From"].replace("<ann@", "<Ann@")
    )


@pytest.mark.parametrize(
    "sender", ["boss@example.com", "sales@example.org", "nobody", "", "a@b.example\r\nBcc: x@y.example"]
)
def test_anybody_elses_is_refused(sender: str) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        prepared(replace(ASKED, sender=sender))
    assert caught.value.field == "from"


def test_a_thread_is_named() -> None:
    asked = replace(ASKED, in_reply_to="<c@x.example>", references=("<a@x.example>", "b@x.example"))
    found = head(asked)
    assert found["In-Reply-To"] == "<c@x.example>"
    assert found["References"].split() == ["<a@x.example>", "<b@x.example>", "<c@x.example>"]
    assert head(ASKED)["References"] is None
    assert all(
        len(line) <= 998
        for line in prepared(replace(asked, references=(f"{'x' * 880}@y.example",) * 9)).mime.splitlines()
    )


@pytest.mark.parametrize(
    "id_",
    ["", "no id", "<a@b> <c@d>", "a@b\r\nBcc: x@y.example", "ä@b", "x" * 901 + "@y", "a@", "@b", "<<a@b>>"],
)
def test_what_is_no_message_id_is_refused(id_: str) -> None:
    for asked, field in (
        (replace(ASKED, in_reply_to=id_), "in_reply_to"),
        (replace(ASKED, references=(id_,)), "references"),
    ):
        with pytest.raises(InvalidSubmission) as caught:
            prepared(asked)
        assert caught.value.field == field


def test_another_from_or_thread_is_another_request() -> None:
    digests = {
        prepared(replace(ASKED, idempotency_key="k", **given)).fingerprint
        for given in (
            {},
            {"sender": "sales@example.com"},
            {"in_reply_to": "a@b.example"},
            {"references": ("a@b.example",)},
        )
    }
    assert len(digests) == 4
