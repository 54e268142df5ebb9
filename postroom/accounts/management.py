"""Accounts managed at run time: added, changed, paused, deleted; each change and its audit entry in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from postroom.accounts.account_values import (
    AccountValues,
    Value,
    account_values,
    check_secret_stays,
    hold_of,
    is_private,
    values_of,
)
from postroom.accounts.csv_sync import sealing
from postroom.accounts.vault import Vault
from postroom.core.account import Account, Secret
from postroom.core.audit import Actor
from postroom.core.clock import Clock, system_clock
from postroom.core.errors import Conflict, InvalidSubmission, NotFound, NotPermitted
from postroom.core.text import counted
from postroom.settings import Settings
from postroom.store.accounts import AccountIdentity, StoredAccount
from postroom.store.aliases import Alias
from postroom.store.closing import Unfinished
from postroom.store.store import Store
from postroom.store.transaction import Transaction

ORDER: Final = (
    "accounts_order"  # setting: written by each new account, so that two of one identity wait for each other
)
_PAUSED: Final = "paused by {}"


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account with its aliases, as the API and the command line show it."""

    account: Account
    has_password: bool
    aliases: tuple[Alias, ...]


class AccountManagement:
    """Adds, changes and ends accounts for a person or a program (`Actor`)."""

    def __init__(self, store: Store, vault: Vault, settings: Settings, clock: Clock = system_clock) -> None:
        self._store = store
        self._vault = vault
        self._settings = settings
        self._clock = clock

    def get(self, uid: str) -> AccountView:
        """Return an account. Raises NotFound."""
        return self._store.read(_view_of, uid)

    def page(self, most: int, *, after: int = 0) -> list[AccountView]:
        """Return accounts in the order in which they were added, from behind the row `after`."""
        return self._store.read(_page, most, after)

    def create(
        self,
        given: Mapping[str, Value],
        actor: Actor,
        *,
        password: Secret | None = None,
        aliases: tuple[str, ...] = (),
        will_log_in_by_oauth: bool = False,
    ) -> AccountView:
        """Add an account, by the names of data.csv's columns.

        Raises InvalidSubmission naming the field; Conflict where there is one of this mailbox and server; NotPermitted.
        """
        wanted = account_values(given, password=password, aliases=aliases, has_secret=will_log_in_by_oauth)
        self._check_host(wanted.row.host, actor)
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            transaction.settings.set(ORDER, str(now))
            _refuse_twice(transaction, wanted)
            id_ = transaction.accounts.insert(
                wanted.identity, wanted.settings, sealing(wanted.password, self._vault), source="api", now=now
            )
            transaction.managed_accounts.confine(id_, is_confined=not actor.is_admin)
            _write_rest(transaction, id_, wanted)
            if wanted.hold:
                check_may_hold(actor)
                transaction.managed_accounts.set_hold(id_, hold=True)
            transaction.audit.append(actor, "account.create", wanted.row.email, now, _told(given))
            return _view(transaction, _required(transaction.accounts.get(id_)))

        return self._store.write(work)

    def change(
        self,
        uid: str,
        changes: Mapping[str, Value],
        actor: Actor,
        *,
        password: Secret | None = None,
        aliases: tuple[str, ...] | None = None,
    ) -> AccountView:
        """Change what is named in `changes`; the rest stays. A new password lets an account go on that the breaker paused.

        Raises InvalidSubmission naming the field, also where a stored password would go to another server;
        Conflict for an account of data.csv, or where there is another one of this mailbox and server; NotFound.
        """
        if changes.keys() == {"hold"} and password is None and aliases is None:
            return self.set_hold(uid, hold_of(changes["hold"]), actor)
        if changes.get("email") is not None:
            raise InvalidSubmission("an account keeps its mailbox; add another account", field="email")
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            stored = _managed(transaction, uid)
            account = stored.account
            wanted = account_values(
                {**values_of(account), **changes, "email": account.email},
                password=password,
                aliases=aliases,
                has_secret=stored.credential is not None or _has_grant(transaction, account),
            )
            self._apply(transaction, stored, wanted, actor)
            if "host" in changes and actor.is_admin:
                transaction.managed_accounts.confine(account.id, is_confined=False)
            told = {**_told(changes), **({"password": "changed"} if password else {})}
            transaction.audit.append(actor, "account.change", account.email, now, told)
            return _view(transaction, _required(transaction.accounts.get(account.id)))

        return self._store.write(work)

    def _apply(
        self, transaction: Transaction, stored: StoredAccount, wanted: AccountValues, actor: Actor
    ) -> None:
        account, now = stored.account, self._clock()
        if _has_grant(transaction, account) or (stored.credential is not None and wanted.password is None):
            check_secret_stays(account, wanted)
        present = AccountIdentity(account.email, account.host, account.port, account.username)
        if wanted.identity != present:
            self._check_host(wanted.row.host, actor)
            transaction.settings.set(ORDER, str(now))
            _refuse_twice(transaction, wanted)
            transaction.managed_accounts.move(account.id, wanted.identity, now)
            if not actor.is_admin:
                transaction.managed_accounts.confine(account.id, is_confined=True)
        credential = stored.credential
        if wanted.password is not None:
            credential = sealing(wanted.password, self._vault)(account.uid)
            transaction.accounts.forget_refused_password(account.id)
        transaction.accounts.change(account.id, wanted.settings, credential, now=now)
        if wanted.password is not None or wanted.settings.daily_limit != account.daily_limit:
            transaction.accounts.resume(account.id, now)
        _write_rest(transaction, account.id, wanted)
        if wanted.hold != account.hold:
            check_may_hold(actor)
            transaction.managed_accounts.set_hold(account.id, hold=wanted.hold)

    def set_hold(self, uid: str, hold: bool, actor: Actor) -> AccountView:
        """Have retention keep or delete an account's messages, also of one of data.csv.

        Raises NotPermitted for a key without the scope admin, NotFound.
        """
        check_may_hold(actor)
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            account = _existing(transaction, uid).account
            if account.hold != hold:
                transaction.managed_accounts.set_hold(account.id, hold=hold)
                transaction.audit.append(actor, "account.change", account.email, now, {"hold": hold})
            return _view(transaction, _required(transaction.accounts.get(account.id)))

        return self._store.write(work)

    def pause(self, uid: str, actor: Actor) -> AccountView:
        """Have an account send nothing until a person lets it go on; what is sent to it is accepted and waits."""
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            account = _existing(transaction, uid).account
            if account.closing_at is not None:
                raise Conflict(f"{account.email} is being deleted")
            transaction.accounts.pause_by_person(account.id, _PAUSED.format(actor.name), now)
            transaction.audit.append(actor, "account.pause", account.email, now)
            return _view(transaction, _required(transaction.accounts.get(account.id)))

        return self._store.write(work)

    def resume(self, uid: str, actor: Actor) -> AccountView:
        """Let a parked or paused account go on, also one that a person paused."""
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            account = _existing(transaction, uid).account
            transaction.accounts.resume_by_person(account.id, now)
            transaction.audit.append(actor, "account.resume", account.email, now)
            return _view(transaction, _required(transaction.accounts.get(account.id)))

        return self._store.write(work)

    def delete(self, uid: str, actor: Actor, queued: str | None = None) -> bool:
        """Delete an account; True when it is gone, False while its last messages are still sent.

        `queued` says what becomes of messages that wait: `finish` or `cancel`. Its keys die at once. Raises
        Conflict where some wait and nothing is said, or for an account of data.csv; NotFound.
        """
        if queued not in (None, "finish", "cancel"):
            raise InvalidSubmission("must be finish or cancel", field="queued")
        now = self._clock()

        def work(transaction: Transaction) -> bool:
            account = _managed(transaction, uid).account
            left = transaction.closings.unfinished(account.id, now)
            if sum(left) and queued is None and account.closing_at is None:
                raise Conflict(
                    f"{_waiting(left)}: delete it with queued=finish to have them sent first, or "
                    "queued=cancel",
                    field="queued",
                )
            transaction.closings.begin(account.id, now)
            if queued == "cancel":
                transaction.closings.cancel_waiting(account.id, now)
            is_gone = not sum(transaction.closings.unfinished(account.id, now))
            if is_gone:
                transaction.closings.end(account.id, now)
            transaction.audit.append(
                actor, "account.delete", account.email, now, {"queued": queued, "gone": is_gone}
            )
            return is_gone

        return self._store.write(work)

    def verify_alias(self, uid: str, email: str, actor: Actor) -> AccountView:
        """Note that an admin confirms that the server keeps this alias as From. Raises NotFound."""
        now = self._clock()

        def work(transaction: Transaction) -> AccountView:
            stored = _existing(transaction, uid)
            known = (alias.email for alias in transaction.aliases.of(stored.account.id))
            alias = next((each for each in known if each.lower() == email.lower()), None)
            if alias is None:
                raise NotFound("this account has no such alias", field="email")
            transaction.aliases.verify(stored.account.id, alias, by="admin", now=now)
            transaction.audit.append(actor, "alias.verify", alias, now, {"account": stored.account.email})
            return _view(transaction, stored)

        return self._store.write(work)

    def _check_host(self, host: str | None, actor: Actor) -> None:
        """Raise NotPermitted for a server in a private network, where that is the admin's to choose."""
        if is_private(host) and not actor.is_admin and not self._settings.smtp_allow_private:
            raise NotPermitted(
                "a server on this machine or in a private network needs the admin token, or POSTROOM_SMTP_ALLOW_PRIVATE",
                field="host",
            )


