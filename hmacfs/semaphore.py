"""A semaphore that serves its waiters in their order."""

from __future__ import annotations

import threading
from collections import deque


class FairSemaphore:
    """First come, first served. ``threading.Semaphore`` gives a released turn to any caller that runs at the moment: a
    greenlet that calls a store in a loop would keep all others waiting until their timeout."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def acquire(self, timeout: float, *, first: bool = False) -> bool:
        """Whether a turn came within ``timeout`` seconds; the caller gives it back with ``release``. ``first``: before
        all that wait now."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            if first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
        try:
            if turn.wait(timeout):
                return True
        except BaseException:  # this greenlet is killed while it waits
            if not self._leave(turn):
                self.release()
            raise
        return not self._leave(turn)

    def _leave(self, turn: threading.Event) -> bool:
        """Stop waiting; False if the turn came at this very moment."""
        with self._lock:
            if turn.is_set():
                return False
            self._waiting.remove(turn)
            return True

    def release(self) -> None:
        """Pass the turn to the longest waiter."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
