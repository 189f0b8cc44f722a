"""The store that the settings describe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from hmacfs.config import Durability, Settings, Storage
from hmacfs.errors import ConfigError
from hmacfs.retry import Retry
from hmacfs.stores.local.capabilities import look
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.stores.local.tree import Root
from hmacfs.stores.s3.options import S3Options, address_of
from hmacfs.system.ownership import STORE_FOLDER_MODE, act_as_owner_of, make_folder, path_of, reason
from hmacfs.system.threads import FileCalls, ThreadOffload

#: fsync waits for the device; the kernel joins the waits of several threads into one commit of its journal.
FSYNC_THREADS = 16
#: Of an object store: an extra of this package.
_DRIVERS = ("botocore", "urllib3")


class PreparedStore(NamedTuple):
    """removed: how many unfinished files of processes that died. remarks: what an operator should know, a sentence
    each."""

    removed: int
    remarks: Sequence[str]


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


def check_settings(settings: Settings) -> None:
    """Raises ``ConfigError`` if an object store's client is not installed, or cannot be told where the bucket is.
    Connects to nothing and imports no driver, so a process that has yet to fork or to be patched may ask."""
    if settings.storage is not Storage.S3:
        return
    if any(find_spec(name) is None for name in _DRIVERS):
        package = "pip install 'hmac-file-server[s3]'"
        raise ConfigError(f"{settings.origins['Storage']}: its driver is not installed: {package}")
    try:
        address_of(options_of(settings))
    except ValueError as error:
        raise ConfigError(f"{settings.origins['S3Endpoint']}: {error}") from None


def options_of(settings: Settings) -> S3Options:
    """For the client of an object store."""
    return S3Options(
        settings.s3_endpoint,
        settings.s3_bucket,
        settings.s3_region,
        settings.s3_access_key,
        settings.s3_secret_key,
        settings.s3_session_token,
        settings.s3_path_style,
        settings.s3_ca_file,
        settings.s3_timeout,
        settings.max_retries,
        settings.retry_delay,
    )


def prepare_file_store(settings: Settings) -> PreparedStore:
    """Before the workers start, or take these settings: make what is missing, and remove what processes left that died.
    Nothing stays open, and nothing connects: an object store that is away keeps no server from starting. Raises
    ``ConfigError`` if files cannot be stored there."""
    if settings.store_dir is not None:
        store = open_local_store(settings)
        return PreparedStore(store.recover(), store.capabilities.remarks)
    _make_spool(settings)
    return PreparedStore(0, ())


def _make_spool(settings: Settings) -> None:
    spool = settings.s3_spool_dir
    try:
        make_folder(spool)
    except OSError as error:
        path = path_of(error, spool)
        raise ConfigError(f"{settings.origins['S3SpoolDir']}: {path} cannot be used: {reason(path, error)}") from None


def foreseen_remarks(settings: Settings) -> Sequence[str]:
    """The remarks that ``prepare_file_store`` will probably have, by looks alone: nothing is made in the store."""
    if settings.store_dir is None:
        return ()
    store = settings.store_dir.absolute()
    return tuple(dataclasses.replace(look(store), spellings=_spellings(store)).remarks())


def _spellings(store: Path) -> tuple[str, ...]:
    """See ``Capabilities``; none if the store has no folder of ours yet."""
    try:
        return tuple(Root(os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)).look_for_spellings())
    except OSError:
        return ()
