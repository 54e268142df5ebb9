"""The writes: one method for each move of a message, inside the caller's transaction.

A `Transaction` is handed to a piece of work by the committer and lives as long as
that work. Each move is guarded in SQL by state and claim token; a row count other
than one raises, and raising undoes the whole piece of work.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from zlib import crc32

from postroom.core import failpoint, pace, retry
from postroom.core.account import ServerLacks
from postroom.core.clock import SECOND, Instant
from postroom.core.decide import (
    STEP_BACK,
    SUSPECT,
    Decision,
    DeliveryResult,
    DeliveryState,
    WorkerEnd,
    decide_abandoned,
    decide_damaged,
    decide_released,
    kind_of,
)
from postroom.core.errors import DAMAGED, LeaseLost, WorkerExpired
from postroom.core.events import EventKind, NewEvent, sent_again
from postroom.core.job import MOST_IN_MEMORY, ClaimedJob, JobRef, LargeContent, PendingDelivery
from postroom.core.message import Accepted, InDoubtPolicy, NewMessage
from postroom.core.outcome import Blame, Failed, InDoubt, Outcome, Reply, Sent
from postroom.core.pace import Pace
from postroom.store.pieces import Upload
from postroom.store.watermarks import Watermarks

_tokens = random.Random()  # noqa: S311  # claim tokens must differ, not be secret; the system's own are slow
os.register_at_fork(after_in_child=_tokens.seed)
STEPPED_BACK = (
    "held: the database was restored or has lost its newest state, and this may have been sent already"
)
KEYS_REVISION = "accounts_version"  # setting: a number that every change of keys or their accounts raises
REFUSED_LOGIN = "refused_login:"  # setting: with the account's id behind it
LOGINS_AT_ONCE = 4
_LONGEST_LOGIN_QUEUE = 3600 * SECOND
_DUE_AT = 16  # the column of `jobs_due`
_LOADED_AT_ONCE = 65_536  # octets of a content that is loaded with its row; larger ones while they are sent
_ANY_SIZE = (1 << 63) - 1

_PROBE_TAKES = 10 * SECOND  # before another worker may try an account that is set aside
_SLOT = 600 * SECOND
_SLOTS_A_DAY = 145  # 24 h and the slot that has begun: never less than the rolling day
LONGEST_PARK = _SLOTS_A_DAY * _SLOT
_LIMIT_REACHED = "the account's limit of {} recipients in 24 hours is reached"
_BODIES_PRUNED = "bodies_pruned"  # setting: the end and the job up to which contents were dropped


def _must_have_changed(changed: Any) -> None:
    if not changed:
        raise LeaseLost


@dataclass(frozen=True, slots=True)
class ConnectionLease:
    """The right to one connection; it may log in from `login_at` on."""

    id: int
    login_at: Instant


class AbandonedJob(NamedTuple):
    """A job of a worker that is gone, as `jobs_owned_by` has it, and whether the worker may have died of it."""

    id: int
    attempt: int
    message_id: int
    token: int
    claimed_at: Instant
    dot_at: Instant | None
    crashes: int
    reserved_bucket: int | None
    reserved: int | None  # of its recipients; None: all of them
    in_doubt: str | None
    is_suspect: bool = False


@dataclass(frozen=True, slots=True)
class IdempotencyClash:
    """The idempotency key was used before, for a different request."""

    request_id: str


class Transaction:
    """One open transaction. Only the committer makes one."""

    def __init__(
        self,
        connection: Any,
        queries: Any,
        guard: Callable[[Any], None] = _must_have_changed,
        watermarks: Watermarks | None = None,
        *,
        knows_at_once: bool = True,
    ) -> None:
        self._db = connection
        self._q = queries
        self._guard = guard  # raise LeaseLost unless a statement changed a row: at once, or before the commit
        self._watermarks = watermarks
        self._knows_at_once = knows_at_once  # what a statement has changed; if not, before the commit
        self.has_new_work = False  # whether there is mail that a worker may take now
        self._keys_changed = False
        self.accepted: Counter[int] = Counter()  # messages by account; written by `count_accepted`
        self._left: dict[int, Instant] = {}  # accounts claimed of, and when what is left of each is due

    def count_accepted(self) -> None:
        """Write once for all works, before the commit: what they have accepted, and that keys have changed."""
        if self._keys_changed:
            self._q.raise_revision(self._db, name=KEYS_REVISION)
        for account_id, jobs in self.accepted.items():
            self._q.count_accepted(self._db, account_id=account_id, jobs=jobs)

    def committed(self) -> None:
        """Note what is known only now that it is committed."""
        for account_id, first_left in self._left.items():
            if self._watermarks:
                self._watermarks.note_claim(account_id, first_left)

    # -- settings

    def set_setting(self, name: str, value: str) -> None:
        self._q.write_setting(self._db, name=name, value=value)

    def set_setting_once(self, name: str, value: str) -> str:
        """Set what is not set yet; return what it is."""
        self._q.add_setting(self._db, name=name, value=value)
        found: str = self._q.read_setting(self._db, name=name)
        return found

    # -- accounts and keys

    def note_keys_changed(self) -> None:
        """Have every web process read the keys again after this commit (KEYS_REVISION).

        Each function that changes which keys work, or the account of one as web processes use it, calls this.
        """
        self._keys_changed = True

    def upsert_account(self, *, source: str, now: Instant, **fields: Any) -> int:
        """Insert the account, or bring the one with the same mailbox and server up to date; return its id."""
        self.note_keys_changed()
        # A switch is 0 or 1 in both databases; PostgreSQL takes no boolean for a number.
        fields = {name: int(value) if isinstance(value, bool) else value for name, value in fields.items()}
        identity = {name: fields[name] for name in ("email", "host", "port", "username")}
        account_id: int | None = self._q.find_account(self._db, **identity)
        if account_id is None:
            inserted: int = self._q.insert_account(self._db, source=source, now=now, **fields)
            return inserted
        changes = {name: value for name, value in fields.items() if name not in identity}
        self._q.update_account(self._db, account_id=account_id, now=now, **changes)
        return account_id

    def grant_key(self, account_id: int, digest: bytes, *, source: str, now: Instant) -> None:
        self.note_keys_changed()
        self._q.grant_key(self._db, account_id=account_id, digest=digest, source=source, now=now)

    def note_key_used(self, digest: bytes, now: Instant) -> None:
        """Note that a key was used with success; only the first time counts."""
        self._q.note_key_used(self._db, digest=digest, now=now)

    def reword(self, kind: str, id_: int, first: str | None, second: str | None) -> None:
        """Put other words in place of what a server has said (`Store.server_words`)."""
        match kind:
            case "deliveries":
                self._q.reword_delivery(self._db, id=id_, first=first, second=second)
            case "events":
                self._q.reword_event(self._db, id=id_, first=first)
            case "attempts":
                self._q.reword_attempt(self._db, id=id_, first=first)
            case _:
                self._q.reword_account(self._db, id=id_, first=first)

    def revoke_keys_except(self, digests: Iterable[bytes], *, source: str, now: Instant) -> int:
        """Revoke every key of this source that is not among `digests`; return how many."""
        keep = set(digests)
        gone = [row[0] for row in self._q.keys_of_source(self._db, source=source) if row[0] not in keep]
        if gone:
            self.note_keys_changed()
        for digest in gone:
            self._q.revoke_key(self._db, digest=digest, now=now)
        return len(gone)

    def account_worked(self, account_id: int, now: Instant, worked_with: str | None = None) -> None:
        """Note that the account's credentials were accepted, and let it go on if it had been set aside.

        `worked_with` is the server's host, where nobody has named it: the account keeps it.
        """
        self._q.account_worked(self._db, account_id=account_id, now=now, worked_with=worked_with)
        self.resume_account(account_id, now)

    def note_refused_password(self, account_id: int, digest: str) -> None:
        """Note which password the account's server has refused (`Store.refused_password`)."""
        self.set_setting(f"{REFUSED_LOGIN}{account_id}", digest)

    def forget_refused_password(self, account_id: int) -> None:
        """Have the account's password tried again although it was refused."""
        self._q.forget_setting(self._db, name=f"{REFUSED_LOGIN}{account_id}")

    def keep_server(self, account_id: int, worked_with: str | None) -> None:
        """Note with which server an account has worked that nobody has named; None: somebody has."""
        self._q.keep_server(self._db, account_id=account_id, worked_with=worked_with)

    def account_passed(self, account_id: int, now: Instant) -> None:
        """Note that a message of an account that was set aside has passed: it goes on."""
        self._q.account_passed(self._db, account_id=account_id, now=now)
        self.resume_account(account_id, now)

    def resume_account(self, account_id: int, now: Instant) -> None:
        """Let an account go on, and the messages that wait for it."""
        self._q.call_drawn(self._db, account_id=account_id, now=now)
        self._q.resume_account(self._db, account_id=account_id)
        self.has_new_work = True

    def note_server_lacks(self, account_id: int, lacks: ServerLacks) -> None:
        """Note what the account's server offers and does not take, for all workers."""
        self._q.note_server_lacks(self._db, account_id=account_id, lacks=json.dumps(asdict(lacks)))

    def set_account_aside(
        self,
        account_id: int,
        *,
        state: str,
        reason: str,
        resume_at: Instant,
        now: Instant,
        setbacks: int = 0,
    ) -> None:
        """Park or pause an account until `resume_at`; its messages stay queued."""
        self._q.set_account_aside(
            self._db,
            account_id=account_id,
            state=state,
            reason=reason,
            resume_at=resume_at,
            now=now,
            setbacks=setbacks,
        )

    def park_account(
        self, account_id: int, *, reason: str, rest: int, tried_at: Instant, now: Instant
    ) -> None:
        """Let an account rest that has reached a limit. What was tried before it was set aside tells nothing new."""
        if self._setbacks(account_id, tried_at) is not None:
            self.set_account_aside(account_id, state="parked", reason=reason, resume_at=now + rest, now=now)

    def pause_account(self, account_id: int, *, reason: str, tried_at: Instant, now: Instant) -> None:
        """Pause an account that is at fault; each time in a row for longer (`retry.probe_after`)."""
        setbacks = self._setbacks(account_id, tried_at)
        if setbacks is not None:
            self.set_account_aside(
                account_id,
                state="paused",
                reason=reason,
                resume_at=now + retry.probe_after(setbacks),
                now=now,
                setbacks=setbacks + 1,
            )

    def _setbacks(self, account_id: int, tried_at: Instant) -> int | None:
        """Return how often in a row the account was paused; None when it was set aside since `tried_at`."""
        self._q.lock_account(self._db, account_id=account_id)
        found = self._q.account_state(self._db, account_id=account_id)
        if found is None or (found[0] != "active" and found[1] > tried_at):
            return None
        return int(found[2])

    # -- the pace of an account

    def slow_account(
        self, account_id: int, started: Pace, *, reason: str, tried_at: Instant, now: Instant
    ) -> None:
        """Halve an account's pace, which is `started` where it had none, and let it rest for a while.

        What was tried before the pace was last halved tells nothing new.
        """
        self._q.lock_account(self._db, account_id=account_id)
        before, _ = self._pace(account_id) or (started, now)
        slower = pace.slowed(before, tried_at=tried_at, now=now)
        if slower is before:
            return
        resume_at = now + pace.rest(slower)
        self._write_pace(account_id, slower, resume_at)
        self.set_account_aside(account_id, state="parked", reason=reason, resume_at=resume_at, now=now)

    def quicken_account(self, account_id: int, *, began_at: Instant, now: Instant) -> None:
        """Raise the pace of an account, that has one, by a step: a message was taken."""
        self._q.lock_account(self._db, account_id=account_id)
        found = self._pace(account_id)
        if found is None:
            return
        quicker = pace.quickened(found[0], began_at=began_at, now=now)
        if quicker is None:
            self._q.forget_pace(self._db, account_id=account_id)
        else:
            # What is due by the slower pace is due sooner by the quicker one.
            self._write_pace(account_id, quicker, min(found[1], now + quicker.gap))
        self.has_new_work = True

    def _pace(self, account_id: int) -> tuple[Pace, Instant] | None:
        """Return an account's pace, and until when it is used up."""
        row = self._q.read_pace(self._db, account_id=account_id)
        return None if row is None else (Pace(*row[:6]), row[6])

    def _write_pace(self, account_id: int, new: Pace, paid_until: Instant) -> None:
        self._q.write_pace(
            self._db,
            account_id=account_id,
            gap=new.gap,
            average=new.average,
            since=new.since,
            taken=new.taken,
            slowed_at=new.slowed_at,
            refusals=new.refusals,
            paid_until=paid_until,
        )

    def _count_by_pace(self, account_id: int, most: int, now: Instant) -> int:
        """Return how many jobs the account's pace allows now, up to `most`, and count them."""
        found = self._pace(account_id)
        if found is None:
            return most
        current, paid_until = found
        count, paid_until = pace.due(paid_until, current.gap, now, most)
        if count:
            self._write_pace(account_id, current, paid_until)
        return count

    # -- acceptance

    def add_piece(self, upload_id: int, *, number: int, octets: bytes, now: Instant) -> None:
        """Store the next piece of a large content."""
        if number == 0:
            self._q.begin_upload(self._db, upload=upload_id, now=now)
        self._q.add_piece(self._db, upload=upload_id, number=number, octets=octets)

    def drop_upload(self, upload_id: int) -> None:
        """Drop the pieces of a content whose message is not accepted; those of one that is stay."""
        if self._q.end_upload(self._db, upload=upload_id):
            self._q.delete_pieces(self._db, upload=upload_id)

    def accept(self, message: NewMessage, upload: Upload | None = None) -> Accepted | IdempotencyClash:
        """Store message, deliveries, job, event and idempotency key: the moment of acceptance.

        With `upload` the content is there already. Raises LeaseLost when it was dropped meanwhile.
        """
        outcome = self._before_insertion(message)
        if outcome is not None:
            if upload is not None:
                self.drop_upload(upload.id)
            return outcome
        self._insert(message, upload)
        self.accepted[message.account_id] += 1
        failpoint.hit("accept.inserted")
        self.has_new_work = True
        return Accepted(message.request_id)

    def _before_insertion(self, message: NewMessage) -> Accepted | IdempotencyClash | None:
        """Note the idempotency key; return what came of an earlier message with it."""
        if message.idempotency_key is not None:
            is_new = self._add_idempotency(message)
            if not self._knows_at_once:
                self._guard(is_new)  # one that was used is rare: all are run again, knowing at once
            else:
                while not is_new:
                    before = self._accepted_before(message)
                    if before is not None:
                        return before
                    is_new = self._add_idempotency(message)  # it was pruned just now
        return None

    def _add_idempotency(self, message: NewMessage) -> Any:
        return self._q.add_idempotency(
            self._db,
            account_id=message.account_id,
            key=message.idempotency_key,
            fingerprint=message.fingerprint,
            request_id=message.request_id,
            now=message.accepted_at,
        )

    def _accepted_before(self, message: NewMessage) -> Accepted | IdempotencyClash | None:
        before = self._q.find_idempotent(self._db, account_id=message.account_id, key=message.idempotency_key)
        if before is None:
            return None
        same = before[0] == message.fingerprint
        return Accepted(before[1], replayed=True) if same else IdempotencyClash(before[1])

    def _insert(self, message: NewMessage, upload: Upload | None) -> None:
        first, *others = message.forward_paths
        mime = message.mime if upload is None else b""
        checksum = crc32(mime) if upload is None else upload.checksum
        self._q.accept_message(
            self._db,
            request_id=message.request_id,
            account_id=message.account_id,
            reverse_path=message.reverse_path,
            subject=message.subject,
            size=len(message.mime),
            smtputf8=int(message.smtputf8),
            now=message.accepted_at,
            in_doubt=None if message.in_doubt is None else message.in_doubt.value,
            mime=mime,
            checksum=checksum,
            forward_path=first,
            envelope_checksum=_envelope_checksum(message.reverse_path, first, checksum),
            not_before=message.not_before,
        )
        if upload is not None:
            self._guard(self._q.end_upload(self._db, upload=upload.id))
            tied = self._q.tie_upload(
                self._db, request_id=message.request_id, upload=upload.id, checksum=upload.checksum
            )
            self._guard(tied)
            self._q.drop_empty_content(self._db, request_id=message.request_id)
        for path in others:
            self._q.add_delivery(
                self._db,
                request_id=message.request_id,
                forward_path=path,
                checksum=_envelope_checksum(message.reverse_path, path, checksum),
            )

    # -- the queue

    def claim(
        self,
        *,
        account_id: int,
        worker_id: int,
        most: int,
        most_bytes: int,
        now: Instant,
        daily_limit: int | None = None,
        paced: bool = False,
        probing: bool = False,
        first_bytes: int = _ANY_SIZE,
    ) -> list[ClaimedJob]:
        """Take up to `most` due jobs of an account, oldest first; they are this worker's until finished.

        Stops before `most_bytes` of memory are exceeded, but takes one of up to `first_bytes`. A
        large content stays where it is until it is sent. With a
        `daily_limit` the recipients are reserved here, so that no number of workers
        exceeds it in any 24 hours; when none is left, the account is parked. `paced`: the account
        has a pace, which all workers share. `probing`: it is set aside, and one worker tries it.
        Of the messages that workers keep dying with, a worker has one at a time. Raises Buried
        when the worker has been declared dead: nobody would look for its jobs any more.
        """
        self._must_live(worker_id)
        is_shared = daily_limit is not None or paced
        if is_shared and self._q.try_lock_account(self._db, account_id=account_id) is None:
            return []  # another worker reserves of the same limit just now
        most = self._allowed(account_id, most, now, paced=paced, probing=probing)
        if not most:
            return []
        left = None if daily_limit is None else daily_limit - self._used(account_id, now)[0]
        room = most_bytes
        jobs: list[ClaimedJob] = []
        due_from = self._watermarks.of_account(account_id) if self._watermarks else 0
        # While it has one in hand the others are passed over, and nobody knows from when on something is left.
        all_seen = self._watermarks is not None and not self._q.suspect_in_hand(
            self._db, worker_id=worker_id, crashes=SUSPECT
        )
        found = self._q.jobs_due(
            self._db,
            account_id=account_id,
            worker_id=worker_id,
            suspect=SUSPECT,
            due_from=due_from,
            now=now,
            count=most,
            most_loaded=_LOADED_AT_ONCE,
        )
        rows = list(found)
        for row in rows:
            octets = min(row[5], MOST_IN_MEMORY)
            room -= octets
            if room < 0 and (jobs or octets > first_bytes):
                break
            if left is not None and left <= 0:
                if not jobs:
                    self._park_until_room(account_id, daily_limit or 0, now)
                break
            job = self._claim_row(row, account_id, worker_id, now, left)
            if job is not None:
                jobs.append(job)
                left = None if left is None else left - len(job.deliveries)
        if daily_limit is not None and jobs:
            recipients = sum(len(job.deliveries) for job in jobs)
            self._q.reserve_usage(self._db, account_id=account_id, slot=now // _SLOT, recipients=recipients)
        if all_seen:
            taken = {job.id for job in jobs}
            ends_at = rows[-1][_DUE_AT] if len(rows) == most else now
            first_left = min((row[_DUE_AT] for row in rows if row[0] not in taken), default=ends_at)
            self._left[account_id] = first_left
        return jobs

    def _allowed(self, account_id: int, most: int, now: Instant, *, paced: bool, probing: bool) -> int:
        """Return how many jobs may be claimed now, up to `most`, by the account's state and pace."""
        again = now + _PROBE_TAKES
        if probing and self._q.take_probe(self._db, account_id=account_id, now=now, again=again) is None:
            return 0
        return self._count_by_pace(account_id, most, now) if paced else most

    def _claim_row(
        self, row: tuple[Any, ...], account_id: int, worker_id: int, now: Instant, left: int | None
    ) -> ClaimedJob | None:
        job_id, attempt, message_id, request_id, reverse_path, size, smtputf8, accepted_at, mime, *more = row
        checksum, crashes, own, *first, has_others, _, drawn, drawn_at = more
        large = LargeContent(message_id, size, checksum) if mime is None else None
        if crashes >= SUSPECT and self._q.suspect_in_hand(self._db, worker_id=worker_id, crashes=SUSPECT):
            return None
        token = _tokens.getrandbits(62) + 1
        pending = [tuple(first)]
        if has_others:
            pending = list(self._q.pending_deliveries(self._db, message_id=message_id))
        taken = pending[:left]
        damage = _damage(reverse_path, taken, mime, checksum)
        slot, reserved = (None, None) if left is None or damage else (now // _SLOT, len(taken))
        self._guard(
            self._q.claim_job(
                self._db,
                job_id=job_id,
                token=token,
                worker_id=worker_id,
                now=now,
                reserved_slot=slot,
                reserved=reserved,
            )
        )
        job = ClaimedJob(
            id=job_id,
            token=token,
            attempt=attempt + 1,
            message_id=message_id,
            request_id=request_id,
            account_id=account_id,
            reverse_path=reverse_path,
            deliveries=tuple(PendingDelivery(id_, path) for id_, path, _ in taken),
            mime=mime or b"",
            smtputf8=bool(smtputf8),
            accepted_at=accepted_at,
            reserved_bucket=slot,
            in_doubt=None if own is None else InDoubtPolicy(own),
            partial=len(taken) < len(pending),
            one_recipient=not has_others,
            drawn=drawn,
            drawn_at=drawn_at,
            large=large,
        )
        if damage:
            decision = decide_damaged(job, damage, InDoubtPolicy.RETRY, now)
            self.finish(job, decision, worker_id=worker_id, started_at=now, now=now)
            return None
        return job

    # -- connections

    def take_connection(
        self, account_id: int, worker_id: int, *, most: int, logins_per_minute: int | None, now: Instant
    ) -> ConnectionLease | None:
        """Reserve one of the account's connections, which all workers share, and its log-in; None when all are taken.

        Log-ins are paced as by a leaky bucket: some at once, then one after another. It must be
        given back (`return_connection`); what a dead worker holds comes back with its jobs. Raises Buried.
        """
        self._must_live(worker_id)
        self._q.lock_account(self._db, account_id=account_id)
        lease_id = self._q.take_connection(self._db, account_id=account_id, worker_id=worker_id, most=most)
        if lease_id is None:
            return None
        if logins_per_minute is None:
            return ConnectionLease(lease_id, now)
        interval = 60 * SECOND // logins_per_minute
        latest = now + _LONGEST_LOGIN_QUEUE
        paid = self._q.reserve_login(
            self._db, account_id=account_id, interval=interval, now=now, latest=latest
        )
        return ConnectionLease(lease_id, max(now, paid - LOGINS_AT_ONCE * interval))

    def return_connection(self, lease: ConnectionLease) -> None:
        self._q.return_connection(self._db, connection_id=lease.id)

    # -- the daily limit

    def _used(self, account_id: int, now: Instant) -> tuple[int, int | None]:
        """Return the recipients of the last 24 hours, and the first slot that holds any."""
        used, oldest = self._q.usage_since(self._db, account_id=account_id, **slots_of_the_day(now))
        return used, oldest

    def _park_until_room(self, account_id: int, daily_limit: int, now: Instant) -> None:
        _, oldest = self._used(account_id, now)
        slot = now // _SLOT if oldest is None else oldest
        self.set_account_aside(
            account_id,
            state="parked",
            reason=_LIMIT_REACHED.format(daily_limit),
            resume_at=(slot + _SLOTS_A_DAY) * _SLOT,
            now=now,
        )

    def _return_usage(self, job: JobRef, unused: int) -> None:
        """Give back what was reserved for recipients to whom nothing was sent."""
        if job.reserved_bucket is None or not unused:
            return
        self._q.return_usage(self._db, job_id=job.id, slot=job.reserved_bucket, recipients=unused)
        self._q.resume_within_limit(self._db, job_id=job.id, reason=_LIMIT_REACHED.format("%"))

    def forget_usage(self, now: Instant) -> None:
        """Drop what is older than a day."""
        self._q.forget_usage(self._db, slot=now // _SLOT - _SLOTS_A_DAY)

    def repair_due_times(self, now: Instant, longest_wait: Instant, most: int) -> int:
        """Put right what a clock that was ahead has left: jobs due, and accounts set aside, until too far a time.

        No job waits longer than `longest_wait` for its next try, nor an account longer than the day
        of its limit. Returns how many jobs had to, up to `most`: then there may be more.
        """
        self._q.mend_resume_times(self._db, now=now, latest=now + LONGEST_PARK)
        self.has_new_work = True
        return int(
            self._q.repair_due_times(
                self._db,
                now=now,
                soon=now + STEP_BACK,
                latest=now + longest_wait,
                latest_resume=now + LONGEST_PARK,
                count=most,
            )
        )

    def mark_dot(self, job: JobRef, now: Instant) -> None:
        """Record that the final dot is about to leave. Raises LeaseLost when the job is no longer ours."""
        self._guard(self._q.mark_dot(self._db, job_id=job.id, token=job.token, now=now))

    def unmark_dot(self, job: JobRef) -> None:
        """Take the mark back: nothing was sent after all, and the job goes on over another connection."""
        self._guard(self._q.unmark_dot(self._db, job_id=job.id, token=job.token))

    def release(self, job: JobRef, now: Instant) -> None:
        """Give back a job of which nothing was sent; the attempt does not count."""
        self.finish(job, decide_released(job, now), worker_id=0, started_at=now, now=now)

    def finish(
        self, job: JobRef, decision: Decision, *, worker_id: int, started_at: Instant, now: Instant
    ) -> bool:
        """Write what was decided of an attempt, exactly once; return whether its message has reached its end.

        Raises LeaseLost, writing nothing, when another worker holds the job.
        """
        if job.one_recipient and decision.is_over and isinstance(decision.outcome, Sent):
            self._complete(job, decision, worker_id=worker_id, started_at=started_at, now=now)
            return True
        self._move(job, decision, now)
        for result in decision.deliveries:
            self._write_delivery(result, now)
        for event in decision.events:
            self._event(job.message_id, event, now)
        failpoint.hit("finish.inside")
        self._return_usage(job, decision.unused)
        if decision.outcome is not None:
            self._record_attempt(job, decision.outcome, worker_id=worker_id, started_at=started_at, now=now)
        return decision.is_over

    def _move(self, job: JobRef, decision: Decision, now: Instant) -> None:
        """End the job, or queue it for its next try."""
        next_try = decision.next_try
        if next_try is None:
            self._end(job, decision, now)
            return
        moved = self._q.requeue_job(
            self._db,
            job_id=job.id,
            token=job.token,
            due_at=next_try.due_at,
            refund=0 if next_try.counts else 1,
            held=int(next_try.is_held),
        )
        self._guard(moved)
        if next_try.is_behind:
            self._q.note_draw(self._db, job_id=job.id, now=now)
        if decision.is_crash:
            self._q.count_crash(self._db, job_id=job.id)

    def _complete(
        self, job: JobRef, decision: Decision, *, worker_id: int, started_at: Instant, now: Instant
    ) -> None:
        """Write in one statement what `finish` writes when the only recipient was sent to: most messages end so."""
        outcome = decision.outcome
        assert isinstance(outcome, Sent)
        self._guard(
            self._q.conclude_sent(
                self._db,
                message_id=job.message_id,
                delivery_id=job.deliveries[0].id,
                job_id=job.id,
                token=job.token,
                number=job.attempt,
                worker_id=worker_id,
                started_at=started_at,
                now=now,
                detail=decision.events[0].detail,
                **_reply_columns(outcome.reply),
            )
        )
        failpoint.hit("finish.inside")

    def _end(self, job: JobRef, decision: Decision, now: Instant) -> None:
        """End the job: failed where a recipient has, in this attempt or an earlier one."""
        self._guard(
            self._q.end_job(
                self._db,
                job_id=job.id,
                token=job.token,
                state="failed" if decision.has_failed or self._has_failed(job) else "done",
                now=now,
            )
        )
        self._q.insert_log_line(self._db, message_id=job.message_id)

    def _has_failed(self, job: JobRef) -> bool:
        return bool(self._q.any_delivery_failed(self._db, message_id=job.message_id))

    def _write_delivery(self, result: DeliveryResult, now: Instant) -> None:
        columns = {"delivery_id": result.id, "reason": result.reason, **_reply_columns(result.reply)}
        if result.state is DeliveryState.PENDING:
            self._q.defer_delivery(self._db, possible_duplicate=int(result.possible_duplicate), **columns)
        else:
            self._q.end_delivery(self._db, state=result.state.value, now=now, **columns)

    def _record_attempt(
        self, job: JobRef, outcome: Outcome, *, worker_id: int, started_at: Instant, now: Instant
    ) -> None:
        self._q.insert_attempt(
            self._db,
            job_id=job.id,
            number=job.attempt,
            worker_id=worker_id,
            started_at=started_at,
            now=now,
            outcome=kind_of(outcome).value,
            **_reply_columns(None if isinstance(outcome, InDoubt) else outcome.reply),
        )

    # -- workers

    def register_worker(
        self, *, host: str, pid: int, lock_file: str, now: Instant, lease_until: Instant
    ) -> int:
        worker_id: int = self._q.insert_worker(
            self._db, host=host, pid=pid, lock_file=lock_file, now=now, lease_until=lease_until
        )
        return worker_id

    def renew_lease(self, worker_id: int, lease_until: Instant) -> bool:
        """Extend a worker's hold on all its jobs; False when it has been buried meanwhile."""
        return bool(self._q.renew_lease(self._db, worker_id=worker_id, lease_until=lease_until))

    def _must_live(self, worker_id: int) -> None:
        """Raise Buried unless the worker is alive, and let nobody bury it before the transaction is over."""
        try:
            self._guard(self._q.hold_worker(self._db, worker_id=worker_id))
        except LeaseLost as error:
            raise WorkerExpired from error

    def bury_worker(
        self,
        worker_id: int,
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
        lease: Instant | None = None,
        crashed: bool = True,
    ) -> int:
        """Take all jobs from a worker that is gone; return how many.

        With `lease`, the lease that ran out, only as long as the worker has not renewed it. One that has
        not `crashed` but signs off raises no suspicion against what it gives back.
        A job whose dot may have left is in doubt and treated by policy; the others are plain retries.
        """
        if not self.declare_gone(worker_id, now=now, lease=lease):
            return 0
        return self.recover_from(worker_id, now=now, in_doubt=in_doubt, crashed=crashed)

    def declare_gone(self, worker_id: int, *, now: Instant, lease: Instant | None = None) -> bool:
        """Let a worker claim nothing more; False when it has gone already, or has renewed this lease."""
        return bool(self._q.bury_worker(self._db, worker_id=worker_id, now=now, lease=lease))

    def recover_from(
        self, worker_id: int, *, now: Instant, in_doubt: InDoubtPolicy, crashed: bool = True
    ) -> int:
        """Take from a buried worker whatever it still owns; return how many jobs that were."""
        abandoned_jobs = self.abandoned_by(worker_id)
        for abandoned in abandoned_jobs:
            self.recover(abandoned, worker_id, now=now, in_doubt=in_doubt, crashed=crashed)
            failpoint.hit("recover.inside")
        return len(abandoned_jobs)

    def take_back(
        self,
        worker_id: int,
        tokens: Collection[int],
        marked: Collection[int],
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
    ) -> int:
        """Give back jobs that the database has as a living worker's and the worker does not have; return how many.

        Those among `marked` are in doubt: their dot left, whatever the database has forgotten.
        """
        rows = map(AbandonedJob._make, self._abandoned_rows(worker_id))
        abandoned_jobs = [abandoned for abandoned in rows if abandoned.token in tokens]
        for abandoned in abandoned_jobs:
            if abandoned.dot_at is None and abandoned.token in marked:
                abandoned = abandoned._replace(dot_at=now)
            self.recover(abandoned, worker_id, now=now, in_doubt=in_doubt)
        self.has_new_work = True
        return len(abandoned_jobs)

    def abandoned_by(self, worker_id: int) -> list[AbandonedJob]:
        """Return the jobs of a worker that is gone, and free its connections."""
        self._q.return_connections_of(self._db, worker_id=worker_id)
        abandoned_jobs = list(map(AbandonedJob._make, self._abandoned_rows(worker_id)))
        suspicion = max((abandoned.crashes for abandoned in abandoned_jobs), default=0)
        self.has_new_work = True
        # Where one was under suspicion, the others in hand are not: they only happened to be there.
        return [each._replace(is_suspect=each.crashes == suspicion) for each in abandoned_jobs]

    def _abandoned_rows(self, worker_id: int) -> list[tuple[object, ...]]:
        return [(*row, False) for row in self._q.jobs_owned_by(self._db, worker_id=worker_id)]

    def recover(
        self,
        abandoned: AbandonedJob,
        worker_id: int,
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
        crashed: bool = True,
    ) -> None:
        """Give one job of a worker that is gone back. Raises LeaseLost when it was given back already."""
        pending = list(self._q.pending_deliveries(self._db, message_id=abandoned.message_id))
        taken = pending[: abandoned.reserved]
        job = JobRef(
            id=abandoned.id,
            token=abandoned.token,
            attempt=abandoned.attempt,
            message_id=abandoned.message_id,
            deliveries=tuple(PendingDelivery(id_, path) for id_, path, _ in taken),
            reserved_bucket=abandoned.reserved_bucket,
            partial=len(taken) < len(pending),
            in_doubt=None if abandoned.in_doubt is None else InDoubtPolicy(abandoned.in_doubt),
        )
        end = WorkerEnd(
            has_crashed=crashed,
            is_suspect=abandoned.is_suspect,
            dot_has_left=abandoned.dot_at is not None,
            crashes=abandoned.crashes,
        )
        decision = decide_abandoned(job, end, in_doubt, now)
        self.finish(job, decision, worker_id=worker_id, started_at=abandoned.claimed_at, now=now)

    # -- what a person decides

    def hold_queued(self, now: Instant, *, until: Instant, claimed: bool) -> int:
        """Hold what was accepted until then and waits, or, with `claimed`, is in the hands of a worker that is no more.

        For a database that has stepped back: it may have been sent, so each is flagged and waits for a person.
        """
        chosen = {"until": until, "claimed": int(claimed)}
        self._q.doubt_deliveries(self._db, reason=STEPPED_BACK, **chosen)
        self._q.add_held_events(self._db, now=now, reason=STEPPED_BACK, **chosen)
        return int(self._q.hold_jobs(self._db, **chosen))

    def release_held(self, request_id: str, now: Instant) -> bool:
        """Send a message that waits for a person after all; False when it does not wait for one."""
        message_id = self._q.message_id(self._db, request_id=request_id)
        if not self._q.release_held(self._db, message_id=message_id, now=now):
            return False
        self._event(message_id, NewEvent(EventKind.RELEASED), now)
        for delivery_id in list(self._q.doubtful_deliveries(self._db, message_id=message_id)):
            self._event(message_id, sent_again(delivery_id[0]), now)
        self.has_new_work = True
        return True

    def cancel(self, request_id: str, now: Instant) -> bool:
        """End a message for its pending recipients; False when it is being sent just now, or over."""
        message_id = self._q.message_id(self._db, request_id=request_id)
        if not self._q.cancel_job(self._db, message_id=message_id, now=now):
            return False
        self._q.cancel_deliveries(self._db, message_id=message_id, now=now)
        self._event(message_id, NewEvent(EventKind.CANCELLED), now)
        self._q.insert_log_line(self._db, message_id=message_id)
        return True

    # -- email_log.txt

    def begin_log_batch(self, *, start: int, messages: Sequence[int], writer: str) -> int:
        """Note at which byte of the writer's file these messages' lines are about to be written; return the batch's id.

        Raises LeaseLost when another writer has taken one of them.
        """
        batch: int = self._q.begin_log_batch(self._db, start=start, writer=writer)
        taken = self._q.add_to_log_batch(self._db, batch=batch, messages=json.dumps(messages))
        if int(taken) != len(messages):
            raise LeaseLost
        return batch

    def end_log_batch(self, batch: int) -> None:
        """Forget a batch whose lines are safely in the file."""
        self._q.delete_log_lines(self._db, batch=batch)
        self._q.delete_log_batch(self._db, batch=batch)

    def take_back_log_batch(self, batch: int) -> None:
        """Forget a batch of which nothing came into the file; its lines are unwritten again."""
        self._q.return_log_lines(self._db, batch=batch)
        self._q.delete_log_batch(self._db, batch=batch)

    # -- retention

    def prune_bodies(self, until: Instant, most: int) -> int:
        """Drop the content of up to `most` messages that were over by then; return of how many.

        How far that has come is remembered, so that the next time goes on from there.
        """
        mark = self._q.read_setting(self._db, name=_BODIES_PRUNED) or "0:0"
        after, _, after_id = mark.partition(":")
        found = self._q.over_after(
            self._db, after=int(after), after_id=int(after_id), until=until, count=most
        )
        rows = list(found)
        for _, message_id, _ in rows:
            self._delete_content(message_id)
        if rows:
            job_id, _, finished_at = rows[-1]
            self.set_setting(_BODIES_PRUNED, f"{finished_at}:{job_id}")
        return len(rows)

    def prune_history(self, until: Instant, most: int) -> int:
        """Drop all that is known of up to `most` messages that were over by then and are in the log; return how many."""
        rows = list(self._q.over_and_logged(self._db, until=until, count=most))
        for job_id, message_id in rows:
            self._q.delete_attempts(self._db, job_id=job_id)
            self._q.delete_events(self._db, message_id=message_id)
            self._delete_content(message_id)
            self._q.delete_deliveries(self._db, message_id=message_id)
            self._q.delete_job(self._db, job_id=job_id)
            self._q.delete_message(self._db, message_id=message_id)
        return len(rows)

    def _delete_content(self, message_id: int) -> None:
        self._q.delete_pieces_of(self._db, message_id=message_id)
        self._q.delete_pieced_content(self._db, message_id=message_id)
        self._q.delete_content(self._db, message_id=message_id)

    def prune_uploads(self, until: Instant, most: int) -> int:
        """Drop up to `most` contents that were begun by then and belong to no message; return how many."""
        rows = list(self._q.old_uploads(self._db, until=until, count=most))
        for (upload_id,) in rows:
            self.drop_upload(upload_id)
        return len(rows)

    def prune_keys(self, until: Instant, most: int) -> int:
        """Forget up to `most` idempotency keys of mails that were accepted by then and are gone; return how many."""
        rows = list(self._q.old_idempotency_keys(self._db, until=until, count=most))
        for account_id, key in rows:
            self._q.delete_idempotency_key(self._db, account_id=account_id, key=key)
        return len(rows)

    # -- events

    def _event(self, message_id: int, event: NewEvent, now: Instant) -> None:
        self._q.insert_event(
            self._db,
            message_id=message_id,
            delivery_id=event.delivery_id,
            at=now,
            kind=event.kind.value,
            detail=event.detail,
        )


def slots_of_the_day(now: Instant) -> dict[str, int]:
    """Return the first and the last slot that count for the 24 hours until now."""
    current = now // _SLOT
    # What lies further on than a day is what a clock that went wrong has left.
    return {"slot": current - _SLOTS_A_DAY + 1, "latest": current + _SLOTS_A_DAY}


def _envelope_checksum(reverse_path: str, forward_path: str, content: int) -> int:
    """Return the CRC-32 of an envelope, begun with that of its content, so that neither passes with another one."""
    return crc32(f"{reverse_path}\0{forward_path}".encode(), content)


def _damage(
    reverse_path: str,
    deliveries: Sequence[tuple[int, str, int | None]],
    mime: bytes | None,
    checksum: int | None,
) -> dict[int, Failed]:
    """Return the end of each delivery whose content or envelope is not what was accepted.

    Without `mime` the content is looked at when it is read.
    """
    if checksum is None:  # it was accepted before there was one
        return {}
    content = checksum if mime is None else crc32(mime)
    if content != checksum:
        return {id_: Failed(DAMAGED.format("content"), Blame.MESSAGE) for id_, _, _ in deliveries}
    return {
        id_: Failed(DAMAGED.format("envelope"), Blame.MESSAGE)
        for id_, path, accepted in deliveries
        if accepted is not None and _envelope_checksum(reverse_path, path, content) != accepted
    }


def _reply_columns(reply: Reply | None) -> dict[str, Any]:
    if reply is None:
        return {"reply_code": None, "reply_enhanced": None, "reply_text": None}
    return {"reply_code": reply.code, "reply_enhanced": reply.enhanced, "reply_text": reply.text}
