"""Which connections end so that others get in."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hmacfs.server.eviction import ASKING_SECONDS, seconds_until_one_may_end, to_end


@dataclasses.dataclass
class Connection:
    waits_since: float


NOW = 1000.0
BUSY, NEW = Connection(math.inf), Connection(NOW - ASKING_SECONDS / 2)
OLD, OLDER = Connection(NOW - ASKING_SECONDS), Connection(NOW - 10)


def test_the_oldest_end_and_none_that_has_just_come() -> None:
    assert to_end([BUSY, NEW, OLD, OLDER], 1, NOW) == [OLDER]
    assert to_end([BUSY, NEW, OLD, OLDER], 4, NOW) == [OLDER, OLD]
    assert to_end([BUSY, NEW], 4, NOW) == []


def test_the_next_client_waits_until_one_has_had_its_time() -> None:
    assert seconds_until_one_may_end([NEW, BUSY], NOW) == pytest.approx(ASKING_SECONDS / 2)
    assert to_end([NEW, BUSY], 1, NOW + seconds_until_one_may_end([NEW, BUSY], NOW) + 1e-6) == [NEW]
    assert seconds_until_one_may_end([NEW, OLD], NOW) == 0.0


def test_nobody_is_waited_for_where_none_waits() -> None:
    assert seconds_until_one_may_end([BUSY], NOW) == 0.0
    assert seconds_until_one_may_end([], NOW) == 0.0
