"""The byte-moving parts without a server: bodies over socket pairs, the throttle, slow and failing disks."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import BadBody, HmacfsError, IncompleteBody, NoSpace, PeerTimeout, TooLarge
from hmacfs.net import receive as receive_module
from hmacfs.net.body import Body, ChunkedBody, SocketBody, WsgiBody, body_of
from hmacfs.net.receive import BUFFER_BYTES, GATHER_BYTES, SPLICE_FROM_BYTES, Receiver
from hmacfs.net.send import FileSlice, FileTruncated
from hmacfs.net.splice import Splicer, SpliceUnsupported
from hmacfs.net.throttle import CATCH_UP_SECONDS, PIECE_SECONDS, Throttle
from hmacfs.net.transport import ReceiveBuffer, Transport, TransportTimeout
from hmacfs.retry import Retry
from hmacfs.stores.local.sinks import FileSink
from hmacfs.system.threads import SLOW_CALL_SECONDS, SLOW_FOR_SECONDS, FileCalls, ThreadOffload
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.local import file_calls, opened

SIZES = [
    0, 1, 4095, 65535, 65536, 65537, SPLICE_FROM_BYTES - 1, SPLICE_FROM_BYTES, BUFFER_BYTES - 1, BUFFER_BYTES + 1,
    1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 5 * 1024 * 1024,
]  # fmt: skip


class Line:
    """A connected pair: what a test sends into ``far`` is what the body reads."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.near = near
        self.transport = Transport(near)
        self.receive_buffer = ReceiveBuffer(self.transport)

    def read_ahead(self, data: bytes) -> None:
        """Have these bytes in the buffer, as if they had come with a request's head."""
        self.send(data)
        while self.receive_buffer.count < len(data):
            self.receive_buffer.more(5)

    def send(self, data: bytes, *, then_close: bool = False) -> gevent.Greenlet[..., Any]:
        def sending() -> None:
            self.far.sendall(data)
            if then_close:
                self.far.shutdown(socket.SHUT_WR)

        return gevent.spawn(sending)

    def close(self) -> None:
        self.transport.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    pair = Line()
    yield pair
    pair.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileSink]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield FileSink(fd, file_calls())
    os.close(fd)


def content(sink: FileSink) -> bytes:
    return os.pread(sink.fileno(), 1 << 26, 0)


def receiver(**changes: Any) -> Receiver:
    return Receiver(file_calls(), **{"chunk_size": 65536, **changes})


def no_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splicer, "if_supported", classmethod(lambda cls, file_calls: None))


Path3 = Callable[[pytest.MonkeyPatch, Line, bytes], Body]


def by_splice(_: pytest.MonkeyPatch, line: Line, data: bytes) -> Body:
    return SocketBody(line.receive_buffer, len(data), 5)


def by_buffer(monkeypatch: pytest.MonkeyPatch, line: Line, data: bytes) -> Body:
    no_splice(monkeypatch)
    return SocketBody(line.receive_buffer, len(data), 5)


def by_stream(_: pytest.MonkeyPatch, line: Line, data: bytes) -> Body:
    return WsgiBody(line.near.makefile("rb"), len(data), 5, line.near)


class TcpLine(Line):
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
def tcp_line() -> Iterator[TcpLine]:
    pair = TcpLine()
    yield pair
    pair.close()


def test_a_fast_body_is_gathered_and_a_slow_one_does_not_wait_for_more(
    monkeypatch: pytest.MonkeyPatch, tcp_line: TcpLine, target: FileSink
) -> None:
    asked: list[int] = []
    set_low_watermark = Transport.set_low_watermark

    def noted(transport: Transport, count: int) -> None:
        asked.append(count)
        set_low_watermark(transport, count)

    monkeypatch.setattr(Transport, "set_low_watermark", noted)
    size, first = 4 * GATHER_BYTES, 1000
    body = SocketBody(tcp_line.receive_buffer, size, 5)
    receiving = gevent.spawn(receiver().receive, body, target, limit=size)
    tcp_line.far.sendall(bytes(first))
    while body.received < first:
        gevent.sleep(0.001)
    assert asked == [GATHER_BYTES, 1]
    assert tcp_line.waits_for() == 1
    tcp_line.far.sendall(bytes(size - first))
    assert receiving.get() == size
    assert asked[-1] == tcp_line.waits_for() == 1


def test_the_end_of_a_stream_ends_a_wait_for_more(tcp_line: TcpLine, target: FileSink) -> None:
    body = SocketBody(tcp_line.receive_buffer, 4 * GATHER_BYTES, 5)
    tcp_line.send(bytes(1000), then_close=True)
    with pytest.raises(IncompleteBody):
        receiver().receive(body, target, limit=body.length)
    assert content(target) == bytes(1000)


