"""Clients' addresses, and the networks that they are counted by. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from hmacfs.caching import bounded_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: The networks that what a client takes is counted for, each with how many clients' shares it may have; none for a
#: client without a limit.
NetworkShares = tuple[tuple[str, int], ...]

#: How many clients' shares all of an IPv6 /48 may have.
WIDE_SHARES = 4


@bounded_cache(1024)
def parse(text: str) -> Address | None:
    """An IP address, ``None`` if it is none; an IPv4 address in IPv6's clothes is an IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@bounded_cache(1024)
def canonical(text: str) -> str:
    """The address in its one spelling; a text that is no address stays as it is."""
    address = parse(text)
    return str(address) if address is not None else text


def is_in(text: str, networks: Iterable[Network]) -> bool:
    """Whether it is an address of one of these networks."""
    address = parse(text)
    return address is not None and any(address in network for network in networks)


def network_of(client: str) -> str:
    """Whom limits are counted for: the address, for IPv6 its /64, which is what one subscriber gets. A client that is
    known by another name than an address is counted by that."""
    address = parse(client)
    return _wider(address, 64) if isinstance(address, ipaddress.IPv6Address) else client


def networks_of(client: str) -> NetworkShares:
    """Those of ``network_of`` and, since a subscriber may have many /64s, the /48 around it."""
    address = parse(client)
    if isinstance(address, ipaddress.IPv6Address):
        return (_wider(address, 64), 1), (_wider(address, 48), WIDE_SHARES)
    return ((client, 1),)


def _wider(address: ipaddress.IPv6Address, bits: int) -> str:
    return str(ipaddress.ip_network((address, bits), strict=False))
