"""A client's connection over TLS."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from hmacfs.net.transport import GONE_ERRNOS, NothingYet, Transport

R = TypeVar("R")

#: ``ssl.OP_ENABLE_KTLS``, which has a name since Python 3.12.
_OP_ENABLE_KTLS = 1 << 3


def disable_kernel_tls(context: ssl.SSLContext) -> None:
    """Let no kernel TLS be used, which OpenSSL's own configuration may ask for: while a part of a record has arrived,
    the kernel calls the socket readable, and each wait for the rest ends at once (docs/facts.md, section 6)."""
    context.options &= ~_OP_ENABLE_KTLS


class TlsTransport(Transport):
    """A ``Transport`` over TLS: ``sock`` is gevent's ``SSLSocket``.

    Its methods make a timer for each wait and read one record of 16 KiB, so this calls OpenSSL itself, which says what
    it has to wait for.
    """

    __slots__ = ("_decrypts", "_has_ended", "_tls")

    is_encrypted = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._tls: Any = sock._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
        self._decrypts = True
        self._has_ended = False

    def handshake(self, timeout: float) -> None:
        """The TLS handshake, to be called first. ``TransportTimeout`` if it takes longer than that, ``OSError`` if it
        fails."""
        with self.limit(timeout):
            self.sock.do_handshake()  # type: ignore[attr-defined]

    def wait_readable(self, timeout: float | None) -> None:
        if not (self._decrypts and self._tls.pending()):
            super().wait_readable(timeout)

    def read(self, at_most: int, timeout: float | None) -> bytes:
        return self._decrypted(self._tls.read, (at_most,), timeout, at_end=b"")

    def read_into(self, view: memoryview, timeout: float | None) -> int:
        """The same into ``view``, with the records that have arrived besides: a read of OpenSSL ends with a record, and
        what uses ``view`` next, a write to a file, would be one for each 16 KiB."""
        total = count = self._decrypted(self._tls.read, (len(view), view), timeout, at_end=0)
        while count and total < len(view):
            count = self.read_arrived(view[total:])
            total += count
        return total

    def _decrypted(
        self, receive: Callable[..., R], arguments: tuple[Any, ...], timeout: float | None, *, at_end: R
    ) -> R:
        if self._has_ended:
            return at_end
        has_waited = False
        while True:
            try:
                return receive(*arguments)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if has_waited and timeout is not None:
                    raise NothingYet from error
                self._wait_as_told(error, timeout)
                has_waited = True
            except OSError as error:
                # Bytes that are no TLS, or not the peer's, end the stream as a reset does.
                if error.errno not in GONE_ERRNOS and not isinstance(error, ssl.SSLError):
                    raise
                return at_end

    def _wait_as_told(self, error: ssl.SSLError, timeout: float | None) -> None:
        """A read may have to write (a key update), and a write to read."""
        if isinstance(error, ssl.SSLWantReadError):
            super().wait_readable(timeout)
        else:
            self.wait_writable(timeout)

    def read_arrived(self, view: memoryview) -> int:
        try:
            return int(self._tls.read(len(view), view))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            self._has_ended = True  # OpenSSL does not say twice why
            return 0

    def send(self, data: bytes | memoryview, timeout: float) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[self._tls.write(rest) :]
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                    self._wait_as_told(error, timeout)
        except ssl.SSLError as error:
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error

    def send_both(self, head: bytes, content: bytes, timeout: float) -> None:
        self.send(head + content, timeout)

    def send_ahead(self, head: bytes, timeout: float) -> None:
        self.send(head, timeout)  # a record of its own

    def stop_writing(self) -> None:
        self._decrypts = False  # bytes that still arrive are discarded undecrypted
        # "close notify". The public unwrap() would wait for the peer's, with no limit but the timeout.
        with contextlib.suppress(ssl.SSLError):  # the peer's is not there yet
            self._tls.shutdown()
        super().stop_writing()
