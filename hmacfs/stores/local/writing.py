"""Storing files: staged where nobody sees them, then published; see ``publish`` for the ritual."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from hmacfs.errors import ShuttingDown
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.copying import copy_file
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.publish import LeadsAway, OtherFileSystem, StagedInode, publish
from hmacfs.stores.local.reading import StoreReader
from hmacfs.stores.local.staging import TEMPORARY, new_staged_inode
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import Folder
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.files import FileInfo, FileMetadata

R = TypeVar("R")

NOTES = b"notes"


class StoreWriter(StoreReader):
    """Stages and publishes files. durable: whether publishing waits for the device (``Durability``)."""

    def __init__(self, root: Path, *, durable: bool, file_calls: FileCalls, retry: Retry) -> None:
        super().__init__(root, file_calls=file_calls, retry=retry)
        self.durable = durable
        #: Where files in the making are, in parts, for messages. Made once, not for each upload.
        self.staging = root / RESERVED_FOLDER, os.fsdecode(TEMPORARY)
        self._notes = DirectoryJournal(self.folders.own(NOTES))

    def stage(self, name: StoredName | None = None) -> Staged:
        """A new file that nobody sees until it is published, as a context; on the file system that ``name`` is on, if
        that is known. Whatever happens inside the context, nothing is left of it unless it was published. Raises
        ``NoSpace``, ``StoreMissing``, ``StorageFailed``."""
        try:
            return Staged(self, self._retry(lambda: self.file_calls(self._new_candidate, name)))
        except OSError as error:
            translate(error, *self.staging)
            raise

    def _new_candidate(self, name: StoredName | None) -> StagedInode:
        self.folders.check()
        if name is not None and self._others:
            staged_inode = self._others.new_staged_inode(self.folders.root, name.raw)
            if staged_inode is not None:
                return staged_inode
        return self._renewing(lambda: new_staged_inode(self.folders.own(TEMPORARY), self.capabilities))

    def _renewing(self, operation: Callable[[], R]) -> R:
        """Do it in our folders; once more if it failed in one that was removed."""
        try:
            return operation()
        except OSError:
            if not self.folders.renew():
                raise
            return operation()

    def in_own(self, name: bytes, operation: Callable[[Folder], R]) -> R:
        """``operation`` in our folder of that name, which is made again if it was removed. Raises ``OSError``."""
        return self._renewing(lambda: operation(self.folders.own(name)))

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
            return self._publish_or_copy(staged_inode, name, metadata, on_copy)
        except LeadsAway as error:
            behind_links = self._behind_links(name, error)
        return self._publish_or_copy(staged_inode, behind_links, metadata, on_copy)

    def _publish_or_copy(
        self, staged_inode: StagedInode, name: StoredName, metadata: FileMetadata, on_copy: Callable[[int], None]
    ) -> FileInfo:
        try:
            return self._publish_at(staged_inode, name, metadata)
        except OtherFileSystem:
            with translated(self.root, name.path):
                self.file_calls(self._others.learn, self.folders.root, name.raw)
        except FileNotFoundError:
            is_purged = staged_inode.temporary is not None and os.fstat(staged_inode.fd).st_nlink == 0
            if not self.file_calls(self.folders.renew) and not is_purged:
                raise
        with self.stage(name) as copy:
            copy_file(staged_inode.fd, copy.fd, self.file_calls.always_blocking)
            on_copy(copy.fd)
            return self._publish_at(copy.staged_inode, name, metadata)

    def _behind_links(self, name: StoredName, error: LeadsAway) -> StoredName:
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
        run: Callable[..., None] = self.file_calls.always_blocking if self.durable else self.file_calls
        published: list[FileInfo] = []
        root, notes = self.folders.root, self._notes

        def commit() -> None:
            with notes.about(name.raw) if "/" in name.path else contextlib.nullcontext():
                published.append(publish(root, staged_inode, name, metadata, durable=self.durable))

        notes.open()
        try:
            self._retry(lambda: run(commit))
        except ShuttingDown:
            if not published:
                raise
            # The stop came while a thread was at it. The file is visible now, and that is what its client has to hear.
        return published[0]


class Staged:
    """A file in the making: write to ``fd``, then ``publish`` once. Errors of the operating system inside its context
    become ``NoSpace`` or ``StorageFailed``."""

    def __init__(self, storage: StoreWriter, staged_inode: StagedInode) -> None:
        self._storage = storage
        self._place: tuple[Path, str] = storage.staging
        self.staged_inode = staged_inode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        staged_inode = self.staged_inode
        if staged_inode.temporary is not None and staged_inode.folder is not None:
            with contextlib.suppress(FileNotFoundError):  # renamed into place
                os.unlink(staged_inode.temporary, dir_fd=staged_inode.folder.fd)
        close(staged_inode.fd)
        if error is not None:
            translate(error, *self._place)

    @property
    def fd(self) -> int:
        return self.staged_inode.fd

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """Make it visible under ``name``. Raises ``NameTaken``."""
        self._place = self._storage.root, name.path
        return self._storage.publish(self.staged_inode, name, metadata)
