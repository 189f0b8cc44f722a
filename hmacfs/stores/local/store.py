"""The store: a folder of a local (or network) file system.

Files lie below ``StoreDir`` under the very names of their URLs, so a store that another server filled is served as it
is. What this server needs for itself lies in one reserved folder, which no URL can name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, ParamSpec, Self, TypeVar

from hmacfs.errors import BadName, HmacfsError, NameTaken, NoSpace, NotFound, ShuttingDown, StorageFailed
from hmacfs.protocol.media_types import is_media_type
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.capabilities import TYPE_ATTRIBUTE, Capabilities, probe
from hmacfs.stores.local.copying import copy_file
from hmacfs.stores.local.folders import StoreFolders
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.publish import (
    NO_FOLDER_ERRNOS,
    FileInfo,
    LeadsAway,
    OtherFileSystem,
    StagedInode,
    publish,
    remove_empty_folders,
)
from hmacfs.stores.local.staging import (
    TEMPORARY,
    OtherFileSystems,
    new_staged_inode,
    remove_dead,
    remove_dead_elsewhere,
)
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.tree import Folder, check_length
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls

P = ParamSpec("P")
R = TypeVar("R")

_NOTES = b"notes"

#: ENXIO: a socket; ELOOP and EXDEV: a link that leads in circles or outside.
_NOT_THERE_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EXDEV,
        errno.ENXIO,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
    }
)
#: Reading must not hang on a pipe or a device that somebody put into the store.
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
#: A link is found too, wherever it leads.
_LOOK_FLAGS = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC


class OpenFile(NamedTuple):
    """A stored file open for reading. Whoever gets it closes ``fd``."""

    fd: int
    facts: FileInfo


class LocalFileStore:
    """Stage, publish and read files. One per process; the folder is shared by all workers, and may be by machines.

    root: ``StoreDir``, which exists. durable: whether publishing waits for the disk (``Durability``).
    Raises ``ConfigError`` if files cannot be published there, ``OSError`` if the folder cannot be used at all.
    """

    def __init__(self, root: Path, *, durable: bool, disk: FileCalls, retry: Retry) -> None:
        self.root = root
        #: Where files in the making are, in parts, for messages. Made once, not for each upload.
        self.staging = root / RESERVED_FOLDER, os.fsdecode(TEMPORARY)
        self.durable = durable
        self.disk = disk
        self.folders = StoreFolders(root)
        self._retry = retry
        self._probed = self.folders.own(TEMPORARY)
        self._abilities = probe(self._probed.fd, self.folders.spellings)
        self._notes = DirectoryJournal(self.folders.own(_NOTES))
        self._others = OtherFileSystems()

    @property
    def reserved(self) -> Path:
        """This server's own folder inside the store."""
        return self.root / RESERVED_FOLDER

    @property
    def capabilities(self) -> Capabilities:
        """What the store's file system can do: that of ``StoreDir``, which may become another."""
        folder = self.folders.own(TEMPORARY)
        if folder is not self._probed:
            self._probed, self._abilities = folder, probe(folder.fd, self.folders.spellings)
        return self._abilities

    def remove_leftovers(self) -> int:
        """Remove temporary files of processes that died, and folders that they made and had no time to fill; how many
        files."""
        for path in self._notes.entries_of_dead_processes():
            with contextlib.suppress(BadName):
                noted = StoredName.from_text(path)
                remove_empty_folders(self.folders.root, noted)
        root = self.folders.root
        return remove_dead(self.folders.own(TEMPORARY)) + remove_dead_elsewhere(root, os.fsencode(self.root))

    def look(self) -> None:
        """To be called once a second: notice what was removed or mounted over. Raises ``StoreMissing``,
        ``StorageFailed``."""
        with translated(self.root):
            self.disk(self.folders.renew)
            folder = self.folders.own(_NOTES)
            if self._notes.is_lost or self._notes.folder is not folder:
                self._notes = DirectoryJournal(folder)

    def check_writable(self) -> None:
        """Raises ``StoreMissing``, ``StorageFailed`` or ``NoSpace`` if no file can be written now."""
        with self.stage() as staged, translated(*self.staging):
            self.disk(os.write, staged.fd, b"\0")

    def total_bytes(self) -> int:
        """The size of the file system, 0 if it does not tell."""
        with translated(self.root):
            space = os.statvfs(self.folders.root.fd)
            return space.f_blocks * space.f_frsize

    def free_bytes(self) -> int | None:
        """What an ordinary user may still store here; ``None`` if the file system does not tell: one of 0 blocks (FUSE,
        ramfs) is not full."""
        with translated(self.root):
            space = os.statvfs(self.folders.root.fd)
            return space.f_bavail * space.f_frsize if space.f_blocks else None

    def exists(self, name: StoredName) -> bool:
        """Whether the name is taken, by a file, a folder or anything else."""
        try:
            self._retry(lambda: self.disk(self._look_for, name.raw))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in NO_FOLDER_ERRNOS:
                raise NameTaken("A part of the path is no folder.") from error
            translate(error, self.root, name.path)
        return True

    def _look_for(self, path: bytes) -> None:
        """Raises ``OSError`` if nothing has that name. Most uploads have a new folder of their own: one look tells."""
        check_length(path)
        root = self.folders.root
        first, _, rest = path.partition(b"/")
        os.stat(first, dir_fd=root.fd, follow_symlinks=False)
        if not rest:
            return
        try:
            found = root.open(path, _LOOK_FLAGS)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            folder, filename = os.path.split(path)
            target = resolve(root, folder)
            if target is None:
                raise
            found = root.open(os.path.join(target, filename), _LOOK_FLAGS)
        close(found)

    def open(self, name: StoredName) -> OpenFile:
        """A stored file for reading. Raises ``NotFound``, ``StorageFailed``."""
        with translated(self.root, name.path):
            return self._retry(lambda: self.disk(self._open_now, name))

    def facts(self, name: StoredName) -> FileInfo | None:
        """Of a stored file; ``None`` if there is no file of that name. Raises ``StorageFailed``."""
        try:
            file = self.open(name)
        except NotFound:
            return None
        close(file.fd)
        return file.facts

    def _open_now(self, name: StoredName) -> OpenFile:
        fd = self._descriptor(name)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound
            return OpenFile(fd, FileInfo(status.st_size, status.st_mtime, self._recorded_type(fd)))
        except BaseException:
            close(fd)
            raise

    def _descriptor(self, name: StoredName) -> int:
        try:
            return self.folders.root.open(name.raw, _READ_FLAGS)
        except OSError as error:
            if error.errno not in _NOT_THERE_ERRNOS:
                raise
            found = self._look_closer(name, error)
            if found is None:
                raise NotFound from error
            return found

    def _look_closer(self, name: StoredName, error: OSError) -> int | None:
        """For what the kernel did not find: at the end of a link, or in a store that was mounted since."""
        try:
            if error.errno == errno.ELOOP:
                root = self.folders.root
                target = resolve(root, name.raw)
                return root.open(target, _READ_FLAGS) if target else None  # the store itself is no file
            return self.folders.root.open(name.raw, _READ_FLAGS) if self.folders.check() else None
        except OSError as again:
            if again.errno in _NOT_THERE_ERRNOS:
                return None
            raise

    def _recorded_type(self, fd: int) -> str | None:
        if not self._abilities.attributes and not self._others:
            return None
        try:
            value = os.getxattr(fd, TYPE_ATTRIBUTE).decode("latin-1")
        except OSError:  # ENODATA: none recorded
            return None
        return value if is_media_type(value) else None  # anyone may have written it

    def stage(self, name: StoredName | None = None) -> Staged:
        """A new file that nobody sees until it is published, as a context; on the file system that ``name`` is on, if
        that is known. Whatever happens inside the context, nothing is left of it unless it was published. Raises
        ``NoSpace``, ``StoreMissing``, ``StorageFailed``."""
        try:
            return Staged(self, self._retry(lambda: self.disk(self._new_candidate, name)))
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
        content_type: str | None,
        on_copy: Callable[[int], None] = lambda _: None,
    ) -> FileInfo:
        """Publish a complete file; see ``publish.publish``. Does not stop the event loop.

        Where it cannot be linked, since the name is on another file system or a purge took the temporary one, a copy is
        published, whose descriptor ``on_copy`` gets before.
        """
        try:
            return self._publish_or_copy(staged_inode, name, content_type, on_copy)
        except LeadsAway as error:
            behind_links = self._behind_links(name, error)
        return self._publish_or_copy(staged_inode, behind_links, content_type, on_copy)

    def _publish_or_copy(
        self, staged_inode: StagedInode, name: StoredName, content_type: str | None, on_copy: Callable[[int], None]
    ) -> FileInfo:
        try:
            return self._publish_at(staged_inode, name, content_type)
        except OtherFileSystem:
            with translated(self.root, name.path):
                self.disk(self._others.learn, self.folders.root, name.raw)
        except FileNotFoundError:
            is_purged = staged_inode.temporary is not None and os.fstat(staged_inode.fd).st_nlink == 0
            if not self.disk(self.folders.renew) and not is_purged:
                raise
        with self.stage(name) as copy:
            copy_file(staged_inode.fd, copy.fd, self.disk.always_blocking)
            on_copy(copy.fd)
            return self._publish_at(copy.staged_inode, name, content_type)

    def _behind_links(self, name: StoredName, error: LeadsAway) -> StoredName:
        """Where a name leads whose path has links in it. Raises ``error`` if there is no such place for files."""
        folder, filename = os.path.split(name.raw)
        target = self.disk(resolve, self.folders.root, folder)
        if target in (None, folder):
            raise error
        try:
            return StoredName.from_text(os.path.join(target, filename).decode())
        except UnicodeDecodeError:
            raise LeadsAway("A part of the path is a link to a name that is not UTF-8.") from None

    def _publish_at(self, staged_inode: StagedInode, name: StoredName, content_type: str | None) -> FileInfo:
        run: Callable[..., None] = self.disk.always_blocking if self.durable else self.disk
        published: list[FileInfo] = []
        root, notes = self.folders.root, self._notes

        def commit() -> None:
            with notes.about(name.raw) if "/" in name.path else contextlib.nullcontext():
                published.append(publish(root, staged_inode, name, content_type, durable=self.durable))

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

    def __init__(self, storage: LocalFileStore, staged_inode: StagedInode) -> None:
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

    def publish(self, name: StoredName, content_type: str | None) -> FileInfo:
        """Make it visible under ``name``. Raises ``NameTaken``."""
        self._place = self._storage.root, name.path
        return self._storage.publish(self.staged_inode, name, content_type)


class translated:  # noqa: N801 - used like a function
    """Turns the operating system's errors inside its context into this project's, the cause kept for the log.

    place: the parts of the path that it is about, for the log.
    """

    __slots__ = ("_place",)

    def __init__(self, *place: object) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        translate(error, *self._place)


def translate(error: BaseException | None, *place: object) -> None:
    """Raise this project's error for one of the operating system's; do nothing for any other. place: as above."""
    if isinstance(error, OSError) and not isinstance(error, HmacfsError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace from error
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):  # some file systems allow less than the protocol
            raise BadName("The store's file system does not take this name.") from error
        raise StorageFailed(where="/".join(map(str, place))) from error
