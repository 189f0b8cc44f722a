"""The right to write an unfinished upload, as a lock on its file."""

from __future__ import annotations

import os

from hmacfs.stores.local.tree import Folder
from hmacfs.system.descriptors import close


class FileLease:
    """The lock. ``fd`` is the upload's file, which is at its beginning, open for reading and writing; ``folder`` is the
    one that it is in."""

    def __init__(self, fd: int, request: str, folder: Folder) -> None:
        self.fd = fd
        self._request = request
        self.folder = folder

    def check(self) -> None:
        """The kernel's lock cannot be lost while its holder lives."""

    def is_wanted(self) -> bool:
        """Whether another writer asked for this upload."""
        try:
            os.stat(self._request, dir_fd=self.folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
