"""Reads and rewrites stored server replies, wherever they are stored, to strike credentials from them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from postroom.store.noun import Noun

WordsOf = Literal["deliveries", "events", "attempts", "accounts"]
_WORDS_AT_ONCE = 1000


class StoredWords(NamedTuple):
    """Words of an account's server in a row: a reason and a reply; where there is one column, it is in both."""

    id: int
    account_id: int
    first: str | None
    second: str | None


class ServerWords(Noun):
    def after(self, kind: WordsOf, after: int) -> list[StoredWords]:
        """Return the next words of a kind after a row's id; none at the end."""
        match kind:
            case "deliveries":
                return self._tx.rows(StoredWords, "words_of_deliveries", after=after, most=_WORDS_AT_ONCE)
            case "events":
                return self._tx.rows(StoredWords, "words_of_events", after=after, most=_WORDS_AT_ONCE)
            case "attempts":
                return self._tx.rows(StoredWords, "words_of_attempts", after=after, most=_WORDS_AT_ONCE)
            case _:
                return self._tx.rows(StoredWords, "words_of_accounts", after=after, most=_WORDS_AT_ONCE)

    def reword(self, kind: WordsOf, row: StoredWords) -> None:
        """Put other words in place of what a server has said."""
        match kind:
            case "deliveries":
                self._tx.change("reword_delivery", id=row.id, first=row.first, second=row.second)
            case "events":
                self._tx.change("reword_event", id=row.id, first=row.first)
            case "attempts":
                self._tx.change("reword_attempt", id=row.id, first=row.first)
            case _:
                self._tx.change("reword_account", id=row.id, first=row.first)
