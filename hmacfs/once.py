"""Telling something once for each subject, or once in a while. Pure: the time is an argument."""

from __future__ import annotations

import math


class Once:
    """Says whether this is the time to tell something of a subject: the first time, and again ``seconds`` after that.

    Example: ``if once(address): log.warning("%s is no proxy that is trusted", address)``.

    most: so many subjects are remembered, so that their number cannot use up the memory. After that many, either no
    further one is told of, or, with ``forgets``, all are forgotten and told of again.
    """

    def __init__(self, most: int = 1, *, seconds: float = math.inf, forgets: bool = False) -> None:
        self._most = most
        self._seconds = seconds
        self._forgets = forgets
        self._told: dict[object, float] = {}

    def __call__(self, subject: object = None, now: float = 0.0) -> bool:
        """now: seconds, of any clock that only goes forward."""
        told = self._told.get(subject)
        if told is not None and now - told < self._seconds:
            return False
        if told is None and len(self._told) >= self._most:
            if not self._forgets:
                return False
            self._told.clear()
        self._told[subject] = now
        return True
