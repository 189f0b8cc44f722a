"""The request body: one object owns it, counts it, and says once how it ended.

Every kind of body has the methods of ``wsgi.input``, so any WSGI application can read it, with two guarantees that a
WSGI server's own does not give: the end of the stream means that the *whole* body arrived (a body that ends early
raises ``IncompleteBody``), and no read waits longer than the read timeout (``PeerTimeout``). A client that sends a byte
now and then cannot prolong it endlessly either: see ``Body.least_rate``.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import gevent

from hmacfs.errors import BadBody, IncompleteBody, PeerTimeout, TooLarge
from hmacfs.net.transport import NothingYet, ReceiveBuffer, TransportTimeout
from hmacfs.protocol.http1.chunks import ChunkParser, find_end

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

P = ParamSpec("P")
R = TypeVar("R")


class Body:
    """The common part. ``length`` is the declared number of bytes (``None``: unknown until the end), ``received``
    how many have been read so far; ``client`` the client's address or empty; ``timeout`` how long one read may wait,
    in seconds.

    ``least_rate``: bytes per second of the time spent waiting for the client, averaged over ``timeout``; a body that
    stays below it is ``PeerTimeout``. The server's own delays (a slow disk, a rate limit) do not count. 0: none.
    ``waiting_since``: the monotonic time since when the client is waited for, 0.0 while it is not. ``is_here``: all of
    it has arrived, with the request's head or by the time of ``Receiver.note_arrival``.
    """

    length: int | None
    timeout: float
    received = 0
    client = ""
    least_rate = 0
    waiting_since = 0.0
    is_interrupted = False
    is_here = False
    _waited = 0.0
    _judged_at = 0

    @property
    def is_complete(self) -> bool:
        """Whether the end was reached: no byte of this body is left on the connection."""
        return self.received == self.length

    def read(self, size: int = -1, /) -> bytes | None:
        return _BodyStream(self).read(size)

    def readline(self, size: int = -1, /) -> bytes:
        return _BodyStream(self).readline(size)

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        return _BodyStream(self).readlines(hint)

    def __iter__(self) -> Iterator[bytes]:
        return iter(_BodyStream(self))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """At least one byte into ``buffer``, or 0 at the proper end."""
        view = memoryview(buffer).cast("B")
        if not view or self.is_complete:
            return 0
        try:
            count = self._read_some(view)
        except TransportTimeout as error:
            raise PeerTimeout from error
        self.received += count
        return count

    def wait_for_data(self) -> None:
        """Wait until the next read can make progress, so that no buffer is held meanwhile. It may return early."""

    def yield_if_due(self) -> None:
        """Let other greenlets run if this transfer has kept the loop for long enough."""
        gevent.sleep(1e-6)

    def discard(self, at_most: int) -> int | None:
        """Take an unread body off the connection, without waiting: how many bytes are still to come.

        ``None`` if that cannot be known or relied on, or if it is more than ``at_most``: then nothing was taken, and no
        request can be found after the body.
        """
        del at_most
        return None

    def interrupt(self) -> None:
        """End the stream for its reader, now and before its time: ``IncompleteBody``."""
        self.is_interrupted = True

    def _waiting(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``operation``, which waits for the client. Raises ``PeerTimeout`` if the client was too slow
        until now: judged here and not at the end of a wait, so that all bytes that have arrived were counted."""
        while True:
            if self._waited >= self.timeout:
                if self.received - self._judged_at < self.least_rate * self._waited:
                    raise PeerTimeout("The data arrived too slowly.")
                self._waited, self._judged_at = 0.0, self.received
            self.waiting_since = began = time.monotonic()
            try:
                return operation(*args, **kwargs)
            except NothingYet:
                continue
            finally:
                self.waiting_since = 0.0
                self._waited += time.monotonic() - began

    def _read_some(self, view: memoryview) -> int:
        """At least one byte into ``view``, or 0 at the body's proper end; raises ``IncompleteBody`` at any other
        end."""
        raise NotImplementedError


