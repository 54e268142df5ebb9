"""The audit: who changed which account, key or pool, when and from where; written in the transaction of the change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from postroom.core.audit import Actor, AuditEntry
from postroom.core.clock import SECOND, Instant
from postroom.store.noun import Noun

NEWEST: Final = (1 << 62) - 1  # an entry's id is below this
_REFUSED_AGAIN: Final = 60 * SECOND  # before another refusal of one source is written


class Audit(Noun):
    def append(
        self,
        actor: Actor,
        action: str,
        target: str | None,
        now: Instant,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Record a change, such as `account.create` of ann@example.com. `detail` holds no secret."""
        self._append(actor, action, target, now, detail, refused=0)

    def append_refusal(self, actor: Actor, action: str, target: str | None, now: Instant) -> None:
        """Record that somebody was refused; at most one entry a minute and source."""
        if self._tx.value(int, "refused_lately", source=actor.source, since=now - _REFUSED_AGAIN):
            return
        self._append(actor, action, target, now, None, refused=1)

    def _append(
        self,
        actor: Actor,
        action: str,
        target: str | None,
        now: Instant,
        detail: Mapping[str, object] | None,
        *,
        refused: int,
    ) -> None:
        self._tx.change(
            "append_audit",
            now=now,
            actor=actor.name,
            source=actor.source,
            action=action,
            target=target,
            detail=None if not detail else json.dumps(detail),
            refused=refused,
        )

    def page(self, most: int, *, before: int = NEWEST) -> list[AuditEntry]:
        """Return entries, newest first, from below the entry `before`."""
        return self._tx.rows(AuditEntry, "audit_page", before=before, most=most)

    def prune(self, until: Instant, most: int) -> int:
        """Drop up to `most` entries from before `until`; return how many (POSTROOM_KEEP_AUDIT)."""
        return self._tx.count_changed("prune_audit", until=until, most=most)
