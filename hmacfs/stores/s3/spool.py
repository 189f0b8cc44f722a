"""Where bytes are on their way to the engine: files without a name, so that a dead process leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from hmacfs.errors import HmacfsError, NoSpace, StorageFailed
from hmacfs.stores.s3.bucket import FileSection
from hmacfs.system.anonymous_files import open_anonymous
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls


class Spool:
    """A folder (``S3SpoolDir``), which exists. used: bytes in files of this process."""

    def __init__(self, folder: Path, file_calls: FileCalls) -> None:
        self.folder = folder
        self.file_calls = file_calls
        self.used = 0

    def new(self) -> SpoolFile:
        """An empty file. Raises ``NoSpace``, ``StorageFailed``."""
        with self.translated():
            return SpoolFile(self, self.file_calls(self._open))

    def _open(self) -> int:
        with contextlib.suppress(OSError):
            return open_anonymous(self.folder)
        # Not all file systems know files without a name. The folder may have been purged, too.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, path = tempfile.mkstemp(dir=self.folder)
        os.unlink(path)
        return fd

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """The operating system's errors inside its context as this project's."""
        return _translated(self.folder)

    def free_bytes(self) -> int | None:
        """What an ordinary user may still write there; ``None`` if the file system does not tell."""
        with self.translated():
            space = os.statvfs(self.folder)
            return space.f_bavail * space.f_frsize if space.f_blocks else None

    def total_bytes(self) -> int:
        """The size of its file system, 0 if that does not tell."""
        with self.translated():
            space = os.statvfs(self.folder)
            return space.f_blocks * space.f_frsize

    def check_writable(self) -> None:
        """Raises ``NoSpace``, ``StorageFailed``."""
        file = self.new()
        try:
            file.write(memoryview(b"\0"))
        finally:
            file.close()


class SpoolFile:
    """One of its files. length: where its bytes end, as of the last ``measure``: at the descriptor's position. After
    them may be what it was used for before, and before them the room that ``skip`` left, which takes no space."""

    def __init__(self, spool: Spool, fd: int) -> None:
        self._spool = spool
        self.fd = fd
        self.length = 0
        self._skipped = self._used = 0

    def skip(self, count: int) -> None:
        """Leave room for so many bytes before the first ones. Raises ``StorageFailed``."""
        with self._spool.translated():
            os.lseek(self.fd, count, os.SEEK_SET)
        self._skipped = count
        self._count(count)

    def fill(self, pieces: Iterable[bytes]) -> None:
        """Write what belongs into the room that was left; it must be as many bytes. Raises ``NoSpace``,
        ``StorageFailed``, and what the pieces raise."""
        offset = 0
        for piece in pieces:
            with self._spool.translated():
                while piece:
                    count = self._spool.file_calls(os.pwrite, self.fd, piece, offset)
                    piece, offset = piece[count:], offset + count
        if offset != self._skipped:
            raise StorageFailed(where=str(self._spool.folder))
        self._skipped = 0
        self.measure()

    def write(self, data: memoryview) -> None:
        """At the end, which is the descriptor's position. Raises ``NoSpace``, ``StorageFailed``."""
        with self._spool.translated():
            while data:
                data = data[self._spool.file_calls(os.write, self.fd, data) :]

    def measure(self) -> int:
        """Where they end, whoever wrote them by the descriptor."""
        self._count(os.lseek(self.fd, 0, os.SEEK_CUR))
        return self.length

    def section(self, offset: int, length: int) -> FileSection:
        return FileSection(self.fd, offset, length)

    def rewind(self) -> None:
        """Take it for empty, to be used again. Its pages stay, which costs less than giving them back and asking for
        others: so nothing of it may still wait in a socket. Raises ``StorageFailed``."""
        with self._spool.translated():
            os.lseek(self.fd, 0, os.SEEK_SET)
        self._skipped = 0
        self._count(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            self._skipped = 0
            self._count(0)
            fd, self.fd = self.fd, -1
            close(fd)

    def _count(self, length: int) -> None:
        used = length - self._skipped
        self._spool.used += used - self._used
        self.length, self._used = length, used


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except HmacfsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace from error
        raise StorageFailed(where=str(folder)) from error
