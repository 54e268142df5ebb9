"""Accounts in the database: identity, settings and credentials, and whether they may send now (parked, paused)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeAlias

from postroom.core import pace, retry
from postroom.core.account import Account, AccountSettings, AccountState, Secret, Security, ServerLacks
from postroom.core.clock import SECOND, Instant
from postroom.store.noun import Noun

_REFUSED_LOGIN = "refused_login:"  # setting: with the account's id behind it
_PROBE_TAKES = 10 * SECOND  # before another worker may try an account that is set aside
_SOON = 60 * SECOND  # how long before an account may send its jobs are looked at


Seal: TypeAlias = "Callable[[str], bytes | None]"
"""Returns the password of the account with this `uid`, sealed for its row; None: it has none."""


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as the database has it: the password still encrypted."""

    account: Account
    credential: bytes | None


class AccountIdentity(NamedTuple):
    """The mailbox and the server: two rows that share them are the same account."""

    email: str
    host: str | None
    port: int | None
    username: str | None


class _AccountRow(NamedTuple):
    """The columns of an account, as `account_columns` in sql/accounts.sql names them."""

    id: int
    email: str
    name: str
    host: str | None
    port: int | None
    security: str | None
    username: str | None
    credential: bytes | None
    daily_limit: int | None
    connections: int | None
    logins_per_minute: int | None
    pipelining: int | None
    chunking: int | None
    state: str
    state_reason: str | None
    state_since: Instant | None
    resume_at: Instant | None
    worked_at: Instant | None
    uid: str | None
    source: str
    paused_by: str | None
    dkim_selector: str | None
    closing_at: Instant | None
    created_at: Instant
    worked_with: str | None
    passed_at: Instant | None
    gap: int | None
    paid_until: Instant | None
    server_lacks: str | None
    hold: int | None
    confined: int | None


class KnownAccount(NamedTuple):
    """An account that was found by its identity."""

    id: int
    uid: str
    source: str


class _State(NamedTuple):
    state: str
    state_since: Instant | None
    setbacks: int


