"""From a file to a client: ``sendfile`` that lets others run, keeps a byte rate and drops a reader that stalls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import gevent

from hmacfs.descriptors import close
from hmacfs.errors import Stalled
from hmacfs.transfer.pace import Pace
from hmacfs.transfer.wire import Wire, WireTimeout

#: One system call's worth. A cold file blocks the loop for the disk read of at most this much.
PIECE_BYTES = 1024 * 1024
#: Pieces for servers that only iterate.
PLAIN_PIECE_BYTES = 256 * 1024


class FileShorter(OSError):
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

    def send_over(self, wire: Wire, timeout: float) -> None:
        """Send all of it. Raises ``Stalled`` if the client takes no byte for ``timeout`` seconds, ``OSError`` if it is
        gone, ``FileShorter`` if the file is."""
        if not wire.is_plain:
            self._send_pieces(wire, timeout)
            return
        pace = Pace(self.rate, time.monotonic()) if self.rate else None
        piece = min(PIECE_BYTES, pace.piece) if pace else PIECE_BYTES
        while left := self.count - self.sent:
            try:
                count = os.sendfile(wire.fd, self.fd, self.offset + self.sent, min(left, piece))
            except BlockingIOError:
                self._wait_for_room(wire, timeout)
                continue
            if count == 0:
                raise FileShorter("the file is shorter than it was")
            self.sent += count
            if pace is not None and (rest := pace.rest(count, time.monotonic())):
                gevent.sleep(rest)
            else:
                wire.give_way()

    def _send_pieces(self, wire: Wire, timeout: float) -> None:
        try:
            for data in self:
                wire.send(data, timeout)
        except WireTimeout as error:
            raise Stalled("The client stopped reading.") from error

    @staticmethod
    def _wait_for_room(wire: Wire, timeout: float) -> None:
        try:
            wire.wait_writable(timeout)
        except WireTimeout as error:
            raise Stalled("The client stopped reading.") from error

    def __iter__(self) -> Iterator[bytes]:
        pace = Pace(self.rate, time.monotonic()) if self.rate else None
        piece = min(PLAIN_PIECE_BYTES, pace.piece) if pace else PLAIN_PIECE_BYTES
        while left := self.count - self.sent:
            data = os.pread(self.fd, min(left, piece), self.offset + self.sent)
            if not data:
                raise FileShorter("the file is shorter than it was")
            yield data
            self.sent += len(data)
            gevent.sleep(pace.rest(len(data), time.monotonic()) if pace else 1e-6)

    def close(self) -> None:
        """Give back the descriptor; more calls do nothing."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
            if self.on_close is not None:
                self.on_close(self)
