"""Large contents: stored in pieces before their message, and gone with it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from postroom.core.clock import SECOND
from postroom.core.errors import CommitUnknown, ContentDamaged, LeaseLost, StoreUnavailable
from postroom.core.message import Accepted, NewMessage
from postroom.core.stored_text import PIECE
from postroom.store.acceptance import IdempotencyClash
from postroom.store.pieces import accept_message
from postroom.store.writer import Work
from tests.store.database import NOW, SENT, Database, Post, content_of, new_message
from tests.store.test_retention import log

HOUR = 3600 * SECOND
SIZE = 2 * PIECE + 17


def large(post: Post, size: int = SIZE, **named: Any) -> NewMessage:
    return replace(new_message(post.anna, **named), mime=os.urandom(size))


def counts(database: Database) -> tuple[int, int, int]:
    """Return the numbers of contents, of pieces, and of uploads under way."""
    found = [
        database.value(f"SELECT count(*) FROM {table}")
        for table in ("content", "pieced_content", "content_piece", "upload")
    ]
    return found[0] + found[1], found[2], found[3]


class Writes:
    """Commits works one after the other, as `Store.write` does; `fails` at one of them, before or after its commit."""

    def __init__(
        self, post: Post, *, fails: int = -1, with_: Exception | None = None, after: bool = False
    ) -> None:
        self._post = post
        self._fails = fails
        self._error = with_
        self._after = after
        self.count = 0

    def __call__(self, work: Work[Any]) -> Any:
        self.count += 1
        if self.count - 1 != self._fails or self._error is None:
            return self._post.store.write(work)
        if self._after:
            self._post.store.write(work)
        raise self._error


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 2 * PIECE, SIZE])
def test_what_is_claimed_is_what_was_accepted(post: Post, database: Database, size: int) -> None:
    message, write = large(post, size), Writes(post)
    assert accept_message(message, write) == Accepted(message.request_id)
    pieces = -(-size // PIECE) if size > PIECE else 0
    assert (counts(database), write.count) == ((1, pieces, 0), pieces + 1), (
        "each piece has a commit of its own"
    )
    assert database.value("SELECT size FROM message") == size
    job = post.claim_one()
    assert (job.mime, job.size) == (b"", size)
    assert content_of(post.store, job) == message.mime


def test_nothing_is_due_before_the_last_commit(post: Post, database: Database) -> None:
    seen = []

    def write(work: Work[Any]) -> Any:
        seen.append((database.value("SELECT count(*) FROM job"), post.claim()))
        return post.store.write(work)

    accept_message(large(post), write)
    assert seen == [(0, [])] * 4


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_what_fails_on_its_way_leaves_nothing(post: Post, database: Database, number: int) -> None:
    with pytest.raises(StoreUnavailable, match="no room"):
        accept_message(large(post), Writes(post, fails=number, with_=StoreUnavailable("no room")))
    assert counts(database) == (0, 0, 0)
    assert database.value("SELECT count(*) FROM message") == 0


@pytest.mark.parametrize("after", [False, True])
def test_a_piece_that_nobody_knows_of_is_no_message_that_nobody_knows_of(
    post: Post, database: Database, after: bool
) -> None:
    write = Writes(post, fails=1, with_=CommitUnknown("no answer"), after=after)
    with pytest.raises(StoreUnavailable) as caught:
        accept_message(large(post), write)
    assert not isinstance(caught.value, CommitUnknown)
    assert counts(database) == (0, 0, 0)


@pytest.mark.parametrize("after", [False, True])
def test_where_the_acceptance_is_unknown_the_pieces_stay(post: Post, database: Database, after: bool) -> None:
    with pytest.raises(CommitUnknown):
        accept_message(large(post), Writes(post, fails=3, with_=CommitUnknown("no answer"), after=after))
    assert counts(database) == ((1, 3, 0) if after else (0, 3, 1))
    post.store.write(lambda t: t.pruning.prune_uploads(NOW, 100))
    assert counts(database) == ((1, 3, 0) if after else (0, 0, 0))


def test_a_repeated_request_and_a_clash_keep_no_second_content(post: Post, database: Database) -> None:
    first = large(post, key="a key", fingerprint=b"one")
    accept_message(first, post.store.write)
    again = large(post, key="a key", fingerprint=b"one")
    assert accept_message(again, post.store.write) == Accepted(first.request_id, replayed=True)
    other = large(post, key="a key", fingerprint=b"two")
    assert accept_message(other, post.store.write) == IdempotencyClash(first.request_id)
    assert counts(database) == (1, 3, 0)
    assert content_of(post.store, post.claim_one()) == first.mime


class TestWhatADeadProcessLeft:
    def left(self, post: Post) -> int:
        post.store.write(lambda t: t.contents.add_piece(4711, number=0, octets=b"first", now=NOW))
        post.store.write(lambda t: t.contents.add_piece(4711, number=1, octets=b"second", now=NOW))
        return 4711

    def test_goes_after_an_hour(self, post: Post, database: Database) -> None:
        accept_message(large(post), post.store.write)
        self.left(post)
        assert post.store.write(lambda t: t.pruning.prune_uploads(NOW - 1, 100)) == 0
        assert counts(database) == (1, 5, 1)
        assert post.store.write(lambda t: t.pruning.prune_uploads(NOW, 100)) == 1
        assert counts(database) == (1, 3, 0)

    def test_is_not_accepted_any_more(self, post: Post, database: Database) -> None:
        """The process was stopped for an hour, say, and goes on."""

        def write(work: Work[Any]) -> Any:
            if counts(database)[1] == 3:
                post.store.write(lambda t: t.pruning.prune_uploads(NOW, 100))
            return post.store.write(work)

        with pytest.raises(StoreUnavailable, match="took too long") as caught:
            accept_message(large(post), write)
        assert isinstance(caught.value.__cause__, LeaseLost)
        assert counts(database) == (0, 0, 0)


def test_pieces_go_with_their_content(post: Post, database: Database) -> None:
    for _ in range(2):
        accept_message(large(post), post.store.write)
    for job in post.claim(most_bytes=10 * SIZE):
        post.finish(job, SENT)
    log(post.store)
    accept_message(large(post), post.store.write)
    assert post.store.write(lambda t: t.pruning.prune_bodies(NOW + HOUR, 1)).dropped == 1
    assert counts(database) == (2, 6, 0)
    assert post.store.write(lambda t: t.pruning.prune_history(NOW + HOUR, 100)).dropped == 2
    assert counts(database) == (1, 3, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM content_piece WHERE number = 1",
        "DELETE FROM content_piece WHERE number = 2",
        "UPDATE content_piece SET octets = (SELECT octets FROM content_piece WHERE number = 0) WHERE number = 1",
        "DELETE FROM content_piece",
        "UPDATE pieced_content SET upload = upload + 1",
    ],
)
def test_an_altered_content_is_seen_as_it_is_read(post: Post, database: Database, damage: str) -> None:
    accept_message(large(post), post.store.write)
    database.change(damage)
    with pytest.raises(ContentDamaged):
        content_of(post.store, post.claim_one())


def test_an_earlier_version_does_not_see_what_it_cannot_read(post: Post, database: Database) -> None:
    """Its workers ask `content` alone: they would take the message for damaged, or send an empty one."""
    accept_message(large(post), post.store.write)
    small = post.add()
    seen = database.rows(
        "SELECT request_id FROM job JOIN message ON message.id = job.message_id JOIN content ON content.message_id = "
        "job.message_id WHERE job.state = 'queued'"
    )
    assert [row[0] for row in seen] == [small]


def test_an_altered_envelope_is_seen_before_the_content_is_read(post: Post, database: Database) -> None:
    message = large(post)
    accept_message(message, post.store.write)
    database.change("UPDATE delivery SET forward_path = 'mallory@example.net'")
    assert post.claim() == []
    assert "the stored envelope is not what was accepted" in post.status(message.request_id)


def test_a_large_content_from_before_there_were_pieces(post: Post) -> None:
    message = large(post)
    post.accept(message)
    assert content_of(post.store, post.claim_one()) == message.mime
