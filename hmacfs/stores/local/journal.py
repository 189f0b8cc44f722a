"""Which folders are being made for files: a process that is killed between making one and linking the file into it
leaves it empty, and the next start takes it back."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator

from hmacfs.protocol.names import PATH_LIMIT_BYTES
from hmacfs.stores.local.tree import Folder
from hmacfs.system.descriptors import allocate, close


class DirectoryJournal:
    """The entries of one process: a file mapped into memory, so that they outlive the process and cost no
    system call. A lock on the file says that the process lives.

    folder: the folder for the files of all processes.
    """

    #: More files are never published at once by one process; if they were, some would go without an entry.
    SLOTS = 64
    _LENGTH = struct.Struct("=H")
    _EMPTY = _LENGTH.pack(0)
    _pack = _LENGTH.pack
    _SLOT_BYTES = _LENGTH.size + PATH_LIMIT_BYTES

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._free: list[int] = []
        self.is_open = False

    def open(self) -> None:
        """Make the file if there is none yet. Without space for it, or memory to map it to, there are no entries."""
        if self.is_open:
            return
        self.is_open = True
        with contextlib.suppress(OSError, ValueError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(secrets.token_hex(16), flags, 0o600, dir_fd=self.folder.fd)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            allocate(self._fd, self.SLOTS * self._SLOT_BYTES)
            self._map = mmap.mmap(self._fd, self.SLOTS * self._SLOT_BYTES)
            self._free = [slot * self._SLOT_BYTES for slot in range(self.SLOTS)]

    def __del__(self) -> None:
        if self._fd >= 0:  # open until then: it holds the lock
            close(self._fd)

    @property
    def is_lost(self) -> bool:
        """Whether somebody removed the file: then nobody finds its entries."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def about(self, path: bytes) -> JournalEntry:
        """A context: as long as it lasts, the folders of the file ``path`` may be new. For any thread."""
        return JournalEntry(self, path)

    def write(self, raw: bytes) -> int | None:
        """Where the entry of that path is, ``None`` if there was no slot left for it."""
        try:
            slot = self._free.pop()
        except IndexError:
            return None
        assert self._map is not None
        # One that is cut short by the process's end is harmless: its folders are not made yet.
        entry = self._pack(len(raw)) + raw
        self._map[slot : slot + len(entry)] = entry
        return slot

    def erase(self, slot: int) -> None:
        """Remove the entry that ``write`` has made there."""
        assert self._map is not None
        self._map[slot : slot + self._LENGTH.size] = self._EMPTY
        self._free.append(slot)

    def entries_of_dead_processes(self) -> list[str]:
        """The paths in the journals of processes that have ended. Those journals are removed."""
        found: list[str] = []
        for name in os.listdir(self.folder.fd):
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder.fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found += self._paths_in(os.pread(fd, self.SLOTS * self._SLOT_BYTES, 0))
                    os.unlink(name, dir_fd=self.folder.fd)
                finally:
                    close(fd)
        return found

    @classmethod
    def _paths_in(cls, data: bytes) -> Iterator[str]:
        for slot in range(0, len(data) - cls._SLOT_BYTES + 1, cls._SLOT_BYTES):
            (length,) = cls._LENGTH.unpack_from(data, slot)
            if length:
                begin = slot + cls._LENGTH.size
                yield data[begin : begin + length].decode("utf-8", "replace")


class JournalEntry:
    """One of ``DirectoryJournal``, for as long as the context lasts. A generator would cost each small upload 1 us
    more."""

    __slots__ = ("_journal", "_path", "_slot")

    def __init__(self, journal: DirectoryJournal, path: bytes) -> None:
        self._journal = journal
        self._path = path

    def __enter__(self) -> None:
        self._slot = self._journal.write(self._path)

    def __exit__(self, *_: object) -> None:
        if self._slot is not None:
            self._journal.erase(self._slot)
