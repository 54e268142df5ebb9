"""Messages of test keys: they end as sent without a server, once, whatever the account's state, and stay readable."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from postroom.core.api_key import ApiKey
from postroom.core.errors import NotFound
from postroom.core.message import NewMessage
from postroom.core.stored_text import PIECE
from postroom.inbox.captured import list_all, read_any
from postroom.inbox.maildrop import Maildrop
from postroom.settings import load_settings
from postroom.store.accounts import Accounts
from postroom.store.captures import Captures
from postroom.store.events import Events
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.messages import Messages
from postroom.store.pieces import accept_message
from postroom.store.retention import Pruning
from postroom.store.transaction import Transaction
from postroom.worker.captures import CaptureRunner
from tests.store.database import FAR, LATER, NOW, Database, Post, new_message

HEAD = b"From: Anna <anna@example.com>\r\nSubject: Hello\r\n\r\n"


@pytest.fixture
def key(post: Post) -> ApiKey:
    key = ApiKey(digest=b"test", uid="test", name="test", account_id=post.anna, is_test=True)
    return replace(key, id=post.store.write(IssuedKeys.issue, key, hint="abcd", source="api", now=NOW))


def add(post: Post, key: ApiKey, *recipients: str, body: bytes = b"Hi\r\n") -> str:
    message = replace(new_message(post.anna, *recipients), key=key, mime=HEAD + body)
    accept_message(message, post.store.write)
    return message.request_id


def end_all(post: Post, now: int = LATER) -> int:
    return len(post.store.write(Captures.end_due, now, 100))


def test_it_ends_as_sent_and_no_worker_claims_it_for_a_server(post: Post, key: ApiKey) -> None:
    test = add(post, key, "bob@example.org", "eve@example.org")
    live = post.add()
    assert [job.request_id for job in post.claim()] == [live]
    assert post.store.read(Captures.is_due, NOW)
    assert end_all(post) == 1
    assert not post.store.read(Captures.is_due, LATER)
    assert end_all(post) == 0
    assert post.status(test) == "sent"
    kinds = [(event.kind, event.forward_path) for event in post.store.read(Events.of_message, test)]
    assert kinds == [("accepted", None), ("sent", "bob@example.org"), ("sent", "eve@example.org")]
    assert post.unlogged() == ["sent"]
    assert post.attempts() == []
    assert post.database.rows("SELECT state FROM job_count WHERE state <> 'accepted'") == []


def test_the_state_of_the_account_does_not_matter(post: Post, key: ApiKey) -> None:
    post.store.write(Accounts.pause_by_person, post.anna, "a holiday", NOW)
    post.database.change(f"UPDATE account SET closing_at = {NOW}")
    test = add(post, key)
    found = post.store.read(Messages.status, test)
    assert found is not None
    assert (str(found), found.will_send_at, found.is_test) == ("queued", None, True)
    end_all(post)
    assert post.status(test) == "sent"


def test_one_that_was_cancelled_does_not_end_again(post: Post, key: ApiKey) -> None:
    test = add(post, key)
    assert post.store.write(Holds.cancel, test, NOW)
    assert end_all(post) == 0
    assert post.status(test) == "cancelled"


def test_one_with_a_time_waits_for_it(post: Post, key: ApiKey) -> None:
    message = replace(new_message(post.anna, not_before=FAR), key=key)
    accept_message(message, post.store.write)
    assert end_all(post, LATER) == 0
    assert end_all(post, FAR) == 1


def test_workers_at_once_end_each_of_them_once(post: Post, key: ApiKey, database: Database) -> None:
    ids = [add(post, key) for _ in range(60)]
    ended: list[str] = []

    def work() -> None:
        with closing(database.open()) as store:
            while found := store.write(Captures.end_due, LATER, 7):
                ended.extend(each.request_id for each in found)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while found := post.store.write(Captures.end_due, LATER, 7):  # what two had locked when both looked
        ended.extend(each.request_id for each in found)
    assert sorted(ended) == sorted(ids)
    assert post.database.value("SELECT count(*) FROM event WHERE kind = 'sent'") == 60
    assert post.database.value("SELECT count(*) FROM log_line") == 60


def test_the_runner_ends_all_that_is_due_and_says_so(
    post: Post, key: ApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [add(post, key) for _ in range(101)]
    told: list[bool] = []
    runner = CaptureRunner(
        load_settings(), post.store, lambda: LATER, lambda: False, lambda: told.append(True)
    )
    with caplog.at_level("INFO", logger="postroom.messages"):
        runner.run()
    assert all(post.status(request_id) == "sent" for request_id in ids)
    assert told == [True, True]
    assert f"{ids[0]} sent (test): from anna@example.com to bob@example.org: kept in the inbox" in caplog.text


def test_the_inbox_shows_those_of_the_database_beside_its_folder(
    post: Post, key: ApiKey, tmp_path: Path
) -> None:
    folder = tmp_path / "inbox"
    filed = Maildrop(folder, clock=lambda: NOW).save(
        "anna@example.com", ["bob@example.org"], HEAD + b"Ho\r\n"
    )
    test = add(post, key)
    waiting = add(post, key)
    post.database.change("UPDATE job SET held = 1 WHERE id = (SELECT max(id) FROM job)")
    end_all(post)
    listed = list_all(folder, post.store, 10)
    assert [(message.id, message.is_test) for message in listed] == [(test, True), (filed, False)]
    assert (listed[0].subject, listed[0].sender) == ("Hello", "Anna <anna@example.com>")
    assert list_all(folder, None, 10) == [listed[1]]
    for which in ("latest", test, test[:30], test.upper()):
        assert read_any(folder, post.store, which).text == "Hi\n"
    assert read_any(folder, post.store, filed).text == "Ho\n"
    assert read_any(folder, None, "latest").text == "Ho\n"
    for which in ("ffffffff", waiting):
        with pytest.raises(NotFound):
            read_any(folder, post.store, which)


def test_a_large_one_is_shown_whole_until_its_content_is_pruned(
    post: Post, key: ApiKey, tmp_path: Path
) -> None:
    body = b"A line of text\r\n" * (2 * PIECE // 16)
    test = add(post, key, body=body)
    end_all(post)
    assert read_any(tmp_path, post.store, test).raw == HEAD + body
    assert post.store.write(Pruning.prune_bodies, LATER, 100).dropped == 1
    assert list_all(tmp_path, post.store, 10) == []
    with pytest.raises(NotFound):
        read_any(tmp_path, post.store, test)


def test_none_is_taken_twice_after_a_batch_that_failed(post: Post, key: ApiKey) -> None:
    test = add(post, key)

    def fails(message: NewMessage) -> None:
        raise ValueError(message)

    def work(transaction: Transaction) -> None:
        assert len(transaction.captures.end_due(LATER, 100)) == 1
        fails(new_message(post.anna))

    with pytest.raises(ValueError, match="NewMessage"):
        post.store.write(work)
    assert post.status(test) == "queued"
    assert post.unlogged() == []
    assert end_all(post) == 1
