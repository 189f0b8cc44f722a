"""Bodies over socket pairs, by each way of moving their bytes."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import BadBody, HmacfsError, IncompleteBody, NoSpace, PeerTimeout, Superseded, TooLarge
from hmacfs.net import receive as receive_module
from hmacfs.net.body import Body, ChunkedBody, SocketBody, WsgiBody, body_of
from hmacfs.net.receive import (
    AT_ONCE_BYTES,
    BUFFER_BYTES,
    LOW_WATERMARK_BYTES,
    SPLICE_FROM_BYTES,
    SPLICES_IN_VAIN,
    Receiver,
)
from hmacfs.net.splice import Splicer, SpliceUnsupported
from hmacfs.net.transport import ReceiveBuffer, Transport, TransportTimeout
from hmacfs.stores.local.sinks import FileSink
from hmacfs.system.threads import FileCalls
from tests.unit.net.pairs import ConnectedPair, Feed, by_buffer, by_splice, content, no_splice, receiver

SIZES = [
    0, 1, 4095, 65535, 65536, 65537, SPLICE_FROM_BYTES - 1, SPLICE_FROM_BYTES, BUFFER_BYTES - 1, BUFFER_BYTES + 1,
    1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 5 * 1024 * 1024,
]  # fmt: skip


def by_stream(_: pytest.MonkeyPatch, pair: ConnectedPair, data: bytes) -> Body:
    return WsgiBody(pair.near.makefile("rb"), len(data), 5, pair.near)


class TcpPair(ConnectedPair):
    """The same over TCP, which knows how many bytes a wait is for."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.far = socket.create_connection(listener.getsockname())
            self.near, _ = listener.accept()
        self.transport = Transport(self.near)
        self.receive_buffer = ReceiveBuffer(self.transport)

    def waits_for(self) -> int:
        return self.near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.fixture
def tcp_pair() -> Iterator[TcpPair]:
    pair = TcpPair()
    yield pair
    pair.close()


def test_a_fast_body_is_gathered_and_a_slow_one_does_not_wait_for_more(
    monkeypatch: pytest.MonkeyPatch, tcp_pair: TcpPair, target: FileSink
) -> None:
    asked: list[int] = []
    set_low_watermark = Transport.set_low_watermark

    def noted(transport: Transport, count: int) -> None:
        asked.append(count)
        set_low_watermark(transport, count)

    monkeypatch.setattr(Transport, "set_low_watermark", noted)
    size, first = 4 * LOW_WATERMARK_BYTES, 1000
    body = SocketBody(tcp_pair.receive_buffer, size, 5)
    receiving = gevent.spawn(receiver().receive, body, target, limit=size)
    tcp_pair.far.sendall(bytes(first))
    while body.received < first:
        gevent.sleep(0.001)
    assert asked == [LOW_WATERMARK_BYTES, 1]
    assert tcp_pair.waits_for() == 1
    tcp_pair.far.sendall(bytes(size - first))
    assert receiving.get() == size
    assert asked[-1] == tcp_pair.waits_for() == 1


def test_the_end_of_a_stream_ends_a_wait_for_more(tcp_pair: TcpPair, target: FileSink) -> None:
    body = SocketBody(tcp_pair.receive_buffer, 4 * LOW_WATERMARK_BYTES, 5)
    tcp_pair.send(bytes(1000), then_close=True)
    with pytest.raises(IncompleteBody):
        receiver().receive(body, target, limit=body.length)
    assert content(target) == bytes(1000)


