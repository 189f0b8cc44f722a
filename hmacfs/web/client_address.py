"""Which client sent a request: the peer, or the client that a trusted proxy names."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hmacfs.addresses import Network, canonical, is_in, parse_address
from hmacfs.caching import bounded_cache
from hmacfs.once import Once
from hmacfs.protocol.forwarded import UNIX_SOCKET, UNKNOWN, nodes_of_forwarded, nodes_of_x_forwarded_for

log = logging.getLogger("hmacfs.web")

#: The log warns of so many peers that seem to be proxies.
_TOLD_PEERS = 16


class ClientAddress:
    """Finds a request's client address.

    If the peer is a proxy in ``TrustedProxies`` (a peer on a Unix socket always is one: file permissions let it in),
    that is the last entry of ``X-Forwarded-For`` which is not itself a trusted proxy. All entries left of it may be the
    client's invention. ``Forwarded`` is looked at only without ``X-Forwarded-For``: most proxies set that one, and pass
    on a ``Forwarded`` that the client made up.

    Example: with 10.0.0.1 trusted, ``1.2.3.4, 192.0.2.7, 10.0.0.1`` from 10.0.0.1 names 192.0.2.7.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._is_trusted = bounded_cache(1024)(functools.partial(is_in, networks=tuple(trusted)))
        self._in_x_forwarded_for = bounded_cache(1024)(functools.partial(self._named, nodes_of_x_forwarded_for))
        self._in_forwarded = bounded_cache(1024)(functools.partial(self._named, nodes_of_forwarded))
        self._warn_once = Once(_TOLD_PEERS)

    def __call__(self, environ: dict[str, Any]) -> str:
        """The address as text, or another name that a trusted proxy has for the client; empty for a client on a Unix
        socket, and for one that a proxy does not know."""
        peer: str = environ.get("REMOTE_ADDR", "")
        if not ("HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ):
            return canonical(peer)
        if peer and not self._is_trusted(peer):
            if "HTTP_X_FORWARDED_FOR" in environ:
                self._warn_of_proxy(peer)
            return canonical(peer)
        header: str = environ.get("HTTP_X_FORWARDED_FOR", "")
        if header.strip(", \t"):
            named = self._in_x_forwarded_for(header)
        else:
            header = environ.get("HTTP_FORWARDED", "")
            named = self._in_forwarded(header) if header else None
        return canonical(peer) if named is None else named

    def _warn_of_proxy(self, peer: str) -> None:
        """Warn of a proxy that is not trusted: all its clients together have one client's share of everything. Others
        send the header as well, but not from the addresses of this machine or a private network."""
        address = parse_address(peer)
        if address is not None and address.is_private and self._warn_once(peer):
            log.warning(
                "%s sends X-Forwarded-For, which is not believed: all requests from there count as one client's; if it"
                " is a proxy, name it in TrustedProxies",
                canonical(peer),
            )

    def _named(self, nodes: Callable[[str], Iterator[str]], header: str) -> str | None:
        """The client that a header names; ``None`` if it names none."""
        name = None
        for name in nodes(header):
            if name == UNKNOWN:
                return ""
            if name != UNIX_SOCKET and not self._is_trusted(name):  # a peer on a Unix socket is a proxy there, too
                break
        if name is None:
            return None
        return "" if name == UNIX_SOCKET else canonical(name)
