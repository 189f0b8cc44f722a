"""The store as a tree that is entered from its top alone: no link and no other spelling leads into a private folder.

Names are judged before (``protocol.names``); here it counts which folder is opened, by device and inode. A path of
names that are not reserved leads into a private folder in three ways only: by a symbolic link, which is never followed
here; over a mount, which the kernel reports (``RESOLVE_NO_XDEV``); or where the private folder has another name, since
the file system takes several spellings for one (found out at the start), or since somebody has moved it. Only then each
folder on the way is compared. All other paths are opened by a single system call, as they would be without any of this.
"""

from __future__ import annotations

import contextlib
import errno
import os

from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.stores.local.beneath import FOLDER_FLAGS, HAS_OPENAT2, open_on_one_mount, open_without_links
from hmacfs.system.descriptors import close

RESERVED = RESERVED_FOLDER.encode()

Identity = tuple[int, int]

#: Nothing that could be read has that name. ENXIO: a socket; ELOOP and EXDEV: a link that leads in circles or outside.
NOT_THERE_ERRNOS = frozenset(
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
#: With the zero byte at its end (Linux, limits.h).
_PATH_MAX = 4096

#: Spellings of the reserved folder's name that are one name to some file system: without regard to case (ASCII's,
#: Unicode's), to characters that are not seen, to dots and blanks at the end, to a stream's name; short names (8.3).
_SPELLINGS = (
    *(name.encode() for name in (".HMACFS", ".hmacf\u017f", ".hm\u200cacfs", ".hmacfs.", ".hmacfs ")),
    b".hmacfs::$INDEX_ALLOCATION",
    *(b"HMACFS~%d" % number for number in range(1, 10)),
)


def check_length(path: bytes) -> None:
    """Raises ``OSError`` (``ENAMETOOLONG``) for a path that no system call takes whole: made level by level it could be
    stored, and not be read."""
    if len(path) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


class Folder:
    """A folder's descriptor. It is closed when nobody refers to the object any more, so a user of one that may be
    replaced by another keeps a reference.

    identity: device and inode, by which it is told from another folder of the same path.
    """

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.identity = identity_of(fd)

    def __del__(self) -> None:
        close(self.fd)


class LeadsIntoPrivate(OSError):
    """The path leads into a folder that this server keeps for itself."""

    def __init__(self) -> None:
        super().__init__(errno.EXDEV, "the path leads into the server's own folder")


class Root(Folder):
    """The top of the store. For one process; all its threads may call.

    walks: whether a private folder may be reached by a name that is not reserved: then paths are opened step by step.
    """

    __slots__ = ("_private", "walks")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.walks = not HAS_OPENAT2
        #: Kept open: the inode of a folder that was removed belongs to another one soon.
        self._private: dict[Identity, Folder] = {}

    def open(self, path: bytes, flags: int, at: int | None = None) -> int:
        """Open ``path`` below the folder ``at`` of the store (a descriptor; default: its top): the new descriptor. The
        path is relative, and bytes, since names are UTF-8 whatever the locale says.

        Raises ``LeadsIntoPrivate``, and ``OSError``: ``ELOOP`` or ``ENOTDIR`` if a part is a symbolic link; with
        ``O_PATH | O_NOFOLLOW`` the last one may be, and is opened itself.
        """
        if at is None:
            at = self.fd
        if not self.walks:
            try:
                return open_on_one_mount(at, path, flags)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        return self._walk(at, path, flags)

    def keep_private(self, folder: Folder) -> None:
        """From now on no path leads into ``folder``."""
        self._private[folder.identity] = folder

    def give_up(self, folder: Folder) -> bool:
        """``folder`` is not at its place any more. Whether it is somewhere else: then it stays private there."""
        try:
            is_there = os.fstat(folder.fd).st_nlink > 0
        except OSError:  # ESTALE: a network file system knows it no more
            is_there = False
        if is_there:
            self.walks = True
        else:
            self._private.pop(folder.identity, None)
        return is_there

    def look_for_spellings(self) -> list[str]:
        """Names that are not the reserved folder's and lead to it all the same. If there are any, ``walks`` is set."""
        reserved = _reserved_in(self.fd)
        found: list[str] = []
        for spelling in _SPELLINGS:
            with contextlib.suppress(OSError):
                status = os.stat(spelling, dir_fd=self.fd, follow_symlinks=False)
                if (status.st_dev, status.st_ino) == reserved:
                    found.append(spelling.decode())
        self.walks = self.walks or bool(found)
        return found

    def _walk(self, at: int, path: bytes, flags: int) -> int:
        *parents, last = path.split(b"/")
        here = at
        try:
            for name in parents:
                below = self._enter(here, name, FOLDER_FLAGS)
                if here != at:
                    close(here)
                here = below
            if flags & os.O_DIRECTORY:
                return self._enter(here, last, flags)
            return open_without_links(here, last, flags)
        finally:
            if here != at:
                close(here)

    def _enter(self, folder: int, name: bytes, flags: int) -> int:
        """Open the folder ``name`` in ``folder``, unless it is private: one of this store's, or the one that this or
        another server has in ``folder``."""
        below = open_without_links(folder, name, flags)
        identity = identity_of(below)
        if identity in self._private or identity == _reserved_in(folder):
            close(below)
            raise LeadsIntoPrivate
        return below


def identity_of(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _reserved_in(folder: int) -> Identity | None:
    """Of the reserved folder in that folder, if there is one."""
    try:
        status = os.stat(RESERVED, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino
