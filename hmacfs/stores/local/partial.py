"""Unfinished uploads: files in the reserved folder, each written by one writer at a time.

The writer holds the kernel's lock on the file (``flock``), which ends with the process that held it, however that ends.
Who wants to take over leaves a note beside the file; the writer looks for it and lets go. Lock and note are files, so
they work between all processes that share the folder, on one machine or on several.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hmacfs.errors import NameTaken, NotFound, SessionUnknown, WriterBusy
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.publish import StagedInode
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import Folder
from hmacfs.stores.local.writing import StoreWriter
from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORED_FILE_MODE
from hmacfs.uploads.contracts.requests import Hash
from hmacfs.uploads.files import FileInfo, FileMetadata

R = TypeVar("R")

#: How long a newcomer waits for the writer to let go.
TAKEOVER_SECONDS = 10.0
_POLL_SECONDS = 0.05
_FOLDER = b"partial"
_NOTE = ".wanted"
#: So much of a key tells uploads apart.
_KEY_SHOWN = 8
#: Beside an upload for a name on another file system: which file there is its copy.
_COPY = ".copy"
_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


#: How much of a file one call reads, and in which pieces.
_FED_AT_ONCE, _FED_PIECE = 16 * 1024 * 1024, 256 * 1024


class LocalPartialUploads:
    """The unfinished uploads of a store, each under the key of its session: anything that is no key is unknown."""

    def __init__(self, storage: StoreWriter) -> None:
        self._storage = storage
        self._where = storage.reserved / os.fsdecode(_FOLDER)
        storage.folders.own(_FOLDER)

    @property
    def _folder(self) -> int:
        return self._storage.folders.own(_FOLDER).fd

    def _again(self, operation: Callable[[int], R]) -> R:
        """``operation`` in the folder; once more if that was removed and made again since it was opened. Raises
        ``OSError``."""
        return self._storage.in_own(_FOLDER, lambda folder: self._storage.file_calls(operation, folder.fd))

    def _place(self, key: str) -> tuple[object, ...]:
        """For messages: the whole key of an upload that began under 1.0.0 is the right to write it."""
        return self._where, key[:_KEY_SHOWN] + "..."

    def create(self, key: str) -> None:
        """An empty one. Raises ``NoSpace``, ``StoreMissing``, ``StorageFailed``."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with translated(*self._place(key)):
            self._storage.folders.check()
            close(self._again(lambda folder: os.open(key, flags, STORED_FILE_MODE, dir_fd=folder)))

    def length(self, key: str) -> int | None:
        """Bytes stored so far, ``None`` if there is no such upload (any more)."""
        status = self._status(key)
        return status.st_size if status is not None else None

    def touched(self, key: str) -> float | None:
        """When its last byte came, in Unix seconds; ``None`` if there is no such upload (any more)."""
        status = self._status(key)
        return status.st_mtime if status is not None else None

    def _status(self, key: str) -> os.stat_result | None:
        if not _KEY.fullmatch(key):
            return None
        with translated(*self._place(key)):
            try:
                return self._again(lambda folder: os.stat(key, dir_fd=folder, follow_symlinks=False))
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def writer(self, key: str, offset: int | None) -> Iterator[PartialWriter]:
        """The only writer of an upload, as a context.

        If there is one already, it is asked to let go, provided that ``offset`` is where the stored bytes end: whoever
        is behind or ahead would only disturb it, and finds out without the lock. Without an offset it is asked in any
        case. Raises ``SessionUnknown``, ``WriterBusy``, ``StorageFailed``.
        """
        if not _KEY.fullmatch(key):
            raise SessionUnknown
        fd = self._locked(key, offset)
        try:
            yield PartialWriter(self._storage, self._storage.folders.own(_FOLDER), key, fd)
        except OSError as error:
            translate(error, *self._place(key))
            raise
        finally:
            close(fd)

    def _locked(self, key: str, offset: int | None) -> int:
        deadline = time.monotonic() + TAKEOVER_SECONDS
        try:
            while (fd := self._try(key, offset)) is None:
                if time.monotonic() > deadline:
                    raise WriterBusy
                self._ask(key)
                time.sleep(_POLL_SECONDS)  # cooperative in a gevent worker
            return fd
        finally:
            self._forget(key + _NOTE)  # others who wait for the same leave theirs again

    def _try(self, key: str, offset: int | None) -> int | None:
        """The locked file, ``None`` if another writer has it and may be asked for it."""
        fd = self._open(key)
        try:
            if _try_lock(fd):
                return fd
            status = os.fstat(fd)
        except BaseException:
            close(fd)
            raise
        close(fd)
        if status.st_nlink == 0:
            raise SessionUnknown
        if offset not in (None, status.st_size):
            raise WriterBusy
        return None

    def _open(self, key: str) -> int:
        with translated(*self._place(key)):
            try:
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                return self._again(lambda folder: os.open(key, flags, dir_fd=folder))
            except FileNotFoundError as error:
                raise SessionUnknown from error

    def _ask(self, key: str) -> None:
        # Removed with its folder: there is no such upload.
        with translated(*self._place(key)), contextlib.suppress(FileNotFoundError):
            close(os.open(key + _NOTE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._folder))

    def discard(self, key: str, untouched_since: float = math.inf) -> bool:
        """Remove an upload that nobody writes and that got no byte since that Unix time; whether nothing of it is
        left."""
        if not _KEY.fullmatch(key):
            return True
        with translated(*self._place(key)), contextlib.ExitStack() as stack:
            try:
                fd = self._open(key)
            except SessionUnknown:
                self._forget(key + _NOTE)
                self._forget(key + _COPY)
                return True
            stack.callback(close, fd)
            if not _try_lock(fd) or os.fstat(fd).st_mtime >= untouched_since:
                return False
            self._forget(key)
            self._forget(key + _NOTE)
            self._forget(key + _COPY)
            return True

    def untouched_since(self, before: float) -> list[str]:
        """The keys of all uploads whose last byte came before that Unix time, and of notes that were left then."""
        with translated(self._where):
            return self._storage.file_calls.always_blocking(self._list_untouched, before)

    def _list_untouched(self, before: float) -> list[str]:
        found: set[str] = set()
        folder = self._storage.folders.own(_FOLDER)
        for name in os.listdir(folder.fd):
            with contextlib.suppress(FileNotFoundError):
                key = name.removesuffix(_NOTE).removesuffix(_COPY)
                if _KEY.fullmatch(key) and os.stat(name, dir_fd=folder.fd).st_mtime < before:
                    found.add(key)
        return sorted(found)

    def _forget(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)


