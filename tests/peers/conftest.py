"""Each server of tests/servers/peers in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest
import trustme

from tests.servers.peers import all_peers
from tests.servers.peers.peer import Limit, Peer

ALL = os.environ.get("POSTROOM_SOAK") == "1"
StartPeer: TypeAlias = Callable[..., Peer]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `peer_class` each server, and `low` each of its limits as well."""
    if "low" in metafunc.fixturenames:
        pairs = [
            pytest.param(peer, limit, id=f"{peer.name}: {limit}")
            for peer in all_peers()
            for limit in peer.limits
            if ALL or not limit.long
        ]
        metafunc.parametrize("peer_class, low", pairs)
    elif "peer_class" in metafunc.fixturenames:
        metafunc.parametrize("peer_class", all_peers(), ids=lambda peer: peer.name)


@pytest.fixture
def start_peer(ca: trustme.CA) -> Iterator[StartPeer]:
    """Start a server: `peer = start_peer(peer_class, limit)`; all end with the test."""
    with ExitStack() as stack:

        def start(peer_class: type[Peer], limit: Limit | None = None) -> Peer:
            return stack.enter_context(peer_class(ca, limit))

        yield start
