"""The store: a folder of a local (or network) file system.

Files lie below ``StoreDir`` under the very names of their URLs, so a store that another server filled is served as it
is. What this server needs for itself lies in one reserved folder, which no URL can name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, ParamSpec, Self, TypeVar

from hmacfs.descriptors import close
from hmacfs.errors import BadName, HmacfsError, NameTaken, NoSpace, NotFound, Stopping, StorageFailed
from hmacfs.filetypes import is_media_type
from hmacfs.naming import RESERVED_FOLDER, StoredName
from hmacfs.offload import Disk
from hmacfs.ownership import make_folder_in
from hmacfs.retry import Retry
from hmacfs.storage.abilities import TYPE_ATTRIBUTE, Abilities, probe
from hmacfs.storage.beneath import open_beneath
from hmacfs.storage.notes import FolderNotes
from hmacfs.storage.publish import NO_FOLDER_ERRNOS, Candidate, FileFacts, publish, remove_folders

P = ParamSpec("P")
R = TypeVar("R")

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


class OpenFile(NamedTuple):
    """A stored file open for reading. Whoever gets it closes ``fd``."""

    fd: int
    facts: FileFacts


class LocalStorage:
    """Stage, publish and read files. One per process; the folder is shared by all workers, and may be by machines.

    root: ``StoreDir``, which exists. durable: whether publishing waits for the disk (``Durability``).
    Raises ``ConfigError`` if files cannot be published there, ``OSError`` if the folder cannot be used at all.
    """

    def __init__(self, root: Path, *, durable: bool, disk: Disk, retry: Retry) -> None:
        self.root = root
        self.durable = durable
        self.disk = disk
        self._retry = retry
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._temporary = self.reserved_folder("tmp")
        self._notes = FolderNotes(self.reserved_folder("notes"))
        self.abilities: Abilities = probe(self._temporary)

    @property
    def reserved(self) -> Path:
        """This server's own folder inside the store."""
        return self.root / RESERVED_FOLDER

    def reserved_folder(self, name: str) -> int:
        """A descriptor of a folder inside the reserved one, made if need be, into which only this user may look."""
        for path in (RESERVED_FOLDER, f"{RESERVED_FOLDER}/{name}"):
            make_folder_in(self._root, path)
        return open_beneath(self._root, f"{RESERVED_FOLDER}/{name}", os.O_RDONLY | os.O_DIRECTORY, 0)

    def remove_leftovers(self) -> int:
        """Remove temporary files of processes that died, and folders that they made and had no time to fill; how many
        files. Those in use are locked and stay."""
        for path in self._notes.of_the_dead():
            with contextlib.suppress(BadName):
                noted = StoredName.from_text(path)
                remove_folders(self._root, noted, len(noted.segments) - 1)
        removed = 0
        for name in os.listdir(self._temporary):
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._temporary)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._temporary)
                    removed += 1
                finally:
                    close(fd)
        return removed

    def check_writable(self) -> None:
        """Raises ``StorageFailed`` or ``NoSpace`` if no file can be written now."""
        with self.stage() as staged, translated():
            self.disk(os.write, staged.fd, b"\0")

    def total_bytes(self) -> int:
        """The size of the file system."""
        with translated():
            space = os.statvfs(self._root)
            return space.f_blocks * space.f_frsize

    def free_bytes(self) -> int:
        """What an ordinary user may still store here."""
        with translated():
            space = os.statvfs(self._root)
            return space.f_bavail * space.f_frsize

    def exists(self, name: StoredName) -> bool:
        """Whether the name is taken, by a file, a folder or anything else."""
        try:
            self._retry(lambda: self.disk(os.stat, name.path, dir_fd=self._root, follow_symlinks=False))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in NO_FOLDER_ERRNOS:
                raise NameTaken("A part of the path is the name of a file.") from error
            translate(error)
        return True

    def open(self, name: StoredName) -> OpenFile:
        """A stored file for reading. Raises ``NotFound``, ``StorageFailed``."""
        with translated():
            return self._retry(lambda: self.disk(self._open_now, name))

    def facts(self, name: StoredName) -> FileFacts | None:
        """Of a stored file; ``None`` if there is no file of that name. Raises ``StorageFailed``."""
        try:
            file = self.open(name)
        except NotFound:
            return None
        close(file.fd)
        return file.facts

    def _open_now(self, name: StoredName) -> OpenFile:
        try:
            fd = open_beneath(self._root, name.path, _READ_FLAGS, 0)
        except OSError as error:
            if error.errno in _NOT_THERE_ERRNOS:
                raise NotFound from error
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound
            return OpenFile(fd, FileFacts(status.st_size, status.st_mtime, self._recorded_type(fd)))
        except BaseException:
            close(fd)
            raise

    def _recorded_type(self, fd: int) -> str | None:
        if not self.abilities.attributes:
            return None
        try:
            value = os.getxattr(fd, TYPE_ATTRIBUTE).decode("latin-1")
        except OSError:  # ENODATA: none recorded
            return None
        return value if is_media_type(value) else None  # anyone may have written it

    def stage(self) -> Staged:
        """A new file that nobody sees until it is published, as a context. Whatever happens inside the context,
        nothing is left of it unless it was. Raises ``NoSpace``, ``StorageFailed``."""
        try:
            return Staged(self, self._retry(lambda: self.disk(self._new_candidate)))
        except OSError as error:
            translate(error)
            raise

    def _new_candidate(self) -> Candidate:
        if self.abilities.anonymous:
            return Candidate(os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666, dir_fd=self._temporary))
        while True:
            name = secrets.token_hex(16)
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._temporary)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else a cleaner was faster than the lock
                return Candidate(fd, name, self._temporary)
            close(fd)

    def publish(self, candidate: Candidate, name: StoredName, content_type: str | None) -> FileFacts:
        """Publish a complete file; see ``publish.publish``. Does not stop the event loop."""
        run: Callable[..., None] = self.disk.always_blocking if self.durable else self.disk
        published: list[FileFacts] = []

        def ritual() -> None:
            with self._notes.about(name.path) if "/" in name.path else contextlib.nullcontext():
                facts = publish(self._root, candidate, name, content_type, self.abilities, durable=self.durable)
            published.append(facts)

        self._notes.open()
        try:
            self._retry(lambda: run(ritual))
        except Stopping:
            if not published:
                raise
            # The stop came while a thread was at it. The file is visible now, and that is what its client has to hear.
        return published[0]


class Staged:
    """A file in the making: write to ``fd``, then ``publish`` once. Errors of the operating system inside its context
    become ``NoSpace`` or ``StorageFailed``."""

    def __init__(self, storage: LocalStorage, candidate: Candidate) -> None:
        self._storage = storage
        self._candidate = candidate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        candidate = self._candidate
        if candidate.temporary is not None:
            with contextlib.suppress(FileNotFoundError):  # renamed into place
                os.unlink(candidate.temporary, dir_fd=candidate.temporary_folder)
        close(candidate.fd)
        if error is not None:
            translate(error)

    @property
    def fd(self) -> int:
        return self._candidate.fd

    def publish(self, name: StoredName, content_type: str | None) -> FileFacts:
        """Make it visible under ``name``. Raises ``NameTaken``."""
        return self._storage.publish(self._candidate, name, content_type)


class translated:  # noqa: N801 - used like a function
    """Turns the operating system's errors inside its context into this project's, the cause kept for the log."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        translate(error)


def translate(error: BaseException | None) -> None:
    """Raise this project's error for one of the operating system's; do nothing for any other."""
    if isinstance(error, OSError) and not isinstance(error, HmacfsError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace from error
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):  # some file systems allow less than the protocol
            raise BadName("The store's file system does not take this name.") from error
        raise StorageFailed from error
