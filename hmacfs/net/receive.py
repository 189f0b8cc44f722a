"""From a request body to a sink, with constant memory: in the kernel where that is possible, else through a buffer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import gevent

from hmacfs.errors import IncompleteBody, Superseded, TooLarge
from hmacfs.net.body import SocketBody
from hmacfs.net.splice import PIPE_BYTES, Splicer, SpliceUnsupported
from hmacfs.net.throttle import Throttle
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.contracts.requests import Hash, RequestBody, Sink

#: Bodies below this go through a buffer: a pipe costs two system calls more than it saves copying.
SPLICE_FROM_BYTES = 128 * 1024
#: A worker that is woken for every few packets spends a good part of its time on waking up: a fast body is taken in
#: portions of at least this size. For 1 GiB that saves a quarter of the CPU time, and 8 streams are a tenth faster. It
#: must stay below the sender's initial congestion window: with BBR on a loopback that is 448 KiB, and with more each
#: piece of 8 MiB took 3 ms longer while both sides waited.
LOW_WATERMARK_BYTES = 384 * 1024
#: Up to this size a body that is in the kernel's buffer when it is asked for is moved without a wait, and what others
#: need to know of a transfer that lasts is left out (docs/facts.md, section 3). Where many clients send at once most
#: have arrived by then. It is less than a millisecond's work.
AT_ONCE_BYTES = PIPE_BYTES
#: Once a body's splices have found nothing so often, one after the other, though the poller called the socket readable,
#: the rest is read: the stream has ended, or they stop before an urgent byte (TCP) for ever, which a read passes.
SPLICES_IN_VAIN = 4
#: The buffer of the path without a pipe. Larger ones are not faster and no longer fit the second-level cache.
BUFFER_BYTES = 256 * 1024
#: How many idle buffers a worker keeps.
BUFFERS_KEPT = 16
#: How often a writer looks whether another one wants its file.
WATCH_SECONDS = 0.2


class Receiver:
    """Moves bodies into sinks. One per worker: it keeps the buffers and the pipe that its transfers share.

    chunk_size: bytes read at once from a plain stream (``ChunkSize``).
    rate: bytes per second for each body; 0 for no limit. least_rate: see ``Body``.
    """

    def __init__(self, file_calls: FileCalls, *, chunk_size: int, rate: int = 0, least_rate: int = 0) -> None:
        self._file_calls = file_calls
        self._chunk_size = chunk_size
        self._rate = rate
        # A client that is slowed down here has to wait for room in the kernel's buffers: that is no fault of its own.
        self._least_rate = min(least_rate, rate // 2) if rate else least_rate
        self._buffers: list[bytearray] = []
        self._splicer: Splicer | None = Splicer.if_supported(file_calls)

    def note_arrival(self, body: RequestBody) -> None:
        """See ``uploads.contracts.requests.Receiver``. Not where the bytes pass through a buffer, nor for the longest
        body that a store may hold in memory (of ``SPLICE_FROM_BYTES``)."""
        if not isinstance(body, SocketBody) or not SPLICE_FROM_BYTES < body.left <= AT_ONCE_BYTES:
            return
        if self._splicer is None or self._rate or self._file_calls.is_slow:  # then it takes time all the same
            return
        buffer = body.receive_buffer
        if not buffer.transport.is_encrypted:
            body.is_here = body.left <= buffer.count + buffer.transport.arrived_bytes

    def receive(
        self,
        body: RequestBody,
        sink: Sink,
        *,
        limit: int,
        digest: Hash | None = None,
        is_wanted: Callable[[], bool] | None = None,
        cover: Callable[[int, int], int] | None = None,
    ) -> int:
        """Write what is left of ``body`` to ``sink``; the number of bytes that was.

        is_wanted: asked some times a second; once it says that another writer wants the file, this one ends with
        ``Superseded``, even if it is waiting for its client.

        cover: called with the bytes received and those written before there are more than it returned last (0 at
        first); raises what keeps them from being written.

        Raises ``TooLarge`` once the body exceeds ``limit`` bytes, ``Superseded`` for one that was interrupted,
        ``IncompleteBody``, ``PeerTimeout``, ``BadBody``, and what the sink raises. What arrived before that was
        written.
        """
        if digest is None and cover is None and not self._rate and isinstance(body, SocketBody) and body.is_here:
            left = body.length - body.received
            if left <= body.receive_buffer.count and left < sink.room:
                return _write_whole(body, left, sink, limit)
        body.least_rate = self._least_rate
        job = _Transfer(body, sink, limit, cover, Throttle(self._rate, time.monotonic()) if self._rate else None)
        # A body that is here is stored before anybody could look.
        watcher = gevent.spawn(_watch, body, is_wanted) if is_wanted is not None and not body.is_here else None
        try:
            return self._receive(job, digest)
        except IncompleteBody as error:
            if body.is_interrupted:
                raise Superseded from error
            raise
        finally:
            if watcher is not None:
                watcher.kill(block=False)

    def _receive(self, job: _Transfer, digest: Hash | None) -> int:
        body = job.body
        if isinstance(body, SocketBody):
            body.send_continue()
            left, transport = body.length - body.received, body.receive_buffer.transport
            if job.throttle is not None:
                transport.bound_receive_buffer(self._rate)
            if (
                digest is None
                and left >= SPLICE_FROM_BYTES
                and not transport.is_encrypted
                and job.sink.fileno() is not None
            ):
                self._splice(job, body)
        if body.received != body.length:
            self._copy(job, digest)
        return job.moved

    def _splice(self, job: _Transfer, body: SocketBody) -> None:
        """Move as much as possible within the kernel; the rest, if any, is for ``_copy``."""
        self._write_buffered(job, body)
        transport, count = body.receive_buffer.transport, LOW_WATERMARK_BYTES
        has_data, in_vain = body.is_here, 0
        try:
            while self._splicer and not body.is_complete and not self._file_calls.is_slow and in_vain < SPLICES_IN_VAIN:
                fd = job.sink.fileno()
                if fd is None:
                    return
                if not has_data:
                    if job.throttle is None and (count >= LOW_WATERMARK_BYTES or transport.has_low_watermark):
                        transport.set_low_watermark(min(LOW_WATERMARK_BYTES, body.left, job.room))
                    body.wait_for_data()
                has_data = False
                count = self._splicer.move(body, fd, job.portion())
                in_vain = 0 if count else in_vain + 1
                self._after_portion(job, count)
        except SpliceUnsupported:
            self._splicer = None
        finally:
            transport.set_low_watermark(1)

    def _write_buffered(self, job: _Transfer, body: SocketBody) -> None:
        """Store what was read together with the request's head."""
        while body.receive_buffer.count and body.received != body.length:
            ahead = body.take_ahead(job.room if job.throttle is None else job.portion())
            if body.received > job.allowed:
                job.allow(body.received)
            job.sink.write(ahead)
            self._after_portion(job, len(ahead))

    def _copy(self, job: _Transfer, digest: Hash | None) -> None:
        body = job.body
        size = self._buffer_size(job)
        while not body.is_complete:
            body.wait_for_data()
            with self._buffer(size) as buffer:
                count = body.readinto(buffer[: job.room])
                if body.received > job.allowed:
                    job.allow(body.received)
                view = buffer[:count]
                if digest is not None:
                    digest.update(view)
                job.sink.write(view)
            self._after_portion(job, count)

    def _buffer_size(self, job: _Transfer) -> int:
        size = BUFFER_BYTES if isinstance(job.body, SocketBody) else self._chunk_size
        if job.throttle is not None:
            size = min(size, job.throttle.piece)
        if job.body.length is not None:
            size = min(size, max(1, job.body.length - job.body.received))
        return size

    @contextlib.contextmanager
    def _buffer(self, size: int) -> Iterator[memoryview]:
        if size > BUFFER_BYTES // 2:
            buffer = self._buffers.pop() if self._buffers else bytearray(BUFFER_BYTES)
        else:
            buffer = bytearray(size)
        try:
            yield memoryview(buffer)[:size]
        finally:
            if len(buffer) == BUFFER_BYTES and len(self._buffers) < BUFFERS_KEPT:
                self._buffers.append(buffer)

    def _after_portion(self, job: _Transfer, count: int) -> None:
        job.moved += count
        job.room -= count
        if not job.room:
            job.room = job.sink.hand_on()
        body = job.body
        if body.is_interrupted:
            raise Superseded
        if job.throttle is not None and (rest := job.throttle.delay(count, time.monotonic())):
            gevent.sleep(rest)
        elif body.received != body.length:
            body.yield_if_due()


