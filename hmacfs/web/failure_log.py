"""What the store failed at, for the operator: told once, and not for each request that it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hmacfs.errors import StorageFailed, StoreUnavailable

log = logging.getLogger("hmacfs.web")

#: A failure like one before is counted for so long, and told of then.
REPEAT_SECONDS = 60.0
#: Of so many kinds at most it is remembered when they were told.
_KINDS_LIMIT = 1000


class FailureLog:
    """One line for a failure that is new, and a minute later one for all that were like it. What makes them alike is
    their cause; a failure that is of one file alone (its path is ``where``) is like no other.

    clock: ``time.monotonic`` or its like.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When each kind was told of last, and how many there were since.
        self._told: dict[str, tuple[float, int]] = {}

    def note(self, error: StorageFailed) -> None:
        kind = f"{error.reason} {error.__cause__}" if isinstance(error, StoreUnavailable) else error.for_log()
        now = self._clock()
        told, since = self._told.get(kind, (float("-inf"), 0))
        if now < told + REPEAT_SECONDS:
            self._told[kind] = told, since + 1
            return
        if len(self._told) >= _KINDS_LIMIT:
            self._told.clear()
        self._told[kind] = now, 0
        log.error("%s%s", error.for_log(), f" (and {since} times since it was told)" if since else "")
