"""The folders that files are in: the configured store, and another one to copy from or to."""

from __future__ import annotations

from pathlib import Path

from hmacfs.config import Durability, Settings
from hmacfs.errors import ConfigError
from hmacfs.retry import Retry
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.system.ownership import STORE_FOLDER_MODE, act_as_owner_of, make_folder, path_of, reason
from hmacfs.system.threads import FileCalls, ThreadOffload

#: fsync waits for the device; the kernel joins the waits of several threads into one commit of its journal.
FSYNC_THREADS = 16


def open_local_store(settings: Settings) -> LocalFileStore:
    """Open the folder. Raises ``ConfigError`` if files cannot be stored there."""
    root = settings.store_dir
    assert root is not None
    return _open_folder(settings, root, settings.origins["StoreDir"])


def open_folder_to_copy(settings: Settings, folder: Path, origin: str, *, is_target: bool) -> LocalFileStore:
    """A folder beside the configured store, as ``hmacfs copy-store`` needs it; made if it is the target. origin: where
    the folder was named. A process of root's goes on as the owner of the folder that the files are to be in. Raises
    ``ConfigError``."""
    try:
        if is_target:
            make_folder(folder, STORE_FOLDER_MODE)
        is_own = settings.store_dir is not None and _overlap(folder.resolve(strict=True), settings.store_dir.resolve())
        target = folder if is_target else settings.store_dir
        if target is not None and not is_own:
            act_as_owner_of(target)
    except OSError as error:
        path = path_of(error, folder)
        raise ConfigError(f"{origin}: {path} cannot be used: {reason(path, error)}") from None
    if is_own:
        raise ConfigError(
            f"{origin}: and StoreDir ({settings.store_dir}) are the same, or one is in the other; name another folder"
        )
    return _open_folder(settings, folder, origin)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _open_folder(settings: Settings, root: Path, origin: str) -> LocalFileStore:
    try:
        return LocalFileStore(
            root,
            durable=settings.durability is Durability.FSYNC,
            file_calls=FileCalls(ThreadOffload(FSYNC_THREADS)),
            retry=Retry(settings.max_retries, settings.retry_delay),
        )
    except OSError as error:
        path = path_of(error, root)
        raise ConfigError(f"{origin}: {path} cannot be used: {reason(path, error)}") from None
