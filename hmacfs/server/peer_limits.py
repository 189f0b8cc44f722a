"""How many connections each peer has, over all workers, and the bound on them.

Each worker writes to a row of its own in memory that all share, and reads the others': there is no lock, and a worker
that crashes leaves no counts behind, since the master clears its row. A worker counts a connection first and adds up
then, so that two of them that accept at once never pass the bound together.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import mmap
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hmacfs.addresses import Network, canonical, is_in, networks_of
from hmacfs.caching import bounded_cache
from hmacfs.once import Once

log = logging.getLogger("hmacfs.server")

#: A peer that is held back is logged once in so long.
TELL_SECONDS = 60.0
_TOLD_PEERS = 1024

_DIGEST_BYTES = 8
_IN_USE = re.compile(rb"[^\0]")


class PeerCounts:
    """The shared memory: rows of keys and counts. Made before any worker is forked.

    A key stands in one of ``PROBES`` places from the one on that its digest names. A place is free while its count is
    0. Keys are never moved; of two equal ones the first is in use, since a key is put into the first free place.
    """

    #: Workers that can be alive at once; of any more the connections are not counted.
    ROWS = 256
    #: Four times as many as a worker has peers by default, so that there is always a place. Memory that was not used
    #: costs nothing.
    PLACES = 32768
    PROBES = 16
    _HEADER = mmap.PAGESIZE
    _ROW = PLACES * (_DIGEST_BYTES + 4)

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, self._HEADER + self.ROWS * self._ROW)
        self._salt = secrets.token_bytes(16)
        self._rows: dict[int, int] = {}

    def claim(self, age: int) -> None:
        """In the master, before it forks a worker: give that a row."""
        free = self._map.find(b"\0", 0, self.ROWS)
        if free >= 0:
            self._map[free] = 1
            self._rows[age] = free

    def release(self, age: int) -> None:
        """In the master: that worker has ended, and so have its connections."""
        row = self._rows.pop(age, None)
        if row is None:
            return
        start = self._HEADER + row * self._ROW
        try:
            self._map.madvise(mmap.MADV_REMOVE, start, self._ROW)
        except (AttributeError, OSError):  # not Linux
            self._map[start : start + self._ROW] = bytes(self._ROW)
        self._map[row] = 0

    def row(self, age: int) -> WorkerCounts | None:
        """A worker's own row, ``None`` if there was none left."""
        row = self._rows.get(age)
        return None if row is None else WorkerCounts(self._map, self._HEADER + row * self._ROW, row)

    def digest(self, network: str) -> bytes:
        # With a secret, so that nobody can choose addresses that share their places.
        return hashlib.blake2b(network.encode(), digest_size=_DIGEST_BYTES, key=self._salt).digest()

    def elsewhere(self, key: bytes, row: int) -> int:
        """The key's count in all rows but this one."""
        found = 0
        for match in _IN_USE.finditer(self._map, 0, self.ROWS):
            other = match.start()
            if other != row:
                found += self._count(self._HEADER + other * self._ROW, key)
        return found

    def _count(self, start: int, key: bytes) -> int:
        first = first_place(key)
        keys = start + first * _DIGEST_BYTES
        end = keys + self.PROBES * _DIGEST_BYTES
        at = self._map.find(key, keys, end)
        while at >= 0 and (at - keys) % _DIGEST_BYTES:
            at = self._map.find(key, at + 1, end)
        if at < 0:
            return 0
        count = start + self.PLACES * _DIGEST_BYTES + (first + (at - keys) // _DIGEST_BYTES) * 4
        return int.from_bytes(self._map[count : count + 4], "little")


def first_place(key: bytes) -> int:
    return int.from_bytes(key, "little") % (PeerCounts.PLACES - PeerCounts.PROBES + 1)


class WorkerCounts:
    """One worker's counts, which it alone writes."""

    def __init__(self, memory: mmap.mmap, start: int, number: int) -> None:
        self.number = number
        view = memoryview(memory)[start : start + PeerCounts.PLACES * (_DIGEST_BYTES + 4)]
        self._keys = view[: PeerCounts.PLACES * _DIGEST_BYTES]
        self._counts = view[PeerCounts.PLACES * _DIGEST_BYTES :].cast("I")
        #: Where each key is that has a count.
        self._places: dict[bytes, int] = {}

    def add(self, key: bytes) -> int:
        """Count one more; how many there are in this row then."""
        place = self._places.get(key)
        if place is None:
            first = first_place(key)
            counts = self._counts[first : first + PeerCounts.PROBES].tolist()
            if 0 not in counts:
                return 0
            place = self._places[key] = first + counts.index(0)
            self._keys[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES] = key
        self._counts[place] += 1
        return self._counts[place]

    def remove(self, key: bytes) -> None:
        """Count one less, of those that were added."""
        place = self._places.get(key)
        if place is not None:
            self._counts[place] -= 1
            if not self._counts[place]:
                del self._places[key]


class _NetworkBound(NamedTuple):
    """How many connections one network may have."""

    key: bytes
    bound: int


class PeerBound:
    """One worker's judgement of the connections that it accepts: ``MaxConnectionsPerClient``, 0 for no bound.

    trusted: networks of proxies, which bring the connections of many clients. on_refusal: called for each one
    that is one too many. clock: ``time.monotonic`` or its like.
    """

    def __init__(
        self,
        counts: PeerCounts,
        age: int,
        bound: int,
        trusted: Sequence[Network],
        *,
        on_refusal: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._row = counts.row(age) if bound else None
        self._bound = bound
        self._on_refusal = on_refusal
        self._clock = clock
        self._warn_once = Once(_TOLD_PEERS, seconds=TELL_SECONDS, forgets=True)
        self._bounds_of = bounded_cache(4096)(self._find_bounds)
        #: Whether that host is a trusted proxy.
        self.is_trusted = bounded_cache(4096)(functools.partial(is_in, networks=tuple(trusted)))

    def admit(self, peer: object) -> bool:
        """Count a connection from this socket address, unless there would be too many of its network: whether there is
        one more now. Each one that was counted must ``leave``."""
        row = self._row
        if row is None or not isinstance(peer, tuple):
            return True
        bounds = self._bounds_of(peer[0])
        is_within = True
        for key, bound in bounds:
            if row.add(key) + self._counts.elsewhere(key, row.number) > bound:
                is_within = False
        if not is_within:
            self._remove(bounds)
            self._on_refusal()
            self._warn(peer[0], bounds[0].key)
        return is_within

    def leave(self, peer: object) -> None:
        """A connection that was admitted has ended."""
        if self._row is not None and isinstance(peer, tuple):
            self._remove(self._bounds_of(peer[0]))

    def _remove(self, bounds: tuple[_NetworkBound, ...]) -> None:
        if self._row is not None:
            for key, _ in bounds:
                self._row.remove(key)

    def _find_bounds(self, host: str) -> tuple[_NetworkBound, ...]:
        if self.is_trusted(host):
            return ()
        return tuple(
            _NetworkBound(self._counts.digest(network), self._bound * shares)
            for network, shares in networks_of(canonical(host))
        )

    def _warn(self, host: str, key: bytes) -> None:
        if self._warn_once(key, self._clock()):
            log.warning(
                "%s has %d connections open and gets no more (MaxConnectionsPerClient); if it is a proxy, name it in "
                "TrustedProxies",
                host,
                self._bound,
            )
