"""``StoreDir`` and this server's own folders in it, as this process has them open.

Operators purge stores and mount disks under a running server. A descriptor goes on naming what it was opened for, so
what a path names now is compared with it: at each staging for the root, once a second for all, and after each failure.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from hmacfs.descriptors import close
from hmacfs.errors import StoreMissing
from hmacfs.naming import RESERVED_FOLDER
from hmacfs.ownership import make_folder_in
from hmacfs.storage.beneath import open_beneath

log = logging.getLogger("hmacfs.storage")

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: As at the server's start.
_STORE_MODE = 0o755
#: Our folders are ``<top>/.hmacfs/<name>``; ``top`` is the store's or that of a file system inside it.
_RESERVED = RESERVED_FOLDER.encode()


#: The parents of the stores that this process has opened, or the one that forked it: a worker that begins after a purge
#: took the store may make it again.
_parents: dict[bytes, tuple[int, int]] = {}


class Folder:
    """A folder's descriptor. It is closed when nobody refers to the object any more, so whoever uses one while it is
    replaced by another keeps a reference.

    identity: device and inode, by which it is told from another folder of the same path.
    """

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)

    def __del__(self) -> None:
        close(self.fd)


def own_folder(root: Folder, name: bytes, top: bytes = b"") -> Folder:
    """A folder inside the reserved one of the folder ``top`` of the store, made if need be, into which only this user
    may look. Raises ``OSError``."""
    reserved = top + b"/" + _RESERVED if top else _RESERVED
    path = reserved + b"/" + name
    for folder in (reserved, path):
        make_folder_in(root.fd, folder)
    return Folder(open_beneath(root.fd, path, _OPEN_FLAGS, 0))


class StoreFolders:
    """The root and our folders below it. For one process; all its threads may call.

    path: ``StoreDir``, which exists. Raises ``OSError`` if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path.absolute())
        self._is_missing = False
        self._own: dict[bytes, Folder] = {}
        try:
            self.root = Folder(os.open(self._path, _OPEN_FLAGS))
        except FileNotFoundError as error:
            if self._path not in _parents:
                raise
            self._parent = _parents[self._path]
            self.root = self._made_again(error)
        self._parent = _parents[self._path] = self._parent_identity()
        self._mounts = _mounts_on_the_way(self._path)

    def own(self, name: bytes) -> Folder:
        """The folder ``name`` in the reserved one, made if need be. Raises ``OSError``."""
        folder = self._own.get(name)
        if folder is None:
            folder = self._own[name] = own_folder(self.root, name)
        return folder

    def check(self) -> bool:
        """Look, by one system call, whether ``StoreDir`` is still the folder that is open; if not, ``renew``, whose
        result this returns and whose errors it raises."""
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return self.renew()
        return (status.st_dev, status.st_ino) != self.root.identity and self.renew()

    def renew(self) -> bool:
        """Open again what its path does not name any more, made if need be; whether there was any.

        Raises ``StoreMissing`` if the store is not there: its disk may come back, so nothing is made in its place
        unless only the folder itself was removed. Raises ``OSError``.
        """
        changed = self._renew_root()
        for name, folder in list(self._own.items()):
            if not self._is_current(name, folder):
                self._own[name] = own_folder(self.root, name)
                log.warning("%s/%s was removed from the store: made again", RESERVED_FOLDER, os.fsdecode(name))
                changed = True
        return changed

    def touch(self) -> None:
        """Set our folders' times to now: purges by age take folders in which nothing was made for long."""
        for path in (_RESERVED, *(_RESERVED + b"/" + name for name in list(self._own))):
            with contextlib.suppress(OSError):
                os.utime(path, dir_fd=self.root.fd)

    def _is_current(self, name: bytes, folder: Folder) -> bool:
        try:
            status = os.stat(_RESERVED + b"/" + name, dir_fd=self.root.fd)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == folder.identity

    def _renew_root(self) -> bool:
        try:
            found = Folder(os.open(self._path, _OPEN_FLAGS))
        except (FileNotFoundError, NotADirectoryError) as error:
            found = self._made_again(error)
        if found.identity != self.root.identity:
            mounts = _mounts_on_the_way(self._path)
            if mounts < self._mounts:
                raise self._missing("its disk is not mounted any more")
            log.warning("StoreDir: %s is another folder than before: using it from now on", os.fsdecode(self._path))
            self.root, self._own, self._mounts = found, {}, mounts
            self._parent = self._parent_identity()
            self._is_missing = False
            return True
        if self._is_missing:
            self._is_missing = False
            log.warning("StoreDir: %s is there again", os.fsdecode(self._path))
        return False

    def _made_again(self, error: OSError) -> Folder:
        """The store's folder, if its parent is still the one that it was in. Raises ``StoreMissing``."""
        try:
            if self._parent_identity() != self._parent:
                raise self._missing("it is not there, nor is the disk that it was on") from error
            os.mkdir(self._path, _STORE_MODE)
        except FileExistsError:  # another worker was faster
            pass
        except OSError as failure:
            raise self._missing(f"it is not there and cannot be made ({failure.strerror})") from failure
        return Folder(os.open(self._path, _OPEN_FLAGS))

    def _parent_identity(self) -> tuple[int, int]:
        status = os.stat(os.path.dirname(self._path))
        return status.st_dev, status.st_ino

    def _missing(self, reason: str) -> StoreMissing:
        if not self._is_missing:
            self._is_missing = True
            log.warning("StoreDir: %s: %s: uploads are refused until it is back", os.fsdecode(self._path), reason)
        return StoreMissing()


def _mounts_on_the_way(path: bytes) -> int:
    """How many file systems a path leads through, as far as their devices tell."""
    devices: list[int] = []
    parts = os.path.realpath(path).split(b"/")
    for end in range(1, len(parts) + 1):
        device = os.stat(b"/".join(parts[:end]) or b"/").st_dev
        if not devices or devices[-1] != device:
            devices.append(device)
    return len(devices)
