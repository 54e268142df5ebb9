"""A message that workers die with is set aside after three of them; its neighbours are not."""

from __future__ import annotations

import pytest

from postroom.core.clock import SECOND
from postroom.core.message import InDoubtPolicy
from postroom.store.events import Events
from tests.store.database import NOW, SENT, Post

SOON = NOW + 10 * SECOND


def die(post: Post, worker: int) -> None:
    post.reap(worker, now=NOW)


class TestAPoisonMessage:
    def test_is_held_after_three_deaths_and_its_neighbours_are_sent(self, post: Post) -> None:
        poison, *others = post.add_many(4)
        for _ in range(3):
            worker = post.add_worker()
            jobs = post.claim(worker=worker, now=SOON)
            assert poison in [job.request_id for job in jobs]
            die(post, worker)  # with all that it had in hand
        worker = post.add_worker()
        jobs = post.claim(worker=worker, now=SOON)
        assert post.job(poison)["held"] == 1
        assert post.status(poison).startswith("deferred (set aside: the worker has stopped 3 times")
        sent = 0
        while jobs:
            for job in jobs:
                post.finish(job, SENT)
                sent += 1
            jobs = post.claim(worker=worker, now=SOON)
        assert [post.status(request_id) for request_id in others] == ["sent"] * 3
        assert sent == 3

    def test_is_tried_without_another_suspect_in_hand(self, post: Post) -> None:
        ids = post.add_many(3)
        for _ in range(2):
            worker = post.add_worker()
            post.claim(worker=worker, now=SOON)
            die(post, worker)
        worker = post.add_worker()
        assert [job.request_id for job in post.claim(worker=worker, now=SOON)] == ids[:1]
        assert post.claim(worker=worker, now=SOON) == []
        assert len(post.claim(worker=post.add_worker(), now=SOON)) == 1

    def test_does_not_hold_up_what_comes_after_it(self, post: Post) -> None:
        post.add_many(3)
        for _ in range(2):
            worker = post.add_worker()
            post.claim(worker=worker, now=SOON)
            die(post, worker)
        fresh = post.add(at=NOW + 6 * SECOND)
        worker = post.add_worker()
        assert fresh in [job.request_id for job in post.claim(worker=worker, now=SOON)]

    def test_in_hand_lets_fresh_mail_pass_those_that_wait_for_its_end(self, post: Post) -> None:
        ids = post.add_many(6)
        post.database.change("UPDATE job SET crashes = 2")
        assert [job.request_id for job in post.claim(now=SOON, most=4)] == ids[:1]
        fresh = [post.add(at=NOW + 6 * SECOND) for _ in range(3)]
        assert [job.request_id for job in post.claim(now=SOON, most=4)] == fresh

    @pytest.mark.parametrize("policy", list(InDoubtPolicy))
    def test_that_kills_after_the_dot_does_not_go_out_for_ever(
        self, post: Post, policy: InDoubtPolicy
    ) -> None:
        request_id = post.add()
        copies = 0
        while copies < 10:
            worker = post.add_worker()
            jobs = post.claim(worker=worker, now=SOON)
            if not jobs:
                break
            post.mark_dot(jobs[0])
            copies += 1
            post.reap(worker, now=NOW, policy=policy)
        assert copies == (3 if policy is InDoubtPolicy.RETRY else 1)
        expected = "failed" if policy is InDoubtPolicy.FAIL else "queued"
        assert post.job(request_id)["state"] == expected

    def test_says_so_among_its_events(self, post: Post) -> None:
        request_id = post.add()
        for _ in range(3):
            worker = post.add_worker()
            post.claim(worker=worker, now=SOON)
            die(post, worker)
        kinds = [event.kind for event in post.store.read(Events.of_message, request_id)]
        assert kinds == ["accepted", "crashed", "crashed", "crashed", "held"]
