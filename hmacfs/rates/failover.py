"""Counts on this machine and, while it can be reached, in a counter that all machines share."""

from __future__ import annotations

import contextlib
import logging
import time

from hmacfs.circuit_breaker import CircuitBreaker
from hmacfs.rates.table import WindowTable
from hmacfs.rates.window import RemoteCounter, Unreachable, Window

log = logging.getLogger("hmacfs.rates")

#: Seconds that the two ends of a window may differ; the local one is the later one, or a request right after the
#: shared window's end would still be refused by it.
_SLACK = 0.05
_UP, _DOWN = 0, 1


class FailoverCounter:
    """Every request is counted in the machine's table first, and there alone once the limit is exceeded. So the table
    knows at any moment what this machine has let through: losing the shared counter, or getting it back empty, changes
    nothing for clients of one machine.

    A loss is noticed by the requests in progress, which wait for ``remote.timeout`` at most; all others are counted
    here alone until the circuit breaker's probe has found the shared counter again. So is a request that finds no turn
    because this process has too many others.

    longest_pause: the breaker's back-off, in seconds at most (``RetryDelay``).
    """

    def __init__(self, table: WindowTable, remote: RemoteCounter | None, *, longest_pause: float) -> None:
        self._table = table
        self._breaker: CircuitBreaker[RemoteCounter] | None = None
        if remote is not None:
            self._breaker = CircuitBreaker(
                remote,
                failure=Unreachable,
                overload=Unreachable,
                longest_pause=longest_pause,
                on_transition=self._report,
            )
            self._report(self._breaker.start())

    def take(self, key: str, limit: float, period: float, amount: int = 1) -> Window:
        """Count ``amount`` requests, which are within the limit if the window's count is."""
        mine = self._table.hit(key, period, amount)
        breaker = self._breaker
        if breaker is None or not breaker.is_closed or mine.hits > limit:
            return mine
        try:
            shared = breaker.call(lambda remote: remote.hit(key, mine.ends - time.time(), amount))
        except Unreachable:
            return mine
        if shared.hits > mine.hits or not 0 <= mine.ends - shared.ends < _SLACK:
            self._table.merge(key, shared)
        return Window(max(mine.hits, shared.hits), shared.ends)

    def get(self, key: str) -> Window:
        """The window as this machine knows it."""
        return self._table.get(key)

    def clear(self, key: str) -> None:
        """Forget a key, here and, if it can be reached, in the shared counter."""
        self._table.clear(key)
        if self._breaker is not None:
            with contextlib.suppress(Unreachable):
                self._breaker.call(lambda remote: remote.forget(key))

    def reset(self) -> int:
        """Forget all keys of this machine. How many there were."""
        return self._table.reset()

    def repair(self) -> None:
        """To be called once a second: see ``WindowTable.repair``. Raises ``OSError``."""
        self._table.repair()

    @property
    def is_shared(self) -> bool:
        """Whether requests are counted for all machines together now, or for this one alone."""
        return self._breaker is not None and self._breaker.is_closed

    def close(self) -> None:
        """End the probe and release the table."""
        if self._breaker is not None:
            self._breaker.close()
        self._table.close()

    def _report(self, cause: BaseException | None) -> None:
        """One line for each transition is enough: all processes of the machine come here."""
        flag = _UP if cause is None else _DOWN
        if self._table.exchange_flag(flag) == flag:
            return
        if cause is None:
            log.warning("rate limits are counted in Redis again")
        else:
            log.warning("rate limits are counted on this machine alone, Redis cannot be reached: %s", cause)