@pytest.mark.parametrize("path", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("size", SIZES)
def test_exact_bytes_on_every_path(
    monkeypatch: pytest.MonkeyPatch, line: Line, target: FileSink, path: Path3, size: int
) -> None:
    data = os.urandom(size)
    body = path(monkeypatch, line, data)
    line.send(data + b"the next request")
    assert receiver().receive(body, target, limit=size) == size
    assert body.is_complete
    assert body.received == size
    assert content(target) == data


def test_a_time_limit_can_be_entered_again(line: Line) -> None:
    transport = line.receive_buffer.transport
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


def test_the_shorter_of_two_time_limits_ends_first(line: Line) -> None:
    transport = line.receive_buffer.transport
    with transport.limit(10):
        for _ in range(2):
            with pytest.raises(TransportTimeout), transport.limit(0.01):
                gevent.sleep(20)


def test_a_tail_does_not_wait_for_a_full_segment(line: Line) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = gevent.socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        far.settimeout(10)
        transport = Transport(near)
        with transport.corked():
            transport.send(b"head", 5)
            transport.send(b" and tail", 5)
        assert far.recv(100) == b"head and tail"
        transport.close()
        near.close()
        far.close()


@pytest.mark.parametrize("ahead", [0, 1, 1000, 200_000, 300_000])
def test_bytes_read_ahead_come_first_and_the_next_request_stays(line: Line, target: FileSink, ahead: int) -> None:
    data = os.urandom(300_000)
    line.read_ahead(data[:ahead] + (b"next" if ahead == len(data) else b""))
    line.send(data[ahead:])
    receiver().receive(SocketBody(line.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data
    assert line.receive_buffer.ahead == (b"next" if ahead == len(data) else b"")


@pytest.mark.parametrize("path", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("sent", [0, 1, 70_000, 499_999])
def test_a_cut_body_keeps_what_arrived(
    monkeypatch: pytest.MonkeyPatch, line: Line, target: FileSink, path: Path3, sent: int
) -> None:
    data = os.urandom(500_000)
    body = path(monkeypatch, line, data)
    line.send(data[:sent], then_close=True)
    with pytest.raises(IncompleteBody):
        receiver().receive(body, target, limit=len(data))
    assert not body.is_complete
    arrived = content(target)
    assert data.startswith(arrived)
    if path is not by_stream:  # a plain stream may hold back a piece that is not full
        assert len(arrived) == sent


@pytest.mark.parametrize("path", [by_splice, by_buffer])
def test_a_silent_client_is_stalled_and_a_dribbling_one_is_not(
    monkeypatch: pytest.MonkeyPatch, line: Line, target: FileSink, path: Path3
) -> None:
    data = os.urandom(200_000)
    body = path(monkeypatch, line, data)
    assert isinstance(body, SocketBody)
    body.timeout = 1.0  # a busy machine delays a sender by less

    def dribble() -> None:
        for start in range(0, 100, 5):
            line.far.sendall(data[start : start + 5])
            gevent.sleep(0.06)

    gevent.spawn(dribble)
    before = time.monotonic()
    with pytest.raises(PeerTimeout):
        receiver().receive(body, target, limit=len(data))
    assert time.monotonic() - before > 20 * 0.06 + body.timeout - 0.1
    assert content(target) == data[:100]


@pytest.mark.parametrize("size", [1, 300_000])
def test_the_limit_holds_for_bodies_of_unknown_length(line: Line, target: FileSink, size: int) -> None:
    line.send(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
    with pytest.raises(TooLarge):
        receiver().receive(ChunkedBody(line.receive_buffer, 5), target, limit=size - 1)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 70))
def test_chunked_bodies_in_any_cut(pieces: list[bytes], cut: int) -> None:
    line = Line()
    wire_bytes = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"

    def send() -> None:
        for start in range(0, len(wire_bytes), cut):
            line.far.sendall(wire_bytes[start : start + cut])
            gevent.sleep(0)
        line.far.sendall(b"NEXT")

    gevent.spawn(send)
    body = ChunkedBody(line.receive_buffer, 5)
    assert body.read() == b"".join(pieces)
    assert body.is_complete
    while line.receive_buffer.count < 4:
        line.receive_buffer.more(5)
    assert line.receive_buffer.ahead == b"NEXT"
    line.close()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"5\r\nhel", IncompleteBody), (b"5\r\nhello", IncompleteBody), (b"5\r\nhelloXX0\r\n\r\n", BadBody), (b"-1\r\n", BadBody),
        (b"0x5\r\n", BadBody), (b"1" * 16 + b"\r\n", TooLarge), (b"5" * 9000, BadBody), (b"0\r\n" + b"a: b\r\n" * 99, BadBody),
        (b"0\r\n", IncompleteBody), (b"1\r\nx\r\n0\n\n", BadBody), (b"\r\n", BadBody), (b"", IncompleteBody),
    ],
)  # fmt: skip
def test_broken_chunked_bodies(line: Line, data: bytes, error: type[HmacfsError]) -> None:
    line.send(data, then_close=True)
    with pytest.raises(error):
        ChunkedBody(line.receive_buffer, 5).read()


