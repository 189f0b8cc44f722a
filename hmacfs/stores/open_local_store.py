"""The folders that files are in: the configured store, and another one to copy from or to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hmacfs.config import Durability, Settings
from hmacfs.errors import ConfigError
from hmacfs.retry import Retry
from hmacfs.stores.local.folders import SourceFolder
from hmacfs.stores.local.reading import StoreReader
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.system.ownership import STORE_FOLDER_MODE, act_as_owner_of, make_folder, path_of, reason, unreadable
from hmacfs.system.threads import FileCalls, ThreadOffload

#: fsync waits for the device; the kernel joins the waits of several threads into one commit of its journal.
FSYNC_THREADS = 16


def open_local_store(settings: Settings) -> LocalFileStore:
    """Open the folder. Raises ``ConfigError`` if files cannot be stored there."""
    root = _store_dir(settings)
    with _usable(root, settings.origins["StoreDir"]):
        return _store(settings, root)


def open_local_reader(settings: Settings) -> StoreReader:
    """The same to be read alone: nothing is made there. Raises ``ConfigError``."""
    root = _store_dir(settings)
    with _usable(root, settings.origins["StoreDir"], unreadable):
        return _reader(settings, root)


def open_source_folder(settings: Settings, folder: Path, origin: str) -> StoreReader:
    """A folder beside the configured store, to copy files from: it is only read. origin: where it was named. A process
    of root's goes on as the owner of ``StoreDir``, if there is that. Raises ``ConfigError``."""
    _check_apart(settings, folder, origin)
    with _usable(folder, origin, unreadable):
        if settings.store_dir is not None:
            act_as_owner_of(settings.store_dir)
        return _reader(settings, folder)


def open_target_folder(settings: Settings, folder: Path, origin: str) -> LocalFileStore:
    """A folder beside the configured store, to copy files into; made if it is missing. origin: where it was named. A
    process of root's goes on as its owner. Raises ``ConfigError``."""
    _check_apart(settings, folder, origin)
    with _usable(folder, origin):
        make_folder(folder, STORE_FOLDER_MODE)
        act_as_owner_of(folder)
        return _store(settings, folder)


def _store_dir(settings: Settings) -> Path:
    assert settings.store_dir is not None
    return settings.store_dir


def _check_apart(settings: Settings, folder: Path, origin: str) -> None:
    if settings.store_dir is None:
        return
    one, other = Path(os.path.realpath(folder)), Path(os.path.realpath(settings.store_dir))
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ConfigError(
            f"{origin}: and StoreDir ({settings.store_dir}) are the same, or one is in the other; name another folder"
        )


@contextlib.contextmanager
def _usable(folder: Path, origin: str, why: Callable[[Path, OSError], str] = reason) -> Iterator[None]:
    """What the operating system says against the folder, as ``ConfigError``."""
    try:
        yield
    except OSError as error:
        path = path_of(error, folder)
        raise ConfigError(f"{origin}: {path} cannot be used: {why(path, error)}") from None


def _store(settings: Settings, root: Path) -> LocalFileStore:
    return LocalFileStore(
        root, durable=settings.durability is Durability.FSYNC, file_calls=_file_calls(), retry=_retry(settings)
    )


def _reader(settings: Settings, root: Path) -> StoreReader:
    return StoreReader(root, SourceFolder(root), file_calls=_file_calls(), retry=_retry(settings))


def _file_calls() -> FileCalls:
    return FileCalls(ThreadOffload(FSYNC_THREADS))


def _retry(settings: Settings) -> Retry:
    return Retry(settings.max_retries, settings.retry_delay)
