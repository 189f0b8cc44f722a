"""How many connections each peer has, over all workers, and the bound on them.

Each worker writes to a row of its own in memory that all share, and reads the others': there is no lock, and a crash
leaves no counts, since the master clears the row of a worker that has ended. A worker first counts a connection and
then adds up, so that two workers that accept at once never pass the bound together.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import mmap
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hmacfs.addresses import Network, canonical, is_in, networks_of
from hmacfs.caching import bounded_cache
from hmacfs.once import Once
from hmacfs.server.worker_slots import WorkerSlots

log = logging.getLogger("hmacfs.server")

#: A peer that reaches the bound is logged once in so long.
TELL_SECONDS = 60.0
_TOLD_PEERS = 1024

_DIGEST_BYTES = 8


class PeerCounts:
    """The shared memory: for each slot a row of keys and counts. Made before any worker is forked.

    A key stands in one of ``PROBES`` places from the one on that its digest names. A place is free while its count is
    0. Keys are never moved; of two equal ones the first is in use, since a key is put into the first free place.
    """

    #: Four times as many as a worker has peers by default, so that there is always a place. Memory that was not used
    #: costs nothing.
    PLACES = 32768
    PROBES = 16
    _ROW = PLACES * (_DIGEST_BYTES + 4)

    def __init__(self, slots: WorkerSlots) -> None:
        self._slots = slots
        self._map = mmap.mmap(-1, slots.COUNT * self._ROW)
        self._salt = secrets.token_bytes(16)

    def clear(self, slot: int) -> None:
        """In the master: the slot's worker has ended, and so have its connections."""
        start = slot * self._ROW
        try:
            self._map.madvise(mmap.MADV_REMOVE, start, self._ROW)
        except (AttributeError, OSError):  # not Linux
            self._map[start : start + self._ROW] = bytes(self._ROW)

    def row(self, age: int) -> PeerRow | None:
        """A worker's own row, ``None`` if it has no slot."""
        slot = self._slots.of(age)
        return None if slot is None else PeerRow(self._map, slot * self._ROW, slot)

    def digest(self, network: str) -> bytes:
        # With a secret, so that nobody can choose addresses that share their places.
        return hashlib.blake2b(network.encode(), digest_size=_DIGEST_BYTES, key=self._salt).digest()

    def elsewhere(self, key: bytes, slot: int) -> int:
        """The key's count in all rows but this one."""
        return sum(self._count(other * self._ROW, key) for other in self._slots.in_use() if other != slot)

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


class PeerRow:
    """One worker's counts, which it alone writes."""

    def __init__(self, memory: mmap.mmap, start: int, slot: int) -> None:
        self.slot = slot
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
    """Admits or refuses the connections that one worker accepts: ``MaxConnectionsPerClient``, 0 for no bound.

    trusted: networks of proxies, which bring the connections of many clients. on_refusal: called for each connection
    that is refused. clock: ``time.monotonic`` or its like.
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
            if row.add(key) + self._counts.elsewhere(key, row.slot) > bound:
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
