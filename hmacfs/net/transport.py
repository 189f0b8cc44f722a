"""A client's connection: cooperative, with time limits, on the descriptor.

gevent's socket methods copy or loop in small pieces where the kernel offers better (``readv`` into one buffer,
``splice``, ``sendfile``), so the paths that carry file bytes work on the descriptor and wait through the hub.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gevent
from gevent import get_hub, getcurrent

T = TypeVar("T")
R = TypeVar("R")

_READ, _WRITE = 1, 2
_NO_COUNT = bytes(4)

#: How long a transfer that never has to wait may keep the event loop. Yielding goes through the poller: a plain
#: ``sleep(0)`` only queues a callback, and other sockets are not polled for dozens of them (docs/facts.md, section 3).
QUANTUM_SECONDS = 0.003
#: Time slice for pipelined small requests. With 32 such connections 3 ms make the slowest of a hundred requests take
#: 40 ms, this 14; it costs 3 to 6 % of the rate.
REQUESTS_QUANTUM_SECONDS = 0.001


#: How much of a large file the kernel may hold that the peer's window has no room for: see
#: ``Transport.unsent_low_watermark``. 64 KiB gained nothing (docs/facts.md, section 6).
UNSENT_LOW_WATERMARK_BYTES = 16 * 1024
#: It is dropped for the rest of a file once so many waits took longer than so many seconds: a peer that takes less than
#: some 500 MB/s gains nothing from it, and at 100 MB/s the waits cost five times the processor time of the transfer.
UNSENT_LOW_WATERMARK_WAITS, UNSENT_LOW_WATERMARK_SECONDS = 128, 0.02

#: How long a wait for the low watermark may last. A fast peer on a local network reaches it in less.
LOW_WATERMARK_SECONDS = 0.01


#: The peer or the way to it is gone. For a reader that is the end of the stream.
GONE_ERRNOS = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)


class TransportTimeout(TimeoutError):
    """The peer neither sent nor took a byte for the time allowed."""


class NothingYet(Exception):
    """A read has waited, and what came is not enough for a byte of content: a part of a TLS record. Its caller decides
    how long the whole may take."""


class ReusableTimeout:
    """``TransportTimeout`` in the greenlet that is in this context for longer than ``seconds``. For one greenlet at a
    time, any number of times: ``gevent.Timeout`` makes a new timer for each wait, which costs a request 2 us."""

    __slots__ = ("_timer",)

    def __init__(self, seconds: float) -> None:
        assert seconds > 0, "libev takes 0 for no limit"
        self._timer: Any = get_hub().loop.timer(seconds, seconds)

    def __enter__(self) -> None:
        self._timer.again(getcurrent().throw, TransportTimeout)

    def __exit__(self, *_: object) -> None:
        self._timer.stop()

    def close(self) -> None:
        self._timer.close()


class Deadline:
    """``TransportTimeout`` in the greenlet that began it, if that waits while the monotonic time ``at`` passes.

    For a limit of the same length again and again, of which hardly one is reached: ``at`` is just set, ``math.inf`` for
    none. The loop's timer is not moved each time, which costs a request as much as its ``read``; when it fires, it is
    set for what is left. seconds: the limit's length; ``at`` may be no earlier than that after now.
    """

    __slots__ = ("_greenlet", "_seconds", "_timer", "at")

    def __init__(self, seconds: float) -> None:
        self.at = math.inf
        self._seconds = seconds
        self._greenlet: Any = None
        self._timer: Any = None

    def begin(self) -> None:
        self._greenlet = getcurrent()
        self._start(self._seconds)

    def _start(self, seconds: float) -> None:
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._look)

    def _look(self) -> None:
        self._timer.close()
        left = self.at - time.monotonic()
        self._start(min(max(left, 0.001), self._seconds))
        if left <= 0:
            self.at = math.inf
            self._greenlet.throw(TransportTimeout)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = self._greenlet = None


class Transport:
    """A connected stream socket that gevent has put into non-blocking mode.

    For one greenlet at a time. ``close`` must be called before the socket is closed: the watchers are registered with
    the poller under the descriptor's number.
    """

    __slots__ = (
        *("_hub", "_limits", "_low_watermark", "_raw", "_readable", "_turn_began", "_writable"),
        *("_unsent_waits", "_unsent_waits_began", "fd", "sock"),
    )

    #: Whether the bytes on the descriptor are others than the peer's, so that the kernel cannot move them for us.
    is_encrypted = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: gevent's methods of the same names wait by themselves; here the waits have their own limits.
        self._raw: socket.socket = getattr(sock, "_sock", sock)
        self.fd = sock.fileno()
        self._hub: Any = get_hub()
        self._readable: Any = self._hub.loop.io(self.fd, _READ)
        self._writable: Any = None
        self._limits: dict[float, ReusableTimeout] = {}
        self._turn_began = 0.0
        self._low_watermark = 1
        #: Waits for writing since ``_unsent_waits_began``, ``None`` without a low watermark of unsent bytes.
        self._unsent_waits: int | None = None
        self._unsent_waits_began = 0.0

    def set_low_watermark(self, count: int) -> None:
        """From now on let waits for reading go on until so many bytes are there, or the stream has ended (SO_RCVLOWAT);
        1 ends that. For fast peers: once the bytes do not come within ``LOW_WATERMARK_SECONDS``, it is 1 again."""
        if count != self._low_watermark and hasattr(socket, "SO_RCVLOWAT"):
            self._low_watermark = count
            with contextlib.suppress(OSError):
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    @property
    def has_low_watermark(self) -> bool:
        """Whether waits go on until several bytes are there."""
        return self._low_watermark > 1

    def wait_readable(self, timeout: float | None) -> None:
        """Wait until a read makes progress (data, end or error); ``TransportTimeout`` after ``timeout`` seconds."""
        if self._low_watermark > 1:
            try:
                self._wait(self._readable, LOW_WATERMARK_SECONDS)
            except TransportTimeout:
                self.set_low_watermark(1)
            else:
                return
        self._wait(self._readable, timeout)

    def wait_writable(self, timeout: float | None) -> None:
        """Wait until a write makes progress; ``TransportTimeout`` after ``timeout`` seconds."""
        if self._writable is None:
            self._writable = self._hub.loop.io(self.fd, _WRITE)
        self._wait(self._writable, timeout)
        if self._unsent_waits is not None:
            self._count_unsent_wait(self._unsent_waits + 1)

    def _wait(self, watcher: Any, timeout: float | None) -> None:
        if timeout is None:
            self._switch(watcher)
        else:
            with self.limit(timeout):
                self._switch(watcher)
        self._turn_began = 0.0

    def _switch(self, watcher: Any) -> None:
        """Let others run until the watcher fires. As ``Hub.wait``, without its waiter: to be woken up for another
        reason does no harm, since all callers try again what they waited for."""
        watcher.start(getcurrent().switch)
        try:
            self._hub.switch()
        finally:
            watcher.stop()

    def limit(self, seconds: float) -> ReusableTimeout:
        """A context that ends with ``TransportTimeout`` after so many seconds. Contexts of equal seconds must not nest,
        and none may hold waits for a low watermark. One timer is kept for each figure: let there be few."""
        limit = self._limits.get(seconds)
        if limit is None:
            limit = self._limits[seconds] = ReusableTimeout(seconds)
        return limit

    def yield_if_due(self, quantum: float = QUANTUM_SECONDS) -> None:
        """Let other greenlets run if this one has kept the loop for a quantum. Call it between two pieces."""
        now = time.monotonic()
        if self._turn_began == 0.0:
            self._turn_began = now
        elif now - self._turn_began >= quantum:
            gevent.sleep(1e-6)
            self._turn_began = time.monotonic()

    def read(self, at_most: int, timeout: float | None) -> bytes:
        """The bytes that have arrived, or the next that do: at least one, or none at the end of the stream. With a
        timeout, ``NothingYet``."""
        return self._received(os.read, at_most, timeout, at_end=b"")

    def read_into(self, view: memoryview, timeout: float | None) -> int:
        """The same into ``view``: the number of bytes."""
        return self._received(os.readv, [view], timeout, at_end=0)

    def _received(self, receive: Callable[[int, T], R], target: T, timeout: float | None, *, at_end: R) -> R:
        while True:
            try:
                return receive(self.fd, target)
            except BlockingIOError:
                self.wait_readable(timeout)
            except OSError as error:
                if error.errno not in GONE_ERRNOS:
                    raise
                return at_end

    def read_arrived(self, view: memoryview) -> int:
        """Bytes put into ``view`` without waiting: 0 if there are none now. An end or error is for the next read."""
        try:
            return os.readv(self.fd, [view])
        except OSError:
            return 0

    def send(self, data: bytes | memoryview, timeout: float) -> None:
        """Send all of ``data``. ``TransportTimeout`` if the peer takes no byte for ``timeout`` seconds, ``OSError`` if
        it is gone."""
        try:
            count = os.write(self.fd, data)
        except BlockingIOError:
            count = 0
        if count < len(data):
            self._send_rest(memoryview(data)[count:], timeout)

    def send_both(self, head: bytes, content: bytes, timeout: float) -> None:
        """Send these one after the other, by one system call if the peer takes them at once."""
        try:
            count = os.writev(self.fd, (head, content))
        except BlockingIOError:
            count = 0
        if count < len(head) + len(content):
            self._send_rest(memoryview(head + content)[count:], timeout)

    def send_ahead(self, head: bytes, timeout: float) -> None:
        """Like ``send``, of what more follows at once: the two share a segment (MSG_MORE)."""
        try:
            count = self._raw.send(head, getattr(socket, "MSG_MORE", 0))
        except BlockingIOError:
            count = 0
        if count < len(head):
            self._send_rest(memoryview(head)[count:], timeout)

    def _send_rest(self, rest: memoryview, timeout: float) -> None:
        while rest:
            self.wait_writable(timeout)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self.fd, rest) :]

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """In this context only full segments go out (TCP_CORK). ``sendfile`` would end one at each pipe's worth of
        64 KiB: a GET of 1 GiB took 0.56 s of CPU time instead of 0.47 s."""
        self._cork(1)
        try:
            yield
        finally:
            self._cork(0)

    def _cork(self, value: int) -> None:
        self._set_for_tcp("TCP_CORK", value)

    @contextlib.contextmanager
    def unsent_low_watermark(self) -> Iterator[None]:
        """In this context a wait for writing goes on until the peer's window has room (TCP_NOTSENT_LOWAT). For a large
        file to a peer on this machine: what the kernel holds beyond the window goes out when the peer has read, on the
        peer's processor, which then works for both sides while this one's waits (docs/facts.md, section 6). Once the
        peer turns out to be slow, it ends."""
        self._set_for_tcp("TCP_NOTSENT_LOWAT", UNSENT_LOW_WATERMARK_BYTES)
        self._unsent_waits, self._unsent_waits_began = 0, time.monotonic()
        try:
            yield
        finally:
            if self._unsent_waits is not None:
                self._end_unsent_low_watermark()

    def _count_unsent_wait(self, waits: int) -> None:
        self._unsent_waits = waits
        if waits >= UNSENT_LOW_WATERMARK_WAITS:
            now = time.monotonic()
            if now - self._unsent_waits_began > UNSENT_LOW_WATERMARK_SECONDS:
                self._end_unsent_low_watermark()
            else:
                self._unsent_waits, self._unsent_waits_began = 0, now

    def _end_unsent_low_watermark(self) -> None:
        self._unsent_waits = None
        self._set_for_tcp("TCP_NOTSENT_LOWAT", 0)  # what the administrator has chosen

    def _set_for_tcp(self, option: str, value: int) -> None:
        if hasattr(socket, option):
            with contextlib.suppress(OSError):  # no TCP, or the peer is gone
                self._raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def bound_receive_buffer(self, rate: int) -> None:
        """Keep the kernel from taking much more than ``rate`` (bytes per second) lets through: left alone it buffers
        several megabytes, which a throttled sender sees as a burst. The kernel doubles the figure for its own use."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(8192, min(rate // 8, 1 << 20)))

    @property
    def has_arrived(self) -> bool:
        """Whether bytes of the peer wait to be read."""
        return self.arrived_bytes > 0

    @property
    def arrived_bytes(self) -> int:
        """How many bytes of the peer wait to be read."""
        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, _NO_COUNT), sys.byteorder)

    def stop_reading(self) -> None:
        """Make a pending or later read end at once, as if the peer had closed. Writing still works."""
        with contextlib.suppress(OSError):  # the peer was faster
            self._raw.shutdown(socket.SHUT_RD)

    def stop_writing(self) -> None:
        """Tell the peer that nothing more follows."""
        self._raw.shutdown(socket.SHUT_WR)

    def discard(self, scratch: bytearray) -> int | None:
        """Discard bytes that have arrived, at most as many as fit ``scratch``: their number, 0 at the end of the
        stream, ``None`` if there are none now."""
        try:
            # MSG_TRUNC: the kernel drops the bytes instead of copying them (tcp(7)).
            return self._raw.recv_into(scratch, 0, getattr(socket, "MSG_TRUNC", 0))
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Free watchers and timers. The socket itself is the caller's."""
        for watcher in (self._readable, self._writable):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        for limit in self._limits.values():
            limit.close()


