"""What the servers are fetched by."""

from __future__ import annotations

import json

from tests.servers.peers import all_peers
from tests.servers.peers.fetch import MANIFEST

EIGHT = {"postfix", "exim", "sendmail", "opensmtpd", "dovecot", "haraka", "smtp-server", "aiosmtpd"}


def test_every_server_is_a_file_with_limits_that_are_set_low() -> None:
    assert {peer.name for peer in all_peers()} >= EIGHT
    assert all(peer.limits for peer in all_peers())


def test_each_package_from_npm_is_locked_by_its_hash_and_names_no_host() -> None:
    lock = json.loads((MANIFEST / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/Haraka" in packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
