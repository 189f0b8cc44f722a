"""The engine's answer to one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hmacfs.errors import HmacfsError
from hmacfs.protocol.http1.chunks import ChunkParser
from hmacfs.protocol.http1.replies import ReplyHead
from hmacfs.stores.s3.connection import Connection, Lost, Silent, reason_of

#: Of an answer that is no object, so many bytes at a time, and at most: 1,000 keys of 1,024 bytes, percent-encoded.
_TEXT_BYTES, _TEXT_LIMIT = 256 * 1024, 8 * 1024 * 1024
#: Of the frame of a chunk, with what follows it.
_FRAME_BYTES = 64 * 1024


class Response:
    """An answer whose head is there. Its user reads it to the end or calls ``close``.

    received: bytes of its body so far. keep: takes the connection once the answer is read to the end, if it can have
    another request.
    """

    def __init__(
        self, head: ReplyHead, rest: bytes, connection: Connection, keep: Callable[[Connection], None]
    ) -> None:
        self.status = head.status
        self.headers = head.fields
        self.received = 0
        self._head = head
        #: What came of the body together with its head, or with the frame of a chunk.
        self._rest = rest
        #: ``None`` for a body that ends with its connection.
        self._left = head.length
        self._chunks = ChunkParser() if head.is_chunked else None
        self._connection: Connection | None = connection
        self._keep = keep
        if self._left == 0:
            self._end()

    def text(self) -> bytes:
        """The body of an answer that is no object. Raises ``Lost``, ``Silent``."""
        if self._connection is None:  # there is none
            return b""
        data = b"".join(self.pieces(_TEXT_BYTES, _TEXT_LIMIT))
        self.close()
        return data

    def pieces(self, size: int, limit: int | None = None) -> Iterator[bytes]:
        """The body in pieces of at most ``size``. Raises ``Lost``, ``Silent``; after ``limit`` bytes it is left.

        With the last byte of a declared length the connection is another request's, whether this is gone on with or
        not."""
        while self._connection is not None and (limit is None or self.received <= limit):
            try:
                data = self._next(self._connection, size)
            except TimeoutError as error:
                self.close()
                raise Silent("the answer stopped coming") from error
            except (OSError, HmacfsError) as error:
                self.close()
                raise Lost(reason_of(error), was_kept=False) from error
            self.received += len(data)
            if self._left == 0 or not data:
                self._end()
            if data:
                yield data

    def close(self) -> None:
        """End it; its connection too if there is something left to read."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _next(self, connection: Connection, size: int) -> bytes:
        """The next bytes of the body, empty at its end."""
        if self._chunks is not None:
            return self._next_of_chunk(connection, self._chunks, size)
        if self._left is None:
            return self._take(size) or connection.receive(size)
        data = self._take(min(size, self._left)) or connection.receive_more(min(size, self._left))
        self._left -= len(data)
        return data

    def _next_of_chunk(self, connection: Connection, chunks: ChunkParser, size: int) -> bytes:
        while not chunks.content_left:
            if chunks.is_complete:
                return b""
            frame = self._rest or connection.receive_more(_FRAME_BYTES)
            self._rest = frame[chunks.feed(frame) :]
        count = min(size, chunks.content_left)
        data = self._take(count) or connection.receive_more(count)
        chunks.advance(len(data))
        return data

    def _take(self, count: int) -> bytes:
        """Of what is here already."""
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def _end(self) -> None:
        """The body was read. What came after it nobody has asked for: then the connection is not to be trusted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._head.keep_alive and not self._rest:
                self._keep(connection)
            else:
                connection.close()
