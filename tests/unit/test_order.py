"""Where workers share the tests, each is run once, and those of a module that share a fixture stay beside each other."""

from __future__ import annotations

import itertools

import pytest

from tests.order import _shares, shared


@pytest.mark.parametrize("workers", [2, 5])
def test_no_test_is_lost_and_what_shares_a_fixture_stays_together(
    request: pytest.FixtureRequest, workers: int
) -> None:
    """With the tests of this run: all of them in `make test`."""
    items = request.session.items
    found = shared(items, workers)
    assert sorted(found, key=id) == sorted(items, key=id)
    sharing = {item.path for item in items if _shares(item)}
    runs = [path for path, _ in itertools.groupby(item.path for item in found)]
    for path in sharing:
        if path.parent.name in ("process", "clients"):
            assert runs.count(path) == 1, path
