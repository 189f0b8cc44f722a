"""The guard over free space: an upload that cannot fit is refused before its body is sent."""

from __future__ import annotations

import time
from collections.abc import Callable

from hmacfs.errors import NoSpace

#: A measurement that left plenty is good for so long; near the limit each upload measures anew.
FRESH_SECONDS = 0.5
#: Plenty: more than could be written meanwhile.
PLENTY_BYTES = 8 * 1024**3


class SpaceGuard:
    """Counts the announced sizes of running uploads as used.

    free_bytes: what the store may still take. least_free: what must stay free, as a function, since it may be a share
    of the file system's size.
    """

    def __init__(
        self,
        free_bytes: Callable[[], int],
        least_free: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free_bytes = free_bytes
        self._least_free = least_free
        self._clock = clock
        self._spare = 0
        self._measured = float("-inf")
        self.reserved = 0

    def reserve(self, count: int) -> Reservation:
        """Set ``count`` bytes aside, as a context. Raises ``NoSpace`` if less than the minimum would stay free."""
        now = self._clock()
        if now - self._measured > FRESH_SECONDS or self._spare - self.reserved - count < PLENTY_BYTES:
            self._spare = self._free_bytes() - self._least_free()
            self._measured = now
        if self._spare - self.reserved < count:
            raise NoSpace
        return Reservation(self, count)


class Reservation:
    """Bytes that are set aside for as long as the context lasts."""

    __slots__ = ("_count", "_guard")

    def __init__(self, guard: SpaceGuard, count: int) -> None:
        self._guard = guard
        self._count = count

    def __enter__(self) -> None:
        self._guard.reserved += self._count

    def __exit__(self, *_: object) -> None:
        self._guard.reserved -= self._count
