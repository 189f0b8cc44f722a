"""SQLite: the default store, shared by the workers of a machine through the file system's locks."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from hmacfs.sessions.database_spec import DATABASE_TIMEOUT, DatabaseSpec, make_engine
from hmacfs.system.ownership import open_file
from hmacfs.system.shared_file import SharedFile

log = logging.getLogger("hmacfs.sessions")

#: Writers exclude each other anyway; a second thread lets a reader pass a writer that waits for the disk.
_THREADS = 2


def open_sqlite(path: Path, *, timeout: float = DATABASE_TIMEOUT) -> DatabaseSpec:
    """The database in that file, which is made if it is missing, for this user alone. Raises ``OSError``."""
    file = SharedFile(path)  # SQLite gives its journals the mode of this file

    def identity() -> object:
        """SQLite itself goes on with a file that was removed, without an error."""
        nonlocal file
        if not file.is_current():
            file = SharedFile(path)
            log.warning("%s was removed or replaced: unfinished uploads that it knew of are lost", path)
        return file

    # A thread's connection is used by one thread at a time, not always by the same.
    engine = make_engine(sa.URL.create("sqlite", database=str(path)), timeout=timeout, check_same_thread=False)
    sa.event.listen(engine, "connect", lambda connection, _: _prepare(connection, path.with_suffix(".lock")))
    return DatabaseSpec(
        name="sqlite",
        engine=engine,
        begin=("BEGIN IMMEDIATE",),
        end=("COMMIT",),
        is_transient=lambda _: False,  # it has waited for the lock itself (busy_timeout)
        timeout=timeout,
        connections=_THREADS,
        identity=identity,
    )


def _prepare(connection: sqlite3.Connection, switching: Path) -> None:
    """WAL: readers and a writer don't wait for each other. With it, NORMAL means that a power cut may undo the last
    saves but harms nothing; since the partial file's length is the truth about an upload, an older record costs no
    byte, while FULL would cost a sync for each save.

    Two processes that switch a new database to WAL at the same time fail at once, whatever the timeout: hence the lock,
    on a file of its own, for on network file systems SQLite's locks and these are the same.
    """
    fd = open_file(switching, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
            connection.execute("PRAGMA synchronous=NORMAL")
    finally:
        os.close(fd)
