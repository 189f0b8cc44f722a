"""Workers that share listeners and their connections."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.pool import Pool

from hmacfs.server.balance import GIVE_WAY_TIMES, SLACK, FairServer, Loads, Share


def test_the_fewest_is_of_those_that_take_connections() -> None:
    loads = Loads()
    assert loads.fewest() == 0
    loads.publish(1, 7)
    loads.publish(2, 5)
    assert loads.fewest() == 5
    loads.withdraw(2)
    assert loads.fewest() == 7
    loads.publish(2 + Loads.PLACES, 0)
    assert loads.fewest() == 0


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
    loads = Loads()
    share = Share(loads, 1)
    loads.publish(2, other)
    share.add(own)
    assert share.is_ahead is ahead


def test_a_worker_without_others_is_never_ahead() -> None:
    share = Share(Loads(), 1)
    share.add(1000)
    assert not share.is_ahead


def test_a_worker_that_ends_is_not_waited_for() -> None:
    loads = Loads()
    share, other = Share(loads, 1), Share(loads, 2)
    share.add(10)
    other.end()
    other.add(-1)  # a connection that it still had
    assert not share.is_ahead


class Workers:
    """Servers in one process that share a listener as workers do. ``taken`` counts by worker."""

    def __init__(self) -> None:
        self.loads = Loads()
        self.taken: Counter[int] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._listener.close)

    def start(self, age: int, connections: int = 0) -> FairServer:
        share = Share(self.loads, age)
        share.add(connections)

        def handle(*_: object) -> None:
            self.taken[age] += 1

        listener = self._listener.dup()
        listener.setblocking(False)
        server = FairServer(listener, share, handle=handle, spawn=Pool(100))
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


def test_the_one_with_fewer_takes_them(workers: Workers) -> None:
    workers.start(1, connections=100)
    workers.start(2)
    workers.connect(GIVE_WAY_TIMES)
    workers.wait_for(lambda: workers.taken.total() == GIVE_WAY_TIMES)
    assert workers.taken == {2: GIVE_WAY_TIMES}


def test_what_the_others_leave_is_taken(workers: Workers) -> None:
    workers.loads.publish(2, 0)  # it is stuck
    workers.start(1, connections=100)
    workers.connect(3)
    workers.wait_for(lambda: workers.taken[1] == 3)


def test_at_the_end_all_are_taken_at_once(workers: Workers) -> None:
    workers.loads.publish(2, 0)
    server = workers.start(1, connections=100)
    workers.connect(20)
    server.take_what_waits()
    server.close()
    workers.wait_for(lambda: workers.taken[1] == 20)
