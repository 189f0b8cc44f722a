"""Workers that share listeners and their connections."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.pool import Pool

from hmacfs.server.balancing import PAUSES_LIMIT, SLACK, BalancedServer, ConnectionCounts, WorkerCount
from hmacfs.server.worker_slots import WorkerSlots


def counts_of(workers: int) -> ConnectionCounts:
    """With a slot for each of so many workers, the first of which is 0."""
    slots = WorkerSlots()
    for age in range(workers):
        slots.claim(age)
    return ConnectionCounts(slots)


def test_the_fewest_is_of_those_that_take_connections() -> None:
    counts = counts_of(3)
    assert counts.fewest() == 0
    counts.publish(1, 7)
    counts.publish(2, 5)
    assert counts.fewest() == 5
    counts.clear(2)
    assert counts.fewest() == 7
    counts.publish(0, 0)
    assert counts.fewest() == 0


@pytest.mark.parametrize(
    ("own", "other", "ahead"),
    [
        (0, 0, False),
        (SLACK, 0, False),
        (SLACK + 1, 0, True),
        (3, 5, False),
        (800, 800, False),
        (903, 801, False),
        (904, 801, True),
    ],
)
def test_a_worker_is_ahead_by_more_than_the_slack(own: int, other: int, ahead: bool) -> None:
    counts = counts_of(3)
    counts.publish(2, other)
    assert beginning(counts, 1, own).is_ahead is ahead


def test_a_worker_without_others_is_never_ahead() -> None:
    assert not beginning(counts_of(3), 1, 1000).is_ahead


def test_a_worker_that_ends_is_not_waited_for() -> None:
    counts = counts_of(3)
    share, other = beginning(counts, 1, 10), beginning(counts, 2, 1)
    assert share.is_ahead
    other.end()
    other.close()
    assert not share.is_ahead


def test_a_worker_without_a_slot_heeds_the_others_which_do_not_see_it() -> None:
    counts = counts_of(3)
    beginning(counts, 1, 10)
    assert not beginning(counts, None, SLACK).is_ahead
    assert beginning(counts, None, 100).is_ahead
    assert counts.fewest() == 10


def test_a_worker_that_has_not_begun_is_not_waited_for() -> None:
    counts = counts_of(3)
    WorkerCount(counts, 2)
    assert not beginning(counts, 1, 10).is_ahead


def beginning(counts: ConnectionCounts, slot: int | None, connections: int) -> WorkerCount:
    """A worker's share with so many connections."""
    share = WorkerCount(counts, slot)
    share.begin()
    for _ in range(connections):
        share.accept()
    return share


class Workers:
    """Servers in one process that share a listener as workers do. ``taken`` counts by worker."""

    def __init__(self) -> None:
        self.counts = counts_of(3)
        self.taken: Counter[int] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._listener.close)

    def start(self, age: int, connections: int = 0) -> BalancedServer:
        share = beginning(self.counts, age, connections)

        def handle(*_: object) -> None:
            self.taken[age] += 1

        listener = self._listener.dup()
        listener.setblocking(False)
        server = BalancedServer(listener, share, handle=handle, spawn=Pool(100))
        server.max_accept = 1
        server.start()
        self._stack.callback(server.close)
        return server

    def connect(self, count: int) -> None:
        for _ in range(count):
            self._stack.enter_context(socket.create_connection(self._listener.getsockname()))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with gevent.Timeout(10):
            while not condition():
                gevent.sleep(0.001)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def test_the_one_with_fewer_takes_them_all(workers: Workers) -> None:
    workers.start(1, connections=100)
    workers.start(2)
    for number in range(1, 61):
        workers.connect(1)
        workers.wait_for(lambda number=number: workers.taken.total() == number)  # type: ignore[misc]
    assert workers.taken == {2: 60}


def test_what_the_others_leave_is_taken_and_soon_without_a_rest(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.counts.publish(2, 0)  # it is stuck
    workers.start(1, connections=100)
    workers.connect(1)
    workers.wait_for(lambda: workers.taken[1] == 1)
    rests: list[float] = []

    def rest(seconds: float, go_on: Callable[[], None]) -> None:
        rests.append(seconds)
        gevent.spawn(go_on)

    monkeypatch.setattr(gevent, "spawn_later", rest)
    workers.connect(20)
    workers.wait_for(lambda: workers.taken[1] == 21)
    assert len(rests) <= PAUSES_LIMIT  # and even those only if this took longer than it may be alone


def test_a_connection_that_nobody_serves_does_not_count_for_ever(workers: Workers) -> None:
    workers.counts.publish(2, 0)
    share = workers.start(1, connections=3)._count
    assert share.is_ahead
    workers.connect(5)
    workers.wait_for(lambda: workers.taken[1] == 5)
    for _ in range(3):
        share.close()
    workers.wait_for(lambda: not share.is_ahead)


def test_at_the_end_all_are_taken_at_once(workers: Workers) -> None:
    workers.counts.publish(2, 0)
    server = workers.start(1, connections=100)
    workers.connect(20)
    server.accept_pending()
    server.close()
    workers.wait_for(lambda: workers.taken[1] == 20)
