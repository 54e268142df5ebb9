"""Two hundred messages at once, as each server comes: in the clear, with STARTTLS, and with TLS from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.conftest import ALL, StartPeer
from tests.peers.flood import (
    address_for,
    check_all_sent,
    check_contents,
    check_is_in_force,
    install,
    key_for,
    post_all,
    requests,
    wait_until_ended,
)
from tests.servers.ledger import copies_at
from tests.servers.peers.peer import Limit, Peer

pytestmark = pytest.mark.server

FLOOD, CONNECTIONS = 200, 6  # of three accounts together fewer than any server's own limit


def test_a_flood_arrives_once_each_message_equal_to_its_request(
    tmp_path: Path, start_peer: StartPeer, peer_class: type[Peer]
) -> None:
    peer = start_peer(peer_class)
    asked = requests(FLOOD)
    with install(tmp_path, peer, peer.securities, CONNECTIONS) as service:
        posted = {security: post_all(service, asked, security) for security in peer.securities}
        wait_until_ended(service, 100)
        check_all_sent(service, peer, [id_ for ids in posted.values() for id_ in ids])
        for security, ids in posted.items():
            check_contents(service, peer, ids, address_for(security))


@pytest.mark.skipif(not ALL, reason="one of the long proofs: make servers")
def test_six_hundred_arrive_over_two_connections(
    tmp_path: Path, start_peer: StartPeer, peer_class: type[Peer]
) -> None:
    """More than a server takes over one: OpenSMTPD, as it comes, takes a hundred."""
    peer = start_peer(peer_class)
    security = peer.securities[-1]
    with install(tmp_path, peer, [security], 2) as service:
        ids = post_all(service, requests(600), security)
        wait_until_ended(service, 100)
        check_all_sent(service, peer, list(ids))
        check_contents(service, peer, ids, address_for(security))


def test_what_a_limit_turns_away_is_sent_and_is_not_counted(
    tmp_path: Path, start_peer: StartPeer, peer_class: type[Peer], low: Limit
) -> None:
    peer = start_peer(peer_class, low)
    with install(tmp_path, peer, low.securities) as service:
        ids = [id_ for each in low.securities for id_ in post_all(service, requests(low.messages), each)]
        wait_until_ended(service, low.seconds)
        check_all_sent(service, peer, ids, refused=low.refused)
    check_is_in_force(peer, low)


def test_a_refused_recipient_is_told_in_the_servers_words_and_stops_no_other(
    tmp_path: Path, start_peer: StartPeer, peer_class: type[Peer]
) -> None:
    peer = start_peer(peer_class)
    security = peer.securities[-1]
    with install(tmp_path, peer, [security]) as service:
        unknown = service.send(key=key_for(security), recipient="unknown@other.example")
        deferred = service.send(key=key_for(security), recipient="defer@other.example")
        taken = [service.send(key=key_for(security)) for _ in range(10)]
        assert "User unknown" in service.wait_for(unknown, "failed (550", 60)
        assert "Mailbox is busy" in service.wait_for(deferred, "deferred (45", 60)
        for id_ in taken:
            service.wait_for(id_, "sent", 60)
        assert copies_at(peer) == dict.fromkeys(taken, 1)
