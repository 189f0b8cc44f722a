"""The store: a folder of a local (or network) file system.

Files lie below ``StoreDir`` under the very names of their URLs, so a store that another server filled is served as it
is. What this server needs for itself lies in one reserved folder, which no URL can name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from hmacfs.errors import BadName, NotFound
from hmacfs.protocol.names import StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.partial import LocalPartialUploads
from hmacfs.stores.local.publish import sync
from hmacfs.stores.local.removal import only_remover, remove, remove_empty_folders
from hmacfs.stores.local.staging import TEMPORARY, remove_dead, remove_dead_elsewhere, remove_staged
from hmacfs.stores.local.symlinks import resolve
from hmacfs.stores.local.translation import translated
from hmacfs.stores.local.writing import JOURNALS, StoreWriter
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.contracts.requests import ENDLESS
from hmacfs.uploads.contracts.stores import StoreCapabilities


class LocalFileStore(StoreWriter):
    """A ``FileStore`` in a folder. One per process; the folder is shared by all workers, and may be by machines.

    root: ``StoreDir``, which exists. durable: whether publishing waits for the device (``Durability``).
    Raises ``ConfigError`` if files cannot be published there, ``OSError`` if the folder cannot be used at all.
    """

    def __init__(self, root: Path, *, durable: bool, file_calls: FileCalls, retry: Retry) -> None:
        super().__init__(root, durable=durable, file_calls=file_calls, retry=retry)
        self.partials = LocalPartialUploads(self)

    @property
    def capabilities(self) -> StoreCapabilities:
        """See ``FileStore``."""
        file_system = self.file_system
        return StoreCapabilities(
            cheap_bytes=-1 if self.durable else ENDLESS,
            keeps_metadata=file_system.attributes,
            remarks=tuple(file_system.remarks()),
        )

    def delete(self, name: StoredName, etag: str | None = None) -> bool:
        """See ``FileStore``. A name that is a link goes itself, and not what it leads to."""
        with translated(self.root, name.path):
            return self._retry(self.file_calls.always_blocking, self._delete_now, name, etag)

    def _delete_now(self, name: StoredName, etag: str | None) -> bool:
        self._journal.open()
        with only_remover(self.folders.own(TEMPORARY).fd):
            try:
                file = self._open_now(name)
            except NotFound:
                return False
            file.close()
            path = self._without_links(name)
            if path is None or etag not in (None, file.info.etag):
                return False
            with self._journal.about(path):
                return remove(self.folders.root, path, sync if self.durable else None)

    def _without_links(self, name: StoredName) -> bytes | None:
        """Where the name itself lies; ``None`` if that is outside the store."""
        folder, filename = os.path.split(name.raw)
        target = resolve(self.folders.root, folder) if folder else b""
        return None if target is None else os.path.join(target, filename)

    def location(self, name: StoredName, seconds: int, headers: Mapping[str, str]) -> None:
        """See ``FileStore``: a folder serves nothing by itself."""

    def recover(self) -> int:
        """Remove temporary files of processes that died, and folders that they made and had no time to fill; how many
        files."""
        for path in self._journal.entries_of_dead_processes():
            with contextlib.suppress(BadName):
                remove_empty_folders(self.folders.root, StoredName.from_text(path).raw)
        root = self.folders.root
        return remove_dead(self.folders.own(TEMPORARY)) + remove_dead_elsewhere(root, os.fsencode(self.root))

    def repair(self) -> None:
        """Once a second: notice what was removed or mounted over, keep our folders from purges by age, and close what
        was kept open. Raises ``StoreMissing``, ``StorageFailed``."""
        self._kept.renew()
        with translated(self.root):
            self.file_calls(self.folders.renew)
            self.file_calls(self.folders.touch)
            folder = self.folders.own(JOURNALS)
            if self._journal.is_lost or self._journal.folder is not folder:
                self._journal = DirectoryJournal(folder)

    def check_writable(self) -> None:
        """Raises ``StoreMissing``, ``StorageFailed`` or ``NoSpace`` if no file can be written now."""
        staged_inode = self.new_inode(None)
        try:
            with translated(*self.staging):
                self.file_calls(os.write, staged_inode.fd, b"\0")
        finally:
            remove_staged(staged_inode)

    def space_of(self, length: int | None) -> int | None:
        """See ``FileStore``: files in the making are where they stay."""
        return length

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
