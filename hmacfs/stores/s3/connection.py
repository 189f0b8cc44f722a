"""One HTTP connection to the engine: cooperative, with time limits; files go out from the kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http
import os
import socket
import time
from typing import Any

from gevent import monkey
from urllib3.exceptions import HTTPError
from urllib3.util.wait import wait_for_write

from hmacfs.protocol.http1.replies import BadReplyHead, ReplyHead, parse_reply_head
from hmacfs.stores.s3.bucket import FileSection, Payload
from hmacfs.system.threads import FileCalls

#: One system call's worth. A file that is not in memory blocks the loop for the disk read of at most this much.
_SENDFILE_BYTES = 1024 * 1024
#: Bytes that go through this process: to be encrypted, or from a file system without sendfile.
_READ_BYTES = 256 * 1024
#: Of an answer's head, with what follows it.
_HEAD_BYTES = 64 * 1024
#: A head with a body goes out in one piece up to this size.
_HELD_BYTES = 16 * 1024
#: At so many bytes a second an answer makes progress: one that dribbles would keep its reader for ever, and with it the
#: lease of an upload. What is sent needs no such limit: it ends, and a kernel takes nothing or a good deal.
_LEAST_RATE = 1024
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
    """Nothing, or too little, came or went in the time allowed."""


class PayloadFailed(Exception):
    """The file that was to be sent cannot be read, or is too short."""


class Connection:
    """A connection that urllib3 has opened."""

    def __init__(self, sock: Any, file_calls: FileCalls, *, is_encrypted: bool) -> None:
        self._sock = sock
        self._file_calls = file_calls
        self._is_encrypted = is_encrypted
        self._timeout: float | None = None
        #: For how many seconds the answer may still be waited for, and how many these are at most: bytes add to them.
        self._patience = self._longest = 0.0
        #: Tells the kernel that more follows, so that a head goes out with the first bytes of its body.
        self._more_follows = 0 if is_encrypted else getattr(socket, "MSG_MORE", 0)

    def is_quiet(self) -> bool:
        """Whether there is nothing to read: neither an end nor an answer that nobody asked for."""
        if self._is_encrypted and self._sock.pending():
            return False
        poll = _poll()
        poll.register(self._sock.fileno(), 1)  # POLLIN; POLLHUP and POLLERR come unasked
        return not poll.poll(0)

    def set_limits(self, timeout: float, patience: float) -> None:
        """For the next exchange. timeout: seconds without a byte. patience: for how many seconds its answer is waited
        for in all, beyond what its bytes take at ``_LEAST_RATE``; its reader may take its time."""
        self._patience = self._longest = patience
        if timeout != self._timeout:
            self._timeout = timeout
            self._sock.settimeout(timeout)

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
        began = time.monotonic()
        data: bytes = self._sock.recv(size)
        left = self._patience - (time.monotonic() - began) + len(data) / _LEAST_RATE
        if left < 0:
            raise TimeoutError
        self._patience = min(left, self._longest)
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
                    raise PayloadFailed(reason_of(error)) from error
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
                raise PayloadFailed(reason_of(error)) from error
            if not data:
                raise PayloadFailed("the file ended early")
            self._send_bytes(data)
            offset, left = offset + len(data), left - len(data)
            time.sleep(0)


def reason_of(error: BaseException) -> str:
    """In words: those of urllib3 begin with an object's ``repr``, and come from an error that says the same."""
    if isinstance(error, HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