class _BodyStream(io.RawIOBase):
    """The methods of a raw stream for a body. They keep nothing between calls, and no request of ours uses them: to be
    one costs a body as much as to parse a head."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._body.readinto(buffer)


class _TransportBody(Body):
    """A body on one of our own connections.

    ``on_first_read`` is called once before the first byte is asked for: the server sends its ``100 Continue`` there, so
    that the client sends no body before all checks have passed.
    """

    _was_asked_for = False

    def __init__(
        self,
        receive_buffer: ReceiveBuffer,
        length: int | None,
        timeout: float,
        on_first_read: Callable[[], None] | None = None,
    ) -> None:
        self.length = length
        self.timeout = timeout
        self.receive_buffer = receive_buffer
        self.is_here = length is not None and length <= receive_buffer.count
        self._on_first_read = on_first_read

    @property
    def is_untouched(self) -> bool:
        """Whether all of it is on the connection or still to come, and no wait for it has failed."""
        return not self._was_asked_for and not self.received

    def send_continue(self) -> None:
        """Tell the client to go ahead, if it waits for that. Raises ``PeerTimeout``, ``IncompleteBody``."""
        self._was_asked_for = True
        if self._on_first_read is None:
            return
        send_continue, self._on_first_read = self._on_first_read, None
        try:
            send_continue()
        except TransportTimeout as error:
            raise PeerTimeout from error
        except OSError as error:  # the client is gone: not to be taken for a failure of the disk
            raise IncompleteBody from error

    def wait_for_data(self) -> None:
        if self.receive_buffer.count:
            return
        self.send_continue()
        try:
            self._waiting(self.receive_buffer.transport.wait_readable, self.timeout)
        except TransportTimeout as error:
            raise PeerTimeout from error

    def _read(self, view: memoryview) -> int:
        if self.receive_buffer.count:
            return self.receive_buffer.read_into(view, self.timeout)
        return self._waiting(self.receive_buffer.read_into, view, self.timeout)

    def yield_if_due(self) -> None:
        self.receive_buffer.transport.yield_if_due()

    def interrupt(self) -> None:
        super().interrupt()
        self.receive_buffer.transport.stop_reading()


class SocketBody(_TransportBody):
    """A body of declared length."""

    length: int

    @property
    def left(self) -> int:
        """Bytes that have not been read yet."""
        return self.length - self.received

    def take_ahead(self, at_most: int) -> memoryview:
        """The part of the body that has been read ahead, at most its first ``at_most`` bytes."""
        data = self.receive_buffer.take(min(self.length - self.received, at_most))
        self.received += len(data)
        return data

    def discard(self, at_most: int) -> int | None:
        if not self.is_untouched:
            return None
        to_come = max(0, self.length - self.receive_buffer.count)
        # A client that waits for "100 Continue" need not send its body after another answer (RFC 9110 section 10.1.1).
        if to_come > at_most or (to_come and self._on_first_read is not None):
            return None
        self.receive_buffer.take(self.length)
        return to_come

    def _read_some(self, view: memoryview) -> int:
        self.send_continue()
        count = self._read(view[: self.left])
        if count == 0:
            raise IncompleteBody
        return count


class ChunkedBody(_TransportBody):
    """A body in chunked transfer coding. Trailers are read and dropped."""

    #: How many chunks are parsed at once to discard a body. More of them are no small body.
    DISCARDED_CHUNKS = 64

    def __init__(
        self, receive_buffer: ReceiveBuffer, timeout: float, on_first_read: Callable[[], None] | None = None
    ) -> None:
        super().__init__(receive_buffer, None, timeout, on_first_read)
        self._framing = ChunkParser()

    def discard(self, at_most: int) -> int | None:
        del at_most  # how much is still to come is not known
        if not self.is_untouched:
            return None
        try:
            end = find_end(self.receive_buffer.ahead, self.DISCARDED_CHUNKS)
        except (BadBody, TooLarge):
            return None
        if end is None:
            return None
        self.receive_buffer.take(end)
        return 0

    def _read_some(self, view: memoryview) -> int:
        self.send_continue()
        while not self._framing.content_left:
            if not self.receive_buffer.count and not self._waiting(self.receive_buffer.more, self.timeout):
                raise IncompleteBody
            self.receive_buffer.consume(self._framing.feed)
            if self._framing.is_complete:
                self.length = self.received
                return 0
        count = self._read(view[: self._framing.content_left])
        if count == 0:
            raise IncompleteBody
        self._framing.advance(count)
        return count


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class WsgiBody(Body):
    """A body that is read from another server's ``wsgi.input``: another WSGI server, a test client.

    The read timeout is left to that server's socket where it shows one (``gunicorn.socket``); a read blocks for as long
    as the stream does.
    """

    def __init__(self, stream: _Stream, length: int | None, timeout: float, sock: Any = None) -> None:
        self.length = length
        self.timeout = timeout
        self.is_here = length == 0
        self._stream = stream
        if sock is not None and hasattr(sock, "settimeout"):
            sock.settimeout(timeout)

    def _read_some(self, view: memoryview) -> int:
        want = len(view) if self.length is None else min(len(view), self.length - self.received)
        try:
            data = self._waiting(self._stream.read, want)
        except TimeoutError as error:
            raise PeerTimeout from error
        except OSError as error:  # gunicorn's parser errors are OSErrors too, as are resets
            raise IncompleteBody from error
        if not data:
            if self.length is not None:
                raise IncompleteBody
            self.length = self.received
        view[: len(data)] = data
        return len(data)


def body_of(environ: dict[str, Any], timeout: float) -> Body:
    """The request's body: the server's own object where it is one of ours, else a ``WsgiBody`` over its stream."""
    stream = environ["wsgi.input"]
    if isinstance(stream, Body):
        return stream
    declared = environ.get("CONTENT_LENGTH", "")
    length = int(declared) if declared.isascii() and declared.isdigit() else None
    if length is None and not environ.get("wsgi.input_terminated"):
        length = 0
    return WsgiBody(stream, length, timeout, environ.get("gunicorn.socket"))
