"""Stored files that are open for reading, and the small ones that stay open for the next reader."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hmacfs.stores.local.tree import Folder
from hmacfs.system.descriptors import close
from hmacfs.uploads.files import FileInfo

#: Of each worker; ``server.preflight`` allows for them.
FILES_KEPT = 256
#: Opening a larger file takes no time compared with sending it, and the space of a deleted one is not worth keeping.
KEPT_BYTES = 1024 * 1024


class OpenFile:
    """A stored file open for reading: a ``Source`` with a descriptor."""

    __slots__ = ("fd", "info")

    def __init__(self, fd: int, info: FileInfo) -> None:
        self.fd = fd
        self.info = info

    def pieces(self, offset: int, count: int, size: int) -> Iterator[bytes]:
        while count:
            data = os.pread(self.fd, min(count, size), offset)
            if not data:
                return
            yield data
            offset += len(data)
            count -= len(data)

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        close(self.fd)


class KeptFile(OpenFile):
    """One for any number of readers: each gives the offset, so the position of the descriptor does not matter. It is
    closed when nobody refers to the object any more."""

    __slots__ = ("_changed", "_device", "_inode", "_size")

    def __init__(self, fd: int, info: FileInfo, status: os.stat_result) -> None:
        super().__init__(fd, info)
        self._inode = status.st_ino
        self._device = status.st_dev
        self._size = status.st_size
        self._changed = status.st_ctime_ns

    def is_at(self, path: bytes, root: Folder) -> bool:
        """Whether ``path`` below the folder ``root`` names this file still, and nothing of it has changed: any change
        sets the time that is compared, of the bytes, the type, the mode or the number of names. One within the same
        tick of the kernel's clock (up to 10 ms) after the file was opened is not noticed unless the size differs."""
        try:
            status = os.stat(path, dir_fd=root.fd, follow_symlinks=False)
        except OSError:
            return False
        return (
            status.st_ino == self._inode
            and status.st_ctime_ns == self._changed
            and status.st_size == self._size
            and status.st_dev == self._device
        )

    def close(self) -> None:
        """Others may read it."""

    def __del__(self) -> None:
        close(self.fd)


class KeptFiles:
    """The files of this process that stay open, by their paths (nginx: ``open_file_cache``). All its threads may call.

    ``renew`` forgets all of them and has to be called once a second; before its first call none is kept. So the space
    of a deleted file is free after a second, unless it is being read, and no rule about which files may be served is
    circumvented for longer by a folder that was moved. A file that is asked for often is opened once a second.

    room: how many more may be kept. Where there is none, others are when the next second begins: giving up one for each
    new one would keep none of many. get: the file that is kept under a path, if any; whether it is there still is for
    the caller to find out.
    """

    def __init__(self) -> None:
        self._files: dict[str, KeptFile] = {}
        self.room = 0
        self.get = self._files.get

    def keep(self, path: str, file: KeptFile) -> None:
        self.room -= 1
        self._files[path] = file

    def renew(self) -> None:
        """Forget all; what is in use stays open until then."""
        self.room = FILES_KEPT
        self._files.clear()