def test_the_client_is_invited_once_and_only_when_its_body_is_wanted(line: Line, target: FileSink) -> None:
    invitations: list[int] = []
    body = SocketBody(line.receive_buffer, 300_000, 5, lambda: invitations.append(1))
    assert invitations == []
    line.send(b"x" * 300_000)
    receiver().receive(body, target, limit=300_000)
    assert invitations == [1]


def test_a_digest_sees_every_byte(line: Line, target: FileSink) -> None:
    data, digest = os.urandom(700_000), hashlib.sha256()
    line.send(data)
    receiver().receive(SocketBody(line.receive_buffer, len(data), 5), target, limit=len(data), digest=digest)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert content(target) == data


def test_a_file_system_without_splice_gets_its_bytes_through_a_buffer(
    line: Line, target: FileSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, real = os.urandom(900_000), os.splice

    def splice(source: int, sink: int, count: int, **options: Any) -> int:
        if sink == target.fileno():
            raise OSError(errno.EINVAL, "not here")
        return real(source, sink, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    line.send(data)
    ours = receiver()
    ours.receive(SocketBody(line.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data
    assert ours._splicer is None


def test_a_pipe_that_a_failure_left_full_is_never_used_again(
    line: Line, target: FileSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = os.splice, [True]

    def splice(source: int, sink: int, count: int, **options: Any) -> int:
        if sink == target.fileno() and failing[0]:
            raise OSError(errno.ENOSPC, "full")
        return real(source, sink, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    ours = receiver()
    line.send(b"a" * 200_000)
    with pytest.raises(OSError, match="full"):
        ours.receive(SocketBody(line.receive_buffer, 200_000, 5), target, limit=200_000)
    failing[0] = False
    other = Line()
    other.send(b"b" * 200_000)
    ours.receive(SocketBody(other.receive_buffer, 200_000, 5), target, limit=200_000)
    assert content(target) == b"b" * 200_000
    other.close()


def test_short_writes_are_continued(line: Line, target: FileSink, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1000]))
    no_splice(monkeypatch)
    data = os.urandom(50_000)
    line.read_ahead(data)
    receiver().receive(SocketBody(line.receive_buffer, len(data), 5), target, limit=len(data))
    assert content(target) == data


def test_buffers_are_reused(line: Line, target: FileSink, monkeypatch: pytest.MonkeyPatch) -> None:
    no_splice(monkeypatch)
    ours = receiver()
    for _ in range(3):
        line.send(b"x" * 600_000)
        ours.receive(SocketBody(line.receive_buffer, 600_000, 5), target, limit=600_000)
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


def test_no_more_is_written_than_is_covered(line: Line, target: FileSink) -> None:
    asked: list[int] = []

    def cover(received: int, written: int) -> int:
        asked.append(received)
        assert written == os.fstat(target.fileno()).st_size < received
        if received > 500_000:
            raise NoSpace
        return received + 100_000

    line.send(b"".join(b"%x\r\n%s\r\n" % (50_000, bytes(50_000)) for _ in range(20)))
    with pytest.raises(NoSpace):
        receiver().receive(ChunkedBody(line.receive_buffer, 5), target, limit=2_000_000, cover=cover)
    assert 4 <= len(asked) <= 7
    assert os.fstat(target.fileno()).st_size <= 600_000


def dribble(line: Line, pieces: list[bytes], pause: float) -> gevent.Greenlet[..., Any]:
    def sending() -> None:
        for piece in pieces:
            gevent.sleep(pause)
            line.far.sendall(piece)

    return gevent.spawn(sending)


#: How the first hundred bytes of a body of 300,000 come, one at a time.
SLOW_BODIES: dict[str, tuple[Callable[[Line], Body], list[bytes]]] = {
    "spliced": (lambda line: SocketBody(line.receive_buffer, 300_000, 0.1), [b"x"] * 100),
    "buffered": (lambda line: SocketBody(line.receive_buffer, 30_000, 0.1), [b"x"] * 100),
    "chunked": (lambda line: ChunkedBody(line.receive_buffer, 0.1), [b"1\r\nx\r\n"] * 100),
    "a chunk's extension": (lambda line: ChunkedBody(line.receive_buffer, 0.1), [b"1", b";", *[b"x"] * 98]),
    "trailers": (lambda line: ChunkedBody(line.receive_buffer, 0.1), [b"0\r\n", *[b"x"] * 98]),
}


@pytest.mark.parametrize("kind", SLOW_BODIES)
def test_a_byte_now_and_then_does_not_outlive_the_timeout(line: Line, target: FileSink, kind: str) -> None:
    make, pieces = SLOW_BODIES[kind]
    sending = dribble(line, pieces, 0.02)
    with pytest.raises(PeerTimeout, match="too slowly"):
        receiver(least_rate=1024).receive(make(line), target, limit=300_000)
    assert not sending.ready()
    sending.kill()


def test_a_slow_client_at_the_least_rate_goes_on(line: Line, target: FileSink) -> None:
    dribble(line, [b"x" * 50] * 20, 0.02)
    assert receiver(least_rate=500).receive(SocketBody(line.receive_buffer, 1000, 0.1), target, limit=1000) == 1000


def test_time_that_the_server_needs_is_not_the_clients(line: Line, target: FileSink) -> None:
    class SlowSink(FileSink):
        def write(self, data: memoryview) -> None:
            for begin in range(0, len(data), 10):
                gevent.sleep(0.1)
                super().write(data[begin : begin + 10])

    line.send(b"x" * 100)
    slow = SlowSink(target.fileno(), file_calls())
    ours = receiver(least_rate=1_000_000)
    assert ours.receive(SocketBody(line.receive_buffer, 100, 0.05), slow, limit=100) == 100


def test_a_rate_limit_below_the_least_rate_ends_no_upload(line: Line, target: FileSink) -> None:
    line.send(b"x" * 100)
    body = SocketBody(line.receive_buffer, 100, 0.05)
    assert receiver(rate=200, least_rate=1024).receive(body, target, limit=100) == 100
    assert body.least_rate == 100


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


@pytest.mark.parametrize(
    ("failure", "error"),
    [(ConnectionResetError(errno.ECONNRESET, ""), IncompleteBody), (TransportTimeout(), PeerTimeout)],
)
@pytest.mark.parametrize("length", [5, None])
def test_a_client_that_left_before_it_was_invited_has_cut_its_body(
    line: Line, target: FileSink, length: int | None, failure: OSError, error: type[HmacfsError]
) -> None:
    def send_continue() -> None:
        raise failure

    body: Body = (
        ChunkedBody(line.receive_buffer, 5, send_continue)
        if length is None
        else SocketBody(line.receive_buffer, length, 5, send_continue)
    )
    with pytest.raises(error):
        receiver().receive(body, target, limit=5)


@pytest.mark.parametrize("path", [by_splice, by_buffer])
def test_what_was_read_with_the_head_is_throttled_too(
    monkeypatch: pytest.MonkeyPatch, line: Line, target: FileSink, path: Path3
) -> None:
    data = os.urandom(150_000)
    body = path(monkeypatch, line, data)
    line.read_ahead(data[:70_000])
    line.send(data[70_000:])
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


@pytest.mark.parametrize("path", [by_splice, by_buffer, by_stream])
@pytest.mark.parametrize("is_spooled", [False, True])
@pytest.mark.parametrize(("size", "portion"), [(1_000_000, 300_000), (900_000, 300_000), (700_000, 700_001), (5, 2)])
def test_a_sink_gets_full_portions(
    monkeypatch: pytest.MonkeyPatch,
    line: Line,
    tmp_path: Path,
    path: Path3,
    *,
    is_spooled: bool,
    size: int,
    portion: int,
) -> None:
    data = os.urandom(size)
    body = path(monkeypatch, line, data)
    if isinstance(body, SocketBody):
        ahead = min(size, 100_000)
        line.read_ahead(data[:ahead])
        line.send(data[ahead:])
    else:
        line.send(data)
    sink = Portions(portion, tmp_path if is_spooled else None)
    assert receiver(chunk_size=100_003).receive(body, sink, limit=size) == size
    assert len(sink.portions) == size // portion
    assert b"".join(sink.portions) + sink.rest() == data


class Pieces:
    """A source without a descriptor."""

    def __init__(self, data: bytes) -> None:
        self.info = FileInfo(len(data), 0.0, '""', FileMetadata())
        self._data = data

    def pieces(self, offset: int, count: int, size: int) -> Iterator[bytes]:
        whole = self._data[offset : offset + count]
        return (whole[begin : begin + size] for begin in range(0, len(whole), size))

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        self._data = b""


def test_a_source_without_a_descriptor_is_sent_in_pieces(line: Line) -> None:
    data = os.urandom(900_000)
    part = FileSlice(Pieces(data), 10, 800_000)
    sending = gevent.spawn(part.send_over, line.transport, 5)
    received = b""
    while len(received) < 800_000:
        received += line.far.recv(1 << 20)
    sending.get()
    assert received == data[10:800_010]
    assert part.sent == 800_000
    part.close()
    assert FileSlice(Pieces(b"0123456789"), 2, 5).read() == b"23456"
    with pytest.raises(FileTruncated):
        list(FileSlice(Pieces(data), 0, 900_001))


def test_files_are_sent_whole_in_part_and_slowly(line: Line, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    for offset, count, rate in [(0, 3_000_000, 0), (5, 2_000_000, 0), (1_000, 100_000, 1_000_000)]:
        closed: list[int] = []
        part = FileSlice(
            opened(tmp_path / "file"),
            offset,
            count,
            rate=rate,
            on_close=lambda part, closed=closed: closed.append(part.sent),  # type: ignore[misc]
        )
        sending = gevent.spawn(part.send_over, line.transport, 5)
        received = b""
        while len(received) < count:
            received += line.far.recv(1 << 20)
        sending.get()
        part.close()
        part.close()
        assert received == data[offset : offset + count]
        assert closed == [count]


def test_a_file_for_other_servers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    part = FileSlice(opened(tmp_path / "file"), 2, 5)
    assert b"".join(part) == b"23456"
    part.close()
    short = FileSlice(opened(tmp_path / "file"), 0, 50)
    with pytest.raises(FileTruncated):
        list(short)
    short.close()


def test_a_truncated_file_ends_the_connection(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    part = FileSlice(opened(tmp_path / "file"), 0, 100)
    with pytest.raises(FileTruncated):
        part.send_over(line.transport, 5)
    part.close()


def test_a_stalled_reader_is_dropped(line: Line, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50_000_000)
    part = FileSlice(opened(tmp_path / "file"), 0, 50_000_000)
    with pytest.raises(PeerTimeout):
        part.send_over(line.transport, 0.2)
    assert 0 < part.sent < part.count
    part.close()


def test_a_slow_disk_is_noticed_and_forgotten() -> None:
    now = [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: 0.0)

    def slow_after(seconds: float) -> bool:
        def call() -> str:
            now[0] += seconds
            return "done"

        assert disk(call) == "done"
        return disk.is_slow

    assert slow_after(SLOW_CALL_SECONDS / 2) is False
    assert slow_after(SLOW_CALL_SECONDS * 2) is False
    assert slow_after(SLOW_CALL_SECONDS / 2) is False
    assert slow_after(SLOW_CALL_SECONDS * 2) is True
    assert slow_after(SLOW_FOR_SECONDS + 1) is True
    now[0] += SLOW_FOR_SECONDS + 1
    assert slow_after(0) is False


def test_busy_processors_do_not_make_a_disk_slow() -> None:
    now, waited = [0.0], [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: waited[0])

    def wait_for_processor() -> None:
        now[0] += SLOW_CALL_SECONDS * 2
        waited[0] += SLOW_CALL_SECONDS * 1.5

    for _ in range(5):
        disk(wait_for_processor)
        assert not disk.is_slow


def test_a_doubt_passes() -> None:
    now = [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: 0.0)

    def slow() -> None:
        now[0] += SLOW_CALL_SECONDS * 2

    for _ in range(3):
        disk(slow)
        assert not disk.is_slow
        now[0] += SLOW_FOR_SECONDS + 1


def test_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    failures = [OSError(errno.ESTALE, "stale"), OSError(errno.EMFILE, "many")]

    def operation() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert Retry(5, 2.0)(operation) == "done"
    assert rests == [2.0, 2.0]
    failures.extend([OSError(errno.EIO, "broken"), OSError(errno.EAGAIN, "again")])
    with pytest.raises(OSError, match="broken"):
        Retry(5, 2.0)(operation)
    failures.extend(OSError(errno.EAGAIN, "again") for _ in range(3))
    with pytest.raises(OSError, match="again"):
        Retry(2, 0.0)(operation)


def test_splice_unsupported_is_no_error_of_the_request() -> None:
    assert not issubclass(SpliceUnsupported, (HmacfsError, OSError))
