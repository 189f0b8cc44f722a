"""Moving the sessions' SQLite database to another folder. Without SQLAlchemy, which the master does not need."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from hmacfs.system.ownership import open_file

#: Seconds to wait for others that have the database open.
_TIMEOUT = 1.0


def move_database(old: Path, new: Path) -> None:
    """Move it, also to another file system. The rename is the commit point: after a crash before it ``old`` is whole,
    after it ``new``, and so if the power fails. Raises ``OSError``, or ``sqlite3.Error`` if another process has it
    open or it is damaged."""
    _close_log(old)
    draft = new.with_name(f"{new.name}.draft")
    try:
        with old.open("rb") as source, os.fdopen(open_file(draft, os.O_WRONLY | os.O_TRUNC), "wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        draft.rename(new)
        _sync_folder(new.parent)  # another file system may have the removal of ``old`` on its device before
    finally:
        draft.unlink(missing_ok=True)
    old.unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _close_log(path: Path) -> None:
    """Have SQLite put its write-ahead log into the file and remove it, which it does for none but the only user."""
    with contextlib.closing(sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None)) as connection:
        mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != ("delete",):
        raise sqlite3.OperationalError(f"its journal mode stays {mode[0]}")
