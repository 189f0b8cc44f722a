"""The commit by which a file becomes visible: complete, synced, linked exclusively, folder synced."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os

from hmacfs.errors import NameTaken
from hmacfs.protocol.media_types import type_by_name
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.beneath import FOLDER_FLAGS
from hmacfs.stores.local.capabilities import Capabilities, link_anonymous, rename_exclusively
from hmacfs.stores.local.metadata import keep
from hmacfs.stores.local.tree import Folder, Root, check_length
from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORE_FOLDER_MODE
from hmacfs.uploads.files import FileInfo, FileMetadata

#: Somebody may remove a folder between our making it and our linking into it: an upload that failed cleans up the
#: folders it made, and another one may have been about to use them.
_ATTEMPTS = 10

#: A proxy that serves the store itself knows types by extension only. It must not be able to read a file whose type is
#: another, so that it asks this server for it.
_TYPE_IS_IN_ATTRIBUTE = 0o600

#: A folder is synced by a descriptor that may read it.
_SYNCED_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: A part of the path is a file, or a link that leads in circles or outside the store.
NO_FOLDER_ERRNOS = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EXDEV})


def info_of(status: os.stat_result, metadata: FileMetadata) -> FileInfo:
    """The ETag is in nginx's format, so that it is the same when nginx serves the file. It is a strong one, since a
    stored name never changes its content."""
    size, modified = status.st_size, status.st_mtime
    return FileInfo(size, modified, '"%x-%x"' % (int(modified), size), metadata)  # noqa: UP031 - half of an f-string's cost


@dataclasses.dataclass(slots=True)
class StagedInode:
    """A complete file that nobody sees: its descriptor, what its file system can do, and its temporary name if it has
    one, with the folder of that."""

    fd: int
    capabilities: Capabilities
    temporary: bytes | None = None
    folder: Folder | None = None
    is_linked: bool = False
    published: FileInfo | None = None


class OtherFileSystem(OSError):
    """The file cannot be linked to that name, which is on another file system, or on another mount of the same."""


class LeadsAway(NameTaken):
    """A part of the path is a file, or a link, which may lead to another folder of the store."""


def publish(
    root: Root, staged_inode: StagedInode, name: StoredName, path: bytes, metadata: FileMetadata, *, durable: bool
) -> FileInfo:
    """Make ``staged_inode`` visible as ``name``, whose raw ``path`` is below ``root``. It blocks.

    Raises ``NameTaken`` if the name exists (the stored file is not touched: the first one wins), ``LeadsAway`` if
    its folder cannot be reached, ``OtherFileSystem`` if it is on another one, and ``OSError`` if the device fails.
    Nothing is visible then, and no folder that was made for it is left. A file with a temporary name may have been
    published already, by a process that ended before it could say so: then only the rest is done.
    """
    if staged_inode.capabilities.attributes and any(metadata):
        keep(staged_inode.fd, metadata)
        content_type = metadata.content_type
        if content_type is not None and content_type != type_by_name(name.path):
            os.fchmod(staged_inode.fd, _TYPE_IS_IN_ATTRIBUTE)
    if metadata.stored is not None:
        _set_time(staged_inode.fd, metadata.stored)
    if durable:
        sync(staged_inode.fd)
    info = info_of(os.fstat(staged_inode.fd), metadata)  # before the link, after which nothing may fail any more
    for attempt in range(_ATTEMPTS):
        try:
            _link_into_place(root, staged_inode, path, durable=durable)
            break
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    return info


def _set_time(fd: int, stored: int) -> None:
    """A file that was stored elsewhere before is as old as it was there: to clients that have it, to what purges by
    age. A time that this file system has not is as good as none."""
    with contextlib.suppress(OSError, OverflowError):
        os.utime(fd, (stored, stored))


def sync(fd: int) -> None:
    """fsync, whose failure no caller may take for a transient one: the kernel tells of lost writes once, and the next
    fsync of the same file succeeds."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(errno.EIO, f"fsync: {error.strerror}") from error


def _link_into_place(root: Root, staged_inode: StagedInode, path: bytes, *, durable: bool) -> None:
    target = _Target(root, path, durable=durable)
    try:
        is_known = False
        if not staged_inode.is_linked:
            is_known = not _link(staged_inode, target.filename, target.folder)
            staged_inode.is_linked = True
        if durable:
            target.sync()
            if is_known:  # what the process that linked it has synced is unknown
                _sync_all_above(root, path)
    except BaseException as error:
        if staged_inode.is_linked:
            os.unlink(target.filename, dir_fd=target.folder)
            staged_inode.is_linked = False
        target.take_back()
        if isinstance(error, FileExistsError):
            raise NameTaken from error
        if isinstance(error, OSError) and error.errno == errno.EXDEV:
            raise OtherFileSystem(*error.args) from error
        raise
    finally:
        target.close()


