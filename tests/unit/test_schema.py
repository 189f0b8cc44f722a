"""When the tables of an SQL store need no step, and what those make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from hmacfs.sessions.database import DatabaseConnection, DatabaseError
from hmacfs.sessions.engine import translated
from hmacfs.sessions.schema import STEPS, upgrade, version
from hmacfs.sessions.sql import is_current
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.sessions.statements import ENTRIES, INSERT, SCHEMA_VERSION, SESSIONS, EntryStatements


@pytest.fixture
def database(tmp_path: Path) -> Iterator[DatabaseConnection]:
    with closing(open_sqlite(tmp_path / "sessions.sqlite3").connect()) as connection:
        yield connection


def test_the_statements_are_for_what_all_steps_make(database: DatabaseConnection) -> None:
    assert len(STEPS) == SCHEMA_VERSION
    with database.schema_access() as connection:
        upgrade(connection)
        made = [column["name"] for column in sa.inspect(connection).get_columns(SESSIONS)]
    columns, _, parameters = INSERT.partition("(")[2].rstrip(")").partition(") VALUES (")
    assert sorted(columns.split(", ")) == sorted(made)
    assert parameters.split(", ") == [f":{name}" for name in columns.split(", ")]


def test_the_statements_for_entries_are_too(database: DatabaseConnection) -> None:
    with database.schema_access() as connection:
        upgrade(connection, STEPS[:3])
        assert not sa.inspect(connection).has_table(ENTRIES)
        upgrade(connection)
        STEPS[3](connection)  # it may be broken off and start over
        made = [column["name"] for column in sa.inspect(connection).get_columns(ENTRIES)]
    assert made == ["entry", "value", "version", "ends"]
    values = {"entry": "e", "value": "v", "version": 2**62, "seconds": 30.0, "former": 0, "kept": 0.0}
    statements = EntryStatements("1000.0")
    for statement in vars(statements).values():
        database.execute(statement, values)
    assert database.execute(f"SELECT * FROM {ENTRIES}").rows == [("e", "v", 2**62, 1030.0)]


def test_a_database_is_current_once_it_had_all_steps(database: DatabaseConnection) -> None:
    assert not is_current(database)
    for number in range(len(STEPS) + 1):
        with database.schema_access() as connection:
            upgrade(connection, STEPS[:number])
        assert is_current(database) == (number == len(STEPS))


def test_one_of_a_later_release_is_current(database: DatabaseConnection) -> None:
    with database.schema_access() as connection:
        upgrade(connection)
        connection.execute(sa.update(version).values(version=len(STEPS) + 1))
    assert is_current(database)


def test_a_table_without_its_version_is_not(database: DatabaseConnection) -> None:
    with database.schema_access() as connection:
        version.create(connection)
    assert not is_current(database)


def test_a_lost_connection_does_not_count_as_a_database_without_tables(
    database: DatabaseConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(statement: str, _parameters: Mapping[str, object] | None = None) -> None:
        with translated():
            raise OperationalError(statement, None, Exception("gone"), connection_invalidated=True)

    monkeypatch.setattr(database, "execute", lose)
    with pytest.raises(DatabaseError, match="gone"):
        is_current(database)
