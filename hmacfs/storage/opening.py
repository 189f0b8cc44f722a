"""The store that the settings describe."""

from __future__ import annotations

from hmacfs.config import Settings
from hmacfs.offload import Disk, Offload
from hmacfs.retry import Retry
from hmacfs.storage.local import LocalStorage

#: fsync waits for the device; the kernel joins the waits of several threads into one commit of its journal.
FSYNC_THREADS = 16


def open_storage(settings: Settings) -> LocalStorage:
    """Open it. Raises ``ConfigError`` if files cannot be stored there."""
    return LocalStorage(
        settings.store_dir,
        durable=settings.durability == "fsync",
        disk=Disk(Offload(FSYNC_THREADS)),
        retry=Retry(settings.max_retries, settings.retry_delay),
    )
