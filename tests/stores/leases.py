"""Leases in memory: a ``Locker`` whose holders can lose what they have without noticing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hmacfs.errors import Superseded, WriterBusy

#: How often a newcomer asks before it gives up.
_ATTEMPTS = 5


@dataclasses.dataclass(slots=True)
class _Entry:
    fence: int = 0
    till: float = 0.0
    is_wanted: bool = False


class LeaseTable:
    """What all lockers share."""

    def __init__(self, clock: Callable[[], float], seconds: float = 30.0) -> None:
        self.clock = clock
        self.seconds = seconds
        self.entries: dict[str, _Entry] = {}


class MemoryLease:
    def __init__(self, table: LeaseTable, key: str, fence: int) -> None:
        self._table = table
        self._key = key
        self._fence = fence

    def check(self) -> None:
        if self._table.entries[self._key].fence != self._fence:
            raise Superseded

    def is_wanted(self) -> bool:
        entry = self._table.entries[self._key]
        return entry.is_wanted or entry.fence != self._fence

    def release(self) -> None:
        entry = self._table.entries[self._key]
        if entry.fence == self._fence:
            entry.till = 0.0


class MemoryLocker:
    def __init__(self, table: LeaseTable, sleep: Callable[[float], None]) -> None:
        self._table = table
        self._sleep = sleep

    def acquire(self, key: str) -> MemoryLease | None:
        entry = self._table.entries.setdefault(key, _Entry())
        now = self._table.clock()
        if entry.till > now:
            return None
        entry.fence += 1
        entry.till = now + self._table.seconds
        entry.is_wanted = False
        return MemoryLease(self._table, key, entry.fence)

    def wait(self, key: str, may_ask: Callable[[], bool]) -> MemoryLease:
        for _ in range(_ATTEMPTS):
            if not may_ask():
                break
            self._table.entries[key].is_wanted = True
            self._sleep(0.05)
            lease = self.acquire(key)
            if lease is not None:
                return lease
        self._table.entries[key].is_wanted = False
        raise WriterBusy
