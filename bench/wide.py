"""What 10,000 accounts in one database cost: an idle worker, the look for accounts with jobs, a claim, keys, a start."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from bench.drain import worker
from bench.fill import fill_folder, write_accounts
from bench.processes import free_port, running
from bench.section import Options, Section, table
from bench.systems import environment
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.clock import system_clock
from postroom.settings import load_settings
from postroom.store.accounts import Accounts
from postroom.store.queue import Queue
from postroom.store.store import open_store
from postroom.store.workers import Workers

if TYPE_CHECKING:
    from postroom.store.store import Store
    from postroom.store.transaction import Transaction

_ACCOUNTS: Final = 10_000
_SETTLE_S: Final = 8.0
_IDLE_S: Final = 30.0


def accounts(options: Options) -> Section:
    """Times with 10,000 accounts; each limit is issue 21's."""
    number = options.count(_ACCOUNTS, 200)
    folder = options.folder / "accounts"
    folder.mkdir(parents=True)
    write_accounts(folder, [9] * number)
    fill_folder(folder, {})
    rows = [
        _row("start of `serve` to its first answer", _start(folder), "s", "3 s"),
        _row("an idle worker", _idle(folder, 2.0 if options.quick else _IDLE_S) * 100, "% of a core", "2 %"),
    ]
    fill_folder(folder, {1: 1000}, size=200)
    store = open_store(f"sqlite:///{folder / 'var/postroom.db'}", create=False)
    rows += [*_looks(store), *_keys(store, folder)]
    store.close()
    lines = table(["with so many accounts", "median", "limit"], rows)
    return Section(f"{number:,} accounts in one database", tuple(lines))


def _row(name: str, figure: float, unit: str, limit: str = "-") -> list[str]:
    print(f"accounts: {name} {figure:,.4g} {unit}", flush=True)
    return [name, f"{figure:,.4g} {unit}", limit]


def _start(folder: Path) -> float:
    port = free_port()
    variables = {**environment(), "PORT": str(port)}
    began = time.perf_counter()
    with running([sys.executable, "-m", "postroom", "serve"], folder, variables, "serve.txt") as program:
        program.wait_listening(port)
        return time.perf_counter() - began


def _idle(folder: Path, seconds: float) -> float:
    """Return the share of a core that a worker with nothing to do takes."""
    with worker(folder) as program:
        time.sleep(_SETTLE_S)
        before, began = program.cpu(), time.perf_counter()
        time.sleep(seconds)
        return (program.cpu() - before) / (time.perf_counter() - began)


def _looks(store: Store) -> list[list[str]]:
    now = system_clock()
    worker_id = store.write(Workers.register, host="bench", pid=0, lock_file="-", now=now, lease_until=now)
    [due] = store.read(Accounts.due, system_clock())

    def claim() -> None:
        jobs = store.write(
            Queue.claim,
            account_id=due.account.id,
            worker_id=worker_id,
            most=8,
            most_bytes=1 << 20,
            now=system_clock(),
        )
        assert jobs

    return [
        _row("Accounts.due", _timed(lambda: store.read(Accounts.due, system_clock())) * 1e3, "ms"),
        _row("a claim of eight jobs", _timed(claim, 50) * 1e6, "µs"),
    ]


def _keys(store: Store, folder: Path) -> list[list[str]]:
    settings = load_settings()
    vault = Vault.open(settings, folder / "var", create=False)
    adopt_digest_key(store, vault, create=False)
    keys = ApiKeys(store, vault)
    began = time.perf_counter()
    keys.refresh()
    first = time.perf_counter() - began
    known = [f"bench-{number:032d}" for number in range(1, 101)]

    def ask() -> None:
        for key in known:
            keys.authenticate(key)

    def change(transaction: Transaction) -> None:
        transaction.note_keys_changed(account_id=1)

    def changed() -> None:
        keys.refresh(time.monotonic())

    times = []
    for _ in range(10):
        store.write(change)
        began = time.perf_counter()
        changed()
        times.append(time.perf_counter() - began)
    return [
        _row("ApiKeys.authenticate", _timed(ask, 100) / len(known) * 1e6, "µs", "5 µs"),
        _row("ApiKeys.refresh, the first", first * 1e3, "ms"),
        _row("ApiKeys.refresh, nothing changed", _timed(changed, 100) * 1e6, "µs"),
        _row("ApiKeys.refresh after one change", median(times) * 1e3, "ms"),
    ]


def _timed(call: Callable[[], object], times: int = 50) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return median(seconds)
