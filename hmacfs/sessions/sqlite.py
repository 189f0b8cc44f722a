"""SQLite: the default store, shared by the workers of a machine through the file system's locks."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gevent import monkey

from hmacfs.sessions.database import DatabaseError, IntegrityViolation, Result, UnstorableValue
from hmacfs.sessions.database_spec import DATABASE_TIMEOUT, DatabaseSpec
from hmacfs.system.ownership import open_file
from hmacfs.system.shared_file import SharedFile

if TYPE_CHECKING:
    import sqlalchemy as sa

log = logging.getLogger("hmacfs.sessions")

#: Writers exclude each other anyway; a second thread lets a reader pass a writer that waits for the disk.
_THREADS = 2
_POLL_SECONDS = 0.005
# It is called in native threads, where gevent's would start an event loop of its own.
_sleep = monkey.get_original("time", "sleep")


def open_sqlite(path: Path, *, timeout: float = DATABASE_TIMEOUT) -> DatabaseSpec:
    """The database in that file, which is made if it is missing, for this user alone, as is the lock beside it. Raises
    ``OSError`` if one cannot be."""
    file = SharedFile(path)  # SQLite gives its journals the mode of this file
    os.close(_open_lock(path))

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
        clock="((julianday('now') - 2440587.5) * 86400.0)",
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
        with _translated():
            self._connection = connect()
        # A command, and a worker, ends without closing its store; Python 3.13 warns where the collector has to close.
        self._close = weakref.finalize(self, self._connection.close)

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> Result:
        with _translated():
            cursor = self._connection.execute(statement, parameters or {})
            return Result(cursor.fetchall(), cursor.rowcount)

    @contextlib.contextmanager
    def schema_access(self) -> Iterator[sa.Connection]:
        """Over a connection of its own. The tables are made once in the life of a database: it is only then that
        SQLAlchemy is imported."""
        from hmacfs.sessions import engine

        own = engine.engine_over("sqlite", self._connect)
        with _translated(), engine.translated(), own.connect() as connection:
            yield connection

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors, and the operating system's about the lock, as those of ``database``."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise IntegrityViolation(error) from error
    except (sqlite3.DataError, sqlite3.NotSupportedError) as error:
        raise UnstorableValue(error) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # Python's own errors have none
        raise DatabaseError(error, is_unreachable=code != sqlite3.SQLITE_ERROR) from error
    except OSError as error:
        raise DatabaseError(error, is_unreachable=True) from error


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    # A thread's connection is used by one thread at a time, not always by the same.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, timeout: float) -> None:
    """WAL: readers and a writer don't wait for each other. With it, NORMAL means that a power cut may undo the last
    saves but harms nothing; since the partial file's length is the truth about an upload, an older record costs no
    byte, while FULL would cost a sync for each save.

    Two processes that switch a new database to WAL at the same time fail at once, whatever the timeout: hence the lock,
    on a file of its own, for on network file systems SQLite's locks and these are the same.
    """
    fd = _open_lock(path)
    try:
        _lock(fd, timeout)
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
            connection.execute("PRAGMA synchronous=NORMAL")
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    return open_file(path.with_suffix(".lock"), os.O_RDWR)


def _lock(fd: int, timeout: float) -> None:
    """As ``flock``, but for the limit: a process that was stopped while it has the lock must not keep every other from
    its start. Raises ``TimeoutError``."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError("another process keeps the lock of the database") from None
            _sleep(_POLL_SECONDS)
        else:
            return
