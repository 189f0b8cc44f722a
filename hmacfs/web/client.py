"""Who sent a request: the peer, or whom a trusted proxy names."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ClientAddress:
    """Finds a request's client address.

    Behind a proxy in ``TrustedProxies`` (a peer on a Unix socket always is one: file permissions let it in) that is the
    last entry of ``X-Forwarded-For`` which no trusted proxy wrote about another. Whatever stands left of it came from
    the client and is worth nothing.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = functools.lru_cache(maxsize=1024)(self._look_up)

    def __call__(self, environ: dict[str, Any]) -> str:
        """The address as text; empty for a local client that names none."""
        peer: str = environ.get("REMOTE_ADDR", "")
        forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", "")
        if peer and not self._is_trusted(peer):
            return canonical(peer)
        for entry in reversed(forwarded.split(",") if forwarded else ()):
            candidate = entry.strip()
            if parse(candidate) is None:
                break
            peer = candidate
            if not self._is_trusted(candidate):
                break
        return canonical(peer)

    def _look_up(self, text: str) -> bool:
        address = parse(text)
        return address is not None and any(address in network for network in self._trusted)


@functools.lru_cache(maxsize=1024)
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


@functools.lru_cache(maxsize=1024)
def canonical(text: str) -> str:
    """The address in its one spelling; a text that is no address stays as it is."""
    address = parse(text)
    return str(address) if address is not None else text
