"""The base class of the nouns of the store: reads and writes over an open transaction."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction


class Noun:
    """One noun of the store. `Store.write(Noun.method, …)` and `Store.read(Noun.method, …)` make the instance.

    Each function of a noun carries the noun (`function.noun`), so that the store knows what to make.
    """

    __slots__ = ("_tx",)

    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def __init_subclass__(cls) -> None:
        for function in vars(cls).values():
            if isinstance(function, FunctionType):
                function.noun = cls  # type: ignore[attr-defined]