def _feed(fd: int, digest: Hash, begin: int, end: int) -> None:
    """Tell of the bytes of a file from ``begin`` to before ``end``."""
    buffer = memoryview(bytearray(_FED_PIECE))
    while begin < end:
        count = os.preadv(fd, [buffer[: end - begin]], begin)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter")
        digest.update(buffer[:count])
        begin += count


def _try_lock(fd: int) -> bool:
    """Whether the lock on the file is this descriptor's now, and the file is still there."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return os.fstat(fd).st_nlink > 0


class PartialWriter:
    """The right to write one upload. Write to ``fd`` at its position, which is the end of what is stored."""

    def __init__(self, storage: StoreWriter, folder: Folder, key: str, fd: int) -> None:
        self._storage = storage
        self._folder = folder
        self._key = key
        self.fd = fd
        self.length = os.lseek(fd, 0, os.SEEK_END)

    def is_wanted(self) -> bool:
        """Whether another writer asked for this upload."""
        try:
            os.stat(self._key + _NOTE, dir_fd=self._folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def truncate(self, length: int) -> None:
        """Drop what was stored behind ``length`` bytes."""
        os.ftruncate(self.fd, length)
        self.length = os.lseek(self.fd, 0, os.SEEK_END)

    def stored(self) -> int:
        """Bytes stored now."""
        self.length = os.fstat(self.fd).st_size
        return self.length

    def feed(self, digest: Hash) -> None:
        """Tell ``digest`` of all bytes stored, in threads: other greenlets run meanwhile, and so do other calls."""
        for begin in range(0, self.length, _FED_AT_ONCE):
            end = min(self.length, begin + _FED_AT_ONCE)
            self._storage.file_calls.always_blocking(_feed, self.fd, digest, begin, end)

    def discard(self) -> None:
        """Remove the upload. Who waits for it finds that it is gone."""
        for name in (self._key, self._key + _COPY):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder.fd)

    def is_published(self, name: StoredName) -> bool:
        """Whether the file is visible as ``name`` already: its process ended before it could take away the other name.
        Anybody may give files of the store more names (backups do), so their number alone says nothing."""
        copy = self._noted_copy()
        if os.fstat(self.fd).st_nlink == 1 and not copy:
            return False
        try:
            visible = self._storage.open(name).fd
        except NotFound:
            return False
        try:
            return os.path.sameopenfile(self.fd, visible) or _mark_of(visible) == copy
        finally:
            close(visible)

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """Make the complete file visible. Raises ``NameTaken``. The unfinished upload is gone afterwards."""
        raw = self._key.encode()
        staged_inode = StagedInode(self.fd, self._storage.capabilities, raw, self._folder)
        try:
            info = self._storage.publish(staged_inode, name, metadata, self._note_copy)
        except NameTaken:
            known = self._storage.stat(name) if self.is_published(name) else None
            if known is None:
                raise
            info = known
        self.discard()
        return info

    def _note_copy(self, fd: int) -> None:
        """Write down which file will be visible: a process that is killed between publishing a copy and removing the
        original leaves nothing else to tell them by."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        note = os.open(self._key + _COPY, flags, 0o600, dir_fd=self._folder.fd)
        try:
            os.write(note, _mark_of(fd))
            if self._storage.durable:
                self._storage.file_calls.always_blocking(os.fsync, note)
        finally:
            close(note)

    def _noted_copy(self) -> bytes:
        try:
            note = os.open(self._key + _COPY, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder.fd)
        except FileNotFoundError:
            return b""
        try:
            return os.read(note, 4096)
        finally:
            close(note)


def _mark_of(fd: int) -> bytes:
    """What tells a file from all others. Not by the inode alone, which another file may get; nor by the device, which
    may have another number after a restart."""
    status = os.fstat(fd)
    return b"%d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns)