@pytest.mark.parametrize("feed", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("size", SIZES)
def test_exact_bytes_on_every_path(
    monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, target: FileSink, feed: Feed, size: int
) -> None:
    data = os.urandom(size)
    body = feed(monkeypatch, pair, data)
    pair.send(data + b"the next request")
    assert receiver().receive(body, target, limit=size) == size
    assert body.is_complete
    assert body.received == size
    assert content(target) == data


@pytest.mark.parametrize("ahead", [0, 1, 1000, 200_000, 300_000])
def test_bytes_read_ahead_come_first_and_the_next_request_stays(
    pair: ConnectedPair, target: FileSink, ahead: int
) -> None:
    data = os.urandom(300_000)
    pair.read_ahead(data[:ahead] + (b"next" if ahead == len(data) else b""))
    pair.send(data[ahead:])
    receiver().receive(SocketBody(pair.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data
    assert pair.receive_buffer.ahead == (b"next" if ahead == len(data) else b"")


def test_a_body_that_is_here_is_one_write_and_the_next_request_stays(pair: ConnectedPair, target: FileSink) -> None:
    pair.read_ahead(b"the body" + b"next")
    continues: list[int] = []
    body = SocketBody(pair.receive_buffer, 8, 5, lambda: continues.append(1))
    assert body.read(4) == b"the "
    assert receiver().receive(body, target, limit=8) == 4
    assert (content(target), body.is_complete, continues) == (b"body", True, [1])
    assert pair.receive_buffer.ahead == b"next"


def test_a_body_that_is_here_and_too_large_is_not_written(pair: ConnectedPair, target: FileSink) -> None:
    pair.read_ahead(b"the body")
    with pytest.raises(TooLarge):
        receiver().receive(SocketBody(pair.receive_buffer, 8, 5), target, limit=7)
    assert content(target) == b""


def test_a_body_that_is_here_and_was_interrupted_is_superseded(pair: ConnectedPair, target: FileSink) -> None:
    pair.read_ahead(b"the body")
    body = SocketBody(pair.receive_buffer, 8, 5)
    body.interrupt()
    with pytest.raises(Superseded):
        receiver().receive(body, target, limit=8)


def noted(pair: ConnectedPair, length: int, receiver: Receiver) -> SocketBody:
    body = SocketBody(pair.receive_buffer, length, 5)
    receiver.note_arrival(body)
    return body


def test_a_body_that_has_arrived_is_moved_without_a_wait(
    monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, target: FileSink
) -> None:
    data = os.urandom(SPLICE_FROM_BYTES + 1)
    pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(data))  # all of it can be under way, unread
    pair.read_ahead(data[:1000])
    pair.send(data[1000:-1])
    moves = receiver()
    with gevent.Timeout(10):
        while pair.receive_buffer.count + pair.transport.arrived_bytes < len(data) - 1:
            gevent.sleep(0.001)
        assert not noted(pair, len(data), moves).is_here
        pair.far.sendall(data[-1:] + b"next")
        while not (body := noted(pair, len(data), moves)).is_here:
            gevent.sleep(0.001)
    monkeypatch.setattr(Transport, "wait_readable", lambda *_: pytest.fail("a wait"))
    assert moves.receive(body, target, limit=len(data)) == len(data)
    assert (content(target), body.is_complete) == (data, True)
    assert pair.transport.read(5, 5) == b"next"


def test_an_urgent_byte_in_a_body_is_passed(
    monkeypatch: pytest.MonkeyPatch, tcp_pair: TcpPair, target: FileSink
) -> None:
    moves = list[int]()
    move = Splicer.move

    def counted(splicer: Splicer, body: SocketBody, fd: int, at_most: int) -> int:
        moves.append(move(splicer, body, fd, at_most))
        return moves[-1]

    monkeypatch.setattr(Splicer, "move", counted)
    data = os.urandom(2 * SPLICE_FROM_BYTES)
    half = len(data) // 2

    def send() -> None:
        tcp_pair.far.sendall(data[:half])
        tcp_pair.far.send(b"!", socket.MSG_OOB)
        tcp_pair.far.sendall(data[half:])

    sending = gevent.spawn(send)
    with gevent.Timeout(10):
        assert receiver().receive(SocketBody(tcp_pair.receive_buffer, len(data), 5), target, limit=len(data))
    sending.join()
    assert content(target) == data
    assert moves.count(0) <= 2 * SPLICES_IN_VAIN


AT_ONCE = {"shortest": SPLICE_FROM_BYTES + 1, "longest": AT_ONCE_BYTES}
NOT_AT_ONCE = {"size below": SPLICE_FROM_BYTES, "size above": AT_ONCE_BYTES + 1}


@pytest.mark.parametrize("by", [*AT_ONCE, *NOT_AT_ONCE, "rate", "slow disk", "encryption", "no pipe"])
def test_what_takes_a_buffer_or_time_does_not_count_as_arrived(
    monkeypatch: pytest.MonkeyPatch, tcp_pair: TcpPair, by: str
) -> None:
    size = (AT_ONCE | NOT_AT_ONCE).get(by, SPLICE_FROM_BYTES + 1)
    monkeypatch.setattr(Transport, "arrived_bytes", size)
    if by == "slow disk":
        monkeypatch.setattr(FileCalls, "is_slow", True)
    if by == "encryption":
        monkeypatch.setattr(Transport, "is_encrypted", True)
    if by == "no pipe":
        monkeypatch.setattr(Splicer, "if_supported", lambda _: None)
    moves = receiver(rate=1000 if by == "rate" else 0)
    assert noted(tcp_pair, size, moves).is_here is (by in AT_ONCE)


@pytest.mark.parametrize("feed", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("sent", [0, 1, 70_000, 499_999])
def test_a_cut_body_keeps_what_arrived(
    monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, target: FileSink, feed: Feed, sent: int
) -> None:
    data = os.urandom(500_000)
    body = feed(monkeypatch, pair, data)
    pair.send(data[:sent], then_close=True)
    with pytest.raises(IncompleteBody):
        receiver().receive(body, target, limit=len(data))
    assert not body.is_complete
    arrived = content(target)
    assert data.startswith(arrived)
    if feed is not by_stream:  # a plain stream may hold back a piece that is not full
        assert len(arrived) == sent


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 70))
def test_chunked_bodies_in_any_cut(pieces: list[bytes], cut: int) -> None:
    pair = ConnectedPair()
    wire_bytes = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"

    def send() -> None:
        for start in range(0, len(wire_bytes), cut):
            pair.far.sendall(wire_bytes[start : start + cut])
            gevent.sleep(0)
        pair.far.sendall(b"NEXT")

    gevent.spawn(send)
    body = ChunkedBody(pair.receive_buffer, 5)
    assert body.read() == b"".join(pieces)
    assert body.is_complete
    while pair.receive_buffer.count < 4:
        pair.receive_buffer.more(5)
    assert pair.receive_buffer.ahead == b"NEXT"
    pair.close()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"5\r\nhel", IncompleteBody), (b"5\r\nhello", IncompleteBody), (b"5\r\nhelloXX0\r\n\r\n", BadBody), (b"-1\r\n", BadBody),
        (b"0x5\r\n", BadBody), (b"1" * 16 + b"\r\n", TooLarge), (b"5" * 9000, BadBody), (b"0\r\n" + b"a: b\r\n" * 99, BadBody),
        (b"0\r\n", IncompleteBody), (b"1\r\nx\r\n0\n\n", BadBody), (b"\r\n", BadBody), (b"", IncompleteBody),
    ],
)  # fmt: skip
def test_broken_chunked_bodies(pair: ConnectedPair, data: bytes, error: type[HmacfsError]) -> None:
    pair.send(data, then_close=True)
    with pytest.raises(error):
        ChunkedBody(pair.receive_buffer, 5).read()


