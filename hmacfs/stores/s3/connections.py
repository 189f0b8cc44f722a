"""HTTP connections to the engine: kept alive, cooperative, with time limits; files go out from the kernel.

urllib3's own pool is not used, since it does not tell whether a connection that broke was a new one. It has to be
imported after gevent's patches.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevent import monkey
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_write

from hmacfs.stores.s3.bucket import FileSection, Payload
from hmacfs.stores.s3.options import BucketAddress
from hmacfs.system.threads import FileCalls

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

#: One system call's worth. A file that is not in memory blocks the loop for the disk read of at most this much.
_SENDFILE_BYTES = 1024 * 1024
#: Bytes that go through this process: to be encrypted, or from a file system without sendfile.
_READ_BYTES = 256 * 1024
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
        kept = None if is_new else self._kept()
        connection = kept or self._connect(timeout)
        connection.set_timeout(timeout)
        try:
            answer = connection.exchange(method, target, headers, payload)
        except TimeoutError as error:
            connection.close()
            raise Silent("no answer in time") from error
        except (OSError, http.client.HTTPException, HTTPError) as error:
            connection.close()
            raise Lost(_reason(error), was_kept=kept is not None) from error
        except BaseException:
            connection.close()
            raise
        return Response(answer, connection, self)

    def keep(self, connection: _Connection) -> None:
        """Its last answer was read to the end."""
        now = time.monotonic()
        if connection.is_open:
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
        connection: _Connection = (
            _PlainConnection(host, port, timeout=limit, blocksize=_READ_BYTES)
            if self._tls is None
            else _TlsConnection(host, port, timeout=limit, blocksize=_READ_BYTES, ssl_context=self._tls)
        )
        connection.file_calls = self._file_calls
        try:
            connection.connect()
        except (HTTPError, OSError) as error:
            connection.close()
            raise Unreached(_reason(error), is_untrusted=isinstance(error, ssl.SSLCertVerificationError)) from error
        except BaseException:
            connection.close()
            raise
        return connection


class Response:
    """An answer whose head is there. Its user reads it to the end or calls ``close``."""

    def __init__(self, answer: BaseHTTPResponse, connection: _Connection, connections: Connections) -> None:
        self._answer = answer
        self._connection: _Connection | None = connection
        self._connections = connections
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self.received = 0

    def text(self) -> bytes:
        """The body of an answer that is no object. Raises ``Lost``, ``Silent``."""
        data = b"".join(self.pieces(_READ_BYTES, _TEXT_LIMIT))
        self.close()
        return data

    def pieces(self, size: int, limit: int | None = None) -> Iterator[bytes]:
        """The body in pieces of at most ``size``. Raises ``Lost``, ``Silent``; after ``limit`` bytes it is left."""
        while limit is None or self.received <= limit:
            try:
                data = self._answer.read(size, decode_content=False)
            except (TimeoutError, ReadTimeoutError) as error:
                self.close()
                raise Silent("the answer stopped coming") from error
            except (OSError, http.client.HTTPException, HTTPError) as error:
                self.close()
                raise Lost(_reason(error), was_kept=False) from error
            if not data:
                connection, self._connection = self._connection, None
                if connection is not None:
                    self._connections.keep(connection)
                return
            self.received += len(data)
            yield data

    def close(self) -> None:
        """End it; its connection too if there is something left to read."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._answer.close()
            connection.close()


class _HeadReader(io.BufferedReader):
    """http.client takes the end of a connection for the end of a head."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line:
            raise http.client.RemoteDisconnected("the connection ended before the answer did")
        return line


class _Answer(http.client.HTTPResponse):
    """An answer whose head is whole."""

    def __init__(self, sock: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(sock, *arguments, **more)
        reader: Any = self.fp
        self.fp = _HeadReader(reader.detach())


class _FileBody:
    """A section of a file that urllib3 hands on to ``send`` as it is: it takes anything that can be iterated over."""

    def __init__(self, section: FileSection) -> None:
        self.section = section

    def __iter__(self) -> Iterator[_FileBody]:
        yield self


class _Connection(HTTPConnection):
    """What both kinds have in common."""

    response_class = _Answer
    file_calls: FileCalls
    sock: Any
    #: What is still to be sent, so that it takes one system call and one packet with what follows.
    held = b""
    #: The flag that says so to the kernel.
    more_follows = getattr(socket, "MSG_MORE", 0)

    @property
    def is_open(self) -> bool:
        return self.sock is not None

    def is_quiet(self) -> bool:
        """Whether there is nothing to read: neither an end nor an answer that nobody asked for."""
        poll = _poll()
        poll.register(self.sock.fileno(), 1)  # POLLIN; POLLHUP and POLLERR come unasked
        return not poll.poll(0)

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds
        self.sock.settimeout(seconds)

    def exchange(self, method: str, target: str, headers: Mapping[str, str], payload: Payload) -> BaseHTTPResponse:
        body: Any = _FileBody(payload) if isinstance(payload, FileSection) else payload or None
        self.held = b""
        try:
            self.request(method, target, body=body, headers=headers, preload_content=False, decode_content=False)
            self._send_bytes(memoryview(self._take_held()))
        except (BrokenPipeError, ConnectionResetError) as error:
            # It may have answered before it had the whole body, as for a quota, and closed the connection.
            with contextlib.suppress(OSError, http.client.HTTPException, HTTPError):
                return self.getresponse()
            raise error
        return self.getresponse()

    def send(self, data: Any) -> None:
        """http.client sends the head by itself: it waits here for a small body, or goes out with the first of a large
        one."""
        if isinstance(data, _FileBody):
            self._send_bytes(memoryview(self._take_held()), self.more_follows)
            self._send_section(*data.section)
        elif len(self.held) + len(data) <= _HELD_BYTES:
            self.held += data
        else:
            self._send_bytes(memoryview(self._take_held()), self.more_follows)
            self._send_bytes(memoryview(data))

    def _take_held(self) -> bytes:
        held, self.held = self.held, b""
        return held

    def _send_bytes(self, rest: memoryview, flags: int = 0) -> None:
        """Each send has the time limit; that of ``sendall`` is one for all."""
        while rest:
            rest = rest[self.sock.send(rest, flags) :]

    def _send_section(self, fd: int, offset: int, left: int) -> None:
        self._send_read(fd, offset, left)

    def _send_read(self, fd: int, offset: int, left: int) -> None:
        while left:
            try:
                data = self.file_calls(os.pread, fd, min(left, _READ_BYTES), offset)
            except OSError as error:
                raise PayloadFailed(_reason(error)) from error
            if not data:
                raise PayloadFailed("the file ended early")
            self._send_bytes(memoryview(data))
            offset, left = offset + len(data), left - len(data)
            time.sleep(0)  # in a gevent worker the others' turn


class _PlainConnection(_Connection):
    def _send_section(self, fd: int, offset: int, left: int) -> None:
        target = self.sock.fileno()
        while left:
            try:
                count = self.file_calls(os.sendfile, target, fd, offset, min(left, _SENDFILE_BYTES))
            except BlockingIOError:
                if not wait_for_write(self.sock, self.timeout):
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
            time.sleep(0)


class _TlsConnection(_Connection, HTTPSConnection):
    more_follows = 0


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
