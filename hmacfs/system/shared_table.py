"""Tables of fixed size in files that all processes of the machine map."""

from __future__ import annotations

import fcntl
import logging
import mmap
import secrets
import struct
from pathlib import Path
from typing import ClassVar

from hmacfs.system import processes
from hmacfs.system.shared_file import open_table

log = logging.getLogger("hmacfs.shared")

_HEADER = struct.Struct("=8sIQ16s28x")  # magic, version, size of the content, salt
#: Bytes of the header that tell whether a file is the table that is looked for.
_FIXED = 20
_PROCESS = struct.Struct("=qq")


class SharedTable:
    """A header and ``size`` zero bytes, which the subclasses give a meaning. Each process has to open it for itself,
    after its fork. Its context is the table's lock, which the kernel releases when a process dies: nothing in it may
    yield to others.

    The version of the layout is a part of the file's name: an update may begin while an older server still runs, and
    neither takes the other's table for a broken one of its own. A file that is no such table is replaced. Raises
    ``OSError`` if there can be none.
    """

    MAGIC: ClassVar[bytes]
    VERSION: ClassVar[int]

    def __init__(self, path: Path, size: int) -> None:
        self._process = processes.current()
        self._path = self.file_of(path)
        self._size = size
        self._open()

    @classmethod
    def file_of(cls, path: Path) -> Path:
        """The file of the table that is called ``path``."""
        return path.with_name(f"{path.name}.{cls.VERSION}")

    def _open(self) -> None:
        header = _HEADER.pack(self.MAGIC, self.VERSION, self._size, secrets.token_bytes(16))
        self._file = open_table(self._path, header, len(header) + self._size, fixed=_FIXED)
        mapped = mmap.mmap(self._file.fd, len(header) + self._size)
        #: A secret of the table's own for hashes, so that nobody can choose keys that collide.
        self._salt: bytes = _HEADER.unpack_from(mapped)[3]
        self._content = memoryview(mapped)[_HEADER.size :]
        with self:
            self._claim()

    def _claim(self) -> None:
        """Put in what this process has in the table. Called under the lock when the table was opened, and when it had
        to be made again."""
        raise NotImplementedError

    def repair(self) -> None:
        """If the file was removed, share another with the processes that do the same. Raises ``OSError``."""
        if not self._file.is_current():
            self._open()
            log.warning("%s was removed: made again", self._path)

    def __enter__(self) -> None:
        fcntl.flock(self._file.fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file.fd, fcntl.LOCK_UN)

    def _process_at(self, position: int) -> processes.Process:
        """The process whose number and start are at this position; its number is 0 where there is none."""
        return processes.Process(*_PROCESS.unpack_from(self._content, position))

    def _is_free(self, position: int, alive: set[processes.Process]) -> bool:
        """Whether the process at this position has ended, if there is one. alive: processes that are known to live, to
        which this adds."""
        process = self._process_at(position)
        if process.pid <= 0:
            return True
        if process not in alive and process.is_alive:
            alive.add(process)
        return process not in alive
