"""Fetch the versions of PostgreSQL, so that no test waits for a mirror: `python -m tests.databases`."""

from __future__ import annotations

import pytest

from tests.databases import VERSIONS_OF_SOAK, VERSIONS_OF_TEST
from tests.servers.peers import fetch
from tests.soak import SOAK


def main() -> None:
    for version in VERSIONS_OF_SOAK if SOAK else VERSIONS_OF_TEST:
        try:
            fetch.postgres(version)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(f"PostgreSQL {version}: {error}")  # its tests say so too
        else:
            print(f"PostgreSQL {version}: here")


if __name__ == "__main__":
    main()
