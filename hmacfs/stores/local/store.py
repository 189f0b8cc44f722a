"""The store: a folder of a local (or network) file system.

Files lie below ``StoreDir`` under the very names of their URLs, so a store that another server filled is served as it
is. What this server needs for itself lies in one reserved folder, which no URL can name.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hmacfs.errors import BadName
from hmacfs.protocol.names import StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.partial import LocalPartialUploads
from hmacfs.stores.local.publish import remove_empty_folders
from hmacfs.stores.local.staging import TEMPORARY, remove_dead, remove_dead_elsewhere
from hmacfs.stores.local.translation import translated
from hmacfs.stores.local.writing import NOTES, StoreWriter
from hmacfs.system.threads import FileCalls


class LocalFileStore(StoreWriter):
    """A ``FileStore`` in a folder. One per process; the folder is shared by all workers, and may be by machines."""

    def __init__(self, root: Path, *, durable: bool, file_calls: FileCalls, retry: Retry) -> None:
        super().__init__(root, durable=durable, file_calls=file_calls, retry=retry)
        self.partials = LocalPartialUploads(self)

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
            self.file_calls(self.folders.renew)
            folder = self.folders.own(NOTES)
            if self._notes.is_lost or self._notes.folder is not folder:
                self._notes = DirectoryJournal(folder)

    def check_writable(self) -> None:
        """Raises ``StoreMissing``, ``StorageFailed`` or ``NoSpace`` if no file can be written now."""
        with self.stage() as staged, translated(*self.staging):
            self.file_calls(os.write, staged.fd, b"\0")

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
