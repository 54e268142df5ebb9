"""The way in: whole or not at all, rendered once, under an id of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.account import Account, AccountSettings
from postroom.core.clock import SECOND, Instant
from postroom.core.errors import InvalidSubmission, Rejected, TooLarge
from postroom.core.message import InDoubtPolicy, Submission
from postroom.intake import prepare as prepare_module
from postroom.intake.accept import accept
from postroom.intake.request_id import new_request_id
from postroom.mime.message import Content, render
from postroom.store.accounts import AccountIdentity, Accounts
from postroom.store.store import Store, open_store
from postroom.store.workers import Workers

NOW: Instant = 1_700_000_000 * SECOND + 123_456
MOST = 100_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'postroom.db'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def anna(store: Store) -> Account:
    return _add_account(store, "anna@example.com", "Anna")


def _add_account(store: Store, email: str, name: str = "") -> Account:
    settings = AccountSettings(name, None, None, None, None, None, None)
    identity = AccountIdentity(email, None, None, None)
    account_id = store.write(Accounts.upsert, identity, settings, lambda uid: None, source="csv", now=NOW)
    stored = store.read(Accounts.get, account_id)
    assert stored is not None
    return stored.account


@pytest.fixture
def letter(anna: Account) -> Submission:
    return Submission(anna, ("bob@example.org",), "Hello", "How are you?")


def _accept(store: Store, submission: Submission, *, most_bytes: int = MOST) -> str:
    return accept(store, submission, most_bytes=most_bytes, clock=lambda: NOW).request_id


def _claim(store: Store, account: Account) -> list[Any]:
    def work(transaction: Any) -> list[Any]:
        worker = transaction.workers.register(host="h", pid=1, lock_file="l", now=NOW, lease_until=NOW)
        jobs: list[Any] = transaction.queue.claim(
            account_id=account.id, worker_id=worker, most=100, most_bytes=10**9, now=NOW
        )
        return jobs

    return store.write(work)


REFUSED: dict[str, tuple[dict[str, Any], type[Rejected], str]] = {
    "no recipient": ({"recipients": ()}, InvalidSubmission, "recipient"),
    "a bad recipient": ({"recipients": ("bob@example.org", "nobody")}, InvalidSubmission, "recipient"),
    "a smuggled recipient": ({"recipients": ("d@e.f>,<g@h.i",)}, InvalidSubmission, "recipient"),
    "a recipient of two lines": ({"recipients": ("bob@example.org\r\nBcc: x@y.z",)}, InvalidSubmission, "recipient"),
    "a subject of two lines": ({"subject": "Hello\r\nBcc: x@y.z"}, InvalidSubmission, "subject"),
    "a subject with NUL": ({"subject": "Hel\0lo"}, InvalidSubmission, "subject"),
    "a subject with half a pair": ({"subject": "\ud800"}, InvalidSubmission, "subject"),
    "nothing said": ({"subject": " ", "body": "\n"}, InvalidSubmission, "body"),
    "a body with half a pair": ({"body": "\udc80"}, InvalidSubmission, "body"),
    "a long body": ({"body": "x" * (MOST + 1)}, TooLarge, "body"),
    "a body that grows when encoded": ({"body": "ü" * (MOST // 2)}, TooLarge, "body"),
    "a long list of recipients": (
        {"recipients": tuple(f"bob{number}@example.org" for number in range(10_000))}, TooLarge, "body",
    ),
}  # fmt: skip


class TestRefusal:
    @pytest.mark.parametrize("name", REFUSED)
    def test_names_the_field_and_keeps_nothing(self, store: Store, letter: Submission, name: str) -> None:
        changes, kind, field = REFUSED[name]
        before = store.change_counter()
        with pytest.raises(kind) as caught:
            _accept(store, replace(letter, idempotency_key="k", **changes))
        assert caught.value.field == field
        assert store.change_counter() == before
        assert _claim(store, letter.account) == []
        _accept(store, replace(letter, idempotency_key="k"))  # the key is still free


class TestAcceptance:
    def test_commits_what_will_be_sent(self, store: Store, anna: Account, letter: Submission) -> None:
        request_id = _accept(store, letter)
        [job] = _claim(store, anna)
        assert (job.request_id, job.reverse_path, job.accepted_at) == (request_id, "anna@example.com", NOW)
        assert [delivery.forward_path for delivery in job.deliveries] == ["bob@example.org"]
        assert b"Message-ID: <%s@example.com>" % request_id.encode() in job.mime
        assert b"Subject: Hello\r\n" in job.mime
        assert b"Anna" in job.mime
        assert b"How are you?" in job.mime

    def test_renders_once(self, store: Store, letter: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
        rendered = []

        def render_and_count(content: Content) -> bytes:
            rendered.append(content)
            return render(content)

        monkeypatch.setattr(prepare_module, "render", render_and_count)
        _accept(store, letter)
        first, second = _claim(store, letter.account), _claim_again(store, letter.account)
        assert len(rendered) == 1
        assert first[0].mime == second[0].mime

    def test_sends_to_each_recipient_once(self, store: Store, anna: Account, letter: Submission) -> None:
        _accept(store, replace(letter, recipients=("bob@example.org", "bob@EXAMPLE.org", "dora@example.org")))
        [job] = _claim(store, anna)
        assert [delivery.forward_path for delivery in job.deliveries] == [
            "bob@example.org",
            "dora@example.org",
        ]

    @pytest.mark.parametrize(
        ("recipient", "flag"),
        [("bob@example.org", False), ("böb@example.org", True), ("bob@exämple.org", False)],
    )
    def test_asks_for_smtputf8_where_a_local_part_needs_it(
        self, store: Store, anna: Account, letter: Submission, recipient: str, flag: bool
    ) -> None:
        _accept(store, replace(letter, recipients=("dora@example.org", recipient)))
        assert [job.smtputf8 for job in _claim(store, anna)] == [flag]

    def test_asks_for_smtputf8_where_the_sender_needs_it(self, store: Store, letter: Submission) -> None:
        account = _add_account(store, "änna@example.com")
        _accept(store, replace(letter, account=account))
        assert [job.smtputf8 for job in _claim(store, account)] == [True]


def _claim_again(store: Store, account: Account) -> list[Any]:
    """Claim what another worker, which died meanwhile, had claimed."""

    def work(transaction: Any) -> None:
        for record in store.read(Workers.living):
            transaction.recovery.reap(record.id, now=NOW, in_doubt=InDoubtPolicy.RETRY)

    store.write(work)
    return _claim(store, account)


class TestIdempotency:
    @pytest.mark.parametrize("key", ["k", ""])
    def test_same_request_gives_the_same_id(self, store: Store, letter: Submission, key: str) -> None:
        letter = replace(letter, idempotency_key=key)
        first, second = (accept(store, letter, most_bytes=MOST, clock=lambda: NOW) for _ in range(2))
        assert (first.replayed, second.replayed) == (False, True)
        assert first.request_id == second.request_id
        assert [job.request_id for job in _claim(store, letter.account)] == [first.request_id]

    @pytest.mark.parametrize(
        "changes",
        [{"recipients": ("dora@example.org",)}, {"subject": "Bye"}, {"body": "Well?"}, {"is_html": True}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_another_request_is_refused_and_keeps_nothing(
        self, store: Store, letter: Submission, changes: dict[str, Any]
    ) -> None:
        letter = replace(letter, idempotency_key="k")
        _accept(store, letter)
        with pytest.raises(InvalidSubmission, match="use a new key") as caught:
            _accept(store, replace(letter, **changes))
        assert caught.value.field == "Idempotency-Key"
        assert len(_claim(store, letter.account)) == 1

    def test_without_a_key_every_request_is_its_own(self, store: Store, letter: Submission) -> None:
        assert _accept(store, letter) != _accept(store, letter)


class TestRequestId:
    @given(st.integers(0, 2**48 * 1000 - 1))
    def test_is_a_uuid_of_version_7_with_its_time(self, now: Instant) -> None:
        text = new_request_id(now)
        value = UUID(text)
        assert (value.version, value.variant, str(value)) == (7, "specified in RFC 4122", text)
        assert value.int >> 80 == now // 1000

    def test_is_never_the_same_twice(self) -> None:
        ids = [new_request_id(NOW) for _ in range(10_000)]
        assert len(set(ids)) == 10_000
        random = [UUID(text).int & (1 << 62) - 1 for text in ids]
        assert all(any(value >> bit & 1 for value in random) for bit in range(62))

    def test_sorts_by_time(self) -> None:
        ids = [new_request_id(NOW + number * 1000) for number in range(10_000)]
        assert all(before < after for before, after in pairwise(ids))
