"""How long a body may take: time limits, silent clients, dribbled bytes, the least rate."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from hmacfs.errors import PeerTimeout, TooLarge
from hmacfs.net.body import Body, ChunkedBody, SocketBody
from hmacfs.net.transport import Deadline, TransportTimeout
from hmacfs.stores.local.sinks import FileSink
from tests.stores.local import file_calls
from tests.unit.net.pairs import ConnectedPair, Feed, by_buffer, by_splice, content, receiver


def test_a_time_limit_can_be_entered_again(pair: ConnectedPair) -> None:
    transport = pair.receive_buffer.transport
    for _ in range(3):
        with pytest.raises(TransportTimeout), transport.limit(0.01):
            gevent.sleep(10)
    with pytest.raises(KeyError), transport.limit(0.01):
        raise KeyError
    with transport.limit(0.01):
        pass
    before = time.monotonic()
    with pytest.raises(TransportTimeout), transport.limit(0.05):  # and none of those before
        gevent.sleep(10)
    assert time.monotonic() - before >= 0.04


def test_the_shorter_of_two_time_limits_ends_first(pair: ConnectedPair) -> None:
    transport = pair.receive_buffer.transport
    with transport.limit(10):
        for _ in range(2):
            with pytest.raises(TransportTimeout), transport.limit(0.01):
                gevent.sleep(20)


@pytest.fixture
def deadline() -> Iterator[Deadline]:
    deadline = Deadline(0.1)
    yield deadline
    deadline.close()


@pytest.mark.parametrize("before", [0.0, 0.07, 0.25])
def test_a_deadline_ends_the_wait_that_passes_it(deadline: Deadline, before: float) -> None:
    deadline.begin()
    gevent.sleep(before)  # with none
    began = time.monotonic()
    deadline.at = began + 0.1
    with pytest.raises(TransportTimeout):
        gevent.sleep(10)
    assert 0.09 <= time.monotonic() - began < 5
    gevent.sleep(0.25)  # once


def test_a_deadline_that_has_not_come_ends_nothing(deadline: Deadline) -> None:
    deadline.begin()
    for at in (time.monotonic() + 60, math.inf):
        deadline.at = at
        gevent.sleep(0.25)  # the timer fires
    deadline.at = time.monotonic() + 0.1
    deadline.close()
    gevent.sleep(0.25)


@pytest.mark.parametrize("feed", [by_splice, by_buffer])
def test_a_silent_client_is_stalled_and_a_dribbling_one_is_not(
    monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, target: FileSink, feed: Feed
) -> None:
    data = os.urandom(200_000)
    body = feed(monkeypatch, pair, data)
    assert isinstance(body, SocketBody)
    body.timeout = 1.0  # a busy machine delays a sender by less

    def dribble() -> None:
        for start in range(0, 100, 5):
            pair.far.sendall(data[start : start + 5])
            gevent.sleep(0.06)

    gevent.spawn(dribble)
    before = time.monotonic()
    with pytest.raises(PeerTimeout):
        receiver().receive(body, target, limit=len(data))
    assert time.monotonic() - before > 20 * 0.06 + body.timeout - 0.1
    assert content(target) == data[:100]


@pytest.mark.parametrize("size", [1, 300_000])
def test_the_limit_holds_for_bodies_of_unknown_length(pair: ConnectedPair, target: FileSink, size: int) -> None:
    pair.send(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
    with pytest.raises(TooLarge):
        receiver().receive(ChunkedBody(pair.receive_buffer, 5), target, limit=size - 1)


def dribble(pair: ConnectedPair, pieces: list[bytes], pause: float) -> gevent.Greenlet[..., Any]:
    def sending() -> None:
        for piece in pieces:
            gevent.sleep(pause)
            pair.far.sendall(piece)

    return gevent.spawn(sending)


#: How the first hundred bytes of a body of 300,000 come, one at a time.
SLOW_BODIES: dict[str, tuple[Callable[[ConnectedPair], Body], list[bytes]]] = {
    "spliced": (lambda pair: SocketBody(pair.receive_buffer, 300_000, 0.1), [b"x"] * 100),
    "buffered": (lambda pair: SocketBody(pair.receive_buffer, 30_000, 0.1), [b"x"] * 100),
    "chunked": (lambda pair: ChunkedBody(pair.receive_buffer, 0.1), [b"1\r\nx\r\n"] * 100),
    "a chunk's extension": (lambda pair: ChunkedBody(pair.receive_buffer, 0.1), [b"1", b";", *[b"x"] * 98]),
    "trailers": (lambda pair: ChunkedBody(pair.receive_buffer, 0.1), [b"0\r\n", *[b"x"] * 98]),
}


@pytest.mark.parametrize("kind", SLOW_BODIES)
def test_a_byte_now_and_then_does_not_outlive_the_timeout(pair: ConnectedPair, target: FileSink, kind: str) -> None:
    make, pieces = SLOW_BODIES[kind]
    sending = dribble(pair, pieces, 0.02)
    with pytest.raises(PeerTimeout, match="too slowly"):
        receiver(least_rate=1024).receive(make(pair), target, limit=300_000)
    assert not sending.ready()
    sending.kill()


def test_a_slow_client_at_the_least_rate_goes_on(pair: ConnectedPair, target: FileSink) -> None:
    dribble(pair, [b"x" * 50] * 20, 0.02)
    assert receiver(least_rate=500).receive(SocketBody(pair.receive_buffer, 1000, 0.1), target, limit=1000) == 1000


def test_time_that_the_server_needs_is_not_the_clients(pair: ConnectedPair, target: FileSink) -> None:
    class SlowSink(FileSink):
        def write(self, data: memoryview) -> None:
            for begin in range(0, len(data), 10):
                gevent.sleep(0.1)
                super().write(data[begin : begin + 10])

    pair.send(b"x" * 100)
    slow = SlowSink(target.fileno(), file_calls())
    ours = receiver(least_rate=1_000_000)
    assert ours.receive(SocketBody(pair.receive_buffer, 100, 0.05), slow, limit=100) == 100


def test_a_rate_limit_below_the_least_rate_ends_no_upload(pair: ConnectedPair, target: FileSink) -> None:
    pair.send(b"x" * 100)
    body = SocketBody(pair.receive_buffer, 100, 0.05)
    assert receiver(rate=200, least_rate=1024).receive(body, target, limit=100) == 100
    assert body.least_rate == 100
