"""Local storage for tests: in a folder of theirs, with nothing that waits."""

from __future__ import annotations

import os
from pathlib import Path

from hmacfs.retry import Retry
from hmacfs.stores.local.open_files import OpenFile
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.system.threads import FileCalls, ThreadOffload
from hmacfs.uploads.files import FileInfo, FileMetadata


def file_calls() -> FileCalls:
    return FileCalls(ThreadOffload(1))


def local_store(root: Path, *, durable: bool = True, attempts: int = 0) -> LocalFileStore:
    return LocalFileStore(root, durable=durable, file_calls=file_calls(), retry=Retry(attempts, 0.0))


def opened(path: Path) -> OpenFile:
    """A file that need not be in a store, nor be a file."""
    return OpenFile(os.open(path, os.O_RDONLY), FileInfo(0, 0.0, '""', FileMetadata()))