def _existing(transaction: Transaction, uid: str) -> StoredAccount:
    """Return an account as it is once nobody else changes it: a rotation may seal its password anew meanwhile."""
    if (found := transaction.accounts.by_uid(uid)) is not None:
        transaction.accounts.lock(found.account.id)
        found = transaction.accounts.by_uid(uid)
    if found is None:
        raise NotFound("there is no account with this id", field="id")
    return found


def _managed(transaction: Transaction, uid: str) -> StoredAccount:
    stored = _existing(transaction, uid)
    if stored.account.source == "csv":
        raise Conflict(
            f"{stored.account.email} stands in data.csv and is changed there; to manage it here, take it over first: "
            "postroom accounts import data.csv"
        )
    return stored


def _has_grant(transaction: Transaction, account: Account) -> bool:
    """Whether the account logs in by OAuth2: what its provider gave is for its server alone."""
    return transaction.oauth_grants.get(account.id) is not None


def _refuse_twice(transaction: Transaction, wanted: AccountValues) -> None:
    if transaction.accounts.find(wanted.identity) is not None:
        raise Conflict(
            f"there is an account {wanted.row.email} with this host, port and username already", field="email"
        )


def _write_rest(transaction: Transaction, account_id: int, wanted: AccountValues) -> None:
    transaction.managed_accounts.set_dkim_selector(account_id, wanted.dkim_selector)
    if wanted.aliases is not None:
        transaction.aliases.replace(account_id, wanted.aliases)


