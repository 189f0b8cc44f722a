"""A byte-rate limit for one transfer. Pure: time is an argument."""

from __future__ import annotations

#: How far a transfer that was late may catch up. Small enough that any 10 seconds stay within 5 % of the rate, large
#: enough to make good for the timer's and the scheduler's lateness.
CATCH_UP_SECONDS = 0.2
#: One piece is at most this long at the given rate, so that the flow is even and a stop is noticed soon.
PIECE_SECONDS = 0.05


class Throttle:
    """Says how much to move at once and how long to rest after it, so that ``rate`` (bytes per second) holds."""

    __slots__ = ("_due", "piece", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        #: The largest piece to move at once, in bytes.
        self.piece = max(1, int(rate * PIECE_SECONDS))
        self._due = now

    def delay(self, moved: int, now: float) -> float:
        """Seconds to rest after ``moved`` bytes that went through just now."""
        self._due = max(self._due, now - CATCH_UP_SECONDS) + moved / self.rate
        return max(0.0, self._due - now)
