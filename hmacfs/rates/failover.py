"""Counts on this machine and, while it can be reached, in a place that all machines share."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from hmacfs.rates.table import WindowTable
from hmacfs.rates.window import RemoteCounter, Unreachable, Window

log = logging.getLogger("hmacfs.rates")

#: Seconds until the first look whether the lost place is back; each further pause is twice the last.
FIRST_PAUSE = 0.1
#: Seconds that the two ends of a window may differ; the local one is the later one, or a request right behind the
#: shared window's end would still be refused by it.
_SLACK = 0.05
_UP, _DOWN = 0, 1


@dataclasses.dataclass(frozen=True, slots=True)
class RateStatus:
    """Where limits are counted at this moment ("redis": on all machines together, "local": on this one), whether
    that is where they should be, and since which Unix time."""

    counted_in: str
    is_healthy: bool
    since: float


class FailoverCounter:
    """Every request is counted in the machine's table first, and there alone once that is full. So the table knows at
    any moment what this machine has let through: a shared place that is lost, and comes back empty, changes nothing for
    clients of one machine.

    A loss is noticed by the requests under way at that moment, which wait for ``remote.timeout`` at most; all others
    don't ask before a background probe has found the place again.

    longest_pause: seconds between two looks of the probe; the first come sooner.

    Threads here are greenlets in a gevent worker and real ones elsewhere.
    """

    def __init__(self, table: WindowTable, remote: RemoteCounter | None, *, longest_pause: float) -> None:
        self._table = table
        self._remote = remote
        self._longest_pause = max(longest_pause, FIRST_PAUSE)
        self._is_up = remote is not None
        self._since = time.time()
        self._generation = 0
        self._edges = threading.Lock()
        self._closed = threading.Event()
        if remote is not None:
            self._turns = threading.BoundedSemaphore(remote.concurrency)
            self._answered = 0
            self._look(remote)

    def take(self, key: str, limit: float, period: float, amount: int = 1) -> Window:
        """Count ``amount`` requests, which are within the limit if the window's count is."""
        mine = self._table.hit(key, period, amount)
        if self._remote is None or not self._is_up or mine.hits > limit:
            return mine
        shared = self._ask(self._remote, key, mine.ends, amount)
        if shared is None:
            return mine
        if shared.hits > mine.hits or not 0 <= mine.ends - shared.ends < _SLACK:
            self._table.merge(key, shared)
        return Window(max(mine.hits, shared.hits), shared.ends)

    def get(self, key: str) -> Window:
        """The window as this machine knows it."""
        return self._table.get(key)

    def clear(self, key: str) -> None:
        """Forget a key, here and, if it can be reached, in the shared place."""
        self._table.clear(key)
        if self._remote is not None and self._is_up:
            generation = self._generation
            try:
                self._remote.forget(key)
            except Unreachable as error:
                self._lose(generation, error)

    def reset(self) -> int:
        """Forget all keys of this machine. How many there were."""
        return self._table.reset()

    def look(self) -> None:
        """To be called once a second: see ``WindowTable.look``. Raises ``OSError``."""
        self._table.look()

    def status(self) -> RateStatus:
        shared = self._remote is not None
        return RateStatus("redis" if shared and self._is_up else "local", self._is_up or not shared, self._since)

    def close(self) -> None:
        """End the probe and release the table."""
        self._closed.set()
        self._table.close()

    def _ask(self, remote: RemoteCounter, key: str, ends: float, amount: int) -> Window | None:
        """``None``: count here alone. So it is, too, for a request that finds no turn because this process has too many
        others; the shared place is lost if none of those had an answer meanwhile."""
        generation, answered = self._generation, self._answered
        if not self._turns.acquire(timeout=remote.timeout):
            if answered == self._answered:
                stuck = TimeoutError(f"{remote.concurrency} requests had no answer in {remote.timeout:g} s")
                self._lose(generation, stuck)
            return None
        try:
            if generation != self._generation:  # lost while this one waited
                return None
            window = remote.hit(key, ends - time.time(), amount)
            self._answered += 1
            return window
        except Unreachable as error:
            self._lose(generation, error)
            return None
        finally:
            self._turns.release()

    def _look(self, remote: RemoteCounter) -> None:
        """For the first time."""
        try:
            remote.ping()
        except Unreachable as error:
            self._lose(self._generation, error)
        else:
            self._tell_return()

    def _lose(self, generation: int, cause: BaseException) -> None:
        if not self._pass_edge(generation, is_up=False):
            return
        if self._table.exchange_flag(_DOWN) != _DOWN:  # one line is enough: all processes of the machine come here
            log.warning("rate limits are counted on this machine alone, Redis cannot be reached: %s", cause)
        threading.Thread(target=self._probe, args=(generation + 1,), daemon=True).start()

    def _pass_edge(self, generation: int, *, is_up: bool) -> bool:
        """Whether this is the first to find it out since ``generation``."""
        with self._edges:
            if generation != self._generation:
                return False
            self._generation += 1
            self._is_up = is_up
            self._since = time.time()
            return True

    def _probe(self, generation: int) -> None:
        pause = FIRST_PAUSE
        assert self._remote is not None
        while not self._closed.wait(pause):
            try:
                self._remote.ping()
            except Unreachable:
                pause = min(2 * pause, self._longest_pause)
                continue
            if self._pass_edge(generation, is_up=True):
                self._tell_return()
            return

    def _tell_return(self) -> None:
        if self._table.exchange_flag(_UP) != _UP:
            log.warning("rate limits are counted in Redis again")
