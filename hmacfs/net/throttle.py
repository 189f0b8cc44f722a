"""A byte-rate limit for one transfer. Pure: time is an argument."""

from __future__ import annotations

#: How far a transfer that is late may catch up. Small enough that any 10 seconds stay within 5 % of the rate, large
#: enough to make up for late timers and scheduling.
CATCH_UP_SECONDS = 0.2
#: How long one piece takes at the given rate, so that the flow is even and a stop is noticed soon.
PIECE_SECONDS = 0.05


class Throttle:
    """Paces one transfer: how much to move at once and how long to wait after it, so that ``rate`` (bytes per second)
    holds."""

    __slots__ = ("_due", "piece", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        #: The largest piece to move at once, in bytes.
        self.piece = max(1, int(rate * PIECE_SECONDS))
        self._due = now

    def delay(self, moved: int, now: float) -> float:
        """Seconds to wait after ``moved`` bytes that were moved just now."""
        self._due = max(self._due, now - CATCH_UP_SECONDS) + moved / self.rate
        return max(0.0, self._due - now)