class ReceiveBuffer:
    """The bytes that a peer sends: first the ``count`` that were read ahead (after a request's head), then the socket.

    Bytes read ahead are not copied again: a small file goes to the disk from where they were read to.
    """

    __slots__ = ("_data", "_start", "count", "transport")

    #: Enough for the head of an ordinary request and a thumbnail after it in one system call.
    READ_AHEAD = 72 * 1024

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.count = 0
        self._data = b""
        self._start = 0

    @property
    def ahead(self) -> bytes:
        """The bytes read ahead."""
        return self._data[self._start :] if self._start else self._data

    def more(self, timeout: float | None) -> bool:
        """Read once from the socket, to follow the bytes read ahead; False at the end of the stream."""
        data = self.transport.read(self.READ_AHEAD, timeout)
        self._data = self.ahead + data if self.count else data
        self._start = 0
        self.count = len(self._data)
        return bool(data)

    def consume(self, parse: Callable[[bytes, int], int]) -> None:
        """Let ``parse`` take bytes off those read ahead: it gets them and the position where they begin, and returns
        the position where what it took ends."""
        self._start = parse(self._data, self._start)
        self.count = len(self._data) - self._start
        if not self.count:
            self._data, self._start = b"", 0

    def skip(self, count: int) -> None:
        """Drop so many of the bytes read ahead."""
        self._start += count
        self.count -= count
        if not self.count:
            self._data, self._start = b"", 0

    def take(self, count: int) -> memoryview:
        """At most ``count`` bytes of those read ahead."""
        begin, end = self._start, min(self._start + count, len(self._data))
        taken = memoryview(self._data)[begin:end]
        self._start, self.count = end, len(self._data) - end
        if not self.count:
            self._data, self._start = b"", 0
        return taken

    def read_into(self, view: memoryview, timeout: float | None) -> int:
        """Like ``Transport.read_into``, after the bytes read ahead. Bytes that have arrived after those come with them,
        so that a body of some dozen kilobytes is written to its file at once."""
        if not self.count:
            return self.transport.read_into(view, timeout)
        data = self.take(len(view))
        count = len(data)
        view[:count] = data
        return count + self.transport.read_arrived(view[count:]) if count < len(view) else count