def test_the_client_is_told_to_continue_once_and_only_when_its_body_is_wanted(
    pair: ConnectedPair, target: FileSink
) -> None:
    continues: list[int] = []
    body = SocketBody(pair.receive_buffer, 300_000, 5, lambda: continues.append(1))
    assert continues == []
    pair.send(b"x" * 300_000)
    receiver().receive(body, target, limit=300_000)
    assert continues == [1]


def test_a_digest_sees_every_byte(pair: ConnectedPair, target: FileSink) -> None:
    data, digest = os.urandom(700_000), hashlib.sha256()
    pair.send(data)
    receiver().receive(SocketBody(pair.receive_buffer, len(data), 5), target, limit=len(data), digest=digest)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert content(target) == data


def test_a_file_system_without_splice_gets_its_bytes_through_a_buffer(
    pair: ConnectedPair, target: FileSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, real = os.urandom(900_000), os.splice

    def splice(source: int, sink: int, count: int, **options: Any) -> int:
        if sink == target.fileno():
            raise OSError(errno.EINVAL, "not here")
        return real(source, sink, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    pair.send(data)
    ours = receiver()
    ours.receive(SocketBody(pair.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data
    assert ours._splicer is None


def test_a_pipe_that_a_failure_left_full_is_never_used_again(
    pair: ConnectedPair, target: FileSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = os.splice, [True]

    def splice(source: int, sink: int, count: int, **options: Any) -> int:
        if sink == target.fileno() and failing[0]:
            raise OSError(errno.ENOSPC, "full")
        return real(source, sink, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    ours = receiver()
    pair.send(b"a" * 200_000)
    with pytest.raises(OSError, match="full"):
        ours.receive(SocketBody(pair.receive_buffer, 200_000, 5), target, limit=200_000)
    failing[0] = False
    other = ConnectedPair()
    other.send(b"b" * 200_000)
    ours.receive(SocketBody(other.receive_buffer, 200_000, 5), target, limit=200_000)
    assert content(target) == b"b" * 200_000
    other.close()


def test_short_writes_are_continued(pair: ConnectedPair, target: FileSink, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1000]))
    no_splice(monkeypatch)
    data = os.urandom(50_000)
    pair.read_ahead(data)
    receiver().receive(SocketBody(pair.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data


def test_buffers_are_reused(pair: ConnectedPair, target: FileSink, monkeypatch: pytest.MonkeyPatch) -> None:
    no_splice(monkeypatch)
    ours = receiver()
    for _ in range(3):
        pair.send(b"x" * 600_000)
        ours.receive(SocketBody(pair.receive_buffer, 600_000, 5), target, limit=600_000)
    assert len(ours._buffers) == 1
    assert receive_module.BUFFERS_KEPT == 16


def test_bodies_of_other_servers() -> None:
    def environ(**more: Any) -> dict[str, Any]:
        return {"wsgi.input": io.BytesIO(b"hello world"), **more}

    assert body_of(environ(CONTENT_LENGTH="5"), 5).read() == b"hello"
    assert body_of(environ(), 5).read() == b""
    assert body_of(environ(**{"wsgi.input_terminated": True}), 5).read() == b"hello world"
    with pytest.raises(IncompleteBody):
        body_of(environ(CONTENT_LENGTH="50"), 5).read()


class Broken:
    def __init__(self, error: OSError) -> None:
        self.error = error

    def read(self, size: int) -> bytes:
        raise self.error


def test_errors_of_other_servers() -> None:
    with pytest.raises(PeerTimeout):
        WsgiBody(Broken(TimeoutError()), 5, 5).read()
    with pytest.raises(IncompleteBody):
        WsgiBody(Broken(OSError("parser")), 5, 5).read()


def test_no_more_is_written_than_is_covered(pair: ConnectedPair, target: FileSink) -> None:
    asked: list[int] = []

    def cover(received: int, written: int) -> int:
        asked.append(received)
        assert written == os.fstat(target.fileno()).st_size < received
        if received > 500_000:
            raise NoSpace
        return received + 100_000

    pair.send(b"".join(b"%x\r\n%s\r\n" % (50_000, bytes(50_000)) for _ in range(20)))
    with pytest.raises(NoSpace):
        receiver().receive(ChunkedBody(pair.receive_buffer, 5), target, limit=2_000_000, cover=cover)
    assert 4 <= len(asked) <= 7
    assert os.fstat(target.fileno()).st_size <= 600_000


@pytest.mark.parametrize(
    ("failure", "error"),
    [(ConnectionResetError(errno.ECONNRESET, ""), IncompleteBody), (TransportTimeout(), PeerTimeout)],
)
@pytest.mark.parametrize("length", [5, None])
def test_a_client_that_left_before_it_was_invited_has_cut_its_body(
    pair: ConnectedPair, target: FileSink, length: int | None, failure: OSError, error: type[HmacfsError]
) -> None:
    def send_continue() -> None:
        raise failure

    body: Body = (
        ChunkedBody(pair.receive_buffer, 5, send_continue)
        if length is None
        else SocketBody(pair.receive_buffer, length, 5, send_continue)
    )
    with pytest.raises(error):
        receiver().receive(body, target, limit=5)


class Portions:
    """A sink that wants its bytes in portions: with the spool file that each goes through, or with no descriptor."""

    def __init__(self, size: int, spools: Path | None = None) -> None:
        self.room = size
        self.portions: list[bytes] = []
        self._spools = spools
        self._open()

    def _open(self) -> None:
        self._written = b""
        self._fd = os.open(self._spools, os.O_RDWR | os.O_TMPFILE) if self._spools else None

    def write(self, data: memoryview) -> None:
        if self._fd is not None:
            os.write(self._fd, data)
        self._written += bytes(data)

    def hand_on(self) -> int:
        self.portions.append(self.rest())
        assert len(self.portions[-1]) == self.room
        self._open()
        return self.room

    def rest(self) -> bytes:
        if self._fd is None:
            return self._written
        fd, self._fd = self._fd, None
        data = os.pread(fd, 1 << 26, 0)
        os.close(fd)
        return data

    def fileno(self) -> int | None:
        return self._fd


@pytest.mark.parametrize("feed", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("is_spooled", [False, True])
@pytest.mark.parametrize(("size", "portion"), [(1_000_000, 300_000), (900_000, 300_000), (700_000, 700_001), (5, 2)])
def test_a_sink_gets_full_portions(
    monkeypatch: pytest.MonkeyPatch,
    pair: ConnectedPair,
    tmp_path: Path,
    feed: Feed,
    *,
    is_spooled: bool,
    size: int,
    portion: int,
) -> None:
    data = os.urandom(size)
    body = feed(monkeypatch, pair, data)
    if isinstance(body, SocketBody):
        ahead = min(size, 100_000)
        pair.read_ahead(data[:ahead])
        pair.send(data[ahead:])
    else:
        pair.send(data)
    sink = Portions(portion, tmp_path if is_spooled else None)
    assert receiver(chunk_size=100_003).receive(body, sink, limit=size) == size
    assert len(sink.portions) == size // portion
    assert b"".join(sink.portions) + sink.rest() == data


def test_splice_unsupported_is_no_error_of_the_request() -> None:
    assert not issubclass(SpliceUnsupported, (HmacfsError, OSError))


def test_a_body_has_the_methods_of_a_wsgi_input(pair: ConnectedPair) -> None:
    lines = [b"first\n", b"second\n", b"third\n", b"fourth"]
    pair.far.sendall(b"".join(lines) + b"NEXT")
    body = SocketBody(pair.receive_buffer, len(b"".join(lines)), 5)
    assert (body.readline(), body.read(3), body.readline(1)) == (b"first\n", b"sec", b"o")
    assert next(iter(body)) == b"nd\n"
    assert body.readlines() == lines[2:]
    assert body.read() == b""
    assert body.is_complete
