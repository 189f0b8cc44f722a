"""Moving bytes between a socket and a file without bringing them into this process (Linux)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os

from hmacfs.net.body import SocketBody
from hmacfs.net.transport import GONE_ERRNOS
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls

log = logging.getLogger(__name__)

#: The most the kernel lets an ordinary user ask for (/proc/sys/fs/pipe-max-size). A larger pipe means fewer turns.
PIPE_BYTES = 1024 * 1024


class SpliceUnsupported(Exception):
    """The file's file system does not take spliced bytes. None were lost."""


class Splicer:
    """A pipe through which bytes go from sockets to files.

    One pipe serves all transfers of a worker: it is filled and emptied without a switch to another greenlet, so it is
    always empty when another transfer takes its turn.
    """

    def __init__(self, file_calls: FileCalls) -> None:
        self._file_calls = file_calls
        self._source, self._sink = self._new_pipe()

    @classmethod
    def if_supported(cls, file_calls: FileCalls) -> Splicer | None:
        return cls(file_calls) if hasattr(os, "splice") else None

    @staticmethod
    def _new_pipe() -> tuple[int, int]:
        source, sink = os.pipe()
        with contextlib.suppress(OSError):  # an ordinary user's share of pipe memory may be used up: 64 KiB then
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return source, sink

    def move(self, body: SocketBody, fd: int, at_most: int) -> int:
        """Move what is there now, up to a pipe's size, ``at_most`` bytes and the body's end: the number of bytes. 0 if
        nothing was there, and at the end of the stream, which looks the same before an urgent byte: a read tells them
        apart. Raises ``SpliceUnsupported``, and ``OSError`` if the file fails."""
        want = min(body.left, PIPE_BYTES, at_most)
        try:
            count = os.splice(
                body.receive_buffer.transport.fd, self._sink, want, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in GONE_ERRNOS:
                raise
            return 0
        if count == 0:
            return 0
        body.received += count
        self._empty_into(fd, count)
        return count

    def _empty_into(self, fd: int, count: int) -> None:
        left = count
        try:
            while left:
                left -= self._file_calls.inline(os.splice, self._source, fd, left, flags=os.SPLICE_F_MOVE)
        except OSError as error:
            if error.errno == errno.EINVAL and left == count:
                self._copy_out(fd, left)
                log.info("this file system takes no spliced bytes: using a buffer")
                raise SpliceUnsupported from error
            raise
        finally:
            if left:
                self._replace_pipe()

    def _copy_out(self, fd: int, count: int) -> None:
        while count:
            view = memoryview(os.read(self._source, count))
            count -= len(view)
            while view:
                view = view[os.write(fd, view) :]

    def _replace_pipe(self) -> None:
        """After a failure the pipe may still hold bytes of that transfer: no other may ever see them."""
        close(self._source)
        close(self._sink)
        self._source, self._sink = self._new_pipe()
