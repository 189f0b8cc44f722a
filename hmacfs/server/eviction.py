"""Which connections have to end so that the next clients get in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

#: So long a client may take from its connection to its request, however many others want in: their rush may keep it
#: from its processor for some milliseconds. Until then the others wait in the backlog.
ASKING_SECONDS = 0.05


class Waiting(Protocol):
    """A connection. ``waits_since``: the monotonic time since when its end would cost no response, ``math.inf`` while
    it would."""

    waits_since: float


W = TypeVar("W", bound=Waiting)


def seconds_until_one_may_end(connections: Iterable[Waiting], now: float) -> float:
    """0.0 if one may end now, or if none is waiting."""
    oldest = min((connection.waits_since for connection in connections), default=math.inf)
    return 0.0 if oldest == math.inf else max(0.0, oldest + ASKING_SECONDS - now)


def to_end(connections: Iterable[W], most: int, now: float) -> list[W]:
    """Those that have been waiting longest, at most so many, and none that may still ask."""
    oldest = heapq.nsmallest(most, connections, key=lambda one: one.waits_since)
    return [connection for connection in oldest if connection.waits_since + ASKING_SECONDS <= now]
