"""Fetch what the servers need, so that no test waits for a mirror: `python -m tests.servers.peers`."""

from __future__ import annotations

import pytest
import trustme

from tests.servers.peers import all_peers


def main() -> None:
    ca = trustme.CA()
    for peer_class in all_peers():
        try:
            peer_class(ca).prepare()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(f"{peer_class.name}: {error}")  # its tests say so too
        else:
            print(f"{peer_class.name}: here")


if __name__ == "__main__":
    main()
