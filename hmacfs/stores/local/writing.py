"""Storing files: staged where nobody sees them, then published; see ``publish``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from hmacfs.errors import ShuttingDown
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.capabilities import Capabilities, probe
from hmacfs.stores.local.copying import copy_file
from hmacfs.stores.local.folders import StoreFolders
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.open_files import KEPT_BYTES
from hmacfs.stores.local.publish import LeadsAway, OtherFileSystem, StagedInode, publish
from hmacfs.stores.local.reading import StoreReader
from hmacfs.stores.local.sinks import FileSink
from hmacfs.stores.local.staging import TEMPORARY, OtherFileSystems, new_staged_inode, remove_staged
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import Folder
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.contracts.requests import ENDLESS
from hmacfs.uploads.files import FileInfo, FileMetadata

P = ParamSpec("P")
R = TypeVar("R")

JOURNALS = b"notes"
_NOTHING = memoryview(b"")
#: More than a connection reads together with a request's head.
HELD_BYTES = 128 * 1024


class StoreWriter(StoreReader):
    """Stages and publishes files. root: the folder, which exists. durable: whether publishing waits for the device
    (``Durability``). Raises ``ConfigError`` if files cannot be published there, ``OSError`` if the folder cannot be
    used at all."""

    folders: StoreFolders

    def __init__(self, root: Path, *, durable: bool, file_calls: FileCalls, retry: Retry) -> None:
        super().__init__(root, StoreFolders(root), file_calls=file_calls, retry=retry)
        self.durable = durable
        self._probed = self.folders.own(TEMPORARY)
        self._file_system = probe(self._probed.fd, self.folders.spellings)
        self._others = OtherFileSystems()
        #: Where files in the making are, in parts, for messages. Made once, not for each upload.
        self.staging = root / RESERVED_FOLDER, os.fsdecode(TEMPORARY)
        self._journal = DirectoryJournal(self.folders.own(JOURNALS))

    @property
    def reserved(self) -> Path:
        """This server's own folder inside the store."""
        return self.root / RESERVED_FOLDER

    @property
    def file_system(self) -> Capabilities:
        """What the store's file system can do: that of ``StoreDir``, which may become another."""
        return self._file_system_of(self.folders.own(TEMPORARY))

    def _file_system_of(self, folder: Folder) -> Capabilities:
        if folder is not self._probed:
            self._probed, self._file_system = folder, probe(folder.fd, self.folders.spellings)
        return self._file_system

    def _has_attributes(self) -> bool:
        return self._file_system.attributes or bool(self._others.known)

    def _may_keep(self, status: os.stat_result) -> bool:
        """No large file, none on a disk that is mounted in the store, which can be unmounted, nor on a file system
        (NFS, FUSE) that renames what is deleted while it is open, within its folder."""
        if status.st_size > KEPT_BYTES or not self._file_system.anonymous:
            return False
        return status.st_dev == self.folders.root.identity[0]

    def stage(
        self, name: StoredName, length: int | None, metadata: FileMetadata, *, is_here: bool = False
    ) -> Staged | Held:
        """See ``FileStore``. The file is made on the file system that ``name`` is on, if that is known."""
        if is_here and length is not None and length <= HELD_BYTES and self._stores_at_once:
            return Held(self, name, metadata)
        return self._staged(name, metadata)

    def _staged(self, name: StoredName, metadata: FileMetadata) -> Staged:
        return Staged(self, self.new_inode(name), name, metadata)

    @property
    def _stores_at_once(self) -> bool:
        """Whether an upload is likely to need no more than what ``store_held`` does."""
        return not (self.durable or self._others.known) and self._file_system.anonymous

    def store_held(self, held: Held, data: memoryview, metadata: FileMetadata) -> FileInfo:
        """Make, fill and publish a file by one call: a sixth fewer instructions than by three. Whatever keeps it from
        being stored like this, the ordinary way has the remedies and the errors for it: nothing is visible then, and
        nothing left."""
        name = held.name
        if not self._journal.is_open:
            self._journal.open()
        try:
            return self.file_calls(self._store_now, held, data, metadata)
        except (OSError, LeadsAway, ShuttingDown) as error:
            if held.published is not None:
                return held.published  # a stop came while a thread was at it: see ``_publish_at``
            if isinstance(error, ShuttingDown):
                raise
        with self._staged(name, metadata) as staged:
            staged.write(data)
            return staged.publish()

    def _store_now(self, held: Held, data: memoryview, metadata: FileMetadata) -> FileInfo:
        self.folders.check()
        folder = self.folders.own(TEMPORARY)
        staged_inode = new_staged_inode(folder, self._file_system_of(folder))
        try:
            if os.write(staged_inode.fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            held.published = self._commit(staged_inode, held.name, metadata)
            return held.published
        finally:
            remove_staged(staged_inode)

    def new_inode(self, name: StoredName | None) -> StagedInode:
        """An empty file for that name, or for none. Raises ``NoSpace``, ``StoreMissing``, ``StorageFailed``."""
        try:
            return self._retry(self.file_calls, self._new_inode_now, name)
        except OSError as error:
            translate(error, *self.staging)
            raise

    def _new_inode_now(self, name: StoredName | None) -> StagedInode:
        self.folders.check()
        if name is not None and self._others.known:
            staged_inode = self._others.new_staged_inode(self.folders.root, name.raw)
            if staged_inode is not None:
                return staged_inode
        try:
            folder = self.folders.own(TEMPORARY)
            return new_staged_inode(folder, self._file_system_of(folder))
        except OSError:
            if not self.folders.renew():
                raise
            folder = self.folders.own(TEMPORARY)
            return new_staged_inode(folder, self._file_system_of(folder))

    def in_own(
        self, name: bytes, operation: Callable[Concatenate[Folder, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Do it in our folder of that name; once more if it failed since that was removed: it is made again. Raises
        ``OSError``."""
        try:
            return self.file_calls(operation, self.folders.own(name), *args, **kwargs)
        except OSError:
            if not self.folders.renew():
                raise
            return self.file_calls(operation, self.folders.own(name), *args, **kwargs)

    def publish(
        self,
        staged_inode: StagedInode,
        name: StoredName,
        metadata: FileMetadata,
        on_copy: Callable[[int], None] = lambda _: None,
    ) -> FileInfo:
        """Publish a complete file; see ``publish.publish``. Does not stop the event loop.

        Where it cannot be linked, since the name is on another file system or a purge took the temporary one, a copy is
        published, whose descriptor ``on_copy`` gets before.
        """
        try:
            return self._publish_at(staged_inode, name, metadata)
        except LeadsAway as error:
            target = self._after_links(name, error)
        except (OtherFileSystem, FileNotFoundError) as error:
            return self._publish_copy(staged_inode, name, metadata, on_copy, error)
        try:
            return self._publish_at(staged_inode, target, metadata)
        except (OtherFileSystem, FileNotFoundError) as error:
            return self._publish_copy(staged_inode, target, metadata, on_copy, error)

    def _publish_copy(
        self,
        staged_inode: StagedInode,
        name: StoredName,
        metadata: FileMetadata,
        on_copy: Callable[[int], None],
        reason: OSError,
    ) -> FileInfo:
        if isinstance(reason, OtherFileSystem):
            with translated(self.root, name.path):
                self.file_calls(self._others.learn, self.folders.root, name.raw)
        else:
            is_purged = staged_inode.temporary is not None and os.fstat(staged_inode.fd).st_nlink == 0
            if not self.file_calls(self.folders.renew) and not is_purged:
                raise reason
        with self._staged(name, metadata) as copy:
            copy_file(staged_inode.fd, copy.fd, self.file_calls.always_blocking)
            on_copy(copy.fd)
            return self._publish_at(copy.staged_inode, name, metadata)

    def _after_links(self, name: StoredName, error: LeadsAway) -> StoredName:
        """Where a name leads whose path has links in it. Raises ``error`` if there is no such place for files."""
        folder, filename = os.path.split(name.raw)
        target = self.file_calls(resolve, self.folders.root, folder)
        if target in (None, folder):
            raise error
        try:
            return StoredName.from_text(os.path.join(target, filename).decode())
        except UnicodeDecodeError:
            raise LeadsAway("A part of the path is a link to a name that is not UTF-8.") from None

    def _publish_at(self, staged_inode: StagedInode, name: StoredName, metadata: FileMetadata) -> FileInfo:
        run = self.file_calls.always_blocking if self.durable else self.file_calls
        if not self._journal.is_open:
            self._journal.open()
        try:
            return self._retry(run, self._commit, staged_inode, name, metadata)
        except ShuttingDown:
            if staged_inode.published is None:
                raise
            # The stop came while a thread was at it. The file is visible now, and that is what its client has to hear.
            return staged_inode.published

    def _commit(self, staged_inode: StagedInode, name: StoredName, metadata: FileMetadata) -> FileInfo:
        path, journal = name.raw, self._journal
        slot = journal.write(path) if b"/" in path else None
        try:
            info = publish(self.folders.root, staged_inode, name, path, metadata, durable=self.durable)
            staged_inode.published = info
            return info
        finally:
            if slot is not None:
                journal.erase(slot)


class Staged(FileSink):
    """A ``StagedFile``. Errors of the operating system inside its context become ``NoSpace`` or ``StorageFailed``."""

    def __init__(self, store: StoreWriter, staged_inode: StagedInode, name: StoredName, metadata: FileMetadata) -> None:
        super().__init__(staged_inode.fd, store.file_calls, durable=store.durable)
        self._store = store
        self._name = name
        self._metadata = metadata
        self._is_complete = False
        self.staged_inode = staged_inode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        remove_staged(self.staged_inode)
        if error is not None:
            place = (self._store.root, self._name.path) if self._is_complete else self._store.staging
            translate(error, *place)

    def publish(self, later: FileMetadata | None = None) -> FileInfo:
        """See ``StagedFile``."""
        self._is_complete = True
        metadata = self._metadata if later is None else self._metadata.completed_by(later)
        return self._store.publish(self.staged_inode, self._name, metadata)


class Held:
    """A ``StagedFile`` of a few bytes that are here already: they are held until ``publish`` stores them by one call,
    and the file is not made before. published: what became visible."""

    __slots__ = ("_data", "_metadata", "_store", "name", "published")

    room = ENDLESS

    def __init__(self, store: StoreWriter, name: StoredName, metadata: FileMetadata) -> None:
        self._store = store
        self._metadata = metadata
        self._data = _NOTHING
        self.name = name
        self.published: FileInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: memoryview) -> None:
        # Bytes that came with the head are one object that nobody changes: to copy 64 KiB costs as much as the calls
        # that holding them saves.
        if not self._data and isinstance(data.obj, bytes):
            self._data = data
        else:
            self._data = memoryview(b"".join((self._data, data)))

    def hand_on(self) -> int:
        return self.room

    def fileno(self) -> None:
        return None

    def publish(self, later: FileMetadata | None = None) -> FileInfo:
        """See ``StagedFile``."""
        metadata = self._metadata if later is None else self._metadata.completed_by(later)
        return self._store.store_held(self, self._data, metadata)
