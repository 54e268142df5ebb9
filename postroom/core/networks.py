"""Which addresses are on the public internet, and which are this machine's or a private network's. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


def is_public(text: str) -> bool:
    """Whether an address can be reached from anywhere (RFC 6890). Raises ValueError for what is no address.

    An IPv6 address that stands for one of IPv4 is as public as that one.
    """
    address = _meant(ip_address(text.partition("%")[0]))
    return address.is_global and not address.is_multicast


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address
