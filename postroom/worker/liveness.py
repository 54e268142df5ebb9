"""Registers the worker, renews its lease, and finds dead workers, whose jobs it gives back.

A worker holds a lock on a file for as long as it lives, so that neighbours on the same
host notice its death at once; its lease, renewed in the database, tells everybody else.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from postroom.core.clock import SECOND, Clock, Instant
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.core.files import plain_file
from postroom.core.message import InDoubtPolicy
from postroom.core.text import counted
from postroom.store.queue import Queue
from postroom.store.recovery import AbandonedJob, Recovery
from postroom.store.store import Store
from postroom.store.workers import WorkerRecord, Workers
from postroom.store.writer import Work

log = logging.getLogger(__name__)

LEASE = 60 * SECOND
RENEW_S = 10.0
RENEW_AGAIN_S = 1.0  # after a renewal that failed
_RENEWAL_MISSED_S = 1.5 * RENEW_S
_LATE = 35 * SECOND
_MARKS_KEPT = 4  # renewals: what a standby has not heard is younger than that
_LOOKED_LATELY_S = 3.0  # after a longer pause in looking, nobody can say who has missed a renewal


def host_identity() -> str:
    """Return what tells this boot of this machine from every other one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def running_in(folder: Path) -> int:
    """Count the workers whose lock files are in this folder and whose processes run."""
    return sum(_is_held(path) is True for path in folder.glob("*.lock"))


def _is_held(path: Path) -> bool | None:
    """Whether a process holds this lock; None where the file is not here, or cannot be looked at."""
    try:
        with plain_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def running(
    store: Store, clock: Clock, *, pause: Callable[[float], None] | None = None
) -> list[WorkerRecord]:
    """Return the workers that may be running: one that was killed has its row until another worker finds it dead.

    On this host a worker's lock file tells; elsewhere, and where that file is not here, its lease. With `pause`, leases
    that are over are watched for as long as a renewal takes: a clock that is ahead makes nobody dead.
    """
    found, over = _judged(store.read(Workers.living), clock())
    if not over or pause is None:
        return found
    pause(_RENEWAL_MISSED_S)
    again, still_over = _judged(store.read(Workers.living), clock())
    leases = {record.id: record.lease_until for record in over}
    return again + [each for each in still_over if leases.get(each.id, each.lease_until) != each.lease_until]


def _judged(records: Sequence[WorkerRecord], now: Instant) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """Return the workers that run, and those of whom nothing but a lease that is over is known."""
    host, runs, over = host_identity(), [], []
    for record in records:
        held = _is_held(Path(record.lock_file)) if record.host == host else None
        if held or (held is None and record.lease_until > now):
            runs.append(record)
        elif held is None:
            over.append(record)
    return runs, over


def belongs_to(record: WorkerRecord, folder: Path) -> bool:
    """Whether a worker runs on this host with its lock file in this folder."""
    return record.host == host_identity() and Path(record.lock_file).parent == folder.resolve()


def was_renewed(record: WorkerRecord, now: Instant) -> bool:
    """Whether a worker of this host has renewed its lease of late, three tries being allowed."""
    return record.lease_until - now > LEASE - _LATE


