"""The doctor's last findings about each account as text, and what it asks the database: its version, its clock."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun


class StoredFindings(NamedTuple):
    """What was found about an account, as JSON, and when."""

    at: Instant
    findings: str


class Findings(Noun):
    def keep(self, account_id: int, findings: str, now: Instant) -> None:
        """Store what was found about an account, in place of what was found before."""
        self._tx.change("keep_findings", account_id=account_id, findings=findings, now=now)

    def last(self, account_id: int) -> StoredFindings | None:
        """Return what was last found about an account; None where nobody has looked."""
        return self._tx.row(StoredFindings, "last_findings", account_id=account_id)

    def database_version(self) -> str:
        """Return the name and the version of the database."""
        return self._tx.value(str, "database_version") or ""

    def database_clock(self) -> Instant | None:
        """Return the present by the clock of the database's server; None on SQLite, which has no other clock than ours."""
        return self._tx.value(int, "database_clock")
