"""The parts that every doorway and view works with: settings, store, keys, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from flask import current_app

from postroom.accounts.doctor.account import Login
from postroom.accounts.keys import ApiKeys
from postroom.accounts.pool_accounts import PoolAccounts
from postroom.accounts.vault import Vault
from postroom.core.clock import Clock
from postroom.intake.disk_share import DiskShares
from postroom.settings import Settings
from postroom.store.accounts import StoredAccount
from postroom.store.store import Store
from postroom.telemetry.metrics.exposition import Metrics
from postroom.web.admin.refused import RefusedCalls
from postroom.web.rate_limits import RateLimits
from postroom.web.refusals import Refusals

BeginTrace: TypeAlias = Callable[[str | None], str]
"""Returns the traceparent that a message keeps, from the one that came with its request."""
Verify: TypeAlias = Callable[[StoredAccount], Login]


@dataclass(frozen=True, slots=True)
class Services:
    """Opened once for each application. `is_stopping`: whether the listener will be closed soon."""

    settings: Settings
    store: Store
    vault: Vault
    keys: ApiKeys
    pools: PoolAccounts
    clock: Clock
    shares: DiskShares
    limits: RateLimits
    refusals: Refusals
    is_stopping: Callable[[], bool]
    metrics: Metrics
    refused_calls: RefusedCalls = field(default_factory=RefusedCalls)
    begin_trace: BeginTrace | None = None  # None: there are no traces
    verify: Verify | None = None  # logs in as an account; None: this process cannot


def services() -> Services:
    """Return those of the application that a view of Flask belongs to."""
    return cast("Services", current_app.extensions["postroom"])
