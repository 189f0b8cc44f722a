"""What the store failed at, for the operator: told once, and not for each request that it fails."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from hmacfs.errors import StorageFailed, StoreUnavailable

log = logging.getLogger("hmacfs.web")

#: A failure like one before is counted for so long, and told of then.
REPEAT_SECONDS = 60.0
#: A store that is away is back if it did something after so long without a failure. One that works now and then would
#: be told of each time else.
CALM_SECONDS = 10.0
#: Of so many kinds at most it is remembered when they were told.
_KINDS_LIMIT = 1000


@dataclasses.dataclass(slots=True)
class _Kind:
    """since, told, last: when there was the first one, one that was told of, and any. untold: how many there were since
    the one that was told of. is_of_store: and not of one file."""

    since: float
    is_of_store: bool
    told: float
    last: float
    count: int = 0
    untold: int = 0


class FailureLog:
    """One line for a failure that is new, and a minute later one for all that were like it. What makes them alike is
    their cause; a failure that is of one file alone (its path is ``where``) is like no other. When a store that was
    away works again, a last line says so.

    clock: ``time.monotonic`` or its like.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def note(self, error: StorageFailed) -> None:
        is_of_store = isinstance(error, StoreUnavailable)
        name = f"{error.reason} {error.__cause__}" if is_of_store else error.for_log()
        now = self._clock()
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= _KINDS_LIMIT:
                self._kinds.clear()
            kind = self._kinds[name] = _Kind(now, is_of_store, told=float("-inf"), last=now)
        kind.last = now
        kind.count += 1
        if now < kind.told + REPEAT_SECONDS:
            kind.untold += 1
            return
        log.error("%s%s", error.for_log(), f" (and {kind.untold} times since it was told)" if kind.untold else "")
        kind.told, kind.untold = now, 0

    def note_success(self) -> None:
        """The store has taken a file, or given one out."""
        if not self._kinds:
            return
        now = self._clock()
        over = {
            name: kind for name, kind in self._kinds.items() if kind.is_of_store and now >= kind.last + CALM_SECONDS
        }
        for name, kind in over.items():
            del self._kinds[name]
            seconds = kind.last - kind.since
            log.info("the store works again: %d requests failed within %.0f s: %s", kind.count, seconds, name)
