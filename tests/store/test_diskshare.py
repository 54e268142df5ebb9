"""What an account's messages take up, on both engines."""

from __future__ import annotations

from postroom.core.clock import SECOND
from postroom.store.messages import Messages
from tests.store.database import NOW, SENT, Database, Post
from tests.store.test_retention import log


def test_only_what_is_kept_counts(post: Post, database: Database) -> None:
    account = database.value("SELECT id FROM account")
    assert post.store.read(Messages.octets_of, account) == 0
    post.add()
    for job in post.claim():
        post.finish(job, SENT)
    log(post.store)
    one = post.store.read(Messages.octets_of, account)
    assert one == database.value("SELECT size FROM message") > 0
    post.add()
    assert post.store.read(Messages.octets_of, account) == 2 * one
    assert post.store.read(Messages.octets_of, account + 1) == 0
    post.store.write(lambda t: t.pruning.prune_bodies(NOW + 1000 * SECOND, 100))
    assert post.store.read(Messages.octets_of, account) == one
