"""Fetch what clients and proxies need, so that no test waits for a mirror: `python -m tests.servers.clients [--all]`."""

from __future__ import annotations

import sys

import pytest

from tests.servers.clients import HERE, REQUIREMENTS
from tests.servers.clients.proxies import PROXIES
from tests.servers.peers import fetch


def main(everything: bool) -> None:
    steps = [(proxy.name, proxy.prepare) for proxy in PROXIES if everything or proxy.quick]
    steps.append(("PyPI", lambda: fetch.pypi(REQUIREMENTS)))
    if everything:
        steps.append(("npm", lambda: fetch.npm(HERE / "npm")))
    for name, prepare in steps:
        try:
            prepare()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(f"{name}: {error}")  # its tests say so too
        else:
            print(f"{name}: here")


if __name__ == "__main__":
    main("--all" in sys.argv)
