"""Reading what is stored: whether a name is taken, what is told of a file, its bytes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from hmacfs.errors import NameTaken, NotFound
from hmacfs.protocol.media_types import is_media_type
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.capabilities import TYPE_ATTRIBUTE, Capabilities, probe
from hmacfs.stores.local.folders import StoreFolders
from hmacfs.stores.local.publish import NO_FOLDER_ERRNOS, info_of
from hmacfs.stores.local.staging import TEMPORARY, OtherFileSystems
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import check_length
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.files import FileInfo, FileMetadata

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
    info: FileInfo


class StoreReader:
    """Reads files. root: the folder, which exists. Raises ``ConfigError`` if files cannot be published there,
    ``OSError`` if the folder cannot be used at all."""

    def __init__(self, root: Path, *, file_calls: FileCalls, retry: Retry) -> None:
        self.root = root
        self.file_calls = file_calls
        self.folders = StoreFolders(root)
        self._retry = retry
        self._probed = self.folders.own(TEMPORARY)
        self._abilities = probe(self._probed.fd, self.folders.spellings)
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

    def exists(self, name: StoredName) -> bool:
        """Whether the name is taken, by a file, a folder or anything else."""
        try:
            self._retry(lambda: self.file_calls(self._look_for, name.raw))
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
            return self._retry(lambda: self.file_calls(self._open_now, name))

    def stat(self, name: StoredName) -> FileInfo | None:
        """Of a stored file; ``None`` if there is no file of that name. Raises ``StorageFailed``."""
        try:
            file = self.open(name)
        except NotFound:
            return None
        close(file.fd)
        return file.info

    def _open_now(self, name: StoredName) -> OpenFile:
        fd = self._descriptor(name)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound
            return OpenFile(fd, info_of(status, FileMetadata(self._recorded_type(fd))))
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