def _required(stored: StoredAccount | None) -> StoredAccount:
    assert stored is not None
    return stored


def _view(transaction: Transaction, stored: StoredAccount) -> AccountView:
    aliases = tuple(transaction.aliases.of(stored.account.id))
    return AccountView(stored.account, stored.credential is not None, aliases)


def _waiting(left: Unfinished) -> str:
    """Say how many messages of an account have not ended."""
    of_it = counted(
        left.queued + left.scheduled, "message of the account has", "messages of the account have"
    )
    return f"{of_it} not ended ({left.queued} queued, {left.scheduled} scheduled)"


def _view_of(transaction: Transaction, uid: str) -> AccountView:
    stored = transaction.accounts.by_uid(uid)
    if stored is None:
        raise NotFound("there is no account with this id", field="id")
    return _view(transaction, stored)


def _page(transaction: Transaction, most: int, after: int) -> list[AccountView]:
    return [_view(transaction, stored) for stored in transaction.accounts.page(most, after=after)]


def _told(given: Mapping[str, Value]) -> dict[str, object]:
    """Return what the audit says was given."""
    return {name: value for name, value in given.items() if value is not None}


def check_may_hold(actor: Actor) -> None:
    """Raise NotPermitted for a key that manages accounts alone: it could lift a hold, and have contents erased."""
    if not actor.is_admin:
        raise NotPermitted("a hold is set and lifted with the scope admin", field="hold")
