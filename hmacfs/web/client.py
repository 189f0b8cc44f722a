"""Who sent a request: the peer, or whom a trusted proxy names."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hmacfs.caching import bounded_cache
from hmacfs.web.forwarded import UNIX_SOCKET, UNKNOWN, nodes_of_forwarded, nodes_of_x_forwarded_for

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: How many clients' shares all of an IPv6 /48 may have.
WIDE_SHARES = 4
#: Headers up to this length are remembered with what came of them.
_REMEMBERED_LENGTH = 128


class ClientAddress:
    """Finds a request's client address.

    Behind a proxy in ``TrustedProxies`` (a peer on a Unix socket always is one: file permissions let it in) that is the
    last entry of ``X-Forwarded-For`` which no trusted proxy wrote about another. Whatever stands left of it came from
    the client and is worth nothing. ``Forwarded`` is looked at only without ``X-Forwarded-For``: most proxies set that
    one and pass on what the client made up as the other.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = bounded_cache(1024)(self._look_up)
        self._remembered = functools.lru_cache(maxsize=1024)(self._named)

    def __call__(self, environ: dict[str, Any]) -> str:
        """The address as text, or another name that a trusted proxy has for the client; empty for a local client that
        names none, and for one that a proxy does not know."""
        peer: str = environ.get("REMOTE_ADDR", "")
        if peer and not self._is_trusted(peer):
            return canonical(peer)
        header: str = environ.get("HTTP_X_FORWARDED_FOR", "")
        nodes = nodes_of_x_forwarded_for
        if not header.strip(", \t"):
            header, nodes = environ.get("HTTP_FORWARDED", ""), nodes_of_forwarded
            if not header:
                return canonical(peer)
        named = (self._remembered if len(header) <= _REMEMBERED_LENGTH else self._named)(header, nodes)
        return canonical(peer) if named is None else named

    def _named(self, header: str, nodes: Callable[[str], Iterator[str]]) -> str | None:
        """Whom a header names; ``None`` if it names nobody."""
        name = None
        for name in nodes(header):
            if name == UNKNOWN:
                return ""
            if name != UNIX_SOCKET and not self._is_trusted(name):  # a peer on a Unix socket is a proxy there, too
                break
        if name is None:
            return None
        return "" if name == UNIX_SOCKET else canonical(name)

    def _look_up(self, text: str) -> bool:
        address = parse(text)
        return address is not None and any(address in network for network in self._trusted)


@bounded_cache(1024)
def parse(text: str) -> Address | None:
    """An IP address, ``None`` if it is none; an IPv4 address in IPv6's clothes is an IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def network_of(client: str) -> str:
    """Whom limits are counted for: the address, for IPv6 its /64, which is what one subscriber gets."""
    address = parse(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return client


def networks_of(client: str) -> tuple[tuple[str, int], ...]:
    """The networks that what a client takes is counted for, each with how many clients' shares it may have: for IPv6
    the /64 and, since a subscriber may have many of those, the /48."""
    address = parse(client)
    if isinstance(address, ipaddress.IPv6Address):
        return (network_of(client), 1), (str(ipaddress.ip_network((address, 48), strict=False)), WIDE_SHARES)
    return ((client, 1),)


@bounded_cache(1024)
def canonical(text: str) -> str:
    """The address in its one spelling; a text that is no address stays as it is."""
    address = parse(text)
    return str(address) if address is not None else text
