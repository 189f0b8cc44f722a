"""From a file to a client: ``sendfile`` that lets others run, keeps a byte rate and drops a reader that stalls."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator

import gevent

from hmacfs.errors import PeerTimeout
from hmacfs.net.throttle import Throttle
from hmacfs.net.transport import Transport, TransportTimeout
from hmacfs.uploads.contracts.stores import Source

#: One system call's worth. A cold file blocks the loop for the disk read of at most this much.
PIECE_BYTES = 1024 * 1024
#: Pieces that go through this process: to be encrypted, or for servers that only iterate.
PLAIN_PIECE_BYTES = 256 * 1024

#: Sends at most so many bytes of a file: transport, descriptor, offset, count, timeout.
_Send = Callable[[Transport, int, int, int, float], int]


class FileTruncated(OSError):
    """The file ended before the bytes that the headers promised: somebody truncated it meanwhile."""


class FileSlice:
    """A part of a stored file as a response body. It owns the source.

    Any WSGI server can iterate over it. A server that knows it calls ``send_over`` instead, which copies the bytes into
    this process only where it has to encrypt them, or where they come from a source without a descriptor. ``sent``
    counts what went out; ``on_close`` is called once, with this object.

    rate: bytes per second, 0 for no limit.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        count: int,
        *,
        rate: int = 0,
        on_close: Callable[[FileSlice], None] | None = None,
    ) -> None:
        self._source = source
        self.offset = offset
        self.count = count
        self.rate = rate
        self.sent = 0
        self.on_close = on_close
        self._is_closed = False

    def read(self) -> bytes:
        """All of it at once, or what there still is, for one that is small. Raises ``OSError``."""
        fd = self._source.fileno()
        if fd is not None:
            return os.pread(fd, self.count, self.offset)
        return b"".join(self._source.pieces(self.offset, self.count, self.count))

    def send_over(self, transport: Transport, timeout: float) -> None:
        """Send all of it. Raises ``PeerTimeout`` if the client takes no byte for ``timeout`` seconds, ``OSError`` if it
        is gone, ``FileTruncated`` if the file is."""
        fd = self._source.fileno()
        try:
            if fd is None:
                for data in self:
                    transport.send(data, timeout)
            else:
                self._send_file(fd, transport, timeout)
        except TransportTimeout as error:
            raise PeerTimeout("The client stopped reading.") from error

    def _send_file(self, fd: int, transport: Transport, timeout: float) -> None:
        throttle = Throttle(self.rate, time.monotonic()) if self.rate else None
        piece = PLAIN_PIECE_BYTES if transport.is_encrypted else PIECE_BYTES
        piece = min(piece, self.count, throttle.piece) if throttle else min(piece, self.count)
        send: _Send = _send_plain
        if transport.is_encrypted:
            send = functools.partial(_send_encrypted, memoryview(bytearray(piece)))
        while left := self.count - self.sent:
            count = send(transport, fd, self.offset + self.sent, min(left, piece), timeout)
            if count == 0:
                raise FileTruncated("the file is shorter than it was")
            self.sent += count
            if throttle is not None and (rest := throttle.delay(count, time.monotonic())):
                gevent.sleep(rest)
            else:
                transport.yield_if_due()

    def __iter__(self) -> Iterator[bytes]:
        throttle = Throttle(self.rate, time.monotonic()) if self.rate else None
        piece = min(PLAIN_PIECE_BYTES, throttle.piece) if throttle else PLAIN_PIECE_BYTES
        for data in self._source.pieces(self.offset, self.count, piece):
            yield data
            self.sent += len(data)
            gevent.sleep(throttle.delay(len(data), time.monotonic()) if throttle else 1e-6)
        if self.sent < self.count:
            raise FileTruncated("the file is shorter than it was")

    def close(self) -> None:
        """Give back the source; more calls do nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._source.close()
            del self._source  # the connection keeps its last answer, and a store may wait until nobody has the file
            if self.on_close is not None:
                self.on_close(self)


def _send_plain(transport: Transport, fd: int, offset: int, count: int, timeout: float) -> int:
    """Send at most so many bytes of the file: how many that were, 0 at its end."""
    while True:
        try:
            return os.sendfile(transport.fd, fd, offset, count)
        except BlockingIOError:
            transport.wait_writable(timeout)


def _send_encrypted(buffer: memoryview, transport: Transport, fd: int, offset: int, count: int, timeout: float) -> int:
    """The same through ``buffer``."""
    piece = buffer[: os.preadv(fd, [buffer[:count]], offset)]
    transport.send(piece, timeout)
    return len(piece)
