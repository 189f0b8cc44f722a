"""Bytes into a file."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from hmacfs.system.threads import FileCalls
from hmacfs.uploads.contracts.requests import ENDLESS

#: A durable upload is handed to the device in portions of this size while it still arrives, so that the final fsync
#: finds little left to do.
WRITEBACK_BYTES = 8 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2


class FileSink:
    """A ``Sink`` at the position of the descriptor ``fd``. durable: full portions are handed to the device early."""

    def __init__(self, fd: int, file_calls: FileCalls, *, durable: bool = False) -> None:
        self.fd = fd
        self.room = WRITEBACK_BYTES if durable else ENDLESS
        self._file_calls = file_calls

    def write(self, data: memoryview) -> None:
        while data:
            data = data[self._file_calls(os.write, self.fd, data) :]

    def hand_on(self) -> int:
        self._file_calls.always_blocking(_start_writeback, self.fd, self.room)
        return self.room

    def fileno(self) -> int:
        return self.fd


def _libc_sync_file_range() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _libc_sync_file_range()


def _start_writeback(fd: int, count: int) -> None:
    """Ask the kernel to start writing the last ``count`` bytes before the file's position to the device.

    Only a hint that makes a later fsync short; it waits while the device's queue is full. That fsync tells of errors.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, os.lseek(fd, 0, os.SEEK_CUR) - count, count, _SYNC_FILE_RANGE_WRITE)
