"""Who sent a request: the peer, or whom a trusted proxy names."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hmacfs.addresses import Network, canonical, is_in, parse
from hmacfs.caching import bounded_cache
from hmacfs.protocol.forwarded import UNIX_SOCKET, UNKNOWN, nodes_of_forwarded, nodes_of_x_forwarded_for

log = logging.getLogger("hmacfs.web")

#: So many peers are warned of that seem to be proxies.
_TOLD_PEERS = 16


class ClientAddress:
    """Finds a request's client address.

    Behind a proxy in ``TrustedProxies`` (a peer on a Unix socket always is one: file permissions let it in) that is the
    last entry of ``X-Forwarded-For`` which no trusted proxy wrote about another. Whatever stands left of it came from
    the client and is worth nothing. ``Forwarded`` is looked at only without ``X-Forwarded-For``: most proxies set that
    one and pass on what the client made up as the other.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._is_trusted = bounded_cache(1024)(functools.partial(is_in, networks=tuple(trusted)))
        self._in_x_forwarded_for = bounded_cache(1024)(functools.partial(self._named, nodes_of_x_forwarded_for))
        self._in_forwarded = bounded_cache(1024)(functools.partial(self._named, nodes_of_forwarded))
        self._told: set[str] = set()

    def __call__(self, environ: dict[str, Any]) -> str:
        """The address as text, or another name that a trusted proxy has for the client; empty for a local client that
        names none, and for one that a proxy does not know."""
        peer: str = environ.get("REMOTE_ADDR", "")
        if peer and not self._is_trusted(peer):
            if "HTTP_X_FORWARDED_FOR" in environ:
                self._tell(peer)
            return canonical(peer)
        header: str = environ.get("HTTP_X_FORWARDED_FOR", "")
        if header.strip(", \t"):
            named = self._in_x_forwarded_for(header)
        else:
            header = environ.get("HTTP_FORWARDED", "")
            named = self._in_forwarded(header) if header else None
        return canonical(peer) if named is None else named

    def _tell(self, peer: str) -> None:
        """Warn of a proxy that is not trusted: all clients behind it have one client's share of everything. Strangers
        send the header as well, but from other addresses than those of a machine or a private network."""
        address = parse(peer)
        if address is None or not address.is_private or peer in self._told or len(self._told) >= _TOLD_PEERS:
            return
        self._told.add(peer)
        log.warning(
            "%s sends X-Forwarded-For, which is not believed: all who come from there count as one client; if it is a"
            " proxy, name it in TrustedProxies",
            canonical(peer),
        )

    def _named(self, nodes: Callable[[str], Iterator[str]], header: str) -> str | None:
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
