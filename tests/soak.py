"""How far the tests go: `make test` runs short forms and samples, `make soak` (POSTROOM_SOAK=1) the whole of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

SOAK = os.environ.get("POSTROOM_SOAK") == "1"


def examples(**changes: Any) -> settings:
    """Return how many examples hypothesis tries: in `make test` the same few each time, in `make soak` others, and many.

    There is no deadline for one of them: a busy machine is no fault.
    """
    chosen: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    chosen |= {"max_examples": 2000} if SOAK else {"max_examples": 40, "derandomize": True, "database": None}
    return settings(**chosen | changes)


def choose_examples() -> None:
    """Let every test of properties that is imported from here on have `examples()`."""
    settings.register_profile("postroom", examples())
    settings.load_profile("postroom")


def sample(
    cells: Iterable[T], *kinds: Callable[[T], Hashable], whole: Callable[[T], bool] = lambda cell: False
) -> Sequence[T]:
    """Return so many cells that each value of each kind is among them, and all that are `whole`; in a soak, all."""
    seen: set[tuple[int, Hashable]] = set()
    chosen = []
    for cell in cells:
        values = {(number, kind(cell)) for number, kind in enumerate(kinds)}
        if SOAK or whole(cell) or not values <= seen:
            chosen.append(cell)
            seen |= values
    return chosen