class Registration:
    """This worker's row and lock file. Lost for good at `leave`, or when `renew` says so."""

    def __init__(self, store: Store, folder: Path, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._path = (folder / f"{uuid4().hex}.lock").resolve()
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        now = clock()
        self.worker_id = store.write(
            Workers.register,
            host=host_identity(),
            pid=os.getpid(),
            lock_file=str(self._path),
            now=now,
            lease_until=now + LEASE,
        )

    def renew(self) -> bool:
        """Extend the lease; False when this worker has been declared dead and its jobs given to others."""
        until = self._clock() + LEASE
        return self._store.write(Workers.renew_lease, self.worker_id, until)

    def leave(self, in_doubt: InDoubtPolicy, *, crashed: bool = False) -> None:
        """Sign off: whatever this worker still holds goes back to the queue.

        A worker that ends because of a fault (`crashed`) has it count as one more death.
        """
        now = self._clock()
        reap(self._store, self.worker_id, now=now, in_doubt=in_doubt, crashed=crashed)
        self._path.unlink(missing_ok=True)
        self._file.close()


def reap(
    store: Store,
    worker_id: int,
    *,
    now: Instant,
    in_doubt: InDoubtPolicy,
    lease: Instant | None = None,
    crashed: bool = True,
) -> int:
    """Declare a worker dead and take back its jobs (`store/recovery.py`); return how many there were."""
    try:
        return store.write(Recovery.reap, worker_id, now=now, in_doubt=in_doubt, lease=lease, crashed=crashed)
    except StoreUnavailable:
        raise
    except Exception as error:
        log.warning("worker %d cannot be reaped with all its jobs at once: %s", worker_id, error)
    if not store.write(Recovery.declare_gone, worker_id, now=now, lease=lease, crashed=crashed):
        return 0
    return recover_each(store, worker_id, now=now, in_doubt=in_doubt, crashed=crashed)


def recover_each(
    store: Store, worker_id: int, *, now: Instant, in_doubt: InDoubtPolicy, crashed: bool = True
) -> int:
    """Give back the jobs of a dead worker, each by itself, so that one that fails does not keep the others."""
    abandoned_jobs = store.write(Recovery.abandoned_jobs, worker_id)

    def recovering(abandoned: AbandonedJob) -> Work[None]:
        return lambda transaction: transaction.recovery.recover(
            abandoned, worker_id, now=now, in_doubt=in_doubt, crashed=crashed
        )

    results = store.write_all([recovering(abandoned) for abandoned in abandoned_jobs])
    for result in results:
        if result.error is not None and not isinstance(result.error, LeaseLost):
            log.error("a job of worker %d cannot be given back", worker_id, exc_info=result.error)
    return sum(result.error is None for result in results)


class Stocktaker:
    """Compares what a worker has in hand with what the database has as its own.

    They differ after a failover to a standby that had not heard the last: what only the database knows would be
    `sending` for as long as the worker lives. A difference counts when it is found twice, since claims and ends
    are on their way for a moment.
    """

    def __init__(self, store: Store, worker_id: int, clock: Clock, in_doubt: InDoubtPolicy) -> None:
        self._store = store
        self._worker_id = worker_id
        self._clock = clock
        self._in_doubt = in_doubt
        self._marked: deque[set[int]] = deque(maxlen=_MARKS_KEPT)
        self._only_there: set[int] = set()
        self._only_here: set[int] = set()
        self._said: set[int] = set()

    def compare(self, in_hand: set[int], marked: set[int]) -> int:
        """Give back what only the database has as ours for the second time; return how many jobs.

        Both are claim tokens: of the jobs in hand, and of those whose dot was to leave since the last time.
        """
        self._marked.append(marked)
        mine, theirs = set(in_hand), self._store.read(Queue.tokens_of, self._worker_id)
        lost = (mine - theirs) & self._only_here - self._said
        found = (theirs - mine) & self._only_there
        self._only_here, self._only_there = mine - theirs, theirs - mine
        if lost:
            self._said |= lost
            jobs = counted(len(lost), "job in hand is", "jobs in hand are")
            log.warning("%s no longer ours by the database, and not sent", jobs)
        return self._give_back(found) if found else 0

    def _give_back(self, tokens: set[int]) -> int:
        now, sent = self._clock(), tokens & set().union(*self._marked)
        count = self._store.write(
            Recovery.take_back, self._worker_id, tokens, sent, now=now, in_doubt=self._in_doubt
        )
        log.warning(
            "the database had %s as ours that we do not have in hand; given back, %d of them in doubt",
            counted(count, "job"),
            len(sent),
        )
        return count


class Reaper:
    """Finds workers that died and puts their jobs back into the queue."""

    def __init__(self, store: Store, clock: Clock, in_doubt: InDoubtPolicy) -> None:
        self._store = store
        self._clock = clock
        self._in_doubt = in_doubt
        self._host = host_identity()
        self._seen: dict[
            int, tuple[Instant, float]
        ] = {}  # each worker's lease, and since when it is the same
        self._looked = float("-inf")

    def sweep(self, own_id: int | None = None) -> int:
        """Reap every dead worker but `own_id`; return how many jobs came back."""
        recovered = 0
        others = [record for record in self._store.read(Workers.living) if record.id != own_id]
        self._look(others)
        for record in others:
            known_dead = self._is_known_dead(record)
            if known_dead or self._has_run_out(record):
                recovered += self._reap_worker(record, known_dead=known_dead)
        return recovered

    def look_behind(self) -> int:
        """Take back jobs that workers own which were declared dead long ago; return how many.

        A dead worker cannot claim, so that this finds only what an earlier version, or a job that
        could not be given back, has left.
        """
        recovered = 0
        for worker_id in self._store.read(Recovery.gone_with_hands_full):
            count = recover_each(self._store, worker_id, now=self._clock(), in_doubt=self._in_doubt)
            log.warning(
                "worker %d was gone and still had %s: back to the queue", worker_id, counted(count, "job")
            )
            recovered += count
        return recovered

    def _look(self, records: Sequence[WorkerRecord]) -> None:
        now = time.monotonic()
        # While the database, or we, were away, nobody's renewal could be seen: their time begins anew.
        before = self._seen if now - self._looked <= _LOOKED_LATELY_S else {}
        self._looked = now
        self._seen = {}
        for record in records:
            seen = before.get(record.id)
            same = seen is not None and seen[0] == record.lease_until
            self._seen[record.id] = seen if seen is not None and same else (record.lease_until, now)

    def _has_run_out(self, record: WorkerRecord) -> bool:
        """A lease that is over by the clock and is not renewed either: a clock that jumps makes nobody dead."""
        unchanged = time.monotonic() - self._seen[record.id][1]
        over = record.lease_until < self._clock()
        return unchanged > (_RENEWAL_MISSED_S if over else LEASE / SECOND)

    def _reap_worker(self, record: WorkerRecord, *, known_dead: bool) -> int:
        now = self._clock()
        lease = None if known_dead else record.lease_until
        count = reap(self._store, record.id, now=now, in_doubt=self._in_doubt, lease=lease)
        log.warning(
            "worker %d (pid %d) is gone; %s went back to the queue",
            record.id,
            record.pid,
            counted(count, "job"),
        )
        if known_dead:
            Path(record.lock_file).unlink(missing_ok=True)
        return count

    def _is_known_dead(self, record: WorkerRecord) -> bool:
        """A worker of this host whose lock can be taken is dead. One whose file is not here is only late."""
        if record.host != self._host:
            return False
        try:
            with plain_file(Path(record.lock_file)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
