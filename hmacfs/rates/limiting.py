"""The counters in the shape that ``limits`` and flask-limiter ask for."""

from __future__ import annotations

from typing import cast

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import STRATEGIES, FixedWindowRateLimiter
from limits.util import WindowStats

from hmacfs.config import RequestRate
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.window import Window

#: What flask-limiter knows them by.
STORAGE_URI = "hmacfs://"
STRATEGY = "hmacfs-window"


class FailoverStorage(Storage):
    """A storage of ``limits``. counter: what it counts in."""

    STORAGE_SCHEME = ["hmacfs"]  # noqa: RUF012 - the base class has it so

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, counter: FailoverCounter) -> None:
        super().__init__(uri, wrap_exceptions)
        self.counter = counter

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.counter.take(key, float("inf"), expiry, amount).hits

    def get(self, key: str) -> int:
        return self.counter.get(key).hits

    def get_expiry(self, key: str) -> float:
        return self.counter.get(key).ends

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        return self.counter.reset()

    def clear(self, key: str) -> None:
        self.counter.clear(key)


class WindowRateLimiter(FixedWindowRateLimiter):
    """A strategy of ``limits``: a fixed window that the first request opens. One operation counts and tells all there
    is to tell, and the counter knows the limit, without which two places cannot be kept exact."""

    def take(self, rate: RequestRate, key: str) -> Window:
        """Count a request. key: ``rate.key(...)``. It is within the limit if the window's count is."""
        return self._counter.take(key, rate.amount, rate.seconds)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        window = self._counter.take(item.key_for(*identifiers), item.amount, item.get_expiry(), cost)
        return window.hits <= item.amount

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        window = self._counter.get(item.key_for(*identifiers))
        return WindowStats(window.ends, max(0, item.amount - window.hits))

    @property
    def _counter(self) -> FailoverCounter:
        return cast("FailoverStorage", self.storage).counter


STRATEGIES[STRATEGY] = WindowRateLimiter
