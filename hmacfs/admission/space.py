"""The guard over free space: an upload that cannot fit is refused before its body is sent.

What running uploads have yet to write counts as used, over all workers: each announces its sum in a small table that
they share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, Self

from hmacfs.addresses import NetworkShares
from hmacfs.admission.shares import ClientShares
from hmacfs.errors import NoSpace
from hmacfs.system.shared_sums import SharedSums

#: A measurement that left plenty is good for so long; near the limit each upload measures again.
FRESH_SECONDS = 0.5
#: Plenty: more than could be written meanwhile.
PLENTY_BYTES = 8 * 1024**3
#: Assumed for a file system that does not tell its size.
UNKNOWN_BYTES = 2**62
#: How much more than has arrived is reserved for a body of unknown length.
STEP_BYTES = 1024 * 1024
#: How often a worker publishes how far its uploads are.
PUBLISH_SECONDS = 1.0


class Counted(Protocol):
    """A body that knows how many bytes of it were received, and its client's address. ``is_here``: all of it has
    arrived."""

    @property
    def received(self) -> int: ...

    @property
    def is_here(self) -> bool: ...

    @property
    def client(self) -> str: ...


class SpaceGuard:
    """Reserves space for uploads; knows of all that this process is receiving.

    free_bytes: what the store may still take, ``None`` if nobody knows: then all fits. least_free: what must stay free,
    as a function, since it may be a share of the file system's size. shares: what each client may have of it, but for
    bodies that are here already; ``None`` for no limit.
    """

    def __init__(
        self,
        free_bytes: Callable[[], int | None],
        least_free: Callable[[], int],
        shared: SharedSums,
        clock: Callable[[], float] = time.monotonic,
        shares: ClientShares | None = None,
    ) -> None:
        self._free_bytes = free_bytes
        self._least_free = least_free
        self._shared = shared
        self._clock = clock
        self._shares = shares
        self._running: set[Reservation] = set()
        self._unreserved = _Unreserved(self)
        self._reserved = 0
        self._free = 0
        self._others = 0
        self._spare = 0
        self._measured = float("-inf")

    def reserve(self, count: int | None, body: Counted | None = None) -> Reservation:
        """Set ``count`` bytes aside until the end of the reservation's context; with a body, those that it has not
        received yet. ``None``: see ``Reservation.cover``. Raises ``NoSpace`` if less than the minimum would stay free,
        and ``TooMuchReserved`` if the body's client would have more than its share."""
        is_here = body is not None and body.is_here
        # A body that is here has 1 MiB at most, and is written at once: where there is plenty, nobody need know of it.
        if is_here and count is not None and self._has_plenty(0):
            return self._unreserved
        reservation = Reservation(self, body)
        if self._shares is not None and body is not None and not is_here:
            reservation.networks = self._shares.networks(body.client)
        if count is not None:
            self.extend(reservation, count, count)
        self._running.add(reservation)
        return reservation

    @property
    def uploads(self) -> int:
        """How many uploads are in progress in this process."""
        return len(self._running) + self._unreserved.uploads

    def _has_plenty(self, besides: int) -> bool:
        is_fresh = self._clock() - self._measured <= FRESH_SECONDS
        return is_fresh and self._spare - self._reserved - besides >= PLENTY_BYTES

    def extend(self, reservation: Reservation, least: int, most: int, unwritten: int = 0) -> None:
        """Set between ``least`` and ``most`` further bytes aside. ``unwritten``: bytes that have been received and are
        not yet in the file."""
        if self._has_plenty(most):
            self._admit(reservation, least, most)
            return
        with self._shared:
            room = self._measure() - unwritten
            if room < least:
                raise NoSpace
            self._admit(reservation, least, min(most, room))

    def check(self) -> None:
        """Raises ``NoSpace``, with a sentence for operators, while less is free than must stay so."""
        free, least = self._free_bytes(), self._least_free()
        if free is not None and free < least:
            raise NoSpace(f"{_in_words(free, least)}: uploads are refused.")

    def describe(self) -> str:
        """How much is free, as far as it is known, and how much must stay so."""
        return _in_words(self._free_bytes(), self._least_free())

    def describe_shares(self) -> str:
        """The same, and how much of it one client may have."""
        share = 0 if self._shares is None else self._shares.of(self._free)
        return f"{self.describe()}, one client may reserve {share} (MaxReservedPerClient)"

    def _measure(self) -> int:
        free = self._free_bytes()
        self._free = UNKNOWN_BYTES if free is None else max(0, free - self._least_free())
        self._others = self._shared.of_others()
        self._spare = UNKNOWN_BYTES if free is None else self._free - self._others
        self._measured = self._clock()
        return self._spare - sum(running.left for running in self._running)

    def _admit(self, reservation: Reservation, least: int, most: int) -> None:
        if reservation.networks and self._shares is not None:
            most = self._shares.take(reservation, least, most, self._free, self._reserved + self._others)
        reservation.count += most
        self._reserved += most
        self._shared.announce(self._reserved)

    def end(self, reservation: Reservation) -> None:
        """For ``Reservation``, at the end of its context: what it had set aside is free again."""
        self._running.discard(reservation)
        if not reservation.count:
            return
        if reservation.networks and self._shares is not None:
            self._shares.give_back(reservation)
        self._reserved -= reservation.count
        self._shared.announce(self._reserved)

    def publish_forever(self) -> None:
        """Publish once a second how many of the reserved bytes are not used yet."""
        while True:
            time.sleep(PUBLISH_SECONDS)
            if self._running:
                self._shared.announce(sum(running.left for running in self._running))
            if self._shares is not None:
                self._shares.publish()


class Reservation:
    """Bytes that are set aside until the end of the context. ``networks``: see ``shares``."""

    __slots__ = ("_guard", "body", "count", "networks", "published")

    def __init__(self, guard: SpaceGuard, body: Counted | None) -> None:
        self._guard = guard
        self.body = body
        self.count = 0
        self.networks: NetworkShares = ()
        self.published = 0

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.count - self.body.received) if self.body is not None else self.count

    def cover(self, received: int, written: int) -> int:
        """For a body of unknown length: have at least the ``received`` bytes set aside, and up to ``STEP_BYTES`` more.
        How many that are in all. ``written``: so many of those the file system knows of. Raises ``NoSpace``,
        ``TooMuchReserved``."""
        if received > self.count:
            least = received - self.count
            self._guard.extend(self, least, least + STEP_BYTES, self.count - written)
        return self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.end(self)


class _Unreserved(Reservation):
    """The context of all uploads for which nothing need be set aside. ``uploads``: how many there are now."""

    __slots__ = ("uploads",)

    def __init__(self, guard: SpaceGuard) -> None:
        super().__init__(guard, None)
        self.uploads = 0

    def __enter__(self) -> Self:
        self.uploads += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.uploads -= 1


def _in_words(free: int | None, least: int) -> str:
    if free is None:
        return "the file system has no room, and does not tell how much it has"
    return f"{free} bytes are free, {least} must stay free (MinFreeSpace)"
