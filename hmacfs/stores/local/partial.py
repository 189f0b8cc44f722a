"""Unfinished uploads: files in the reserved folder, which grow."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Self

from hmacfs.errors import NameTaken, NotFound, SessionUnknown
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.lease import FileLease
from hmacfs.stores.local.publish import StagedInode
from hmacfs.stores.local.sinks import FileSink
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import Folder
from hmacfs.stores.local.writing import StoreWriter
from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORED_FILE_MODE
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.requests import Hash
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileInfo, FileMetadata

_FOLDER = b"partial"
#: The end of the name of a file beside an upload that says that a writer waits for its lock (see ``locker``).
REQUEST = ".wanted"
#: Beside an upload for a name on another file system: which file there is its copy.
_COPY = ".copy"
#: So much of a key tells uploads apart.
_KEY_SHOWN = 8
_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")

#: How much of a file one call reads, and in which pieces.
_FED_AT_ONCE, _FED_PIECE = 16 * 1024 * 1024, 256 * 1024


class LocalPartialUploads:
    """The unfinished uploads of a store, each a file under the key of its session."""

    def __init__(self, store: StoreWriter) -> None:
        self._store = store
        self._where = store.reserved / os.fsdecode(_FOLDER)
        store.folders.own(_FOLDER)

    @property
    def _folder(self) -> int:
        return self._store.folders.own(_FOLDER).fd

    def _place(self, key: str) -> tuple[Path, str]:
        """For messages: the whole key of an upload that began under 1.0.0 is the right to write it."""
        return self._where, key[:_KEY_SHOWN] + "..."

    def create(self, key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        """An empty one. Raises ``NoSpace``, ``StoreMissing``, ``StorageFailed``."""
        del name, length, metadata  # the session's record has them until the upload is published
        with translated(*self._place(key)):
            self._store.folders.check()
            fd, _ = self._store.in_own(_FOLDER, _open_in, key, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            close(fd)

    def exists(self, key: str) -> bool:
        """Whether there is such an upload."""
        return self.stat(key) is not None

    def stat(self, key: str) -> PartialInfo | None:
        """How far it is; ``None`` if there is no such upload (any more)."""
        if not _KEY.fullmatch(key):
            return None
        try:
            status = self._store.in_own(_FOLDER, _stat_in, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            translate(error, *self._place(key))
            raise
        return PartialInfo(status.st_size, status.st_mtime)

    def open(self, key: str, lease: Lease) -> LocalPartialUpload:
        """See ``PartialUploads``."""
        try:
            # A lock on the upload's own file comes with its descriptor.
            fd, folder = (lease.fd, lease.folder) if isinstance(lease, FileLease) else self.open_file(key)
            return LocalPartialUpload(self._store, folder, key, lease, fd)
        except BaseException:
            lease.release()
            raise

    def open_file(self, key: str) -> tuple[int, Folder]:
        """The upload's file, open for reading and writing, and the folder that it is in. Raises ``SessionUnknown``,
        ``StorageFailed``."""
        if not _KEY.fullmatch(key):
            raise SessionUnknown
        try:
            return self._store.in_own(_FOLDER, _open_in, key, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise SessionUnknown from error
        except OSError as error:
            translate(error, *self._place(key))
            raise

    def discard(self, key: str) -> None:
        """Remove an upload that nobody writes, and what lies beside it."""
        if _KEY.fullmatch(key):
            with translated(*self._place(key)):
                for name in (key, key + REQUEST, key + _COPY):
                    self._remove(name)

    def untouched_since(self, before: float) -> list[str]:
        """The keys of all uploads whose last byte came before that Unix time, and of what was left beside them then."""
        with translated(self._where):
            return self._store.file_calls.always_blocking(self._list_untouched, before)

    def _list_untouched(self, before: float) -> list[str]:
        found: set[str] = set()
        folder = self._folder
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                key = name.removesuffix(REQUEST).removesuffix(_COPY)
                if _KEY.fullmatch(key) and os.stat(name, dir_fd=folder).st_mtime < before:
                    found.add(key)
        return sorted(found)

    def request_release(self, key: str) -> None:
        """Ask the present writer to let go."""
        # Removed with its folder: there is no such upload.
        with translated(*self._place(key)), contextlib.suppress(FileNotFoundError):
            close(os.open(key + REQUEST, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._folder))

    def withdraw_request(self, key: str) -> None:
        self._remove(key + REQUEST)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)


class LocalPartialUpload:
    """One upload, open for its writer at ``fd``, which may be the lease's own.

    A process that is killed in an atomic piece leaves what arrived of it.
    """

    def __init__(self, store: StoreWriter, folder: Folder, key: str, lease: Lease, fd: int) -> None:
        self._store = store
        self._folder = folder
        self._key = key
        self.lease = lease
        self.fd = fd
        self.length = os.lseek(self.fd, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(self.lease, FileLease):
            close(self.fd)
        self.lease.release()
        if isinstance(error, OSError):
            translate(error, self._store.reserved / os.fsdecode(_FOLDER), self._key[:_KEY_SHOWN] + "...")

    def space_of(self, offset: int, length: int | None, *, atomic: bool) -> int | None:
        """See ``PartialUpload``: a piece is written where it stays."""
        del offset, atomic
        return length

    @property
    def space_to_publish(self) -> int | None:
        return None

    def begin(self, offset: int, *, atomic: bool) -> LocalPiece:
        """See ``PartialUpload``."""
        if offset < self.length:
            self.truncate(offset)
        return LocalPiece(self, self._store, atomic=atomic)

    def truncate(self, length: int) -> None:
        """Drop what is stored after ``length`` bytes, if there is any: when the last byte came stays the same then."""
        if os.fstat(self.fd).st_size > length:
            os.ftruncate(self.fd, length)
        self.length = os.lseek(self.fd, length, os.SEEK_SET)

    def feed(self, digest: Hash) -> None:
        """Tell ``digest`` of all bytes stored, in threads: other greenlets run meanwhile, and so do other calls."""
        for begin in range(0, self.length, _FED_AT_ONCE):
            end = min(self.length, begin + _FED_AT_ONCE)
            self._store.file_calls.always_blocking(_feed, self.fd, digest, begin, end)

    def discard(self) -> None:
        """Remove the upload. A writer that waits for it finds that it is gone."""
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
            visible = self._store.open(name)
        except NotFound:
            return False
        try:
            return os.path.sameopenfile(self.fd, visible.fd) or _mark_of(visible.fd) == copy
        finally:
            visible.close()

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """Make the complete file visible. Raises ``NameTaken``. The unfinished upload is gone afterwards."""
        staged_inode = StagedInode(self.fd, self._store.file_system, self._key.encode(), self._folder)
        try:
            info = self._store.publish(staged_inode, name, metadata, self._note_copy)
        except NameTaken:
            known = self._store.stat(name) if self.is_published(name) else None
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
            if self._store.durable:
                self._store.file_calls.always_blocking(os.fsync, note)
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


class LocalPiece(FileSink):
    """A ``Piece``: bytes at the end of the upload's file, which is truncated if they shall not count."""

    def __init__(self, upload: LocalPartialUpload, store: StoreWriter, *, atomic: bool) -> None:
        super().__init__(upload.fd, store.file_calls, durable=store.durable)
        self._upload = upload
        self._begin = upload.length
        self._is_atomic = atomic

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._is_atomic and kind is not None:
            self.roll_back()
        else:
            self._upload.length = os.fstat(self.fd).st_size

    def roll_back(self) -> None:
        self._upload.truncate(self._begin)


def _open_in(folder: Folder, key: str, flags: int) -> tuple[int, Folder]:
    return os.open(key, flags | os.O_CLOEXEC, STORED_FILE_MODE, dir_fd=folder.fd), folder


def _stat_in(folder: Folder, key: str) -> os.stat_result:
    return os.stat(key, dir_fd=folder.fd, follow_symlinks=False)


def _feed(fd: int, digest: Hash, begin: int, end: int) -> None:
    """Tell of the bytes of a file from ``begin`` to before ``end``."""
    buffer = memoryview(bytearray(_FED_PIECE))
    while begin < end:
        count = os.preadv(fd, [buffer[: end - begin]], begin)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter")
        digest.update(buffer[:count])
        begin += count


def _mark_of(fd: int) -> bytes:
    """What tells a file from all others. Not by the inode alone, which another file may get; nor by the device, which
    may have another number after a restart."""
    status = os.fstat(fd)
    return b"%d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns)
