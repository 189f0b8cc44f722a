"""Claims on a ``RuntimeDir``, and the removal of abandoned ones.

By default each machine has one of its own inside the store, named after it. Containers have a new name at each start.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from pathlib import Path

from hmacfs.system.shared_file import SharedFile

log = logging.getLogger("hmacfs.server")

_LOCK_NAME = "server.lock"
#: Where the file system keeps locks to each machine, only the time tells that another one is still in use.
ABANDONED_SECONDS = 24 * 3600.0
#: Without a lock file it is of a version that made none, and did not renew its times either.
_ABANDONED_SECONDS_UNLOCKED = 30 * ABANDONED_SECONDS


#: How old the times of a folder in use may become.
TOUCH_SECONDS = 600.0


class RuntimeClaim:
    """Says, for as long as a process lives, that it uses this folder. Raises ``OSError`` if that cannot be said."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK_NAME
        self._file = self._claimed()

    def _claimed(self) -> SharedFile:
        while True:
            file = SharedFile(self._path)
            fcntl.flock(file.fd, fcntl.LOCK_SH)
            if file.is_current():  # else a cleaner was faster
                return file

    def repair(self) -> None:
        """If the lock was removed, claim the folder again; renew its times, so that it is not taken for an abandoned
        one. To be called more often than every ``TOUCH_SECONDS``. Raises ``OSError``."""
        if not self._file.is_current():
            self._file = self._claimed()
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fd).st_mtime < time.time() - TOUCH_SECONDS:
                os.utime(self._path)
                os.utime(self._path.parent)


def remove_abandoned(folder: Path, own: Path) -> list[str]:
    """Remove the runtime folders in ``folder`` of servers that ended, except ``own``; the names of those."""
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path != own and path.is_dir() and not path.is_symlink() and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
    return removed


def _is_abandoned(folder: Path) -> bool:
    """Nobody holds the lock, and nothing in it was changed for long."""
    lock = folder / _LOCK_NAME
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        limit = ABANDONED_SECONDS if lock.exists() else _ABANDONED_SECONDS_UNLOCKED
        if time.time() - newest < limit:
            return False
        if lock.exists():
            with SharedFile(lock) as file:
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use; or it goes away this moment
        return False
    return True
