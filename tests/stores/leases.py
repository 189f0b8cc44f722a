"""The locker over entries in memory, by a clock that a test sets: its holders can lose what they have without noticing."""

from __future__ import annotations

from collections.abc import Callable

from hmacfs.sessions.leases import LeaseLocker, LeaseTimes
from tests.fakes import MemoryEntries


class LeaseTable:
    """What all lockers share. seconds: how long a lease lasts."""

    def __init__(self, clock: Callable[[], float], seconds: float = 30.0) -> None:
        self.clock = clock
        self.seconds = seconds
        self.entries = MemoryEntries(clock)


class MemoryLocker(LeaseLocker):
    """Holders look each time that they are asked whether somebody wants the upload. sleep: called instead of waiting, a
    few times before a newcomer gives up."""

    def __init__(self, table: LeaseTable, sleep: Callable[[float], None]) -> None:
        slept = 0.0

        def wait(seconds: float) -> None:
            nonlocal slept
            slept += seconds
            sleep(seconds)

        times = LeaseTimes(table.seconds, patience=0.5, look=0.0, clock=lambda: table.clock() + slept, sleep=wait)
        super().__init__(table.entries, times)
