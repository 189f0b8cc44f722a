"""A slot for each worker that is alive, in tables of memory that all workers share."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

_USED = re.compile(rb"[^\0]")


class WorkerSlots:
    """Numbers below ``COUNT``. The master claims one before it forks a worker, and releases it when that has ended, so
    that a crash leaves no slot taken. Workers are known by their age, a number that grows with each that is started.

    Made before any worker is forked. A worker knows its own slot from the time of its fork, and which are in use now.
    """

    COUNT = 256

    def __init__(self) -> None:
        self._used = mmap.mmap(-1, self.COUNT)
        self._slots: dict[int, int] = {}

    def claim(self, age: int) -> int | None:
        """In the master: the worker's slot from now on; ``None`` if there are more workers than slots."""
        free = self._used.find(b"\0", 0, self.COUNT)
        if free < 0:
            return None
        self._used[free] = 1
        self._slots[age] = free
        return free

    def of(self, age: int) -> int | None:
        """The worker's slot, if it has one."""
        return self._slots.get(age)

    def release(self, age: int) -> None:
        """In the master, after the tables' entries for the slot were cleared."""
        slot = self._slots.pop(age, None)
        if slot is not None:
            self._used[slot] = 0

    def in_use(self) -> Iterator[int]:
        """The slots of all workers."""
        return (match.start() for match in _USED.finditer(self._used, 0, self.COUNT))
