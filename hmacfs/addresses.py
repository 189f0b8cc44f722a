"""Clients' addresses, and the networks that they are counted by. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from hmacfs.caching import bounded_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: The networks that a client's use is counted for, each with the number of clients' shares that it may have; empty for
#: a client without a limit.
NetworkShares = tuple[tuple[str, int], ...]

#: The shares of an IPv6 /48.
WIDE_SHARES = 4

_LOOPBACK = ("127.", "::ffff:127.")


@bounded_cache(1024)
def parse_address(text: str) -> Address | None:
    """An IP address, ``None`` if it is none; an IPv4-mapped IPv6 address (``::ffff:192.0.2.1``) is its IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@bounded_cache(1024)
def canonical(text: str) -> str:
    """The address in its canonical form (RFC 5952); a text that is no address as it is."""
    address = parse_address(text)
    return str(address) if address is not None else text


def is_loopback(host: str) -> bool:
    """Whether it is an address of the loopback, as the kernel writes them."""
    return host.startswith(_LOOPBACK) or host == "::1"


def is_in(text: str, networks: Iterable[Network]) -> bool:
    """Whether it is an address of one of these networks."""
    address = parse_address(text)
    return address is not None and any(address in network for network in networks)


def network_of(client: str) -> str:
    """The network that a client's limits are counted for: an IPv4 address, or an IPv6 /64, which is what one subscriber
    gets. A name that is no address stands for itself."""
    address = parse_address(client)
    return _wider(address, 64) if isinstance(address, ipaddress.IPv6Address) else client


def networks_of(client: str) -> NetworkShares:
    """The network of ``network_of``, and the /48 around it, since a subscriber may have many /64s."""
    address = parse_address(client)
    if isinstance(address, ipaddress.IPv6Address):
        return (_wider(address, 64), 1), (_wider(address, 48), WIDE_SHARES)
    return ((client, 1),)


def _wider(address: ipaddress.IPv6Address, bits: int) -> str:
    return str(ipaddress.ip_network((address, bits), strict=False))
