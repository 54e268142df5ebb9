"""The calls that look at an account: a real log-in, and what the doctor finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final, Literal

from pydantic import Field

from postroom.accounts.doctor.examine import Examination, examine, findings_of
from postroom.accounts.doctor.finding import as_values
from postroom.accounts.looks import take_look
from postroom.core.errors import QuotaExceeded
from postroom.inbox.maildrop import FOLDER, inbox_port
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, admin_call
from postroom.web.admin.values import known_form, shown_time

_AT_ONCE: Final = 2  # in a process
_AGAIN_S: Final = 5
_LOOKING: Final = BoundedSemaphore(_AT_ONCE)


class LogInAnswer(AnswerModel):
    """What a real log-in has shown. Nothing was sent."""

    ok: bool
    tried: bool = Field(description="false: no log-in was made now, for the reason that is given")
    reason: str


class FindingAnswer(AnswerModel):
    """What was found about one subject, and what to do."""

    subject: str
    severity: Literal["ok", "note", "warning", "error", "not_known"]
    summary: str
    detail: str | None = Field(description="More, such as a server's words")
    fix: str | None


class HealthAnswer(AnswerModel):
    """What the doctor has found."""

    at: str | None = Field(description="When it looked; null: not yet")
    findings: list[FindingAnswer]


@contextmanager
def _one_of_few() -> Iterator[None]:
    """Look with few threads at a time, for a server may take long and statuses are answered by the same threads.

    Raises QuotaExceeded.
    """
    if not _LOOKING.acquire(blocking=False):
        raise QuotaExceeded(
            f"{_AT_ONCE} accounts are being looked at; wait for the time in Retry-After (seconds)",
            retry_after=_AGAIN_S,
        )
    try:
        yield
    finally:
        _LOOKING.release()


def _verify(asked: AdminRequest, body: Nothing) -> Reply:
    with _one_of_few():
        return _log_in(asked)


def _log_in(asked: AdminRequest) -> Reply:
    stored = take_look(asked.store, known_form(asked.id), "verify", asked.actor, asked.shared.clock)
    if asked.shared.verify is None:
        return Reply(200, LogInAnswer(ok=False, tried=False, reason="this process cannot log in"))
    found = asked.shared.verify(stored)
    return Reply(200, LogInAnswer(ok=found.works is True, tried=found.works is not None, reason=found.words))


def _last(asked: AdminRequest, query: Nothing) -> Reply:
    view = asked.accounts.get(known_form(asked.id))
    return Reply(200, _answer(findings_of(asked.store, view.account.id)))


def _examine(asked: AdminRequest, body: Nothing) -> Reply:
    with _one_of_few():
        return _looked_at(asked)


def _looked_at(asked: AdminRequest) -> Reply:
    shared = asked.shared
    stored = take_look(asked.store, known_form(asked.id), "health", asked.actor, shared.clock)
    found = examine(
        asked.store,
        shared.settings,
        shared.vault,
        stored,
        inbox_port=inbox_port(FOLDER),
        clock=shared.clock,
    )
    return Reply(200, _answer(found))


def _answer(found: Examination | None) -> HealthAnswer:
    if found is None:
        return HealthAnswer(at=None, findings=[])
    findings = [FindingAnswer.model_validate(each) for each in as_values(found.findings)]
    return HealthAnswer(at=shown_time(found.at), findings=findings)


HEALTH_CALLS: Final = (
    admin_call(
        "POST /v1/accounts/{id}/verify",
        "verifyAccount",
        "Log in as an account; nothing is sent",
        Nothing,
        _verify,
        {200: LogInAnswer},
    ),
    admin_call(
        "GET /v1/accounts/{id}/health",
        "getHealth",
        "Show what was found about an account last",
        Nothing,
        _last,
        {200: HealthAnswer},
    ),
    admin_call(
        "POST /v1/accounts/{id}/health",
        "examineAccount",
        "Examine an account: server, limits, aliases, SPF, DKIM, DMARC",
        Nothing,
        _examine,
        {200: HealthAnswer},
    ),
)
