"""Files that the processes of a machine share, and the folders that those are in.

A purge may remove them while the server runs: a process that keeps one open checks now and then whether its path still
names it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.system import ownership
from hmacfs.system.descriptors import allocate, close
from hmacfs.system.ownership import open_file

log = logging.getLogger("hmacfs.shared")


def make_folder(path: Path) -> None:
    """Make a folder for this user alone, and those above it that are missing. Raises ``OSError``; a store that is not
    there (``FileNotFoundError``) may be a disk that is not mounted, and is not made."""
    if RESERVED_FOLDER in path.parts:
        os.stat(Path(*path.parts[: path.parts.index(RESERVED_FOLDER)]))
    ownership.make_folder(path)


def put_in_place(path: Path, content: bytes, place: Callable[[Path, Path], None] = os.replace) -> None:
    """Make the file ``path`` with that content, its folder too if need be; atomic: nobody finds a part of it. Its space
    is allocated, so that it can be mapped.

    place: ``os.replace``, or ``os.link`` for a path that must be free (``FileExistsError``). A process that has
    mapped the file that was there keeps that one. Raises ``OSError``.
    """
    make_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fd = open_file(draft, os.O_RDWR | os.O_TRUNC)
        try:
            allocate(fd, len(content))
            os.pwrite(fd, content, 0)
        finally:
            close(fd)
        place(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class SharedFile:
    """A file open for reading and writing, made if need be with its folder. It is closed at the end of its context, or
    when nobody refers to the object any more. Raises ``OSError``."""

    __slots__ = ("_identity", "_path", "fd")

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self._path = path
        try:
            self.fd = open_file(path, os.O_RDWR)
        except FileNotFoundError:
            make_folder(path.parent)
            self.fd = open_file(path, os.O_RDWR)
        status = os.fstat(self.fd)
        self._identity = (status.st_dev, status.st_ino)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    def is_current(self) -> bool:
        """Whether the path names this file. Raises ``OSError``."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity


def open_table(path: Path, header: bytes, size: int, *, fixed: int) -> SharedFile:
    """A file of ``size`` bytes that begins as ``header`` does, with its ``fixed`` first bytes. One that is not is
    replaced by ``header`` and zeros. Raises ``OSError``."""
    while True:
        file = SharedFile(path)
        fcntl.flock(file.fd, fcntl.LOCK_EX)
        found = os.fstat(file.fd).st_size
        if found == size and os.pread(file.fd, fixed, 0) == header[:fixed]:
            fcntl.flock(file.fd, fcntl.LOCK_UN)
            return file
        if file.is_current():  # else another process has replaced it
            if found > 0:
                log.warning("%s cannot be used and is replaced: its counts begin at zero", path)
            put_in_place(path, header.ljust(size, b"\0"))
