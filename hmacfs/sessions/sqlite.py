"""SQLite: the default store, shared by the workers of a machine through the file system's locks."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hmacfs.sessions.database_spec import (
    DATABASE_TIMEOUT,
    DatabaseFailed,
    DatabaseSpec,
    Result,
    RowRefused,
    ValueRefused,
)
from hmacfs.system.ownership import open_file
from hmacfs.system.shared_file import SharedFile

if TYPE_CHECKING:
    import sqlalchemy as sa

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

    return DatabaseSpec(
        name="sqlite",
        connect=lambda: _SqliteConnection(functools.partial(_connect, path, timeout)),
        begin=("BEGIN IMMEDIATE",),
        end=("COMMIT",),
        is_transient=lambda _: False,  # it has waited for the lock itself (busy_timeout)
        timeout=timeout,
        connections=_THREADS,
        identity=identity,
    )


class _SqliteConnection:
    """A ``DatabaseConnection``. connect: makes one of the driver's."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        with _failures_of_the_database():
            self._connection = connect()

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> Result:
        with _failures_of_the_database():
            cursor = self._connection.execute(statement, values or {})
            return Result(cursor.fetchall(), cursor.rowcount)

    @contextlib.contextmanager
    def schema_access(self) -> Iterator[sa.Connection]:
        """Over a connection of its own. The tables are made once in the life of a database: it is only then that
        SQLAlchemy is imported."""
        from hmacfs.sessions.engine import failures_of_the_database, make_own_engine

        with failures_of_the_database(), make_own_engine("sqlite", self._connect).connect() as connection:
            yield connection

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()


@contextlib.contextmanager
def _failures_of_the_database() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise RowRefused(error) from error
    except (sqlite3.DataError, sqlite3.NotSupportedError) as error:
        raise ValueRefused(error) from error
    except sqlite3.Error as error:
        raise DatabaseFailed(error) from error


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    # A thread's connection is used by one thread at a time, not always by the same.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path.with_suffix(".lock"))
    except BaseException:
        connection.close()
        raise
    return connection


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
