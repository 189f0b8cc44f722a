"""Turns at something that only so many can use at once, in the order of their coming."""

from __future__ import annotations

import threading
from collections import deque


class FairSemaphore:
    """A semaphore that is fair. ``threading``'s lets whoever runs take what was just released; a greenlet that calls a
    store again and again would keep all others waiting until their time is over."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def acquire(self, timeout: float, *, first: bool = False) -> bool:
        """Whether a turn came within ``timeout`` seconds; ``first``: before all that wait now. Whoever got one gives it
        back with ``release``."""
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
        """Pass the turn to whoever waits longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
