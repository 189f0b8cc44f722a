"""Reading what is stored: whether a name is taken, what is told of a file, its bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hmacfs.errors import NameTaken, NotFound
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.protocol.names import StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.folders import SourceFolder, StoreFolders
from hmacfs.stores.local.metadata import all_of, type_of
from hmacfs.stores.local.open_files import KeptFile, KeptFiles, OpenFile
from hmacfs.stores.local.publish import NO_FOLDER_ERRNOS, info_of
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.translation import translate, translated
from hmacfs.stores.local.tree import NOT_THERE_ERRNOS, check_length
from hmacfs.stores.local.walk import Walk
from hmacfs.system.descriptors import close
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.files import NO_METADATA, FileInfo

#: Reading must not hang on a pipe or a device that somebody put into the store.
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
#: A link is found too, wherever it leads.
_LOOK_FLAGS = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreReader:
    """Reads files, a ``FileReader``. folders: ``root`` as it is open; with a ``SourceFolder`` nothing is made there."""

    def __init__(
        self, root: Path, folders: StoreFolders | SourceFolder, *, file_calls: FileCalls, retry: Retry
    ) -> None:
        self.root = root
        self.folders = folders
        self.file_calls = file_calls
        self._retry = retry
        self._kept = KeptFiles()

    def check_readable(self) -> None:
        """See ``FileReader``: the folder is open, and each failure is told of."""

    def exists(self, name: StoredName) -> bool:
        """Whether the name is taken, by a file, a folder or anything else."""
        try:
            self._retry(self.file_calls, self._look_for, name.raw)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in NO_FOLDER_ERRNOS:
                raise NameTaken("A part of the path is no folder.") from error
            translate(error, self.root, name.path)
        return True

    def check_free(self, name: StoredName) -> None:
        """See ``FileStore``."""
        if self.exists(name):
            raise NameTaken

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

    def open(self, name: StoredName, wanted: ByteRange | None = WHOLE) -> OpenFile:
        """A stored file for reading. Raises ``NotFound``, ``StorageFailed``."""
        del wanted
        kept = self._kept.get(name.path)
        if kept is not None and self.file_calls(kept.is_at, name.raw, self.folders.root):
            return kept
        try:
            return self._retry(self.file_calls, self._open_now, name)
        except OSError as error:
            translate(error, self.root, name.path)
            raise

    def stat(self, name: StoredName) -> FileInfo | None:
        """Of a stored file; ``None`` if there is no file of that name. Raises ``StorageFailed``."""
        try:
            file = self.open(name)
        except NotFound:
            return None
        try:
            if not self._has_attributes():
                return file.info
            return file.info._replace(metadata=self.file_calls(all_of, file.fd))
        finally:
            file.close()

    def names(self, limit: int = 1000) -> Iterator[list[StoredName]]:
        """See ``FileReader``: in the order in which the kernel lists each folder."""
        with translated(self.root):
            walk = Walk(self.folders.root)
            try:
                while page := self.file_calls.always_blocking(walk.page, limit):
                    yield page
            finally:
                walk.close()
        if walk.failed is not None:
            path, error = walk.failed
            translate(error, self.root, os.fsdecode(path))

    def _has_attributes(self) -> bool:
        """Whether files may have extended attributes."""
        return True

    def _may_keep(self, _: os.stat_result) -> bool:
        """Whether a file may stay open."""
        return False

    def _open_now(self, name: StoredName) -> OpenFile:
        try:
            fd, is_direct = self.folders.root.open(name.raw, _READ_FLAGS), True
        except OSError as error:
            fd, is_direct = self._look_closer(name, error), False
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound
            metadata = type_of(fd) if self._has_attributes() else NO_METADATA
            info = info_of(status, metadata)
            stays_open = self._kept.room > 0 and is_direct and self._may_keep(status)
        except BaseException:
            close(fd)
            raise
        if not stays_open:
            return OpenFile(fd, info)
        file = KeptFile(fd, info, status)
        self._kept.keep(name.path, file)
        return file

    def _look_closer(self, name: StoredName, error: OSError) -> int:
        """Open what the kernel did not find: at the end of a link, or in a store that was mounted since. Raises
        ``NotFound``."""
        if error.errno not in NOT_THERE_ERRNOS:
            raise error
        try:
            root = self.folders.root
            if error.errno == errno.ELOOP:
                target = resolve(root, name.raw)
                if target:  # the store itself is no file
                    return root.open(target, _READ_FLAGS)
            elif self.folders.check():
                return self.folders.root.open(name.raw, _READ_FLAGS)
        except OSError as again:
            if again.errno not in NOT_THERE_ERRNOS:
                raise
        raise NotFound from error
