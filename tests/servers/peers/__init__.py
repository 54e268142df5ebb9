"""Mail servers of other people, run beside each other without being installed. Adding one is a file in this folder.

A file defines `PEER`, a subclass of `Peer`: how to fetch the server, its configuration, how it starts and ends, where it
stores what it took, and its limits when they are set low. The tests in tests/peers take every one that they find here.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.servers.peers.peer import Peer


def all_peers() -> list[type[Peer]]:
    """Return the servers of this folder, by name."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return sorted((module.PEER for module in modules if hasattr(module, "PEER")), key=lambda peer: peer.name)