def _write_whole(body: SocketBody, left: int, sink: Sink, limit: int) -> int:
    """Store what is left of a body, all of which is in the receive buffer, in one write: the way of most bodies. It
    waits for no client, so it needs neither a watcher nor a turn for others."""
    body.send_continue()
    ahead = body.take_ahead(left)
    if body.received > limit:
        raise TooLarge
    if ahead:
        sink.write(ahead)
    if body.is_interrupted:
        raise Superseded
    return len(ahead)


def _watch(body: RequestBody, is_wanted: Callable[[], bool]) -> None:
    while not is_wanted():
        gevent.sleep(WATCH_SECONDS)
    body.interrupt()


class _Transfer:
    """One call of ``receive``: its arguments and how far it is. room: see ``Sink``. allowed: how many bytes may be
    received before ``allow`` is asked."""

    __slots__ = ("_cover", "_limit", "allowed", "body", "moved", "room", "sink", "throttle")

    def __init__(
        self,
        body: RequestBody,
        sink: Sink,
        limit: int,
        cover: Callable[[int, int], int] | None,
        throttle: Throttle | None,
    ) -> None:
        self.body = body
        self.sink = sink
        self.room = sink.room
        self._limit = limit
        self._cover = cover
        self.allowed = limit if cover is None else 0
        self.throttle = throttle
        self.moved = 0

    def portion(self) -> int:
        """How many bytes may be moved at once."""
        return self.room if self.throttle is None else min(self.room, self.throttle.piece)

    def allow(self, received: int) -> None:
        """Have so many bytes allowed. Raises ``TooLarge``, and what ``cover`` raises."""
        if received > self._limit or self._cover is None:
            raise TooLarge
        self.allowed = min(self._limit, self._cover(received, self.moved))
