"""The lock on an unfinished upload: the kernel's, on its file.

It is held by a descriptor (``flock``) and ends with the process that held it, however that ends. A process that waits
leaves a release request beside the file; the holder looks for it and lets go. Lock and request are files, so they work
between all processes that share the folder, on one machine or on several.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable

from hmacfs.errors import SessionUnknown, WriterBusy
from hmacfs.stores.local.lease import FileLease
from hmacfs.stores.local.partial import REQUEST, LocalPartialUploads
from hmacfs.stores.local.tree import Folder
from hmacfs.system.descriptors import close

#: How long a newcomer waits for the writer to let go.
TAKEOVER_SECONDS = 10.0
_POLL_SECONDS = 0.05


class FileLocker:
    """A ``Locker`` for the unfinished uploads of a folder. patience: how many seconds ``wait`` may take."""

    def __init__(
        self,
        partials: LocalPartialUploads,
        patience: float = TAKEOVER_SECONDS,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._partials = partials
        self._patience = patience
        self._sleep = sleep or time.sleep  # asked for here: in a gevent worker it is cooperative only after the fork

    def acquire(self, key: str) -> FileLease | None:
        """The lock on an upload's file, ``None`` if another writer has it. Raises ``SessionUnknown``,
        ``StorageFailed``."""
        fd, folder = self._partials.open_file(key)
        try:
            is_locked = _try_lock(fd)
            # It may have become the visible file between being opened and being locked.
            if not _is_at(folder, key, fd):
                raise SessionUnknown
            if is_locked:
                return FileLease(fd, key + REQUEST, folder)
        except BaseException:
            close(fd)
            raise
        close(fd)
        return None

    def wait(self, key: str, may_ask: Callable[[], bool]) -> FileLease:
        """See ``Locker``."""
        deadline = time.monotonic() + self._patience
        try:
            while True:
                if not may_ask() or time.monotonic() > deadline:
                    raise WriterBusy
                self._partials.request_release(key)
                self._sleep(_POLL_SECONDS)
                lease = self.acquire(key)
                if lease is not None:
                    return lease
        finally:
            self._partials.withdraw_request(key)  # others that wait for the same leave theirs again


def _is_at(folder: Folder, key: str, fd: int) -> bool:
    """Whether this is (still) the upload's file."""
    try:
        return os.path.samestat(os.stat(key, dir_fd=folder.fd, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _try_lock(fd: int) -> bool:
    """Whether the lock on the file is this descriptor's now."""
    with contextlib.suppress(BlockingIOError, PermissionError):  # EACCES on some network file systems
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
