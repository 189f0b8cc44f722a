"""The default session store's database: what goes wrong with it is a database that does not answer, within its time."""

from __future__ import annotations

import fcntl
import gc
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hmacfs.errors import SessionStoreUnreachable
from hmacfs.sessions.database import DatabaseConnection, DatabaseError, IntegrityViolation
from hmacfs.sessions.schema import upgrade
from hmacfs.sessions.sql import SqlStore, is_current
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.sessions.statements import BY_KEY, INSERT, REACHED, REMOVE
from hmacfs.system.threads import ThreadOffload
from tests.contracts.session_stores import session

#: Seconds that the database is given.
SHORT = 0.2
ROW = {
    "token": "a-key", "open_slot": "a-slot", "finished_slot": None, "open_owner": None, "open_site": None,
    "path_digest": None, "state": "open", "touched": 1.5, "revision": 1, "record": "a-record",
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SqlStore]:
    with closing(SqlStore(open_sqlite(path, timeout=SHORT), ThreadOffload(1), repeats=5)) as store:
        yield store


@pytest.fixture
def connection(path: Path) -> Iterator[DatabaseConnection]:
    with closing(open_sqlite(path).connect()) as connection:
        with connection.schema_access() as access:
            upgrade(access)
        yield connection


def unreachable(store: SqlStore) -> BaseException | None:
    """Why, within a bounded time."""
    began = time.monotonic()
    with pytest.raises(SessionStoreUnreachable) as raised:
        store.ping()
    assert time.monotonic() - began < 10 * SHORT
    return raised.value.__cause__


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_locked_database_does_not_answer(path: Path, store: SqlStore, *, is_prepared: bool) -> None:
    if is_prepared:
        store.ping()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        cause = unreachable(store)
        assert (type(cause), str(cause)) == (sqlite3.OperationalError, "database is locked")
    store.ping()


def test_a_lock_that_another_keeps_does_not_keep_this_one_for_ever(path: Path, store: SqlStore) -> None:
    with path.with_suffix(".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert isinstance(unreachable(store), TimeoutError)
    store.ping()


def test_what_the_operating_system_refuses_is_a_database_that_does_not_answer(path: Path, store: SqlStore) -> None:
    lock = path.with_suffix(".lock")
    lock.unlink()
    lock.mkdir()
    assert isinstance(unreachable(store), IsADirectoryError)
    lock.rmdir()
    assert store.create(session())


def test_a_lock_that_cannot_be_made_is_told_when_the_database_is_opened(path: Path) -> None:
    path.with_suffix(".lock").mkdir()
    with pytest.raises(IsADirectoryError):
        open_sqlite(path)


def test_only_a_database_that_answers_can_be_without_tables(path: Path) -> None:
    with closing(open_sqlite(path).connect()) as connection:
        assert not is_current(connection)
        with pytest.raises(DatabaseError, match="no such table") as raised:
            connection.execute(REACHED)
        assert not raised.value.is_unreachable
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(DatabaseError, match="not a database") as raised:
        open_sqlite(path).connect()
    assert raised.value.is_unreachable


def test_every_statement_is_committed_by_itself(path: Path, connection: DatabaseConnection) -> None:
    connection.execute(INSERT, ROW)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT token FROM hmacfs_sessions").fetchall() == [("a-key",)]
    assert connection.execute(BY_KEY, {"sought": "a-key"}).scalar() == "a-record"
    assert connection.execute(REMOVE, {"sought": "a-key"}).rowcount == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({}, IntegrityViolation), ({"token": "another"}, IntegrityViolation), ({"touched": []}, DatabaseError)],
)
def test_errors_tell_no_values(connection: DatabaseConnection, changes: dict[str, object], kind: type) -> None:
    connection.execute(INSERT, ROW)
    with pytest.raises(DatabaseError) as raised:
        connection.execute(INSERT, {**ROW, **changes})
    assert type(raised.value) is kind
    assert "a-" not in str(raised.value)
    assert "another" not in str(raised.value)


def test_a_connection_that_nobody_closes_is_closed(path: Path) -> None:
    """Python 3.13 warns of one that the collector has to close, and warnings fail here."""
    connection = open_sqlite(path).connect()
    drivers = connection._connection  # type: ignore[attr-defined]
    connection.itself = connection  # type: ignore[attr-defined]
    del connection
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        drivers.execute("SELECT 1")
