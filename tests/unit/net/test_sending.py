"""Files and other sources are sent whole, in part, slowly, and to who does not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket

from hmacfs.errors import PeerTimeout
from hmacfs.net import transport as transport_module
from hmacfs.net.send import FileSlice, FileTruncated
from hmacfs.net.transport import UNSENT_LOW_WATERMARK_BYTES, UNSENT_LOW_WATERMARK_WAITS, Transport
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.local import opened
from tests.unit.net.pairs import ConnectedPair


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="Linux has it")
@pytest.mark.parametrize(("longest", "expected"), [(1000.0, UNSENT_LOW_WATERMARK_BYTES), (0.0, 0)])
def test_the_low_watermark_of_unsent_bytes_ends_where_the_peer_is_slow(
    monkeypatch: pytest.MonkeyPatch, longest: float, expected: int
) -> None:
    def low_watermark() -> int:
        return int(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))

    monkeypatch.setattr(transport_module, "UNSENT_LOW_WATERMARK_SECONDS", longest)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        gevent.socket.create_connection(listener.getsockname()) as near,
    ):
        transport = Transport(near)
        with transport.unsent_low_watermark():
            for _ in range(UNSENT_LOW_WATERMARK_WAITS - 1):
                transport.wait_writable(5)
            assert low_watermark() == UNSENT_LOW_WATERMARK_BYTES
            for _ in range(UNSENT_LOW_WATERMARK_WAITS):
                transport.wait_writable(5)
            assert low_watermark() == expected
        assert low_watermark() == 0
        transport.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="Linux has the cork")
def test_what_is_corked_shares_a_segment_and_its_tail_does_not_wait_for_a_full_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = gevent.socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        transport = Transport(near)
        with transport.corked():
            transport.send(b"head", 5)
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(100)
            transport.send(b" and tail", 5)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == 0
        far.settimeout(10)
        assert far.recv(100) == b"head and tail"
        transport.close()
        near.close()
        far.close()


def test_a_head_that_is_sent_ahead_shares_a_segment_with_what_follows(pair: ConnectedPair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = gevent.socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        far.settimeout(10)
        transport = Transport(near)
        transport.send_ahead(b"head", 5)
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(100)
        far.settimeout(10)
        transport.send(b" and tail", 5)
        assert far.recv(100) == b"head and tail"
        transport.close()
        near.close()
        far.close()


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


def test_a_source_without_a_descriptor_is_sent_in_pieces(pair: ConnectedPair) -> None:
    data = os.urandom(900_000)
    part = FileSlice(Pieces(data), 10, 800_000)
    sending = gevent.spawn(part.send_over, pair.transport, 5)
    received = b""
    while len(received) < 800_000:
        received += pair.far.recv(1 << 20)
    sending.get()
    assert received == data[10:800_010]
    assert part.sent == 800_000
    part.close()
    assert FileSlice(Pieces(b"0123456789"), 2, 5).read() == b"23456"
    with pytest.raises(FileTruncated):
        list(FileSlice(Pieces(data), 0, 900_001))


def test_files_are_sent_whole_in_part_and_slowly(pair: ConnectedPair, tmp_path: Path) -> None:
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
        sending = gevent.spawn(part.send_over, pair.transport, 5)
        received = b""
        while len(received) < count:
            received += pair.far.recv(1 << 20)
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


def test_a_truncated_file_ends_the_connection(pair: ConnectedPair, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    part = FileSlice(opened(tmp_path / "file"), 0, 100)
    with pytest.raises(FileTruncated):
        part.send_over(pair.transport, 5)
    part.close()


def test_a_stalled_reader_is_dropped(pair: ConnectedPair, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50_000_000)
    part = FileSlice(opened(tmp_path / "file"), 0, 50_000_000)
    with pytest.raises(PeerTimeout):
        part.send_over(pair.transport, 0.2)
    assert 0 < part.sent < part.count
    part.close()
