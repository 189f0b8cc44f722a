"""From a file to a client: ``sendfile`` that lets others run, keeps a byte rate and drops a reader that stalls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import gevent

from hmacfs.errors import PeerTimeout
from hmacfs.net.throttle import Throttle
from hmacfs.net.transport import Transport, TransportTimeout
from hmacfs.system.descriptors import close

#: One system call's worth. A cold file blocks the loop for the disk read of at most this much.
PIECE_BYTES = 1024 * 1024
#: Pieces for servers that only iterate.
PLAIN_PIECE_BYTES = 256 * 1024


class FileTruncated(OSError):
    """The file ended before the bytes that the headers promised: somebody truncated it meanwhile."""


class FileSlice:
    """A part of an open file as a response body. It owns the descriptor.

    Any WSGI server can iterate over it. A server that knows it calls ``send_over`` instead, which copies the
    bytes into this process only where it has to encrypt them. ``sent`` counts what went out; ``on_close`` is called
    once, with this object.

    rate: bytes per second, 0 for no limit.
    """

    def __init__(
        self, fd: int, offset: int, count: int, *, rate: int = 0, on_close: Callable[[FileSlice], None] | None = None
    ) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.rate = rate
        self.sent = 0
        self.on_close = on_close

    def send_over(self, transport: Transport, timeout: float) -> None:
        """Send all of it. Raises ``PeerTimeout`` if the client takes no byte for ``timeout`` seconds, ``OSError`` if it
        is gone, ``FileTruncated`` if the file is."""
        if not transport.is_plain:
            self._send_pieces(transport, timeout)
            return
        throttle = Throttle(self.rate, time.monotonic()) if self.rate else None
        piece = min(PIECE_BYTES, throttle.piece) if throttle else PIECE_BYTES
        while left := self.count - self.sent:
            try:
                count = os.sendfile(transport.fd, self.fd, self.offset + self.sent, min(left, piece))
            except BlockingIOError:
                self._wait_for_room(transport, timeout)
                continue
            if count == 0:
                raise FileTruncated("the file is shorter than it was")
            self.sent += count
            if throttle is not None and (rest := throttle.delay(count, time.monotonic())):
                gevent.sleep(rest)
            else:
                transport.yield_if_due()

    def _send_pieces(self, transport: Transport, timeout: float) -> None:
        try:
            for data in self:
                transport.send(data, timeout)
        except TransportTimeout as error:
            raise PeerTimeout("The client stopped reading.") from error

    @staticmethod
    def _wait_for_room(transport: Transport, timeout: float) -> None:
        try:
            transport.wait_writable(timeout)
        except TransportTimeout as error:
            raise PeerTimeout("The client stopped reading.") from error

    def __iter__(self) -> Iterator[bytes]:
        throttle = Throttle(self.rate, time.monotonic()) if self.rate else None
        piece = min(PLAIN_PIECE_BYTES, throttle.piece) if throttle else PLAIN_PIECE_BYTES
        while left := self.count - self.sent:
            data = os.pread(self.fd, min(left, piece), self.offset + self.sent)
            if not data:
                raise FileTruncated("the file is shorter than it was")
            yield data
            self.sent += len(data)
            gevent.sleep(throttle.delay(len(data), time.monotonic()) if throttle else 1e-6)

    def close(self) -> None:
        """Give back the descriptor; more calls do nothing."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
            if self.on_close is not None:
                self.on_close(self)
