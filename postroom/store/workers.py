"""Workers in the database: registration, and the leases that they renew."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.errors import LeaseLost, WorkerExpired
from postroom.store.noun import Noun


class WorkerRecord(NamedTuple):
    id: int
    host: str
    pid: int
    lock_file: str
    lease_until: Instant


class Workers(Noun):
    def register(self, *, host: str, pid: int, lock_file: str, now: Instant, lease_until: Instant) -> int:
        """Add a worker; return its id."""
        worker_id = self._tx.value(
            int, "insert_worker", host=host, pid=pid, lock_file=lock_file, now=now, lease_until=lease_until
        )
        assert worker_id is not None
        return worker_id

    def renew_lease(self, worker_id: int, lease_until: Instant) -> bool:
        """Extend a worker's hold on all its jobs; False when it has been declared gone meanwhile."""
        return bool(self._tx.change("renew_lease", worker_id=worker_id, lease_until=lease_until))

    def hold_alive(self, worker_id: int) -> None:
        """Raise WorkerExpired unless the worker is alive; nobody reaps it before the transaction is over."""
        try:
            self._tx.guard(self._tx.change("hold_worker", worker_id=worker_id))
        except LeaseLost as error:
            raise WorkerExpired from error

    def living(self) -> list[WorkerRecord]:
        return self._tx.rows(WorkerRecord, "living_workers")
