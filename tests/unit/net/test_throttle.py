"""A rate holds over any stretch, and is not slower than asked."""

from __future__ import annotations

import os
import time

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.net.throttle import CATCH_UP_SECONDS, PIECE_SECONDS, Throttle
from hmacfs.stores.local.sinks import FileSink
from tests.unit.net.pairs import ConnectedPair, Feed, by_buffer, by_splice, content, receiver


@given(
    st.integers(10_000, 10**9), st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 0.5)), min_size=1, max_size=60)
)
def test_the_pace_holds_over_any_stretch(rate: int, steps: list[tuple[int, float]]) -> None:
    throttle, now = Throttle(rate, 0.0), 0.0
    moved: list[tuple[float, int]] = []
    for size, delay in steps:
        count = min(size, throttle.piece)
        moved.append((now, count))
        now += throttle.delay(count, now) + delay
    for index, (start, _) in enumerate(moved):
        total = 0
        for when, count in moved[index:]:
            total += count
            assert total <= rate * (when - start + CATCH_UP_SECONDS + PIECE_SECONDS) + rate * PIECE_SECONDS


@pytest.mark.parametrize("feed", [by_splice, by_buffer])
def test_what_was_read_with_the_head_is_throttled_too(
    monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, target: FileSink, feed: Feed
) -> None:
    data = os.urandom(150_000)
    body = feed(monkeypatch, pair, data)
    pair.read_ahead(data[:70_000])
    pair.send(data[70_000:])
    rate = 200_000
    grown: list[tuple[float, int]] = []
    writing = gevent.spawn(receiver(rate=rate).receive, body, target, limit=len(data))
    before = time.monotonic()
    while not writing.ready():
        gevent.sleep(0.01)
        grown.append((time.monotonic() - before, os.fstat(target.fileno()).st_size))
    assert writing.get() == len(data)
    assert content(target) == data
    assert all(size <= rate * (when + CATCH_UP_SECONDS + PIECE_SECONDS) for when, size in grown)


def test_the_pace_is_not_slower_than_asked() -> None:
    throttle, now, total = Throttle(1_000_000, 0.0), 0.0, 0
    while now < 10:
        total += throttle.piece
        now += throttle.delay(throttle.piece, now) + 0.001  # each rest is a little late
    assert total >= 9_900_000
