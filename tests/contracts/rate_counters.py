"""The contract of counters that machines share (``RemoteCounter``), as one suite: Redis passes it, and the one in memory.

A module that runs it has a subclass of ``RemoteCounterContract`` and a fixture ``counter``.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hmacfs.rates.window import RemoteCounter
from tests.servers import wait_until

#: Seconds that two clocks, or two readings of one, may differ.
SLACK = 2.0


class RemoteCounterContract:
    """The suite."""

    def test_the_first_request_opens_a_window_that_the_next_ones_count_in(self, counter: RemoteCounter) -> None:
        opened = counter.hit("a", 60.0, 1)
        assert opened.hits == 1
        assert abs(opened.ends - time.time() - 60.0) < SLACK
        later = counter.hit("a", 300.0, 5)
        assert later.hits == 6
        assert abs(later.ends - opened.ends) < SLACK

    def test_keys_are_counted_apart_and_byte_by_byte(self, counter: RemoteCounter) -> None:
        keys = ["a", "A", "a ", "\u00e9", "e\u0301", "a/b", "", "x" * 300]
        for key in keys:
            assert counter.hit(key, 60.0, 2).hits == 2
        assert [counter.hit(key, 60.0, 1).hits for key in keys] == [3] * len(keys)

    @pytest.mark.parametrize("left", [0.05, 0.0, -1.0])
    def test_a_window_ends(self, counter: RemoteCounter, left: float) -> None:
        """One that has ended before it was opened included: clocks differ."""
        opened = counter.hit("a", left, 1)
        wait_until(lambda: time.time() > opened.ends + 0.05, what="the window's end")
        again = counter.hit("a", 60.0, 1)
        assert again.hits == 1
        assert again.ends > time.time() + 50

    def test_what_is_forgotten_begins_again(self, counter: RemoteCounter) -> None:
        counter.hit("a", 60.0, 5)
        counter.hit("b", 60.0, 5)
        counter.forget("a")
        counter.forget("never counted")
        assert counter.hit("a", 60.0, 1).hits == 1
        assert counter.hit("b", 60.0, 1).hits == 6

    def test_all_are_counted_that_come_at_once(self, counter: RemoteCounter) -> None:
        with ThreadPoolExecutor(counter.concurrency) as pool:
            hits = [window.hits for window in pool.map(lambda _: counter.hit("a", 60.0, 1), range(200))]
        assert sorted(hits) == list(range(1, 201))

    def test_a_probe_counts_nothing(self, counter: RemoteCounter) -> None:
        counter.hit("a", 60.0, 1)
        counter.ping()
        assert counter.hit("a", 60.0, 1).hits == 2
