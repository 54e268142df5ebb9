"""Troubles, notices and what was told of each kind as JSON, as the database keeps them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from postroom.core.notices.kinds import Kind
from postroom.core.notices.values import Event, Notice, Told, Trouble

_IN_DETAIL: Final = ("name", "cause", "effect", "fix", "urgent", "is_worse", "account")


def detail_of(trouble: Trouble) -> str:
    """Return what the database keeps of a trouble beside its times."""
    fields = {name: getattr(trouble, name) for name in _IN_DETAIL}
    return json.dumps({**fields, "causes": dict(trouble.causes), "examples": list(trouble.examples)})


def trouble_of(
    kind: Kind,
    subject: str,
    *,
    first_at: int,
    noticed_at: int,
    last_at: int,
    count: int,
    told_at: int | None,
    ended_at: int | None,
    notice_id: str | None,
    detail: str,
) -> Trouble:
    """Return a trouble as it was before `detail_of`."""
    found = json.loads(detail)
    return Trouble(
        kind,
        subject,
        first_at,
        noticed_at,
        last_at,
        count,
        told_at,
        ended_at,
        notice_id,
        **{name: found[name] for name in _IN_DETAIL},
        causes=found["causes"],
        examples=tuple(found["examples"]),
    )


def notice_to_json(notice: Notice) -> str:
    return json.dumps(
        {
            "id": notice.id,
            "kind": None if notice.kind is None else notice.kind.value,
            "event": notice.event.value,
            "at": notice.at,
            "since": notice.since,
            "count": notice.count,
            "title": notice.title,
            "text": notice.text,
            "urgent": notice.urgent,
        }
    )


def notice_from_json(text: str) -> Notice:
    found = json.loads(text)
    return Notice(
        found["id"],
        None if found["kind"] is None else Kind(found["kind"]),
        Event(found["event"]),
        found["at"],
        found["since"],
        found["count"],
        found["title"],
        found["text"],
        urgent=found["urgent"],
    )


def told_to_values(told: Mapping[Kind, Told]) -> dict[str, list[int | None]]:
    return {kind.value: list(times) for kind, times in told.items()}


def told_from_values(found: Mapping[str, list[int | None]]) -> dict[Kind, Told]:
    return {Kind(name): Told(*times) for name, times in found.items() if name in Kind.__members__.values()}
