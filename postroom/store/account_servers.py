"""The servers that accounts name, asked without reading the accounts: what a start wants to know of all of them."""

from __future__ import annotations

from postroom.store.noun import Noun


class AccountServers(Noun):
    def hosts(self) -> set[str]:
        """Return the hosts that accounts name, in small letters; an empty text where one names none."""
        return set(self._tx.column(str, "hosts_of_accounts"))

    def unknown(self) -> list[int]:
        """Return the accounts that worked with a server before servers were stored."""
        return self._tx.column(int, "accounts_of_unknown_server")
