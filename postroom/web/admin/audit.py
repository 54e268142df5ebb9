"""The call on the audit: who changed what, when and from where."""

from __future__ import annotations

import json
from typing import Final

from pydantic import Field, JsonValue

from postroom.store.audit import NEWEST, Audit
from postroom.web.admin.call import AdminRequest, AnswerModel, Reply, admin_call
from postroom.web.admin.values import Page, shown_time


class AuditList(Page):
    """Which entries are wanted."""


class AuditEntryAnswer(AnswerModel):
    """What somebody changed, or was refused."""

    id: str
    at: str
    actor: str = Field(description="`key NAME`, `admin token`, or `user NAME` of the host in `source`")
    source: str = Field(description="The address of the client, or the host of a command")
    action: str
    target: str | None
    detail: JsonValue = Field(description="What was changed; never a secret")
    refused: bool


class AuditAnswer(AnswerModel):
    """A page of the audit, the newest entry first."""

    data: list[AuditEntryAnswer]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")


def _list(asked: AdminRequest, query: AuditList) -> Reply:
    before = NEWEST if query.position is None else query.position
    found = asked.store.read(Audit.page, query.limit + 1, before=before)
    data, has_more = found[: query.limit], len(found) > query.limit
    return Reply(
        200,
        AuditAnswer(
            data=[
                AuditEntryAnswer(
                    id=str(entry.id),
                    at=shown_time(entry.at) or "",
                    actor=entry.actor,
                    source=entry.source,
                    action=entry.action,
                    target=entry.target,
                    detail=None if entry.detail is None else json.loads(entry.detail),
                    refused=bool(entry.refused),
                )
                for entry in data
            ],
            has_more=has_more,
            next=str(data[-1].id) if has_more else None,
        ),
    )


AUDIT_CALLS: Final = (
    admin_call("GET /v1/audit", "listAudit", "Read the audit", AuditList, _list, {200: AuditAnswer}),
)
