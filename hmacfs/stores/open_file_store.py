"""The store that the settings describe."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hmacfs.config import Durability, Settings
from hmacfs.errors import ConfigError
from hmacfs.retry import Retry
from hmacfs.stores.local.capabilities import Capabilities, look
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.stores.local.tree import Root
from hmacfs.system.ownership import path_of, reason
from hmacfs.system.threads import FileCalls, ThreadOffload

#: fsync waits for the device; the kernel joins the waits of several threads into one commit of its journal.
FSYNC_THREADS = 16


def open_file_store(settings: Settings) -> LocalFileStore:
    """Open it. Raises ``ConfigError`` if files cannot be stored there."""
    root = settings.store_dir
    try:
        return LocalFileStore(
            root,
            durable=settings.durability is Durability.FSYNC,
            file_calls=FileCalls(ThreadOffload(FSYNC_THREADS)),
            retry=Retry(settings.max_retries, settings.retry_delay),
        )
    except OSError as error:
        path = path_of(error, root)
        raise ConfigError(f"{settings.origins['StoreDir']}: {path} cannot be used: {reason(path, error)}") from None


def foresee(settings: Settings) -> Capabilities:
    """What the store can probably do, by looks alone: nothing is made in it."""
    store = settings.store_dir.absolute()
    return dataclasses.replace(look(store), spellings=_spellings(store))


def _spellings(store: Path) -> tuple[str, ...]:
    """See ``Capabilities``; none if the store has no folder of ours yet."""
    try:
        return tuple(Root(os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)).look_for_spellings())
    except OSError:
        return ()
