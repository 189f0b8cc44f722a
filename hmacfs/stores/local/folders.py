"""``StoreDir`` and this server's own folders in it, as this process has them open; or a folder that is only read.

Operators purge stores and mount disks under a running server. A descriptor goes on naming what it was opened for, so
what a path names now is compared with it: at each staging for the root, once a second for all, and after each failure.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from pathlib import Path

from hmacfs.errors import StoreMissing
from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.stores.local.beneath import FOLDER_FLAGS, open_without_links
from hmacfs.stores.local.tree import RESERVED, Folder, Root
from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORE_FOLDER_MODE, make_folder_in

log = logging.getLogger("hmacfs.stores")

#: How old our folders' times may become.
TOUCH_SECONDS = 600.0

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: The parents of the stores that this process has opened, or the one that forked it: a worker that begins after a purge
#: took the store may make it again.
_parents: dict[bytes, tuple[int, int]] = {}


def own_folder(root: Root, name: bytes, top: bytes = b"") -> Folder:
    """A folder inside the reserved one of the folder ``top`` of the store, made if need be, into which only this user
    may look. Raises ``OSError``: ``ELOOP`` if one of the two is a link."""
    above = root.open(top, FOLDER_FLAGS) if top else root.fd
    try:
        return Folder(open_without_links(above, RESERVED + b"/" + name, _OPEN_FLAGS))
    except FileNotFoundError:
        return _made(_made(Folder(os.dup(above)), RESERVED), name)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        where = os.path.join(top, RESERVED, name)
        raise OSError(error.errno, "it is a link or a file, where this server has a folder of its own", where) from None
    finally:
        if top:
            close(above)


def _made(parent: Folder, name: bytes) -> Folder:
    """The folder ``name`` in ``parent``, made for this user alone unless it is there."""
    make_folder_in(parent.fd, name)
    return Folder(open_without_links(parent.fd, name, _OPEN_FLAGS))


def _is_at(parent: Folder, name: bytes, folder: Folder) -> bool:
    """Whether ``name`` in ``parent`` is that folder, and no link to it."""
    try:
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == folder.identity


class SourceFolder:
    """A folder of files that is only read: nothing is made in it, whoever it belongs to.

    path: exists; what it names later is not looked at. Raises ``OSError`` if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.root = Root(os.open(path, _OPEN_FLAGS))
        with contextlib.suppress(OSError):  # no server has stored anything in it
            self.root.keep_private(Folder(open_without_links(self.root.fd, RESERVED, FOLDER_FLAGS)))
        self.root.look_for_spellings()

    def check(self) -> bool:
        """See ``StoreFolders``."""
        return False


class StoreFolders:
    """The root and our folders below it. For one process; all its threads may call.

    path: ``StoreDir``, which exists. Raises ``OSError`` if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path.absolute())
        self._is_missing = False
        self._reserved: Folder | None = None
        self._own: dict[bytes, Folder] = {}
        #: Other spellings of the reserved folder's name by which this file system knows it.
        self.spellings: tuple[str, ...] = ()
        try:
            self.root = Root(os.open(self._path, _OPEN_FLAGS))
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
            folder = own_folder(self.root, name)
            if self._reserved is None:
                self._reserved = Folder(open_without_links(self.root.fd, RESERVED, _OPEN_FLAGS))
                self.root.keep_private(self._reserved)
                self.spellings = tuple(self.root.look_for_spellings())
            self.root.keep_private(folder)
            self._own[name] = folder
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
        if self._reserved is not None and not _is_at(self.root, RESERVED, self._reserved):
            self._give_up(self._reserved, RESERVED_FOLDER)
            self._reserved = None
        lost = [
            name
            for name, folder in list(self._own.items())
            if self._reserved is None or not _is_at(self._reserved, name, folder)
        ]
        for name in lost:
            self._give_up(self._own.pop(name), f"{RESERVED_FOLDER}/{os.fsdecode(name)}")
        for name in lost:
            self.own(name)
        return changed or bool(lost)

    def _give_up(self, folder: Folder, name: str) -> None:
        if self.root.give_up(folder):
            log.warning("%s was moved away: made again; until the next start nothing in it is served where it is", name)
        else:
            log.warning("%s was removed from the store: made again", name)

    def touch(self) -> None:
        """Set the time of each of our folders in which nothing was made for ``TOUCH_SECONDS`` to now: purges by age
        take folders in which nothing was made for long."""
        before = time.time() - TOUCH_SECONDS
        for folder in (self._reserved, *list(self._own.values())):
            if folder is not None:
                with contextlib.suppress(OSError):
                    if os.fstat(folder.fd).st_mtime < before:
                        os.utime(folder.fd)

    def _renew_root(self) -> bool:
        try:
            found = Root(os.open(self._path, _OPEN_FLAGS))
        except (FileNotFoundError, NotADirectoryError) as error:
            found = self._made_again(error)
        if found.identity != self.root.identity:
            mounts = _mounts_on_the_way(self._path)
            if mounts < self._mounts:
                raise self._missing("its disk is not mounted any more")
            log.warning("StoreDir: %s is another folder than before: using it from now on", os.fsdecode(self._path))
            self.root, self._reserved, self._own, self._mounts = found, None, {}, mounts
            self._parent = self._parent_identity()
            self._is_missing = False
            return True
        if self._is_missing:
            self._is_missing = False
            log.warning("StoreDir: %s is there again", os.fsdecode(self._path))
        return False

    def _made_again(self, error: OSError) -> Root:
        """The store's folder, if its parent is still the one that it was in. Raises ``StoreMissing``."""
        try:
            if self._parent_identity() != self._parent:
                raise self._missing("it is not there, nor is the disk that it was on") from error
            os.mkdir(self._path, STORE_FOLDER_MODE)
        except FileExistsError:  # another worker was faster
            pass
        except OSError as failure:
            raise self._missing(f"it is not there and cannot be made ({failure.strerror})") from failure
        return Root(os.open(self._path, _OPEN_FLAGS))

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