class Accounts(Noun):
    # -- identity and settings

    def upsert(
        self,
        identity: AccountIdentity,
        settings: AccountSettings,
        seal: Seal,
        *,
        source: str,
        now: Instant,
    ) -> int:
        """Insert the account, or bring the one with the same mailbox and server up to date; return its id."""
        found = self.find(identity)
        if found is None:
            return self.insert(identity, settings, seal, source=source, now=now)
        self.change(found.id, settings, seal(found.uid), now=now)
        return found.id

    def find(self, identity: AccountIdentity) -> KnownAccount | None:
        """Return the account of this mailbox and server that is not deleted."""
        return self._tx.row(
            KnownAccount,
            "find_account",
            email=identity.email,
            host=identity.host,
            port=identity.port,
            username=identity.username,
        )

    def is_managed(self, identity: AccountIdentity) -> bool:
        """Whether this account is or was managed at run time, so that data.csv does not count for it."""
        managed = self._tx.value(
            int,
            "is_managed",
            email=identity.email,
            host=identity.host,
            port=identity.port,
            username=identity.username,
        )
        return bool(managed)

    def change(
        self, account_id: int, settings: AccountSettings, credential: bytes | None, *, now: Instant
    ) -> None:
        """Give an account other settings, and this password (sealed; None: no log-in)."""
        self._tx.note_keys_changed(account_id=account_id)
        self._tx.change(
            "update_account",
            account_id=account_id,
            name=settings.name,
            security=settings.security.value if settings.security else None,
            credential=credential,
            daily_limit=settings.daily_limit,
            connections=settings.connections,
            logins_per_minute=settings.logins_per_minute,
            pipelining=_switch(settings.pipelining),
            chunking=_switch(settings.chunking),
            now=now,
        )

    def insert(
        self,
        identity: AccountIdentity,
        settings: AccountSettings,
        seal: Seal,
        *,
        source: str,
        now: Instant,
    ) -> int:
        """Store a new account; return its row's id."""
        uid = str(uuid.uuid4())
        id_ = self._tx.value(
            int,
            "insert_account",
            uid=uid,
            email=identity.email,
            host=identity.host,
            port=identity.port,
            username=identity.username,
            name=settings.name,
            security=settings.security.value if settings.security else None,
            credential=seal(uid),
            daily_limit=settings.daily_limit,
            connections=settings.connections,
            logins_per_minute=settings.logins_per_minute,
            pipelining=_switch(settings.pipelining),
            chunking=_switch(settings.chunking),
            source=source,
            now=now,
        )
        assert id_ is not None
        self._tx.note_keys_changed(account_id=id_)
        return id_

    def all(self) -> list[StoredAccount]:
        return [_stored_account(row) for row in self._tx.rows(_AccountRow, "all_accounts")]

    def by_uid(self, uid: str) -> StoredAccount | None:
        """Return the account with this id of the API, unless it is deleted."""
        row = self._tx.row(_AccountRow, "account_by_uid", uid=uid)
        return None if row is None else _stored_account(row)

    def page(self, most: int, *, after: int = 0) -> list[StoredAccount]:
        """Return accounts in the order of their rows, from behind the row `after`."""
        rows = self._tx.rows(_AccountRow, "accounts_page", after=after, most=most)
        return [_stored_account(row) for row in rows]

    def get(self, account_id: int) -> StoredAccount | None:
        row = self._tx.row(_AccountRow, "one_account", account_id=account_id)
        return None if row is None else _stored_account(row)

    def credentials(self) -> tuple[bytes, ...]:
        """Return every stored credential."""
        return tuple(self._tx.column(bytes, "stored_credentials"))

    def lock(self, account_id: int) -> None:
        """Let nobody else change the account before the transaction is over."""
        self._tx.value(int, "lock_account", account_id=account_id)

    def try_lock(self, account_id: int) -> bool:
        """Lock the account; False when another transaction has it locked."""
        return self._tx.value(int, "try_lock_account", account_id=account_id) is not None

    # -- what its server has shown

    def note_worked(self, account_id: int, now: Instant, worked_with: str | None = None) -> None:
        """Note that the account's credentials were accepted, and let it go on if it was suspended.

        `worked_with` is the server's host, where nobody has named it: the account keeps it.
        """
        self._tx.change("account_worked", account_id=account_id, now=now, worked_with=worked_with)
        self.resume(account_id, now)

    def note_refused_password(self, account_id: int, digest: str) -> None:
        """Note which password the account's server has refused (`refused_password`)."""
        self._tx.settings.set(f"{_REFUSED_LOGIN}{account_id}", digest)

    def forget_refused_password(self, account_id: int) -> None:
        """Have the account's password tried again although it was refused."""
        self._tx.settings.forget(f"{_REFUSED_LOGIN}{account_id}")

    def refused_password(self, account_id: int) -> str | None:
        """Return the digest of the password that an account's server refused last; None since it took one."""
        return self._tx.settings.get(f"{_REFUSED_LOGIN}{account_id}")

    def keep_server(self, account_id: int, worked_with: str | None) -> None:
        """Note with which server an account has worked that nobody has named; None: somebody has."""
        self._tx.change("keep_server", account_id=account_id, worked_with=worked_with)

    def note_server_lacks(self, account_id: int, lacks: ServerLacks) -> None:
        """Note what the account's server offers and does not take, for all workers."""
        self._tx.change("note_server_lacks", account_id=account_id, lacks=json.dumps(asdict(lacks)))

    # -- whether it may send

    def due(self, now: Instant) -> list[StoredAccount]:
        """Return the accounts that may send and have jobs due."""
        watermarks = self._tx.watermarks
        due_from = watermarks.of_all() if watermarks else 0
        rows = self._tx.rows(_AccountRow, "accounts_due", now=now, soon=now + _SOON, due_from=due_from)
        found = [_stored_account(row) for row in rows]
        if watermarks:
            watermarks.note_accounts(due_from, now, [stored.account.id for stored in found])
        return [stored for stored in found if _may_send(stored.account, now)]

    def note_passed(self, account_id: int, now: Instant) -> None:
        """Note that a message of an account that was suspended has passed: it goes on."""
        self._tx.change("account_passed", account_id=account_id, now=now)
        self.resume(account_id, now)

    def resume(self, account_id: int, now: Instant) -> None:
        """Let an account go on, and the messages that wait for it."""
        self._tx.change("call_drawn", account_id=account_id, now=now)
        self._tx.change("resume_account", account_id=account_id)
        self._tx.has_new_work = True

    def pause_by_person(self, account_id: int, reason: str, now: Instant) -> None:
        """Pause an account until a person lets it go on: nothing else does."""
        self._tx.change("pause_account", account_id=account_id, reason=reason, now=now)

    def resume_by_person(self, account_id: int, now: Instant) -> None:
        """Let an account go on, also one that a person paused; a refused password is tried once more."""
        self._tx.change("call_drawn", account_id=account_id, now=now)
        self._tx.change("unpause_account", account_id=account_id)
        self.forget_refused_password(account_id)
        self._tx.has_new_work = True

    def suspend(
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
        self._tx.change(
            "suspend_account",
            account_id=account_id,
            state=state,
            reason=reason,
            resume_at=resume_at,
            now=now,
            setbacks=setbacks,
        )

    def park(self, account_id: int, *, reason: str, rest: int, tried_at: Instant, now: Instant) -> None:
        """Let an account rest that has reached a limit. A try from before it was suspended tells nothing new."""
        if self._setbacks(account_id, tried_at) is not None:
            self.suspend(account_id, state="parked", reason=reason, resume_at=now + rest, now=now)

    def pause(self, account_id: int, *, reason: str, tried_at: Instant, now: Instant) -> None:
        """Pause an account that is at fault; each time in a row for longer (`retry.probe_after`)."""
        setbacks = self._setbacks(account_id, tried_at)
        if setbacks is not None:
            resume_at = now + retry.probe_after(setbacks)
            self.suspend(
                account_id,
                state="paused",
                reason=reason,
                resume_at=resume_at,
                now=now,
                setbacks=setbacks + 1,
            )

    def _setbacks(self, account_id: int, tried_at: Instant) -> int | None:
        """Return how often in a row the account was paused; None when it was suspended since `tried_at`."""
        self.lock(account_id)
        found = self._tx.row(_State, "account_state", account_id=account_id)
        if found is None or (found.state != "active" and (found.state_since or 0) > tried_at):
            return None
        return found.setbacks

    def take_probe(self, account_id: int, now: Instant) -> bool:
        """Take the right to try whether a suspended account goes on; False when another worker has it."""
        again = now + _PROBE_TAKES
        return self._tx.value(int, "take_probe", account_id=account_id, now=now, again=again) is not None

    def last_reason(self, account_id: int) -> str | None:
        """Return why the newest message of an account that was not sent was not, or None."""
        return self._tx.value(str, "last_reason", account_id=account_id)


def _switch(value: bool | None) -> int | None:
    """Return a switch as both databases have it: PostgreSQL takes no boolean for a number."""
    return None if value is None else int(value)


def _may_send(account: Account, now: Instant) -> bool:
    resumes = account.state is AccountState.ACTIVE or (
        account.resume_at is not None and account.resume_at <= now
    )
    return resumes and pace.is_due(account.paid_until, now)


def _stored_account(row: _AccountRow) -> StoredAccount:
    account = Account(
        id=row.id,
        email=row.email,
        name=row.name,
        host=row.host,
        port=row.port,
        security=Security(row.security) if row.security else None,
        username=row.username,
        password=Secret(""),
        daily_limit=row.daily_limit,
        connections=row.connections,
        logins_per_minute=row.logins_per_minute,
        pipelining=None if row.pipelining is None else bool(row.pipelining),
        chunking=None if row.chunking is None else bool(row.chunking),
        state=AccountState(row.state),
        state_reason=row.state_reason,
        state_since=row.state_since,
        resume_at=row.resume_at,
        worked_at=row.worked_at,
        uid=row.uid or "",
        source=row.source,
        paused_by=row.paused_by,
        dkim_selector=row.dkim_selector,
        closing_at=row.closing_at,
        created_at=row.created_at,
        worked_with=row.worked_with,
        passed_at=row.passed_at,
        gap=row.gap,
        paid_until=row.paid_until,
        server_lacks=_server_lacks(row.server_lacks),
        hold=bool(row.hold),
        is_confined=row.confined == 1,
    )
    return StoredAccount(account, row.credential)


def _server_lacks(text: str | None) -> ServerLacks | None:
    if text is None:
        return None
    found = json.loads(text)
    return ServerLacks(found["server"], tuple(found["extensions"]), found["said"], found["since"])
