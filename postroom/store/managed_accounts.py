"""Changes of accounts that only people make: another server, the take-over from data.csv, a DKIM selector, a hold."""

from __future__ import annotations

from postroom.core.clock import Instant
from postroom.store.accounts import AccountIdentity
from postroom.store.noun import Noun


class ManagedAccounts(Noun):
    def move(self, account_id: int, identity: AccountIdentity, now: Instant) -> None:
        """Give an account another server or log-in; what its former server has shown counts no more."""
        self._tx.change(
            "move_account",
            account_id=account_id,
            host=identity.host,
            port=identity.port,
            username=identity.username,
            now=now,
        )

    def confine(self, account_id: int, *, is_confined: bool) -> None:
        """Say whether an account's host may lead to public addresses only."""
        self._tx.change("confine_account", account_id=account_id, confined=1 if is_confined else 0)

    def take_over(self, account_id: int, now: Instant) -> None:
        """Have data.csv count no more for an account: it is managed at run time."""
        self._tx.change("take_over_account", account_id=account_id, now=now)

    def set_dkim_selector(self, account_id: int, selector: str | None) -> None:
        self._tx.change("set_dkim_selector", account_id=account_id, selector=selector)

    def set_hold(self, account_id: int, *, hold: bool) -> None:
        """Have retention keep all that is known of an account's messages, or delete it again in its time."""
        self._tx.change("set_hold", account_id=account_id, hold=1 if hold else 0)
        if not hold:
            self._tx.pruning.begin_anew()
