"""HTTP connections to the engine: kept alive, cooperative, with time limits; files go out from the kernel.

urllib3 opens them, with all that TLS asks for. It has to be imported after gevent's patches. Its pool does not tell
whether a connection that broke was a new one, and its requests and answers cost three times as much as signing does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gevent import monkey
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_write

from hmacfs.errors import HmacfsError
from hmacfs.protocol.http1.chunks import ChunkParser
from hmacfs.protocol.http1.replies import BadReplyHead, ReplyHead, parse_reply_head
from hmacfs.stores.s3.bucket import FileSection, Payload
from hmacfs.stores.s3.options import BucketAddress
from hmacfs.system.threads import FileCalls

#: One system call's worth. A file that is not in memory blocks the loop for the disk read of at most this much.
_SENDFILE_BYTES = 1024 * 1024
#: Bytes that go through this process: to be encrypted, or from a file system without sendfile.
_READ_BYTES = 256 * 1024
#: Of an answer's head, with what follows it.
_HEAD_BYTES = 64 * 1024
#: A head with a body goes out in one piece up to this size.
_HELD_BYTES = 16 * 1024
_CONNECT_SECONDS = 5.0
#: Kept connections. One that lay idle for longer may be forgotten by a firewall on the way, which nothing would tell.
_IDLE_LIMIT = 64
_IDLE_SECONDS = 15.0
#: Most bytes of an answer that is no object: 1,000 keys of 1,024 bytes, percent-encoded.
_TEXT_LIMIT = 8 * 1024 * 1024
#: Errors of sendfile that are the file's, not the connection's.
_FILE_ERRNOS = frozenset({errno.EIO, errno.ESTALE})
_NO_SENDFILE_ERRNOS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_poll = monkey.get_original("select", "poll")  # gevent's makes a watcher, also for a look that does not wait


class Unreached(Exception):
    """There was no connection: nothing was sent. is_untrusted: the certificate is not accepted."""

    def __init__(self, message: str, *, is_untrusted: bool = False) -> None:
        super().__init__(message)
        self.is_untrusted = is_untrusted


class Lost(Exception):
    """The connection broke, or what came was no HTTP. was_kept: it had been idle, so that it may have been closed
    before the request."""

    def __init__(self, message: str, *, was_kept: bool) -> None:
        super().__init__(message)
        self.was_kept = was_kept


class Silent(Exception):
    """No byte came or went for the time allowed."""


class PayloadFailed(Exception):
    """The file that was to be sent cannot be read, or is too short."""


class Connections:
    """Of one process to one engine; made after its fork.

    timeout: seconds without a byte. file_calls: for reads of the files that are sent.
    """

    def __init__(self, address: BucketAddress, ca_file: Path | None, timeout: float, file_calls: FileCalls) -> None:
        self._address = address
        self._timeout = timeout
        self._file_calls = file_calls
        self._tls = _tls_context(ca_file) if address.is_encrypted else None
        self._idle: deque[tuple[float, _Connection]] = deque()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        payload: Payload,
        *,
        is_new: bool = False,
        timeout: float = 0.0,
    ) -> Response:
        """Send a request and wait for the head of its answer. is_new: not over a connection that was kept. timeout: if
        it is to be shorter. Raises ``Unreached``, ``Lost``, ``Silent``, ``PayloadFailed``."""
        timeout = min(timeout or self._timeout, self._timeout)
        head = _request_head(method, target, headers)
        kept = None if is_new else self._kept()
        connection = kept or self._connect(timeout)
        try:
            connection.set_timeout(timeout)
            reply, rest = connection.exchange(head, payload, is_head=method == "HEAD")
        except TimeoutError as error:
            connection.close()
            raise Silent("no answer in time") from error
        except (OSError, BadReplyHead) as error:
            connection.close()
            raise Lost(_reason(error), was_kept=kept is not None) from error
        except BaseException:
            connection.close()
            raise
        return Response(reply, rest, connection, self)

    def keep(self, connection: _Connection) -> None:
        """Its last answer was read to the end."""
        now = time.monotonic()
        self._idle.append((now, connection))
        while self._idle and (len(self._idle) > _IDLE_LIMIT or self._idle[0][0] < now - _IDLE_SECONDS):
            self._idle.popleft()[1].close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _kept(self) -> _Connection | None:
        oldest = time.monotonic() - _IDLE_SECONDS
        while self._idle:
            since, connection = self._idle.pop()
            if since >= oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    def _connect(self, timeout: float) -> _Connection:
        host, port, limit = self._address.host, self._address.port, min(timeout, _CONNECT_SECONDS)
        opened = (
            HTTPConnection(host, port, timeout=limit)
            if self._tls is None
            else HTTPSConnection(host, port, timeout=limit, ssl_context=self._tls)
        )
        try:
            opened.connect()
        except (HTTPError, OSError) as error:
            opened.close()
            raise Unreached(_reason(error), is_untrusted=isinstance(error, ssl.SSLCertVerificationError)) from error
        except BaseException:
            opened.close()
            raise
        return _Connection(opened.sock, self._file_calls, is_encrypted=self._tls is not None)


class Response:
    """An answer whose head is there. Its user reads it to the end or calls ``close``.

    received: bytes of its body so far.
    """

    def __init__(self, head: ReplyHead, rest: bytes, connection: _Connection, connections: Connections) -> None:
        self.status = head.status
        self.headers = head.fields
        self.received = 0
        self._head = head
        #: What came of the body together with its head, or with the frame of a chunk.
        self._rest = rest
        #: ``None`` for a body that ends with its connection.
        self._left = head.length
        self._chunks = ChunkParser() if head.is_chunked else None
        self._connection: _Connection | None = connection
        self._connections = connections
        if self._left == 0:
            self._end()

    def text(self) -> bytes:
        """The body of an answer that is no object. Raises ``Lost``, ``Silent``."""
        if self._connection is None:  # there is none
            return b""
        data = b"".join(self.pieces(_READ_BYTES, _TEXT_LIMIT))
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
                raise Lost(_reason(error), was_kept=False) from error
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

    def _next(self, connection: _Connection, size: int) -> bytes:
        """The next bytes of the body, empty at its end."""
        if self._chunks is not None:
            return self._next_of_chunk(connection, self._chunks, size)
        if self._left is None:
            return self._take(size) or connection.receive(size)
        data = self._take(min(size, self._left)) or connection.receive_more(min(size, self._left))
        self._left -= len(data)
        return data

    def _next_of_chunk(self, connection: _Connection, chunks: ChunkParser, size: int) -> bytes:
        while not chunks.content_left:
            if chunks.is_complete:
                return b""
            frame = self._rest or connection.receive_more(_HEAD_BYTES)
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
                self._connections.keep(connection)
            else:
                connection.close()


class _Connection:
    """A connection that urllib3 has opened."""

    def __init__(self, sock: Any, file_calls: FileCalls, *, is_encrypted: bool) -> None:
        self._sock = sock
        self._file_calls = file_calls
        self._is_encrypted = is_encrypted
        self._timeout: float | None = None
        #: Tells the kernel that more follows, so that a head goes out with the first bytes of its body.
        self._more_follows = 0 if is_encrypted else getattr(socket, "MSG_MORE", 0)

    def is_quiet(self) -> bool:
        """Whether there is nothing to read: neither an end nor an answer that nobody asked for."""
        if self._is_encrypted and self._sock.pending():
            return False
        poll = _poll()
        poll.register(self._sock.fileno(), 1)  # POLLIN; POLLHUP and POLLERR come unasked
        return not poll.poll(0)

    def set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            self._timeout = seconds
            self._sock.settimeout(seconds)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.close()

    def exchange(self, head: bytes, payload: Payload, *, is_head: bool) -> tuple[ReplyHead, bytes]:
        """Send a request: the head of its answer, and what came after that. Raises ``OSError``, ``BadReplyHead``,
        ``PayloadFailed``."""
        try:
            self._send(head, payload)
        except (BrokenPipeError, ConnectionResetError) as error:
            # It may have answered before it had the whole body, as for a quota, and closed the connection.
            with contextlib.suppress(OSError, BadReplyHead):
                reply, rest = self._receive_head(is_head=is_head)
                return dataclasses.replace(reply, keep_alive=False), rest
            raise error
        return self._receive_head(is_head=is_head)

    def receive(self, size: int) -> bytes:
        """At most so many bytes, empty at the end of the connection."""
        data: bytes = self._sock.recv(size)
        return data

    def receive_more(self, size: int) -> bytes:
        """The same where the end would come too early."""
        data = self.receive(size)
        if not data:
            raise ConnectionResetError("the connection ended before the answer did")
        return data

    def _receive_head(self, *, is_head: bool) -> tuple[ReplyHead, bytes]:
        data = b""
        while True:
            data += self.receive_more(_HEAD_BYTES)
            while data and (head := parse_reply_head(data, is_head=is_head)) is not None:
                data = data[head.size :]
                if head.status >= 200:
                    return head, data
                if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                    raise BadReplyHead("the answer is another protocol's")

    def _send(self, head: bytes, payload: Payload) -> None:
        if isinstance(payload, FileSection):
            self._send_bytes(head, self._more_follows if payload.length else 0)
            self._send_section(*payload)
        elif len(head) + len(payload) <= _HELD_BYTES:
            self._send_bytes(head + payload)
        else:
            self._send_bytes(head, self._more_follows)
            self._send_bytes(payload)

    def _send_bytes(self, data: bytes, flags: int = 0) -> None:
        """Each send has the time limit; that of ``sendall`` is one for all."""
        sent = self._sock.send(data, flags)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._sock.send(rest, flags) :]

    def _send_section(self, fd: int, offset: int, left: int) -> None:
        if self._is_encrypted:
            self._send_read(fd, offset, left)
            return
        target = self._sock.fileno()
        while left:
            try:
                count = self._file_calls(os.sendfile, target, fd, offset, min(left, _SENDFILE_BYTES))
            except BlockingIOError:
                if not wait_for_write(self._sock, self._timeout):
                    raise TimeoutError from None
                continue
            except OSError as error:
                if error.errno in _FILE_ERRNOS:
                    raise PayloadFailed(_reason(error)) from error
                if error.errno not in _NO_SENDFILE_ERRNOS:
                    raise
                self._send_read(fd, offset, left)
                return
            if count == 0:
                raise PayloadFailed("the file ended early")
            offset, left = offset + count, left - count
            time.sleep(0)  # in a gevent worker the others' turn

    def _send_read(self, fd: int, offset: int, left: int) -> None:
        while left:
            try:
                data = self._file_calls(os.pread, fd, min(left, _READ_BYTES), offset)
            except OSError as error:
                raise PayloadFailed(_reason(error)) from error
            if not data:
                raise PayloadFailed("the file ended early")
            self._send_bytes(data)
            offset, left = offset + len(data), left - len(data)
            time.sleep(0)


def _request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Raises ``ValueError`` if something in it could pass for more than one line."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()], "", ""]
    characters = "".join(lines)
    if not (characters.isascii() and characters.isprintable()):
        raise ValueError("a header of a request to the object store is not printable ASCII")
    return "\r\n".join(lines).encode("ascii")


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.verify_mode = ssl.CERT_REQUIRED
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context


def _reason(error: BaseException) -> str:
    """In words: those of urllib3 begin with an object's ``repr``, and come from an error that says the same."""
    if isinstance(error, HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
