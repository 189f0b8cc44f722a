"""What a load brings."""

from __future__ import annotations

from typing import NamedTuple


class LoadFailed(Exception):
    """A run that does not count; the text says why."""


class Outcome(NamedTuple):
    """What a load did. answered: requests; moved: bytes of their bodies; p50 and p99: latencies in seconds, zero
    where they say nothing."""

    seconds: float
    answered: int
    moved: int
    p50: float = 0.0
    p99: float = 0.0