def _link(staged_inode: StagedInode, filename: bytes, parent: int) -> bool:
    """False if it is linked there already. Raises ``FileExistsError`` if another file is."""
    if staged_inode.temporary is None:
        link_anonymous(staged_inode.fd, filename, parent)
        return True
    assert staged_inode.folder is not None
    source = (staged_inode.temporary, staged_inode.folder.fd)
    if not staged_inode.capabilities.hard_links:
        rename_exclusively(*source, filename, parent)
        return True
    try:
        os.link(source[0], filename, src_dir_fd=source[1], dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        present = os.stat(filename, dir_fd=parent, follow_symlinks=False)
        if not os.path.samestat(present, os.fstat(staged_inode.fd)):
            raise
        return False
    return True


class _Target:
    """Where to link a file: ``filename`` in ``folder`` (a descriptor), until ``close``.

    The folders for it are made if need be, each opened from the one above and worked with by that descriptor alone:
    if somebody puts a link in the place of one, nothing is made where it leads. Raises ``LeadsAway`` where a file
    or a link is in the way.
    """

    __slots__ = ("_made", "_opened", "_root", "filename", "folder")

    def __init__(self, root: Root, path: bytes, *, durable: bool) -> None:
        check_length(path)
        parents, _, self.filename = path.rpartition(b"/")
        self._root = root
        #: From the deepest folder that was there to the file's.
        self._opened: list[int] = []
        #: The names of all but the first of those: they are new.
        self._made: list[bytes] = []
        self.folder = root.fd
        if not parents:
            return
        try:
            self.folder = self._reach(parents, _SYNCED_FLAGS if durable else FOLDER_FLAGS)
        except BaseException as error:
            self.take_back()
            self.close()
            if isinstance(error, OSError) and error.errno in NO_FOLDER_ERRNOS:
                raise LeadsAway("A part of the path is no folder.") from error
            raise

    def close(self) -> None:
        for fd in self._opened:
            if fd != self._root.fd:
                close(fd)
        self._opened.clear()

    def sync(self) -> None:
        """Sync the folder that got the file, and each folder that got a new folder."""
        for fd in reversed(self._opened or [self.folder]):
            sync(fd)

    def take_back(self) -> None:
        """Remove the folders that were made; those that others use by now stay."""
        with contextlib.suppress(OSError):
            for above, name in reversed(list(zip(self._opened, self._made, strict=False))):
                os.rmdir(name, dir_fd=above)

    def _reach(self, parents: bytes, flags: int) -> int:
        root, opened = self._root, self._opened
        if b"/" not in parents:  # XMPP servers give each upload a folder of its own: most often there is none yet
            try:
                os.mkdir(parents, STORE_FOLDER_MODE, dir_fd=root.fd)
            except FileExistsError:
                pass
            else:
                opened.append(root.fd)
                self._made.append(parents)
                folder = os.open(parents, flags | os.O_NOFOLLOW, dir_fd=root.fd)
                opened.append(folder)
                return folder
        try:
            opened.append(root.open(parents, flags))
        except FileNotFoundError:
            opened.append(root.fd)
            for name in parents.split(b"/"):
                self._step(name, flags)
        return opened[-1]

    def _step(self, name: bytes, flags: int) -> None:
        """Go on to the folder ``name``, made if need be."""
        above = self._opened[-1]
        if not self._made:
            try:
                below = self._root.open(name, flags, above)
            except FileNotFoundError:
                pass
            else:
                self._opened[-1] = below
                if above != self._root.fd:
                    close(above)
                return
        self._made.append(name)
        with contextlib.suppress(FileExistsError):  # another upload was faster
            os.mkdir(name, STORE_FOLDER_MODE, dir_fd=above)
        self._opened.append(self._root.open(name, flags, above))


def _sync_all_above(root: Root, path: bytes) -> None:
    """Sync every folder on the way to a file."""
    here = os.dup(root.fd)
    try:
        sync(here)
        for parent in path.split(b"/")[:-1]:
            below = root.open(parent, _SYNCED_FLAGS, here)
            close(here)
            here = below
            sync(here)
    finally:
        close(here)
