"""What there is to do and to tell before the workers use the configured store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hmacfs.config import Settings
from hmacfs.errors import ConfigError
from hmacfs.stores.local.capabilities import look
from hmacfs.stores.local.tree import Root
from hmacfs.stores.open_local_store import open_local_store
from hmacfs.system.anonymous_files import has_anonymous_files
from hmacfs.system.ownership import make_folder, path_of, reason


class PreparedStore(NamedTuple):
    """removed: how many unfinished files of processes that died. remarks: what an operator should know, a sentence
    each."""

    removed: int
    remarks: Sequence[str]


def prepare_file_store(settings: Settings) -> PreparedStore:
    """Before the workers start, or take these settings: make what is missing, and remove what processes left that died.
    Nothing stays open, and nothing connects: an object store that is away keeps no server from starting. Raises
    ``ConfigError`` if files cannot be stored there."""
    if settings.store_dir is not None:
        store = open_local_store(settings)
        return PreparedStore(store.recover(), store.capabilities.remarks)
    _make_spool(settings)
    return PreparedStore(0, tuple(_remarks_of_spool(settings)))


def _make_spool(settings: Settings) -> None:
    spool = settings.s3_spool_dir
    try:
        make_folder(spool)
    except OSError as error:
        path = path_of(error, spool)
        raise ConfigError(f"{settings.origins['S3SpoolDir']}: {path} cannot be used: {reason(path, error)}") from None


def _remarks_of_spool(settings: Settings) -> Iterator[str]:
    spool = settings.s3_spool_dir.absolute()
    there = next(path for path in (spool, *spool.parents) if path.is_dir())
    if not has_anonymous_files(there):
        yield "the spool's file system has no anonymous files: a server that is killed may leave empty ones there"


def foreseen_remarks(settings: Settings) -> Sequence[str]:
    """The remarks that ``prepare_file_store`` will probably have, by looks alone: nothing is made in the store."""
    if settings.store_dir is None:
        return tuple(_remarks_of_spool(settings))
    store = settings.store_dir.absolute()
    return tuple(dataclasses.replace(look(store), spellings=_spellings(store)).remarks())


def _spellings(store: Path) -> tuple[str, ...]:
    """See ``Capabilities``; none if the store has no folder of ours yet."""
    try:
        return tuple(Root(os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)).look_for_spellings())
    except OSError:
        return ()
