"""Servers that hang, are ended or are killed in the middle of a flood. They run in `make servers` and `make soak`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.peers.conftest import ALL, StartPeer
from tests.peers.flood import install, post_all, report, requests, wait_until_ended
from tests.servers.installation import Installation
from tests.servers.ledger import check_ledger
from tests.servers.peers.peer import Peer
from tests.servers.waiting import eventually

pytestmark = [pytest.mark.server, pytest.mark.skipif(not ALL, reason="one of the long proofs: make servers")]

FLOOD, TAKEN = 200, 30
SETTINGS: dict[str, Any] = {"POSTROOM_RETRY_SCHEDULE": "300ms", "POSTROOM_SMTP_TIMEOUT": "5s"}


def kill(peer: Peer, service: Installation) -> None:
    peer.kill()
    peer.start()


def end(peer: Peer, service: Installation) -> None:
    """As an administrator does: SIGTERM to all its processes."""
    peer.stop()
    peer.start()


def freeze(peer: Peer, service: Installation) -> None:
    """Stop it for as long as it takes to accept as many messages again, which wait."""
    peer.freeze()
    try:
        post_all(service, requests(FLOOD), peer.securities[-1])
    finally:
        peer.thaw()


@pytest.mark.parametrize("fault", [kill, end, freeze])
def test_a_fault_in_the_middle_of_a_flood_loses_nothing_and_every_duplicate_is_known(
    tmp_path: Path, start_peer: StartPeer, peer_class: type[Peer], fault: object
) -> None:
    assert callable(fault)
    peer = start_peer(peer_class)
    security = peer.securities[-1]
    with install(tmp_path, peer, [security], **SETTINGS) as service:
        ids = post_all(service, requests(FLOOD), security)
        eventually(lambda: len(peer.received()) >= TAKEN, 100, "the first messages of the flood")
        fault(peer, service)
        wait_until_ended(service, 100)
        found = report(service)
        check_ledger(service, peer, list(ids))
        assert service.query("SELECT DISTINCT state FROM job WHERE kind = 'delivery'") == [("done",)], found
