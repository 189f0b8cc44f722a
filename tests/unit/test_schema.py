"""When the tables of an SQL store need no step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from hmacfs.sessions.schema import STEPS, is_current, upgrade, version


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_a_database_is_current_once_it_had_all_steps(connection: sa.Connection) -> None:
    assert not is_current(connection)
    for number in range(len(STEPS) + 1):
        upgrade(connection, STEPS[:number])
        assert is_current(connection) == (number == len(STEPS))


def test_one_of_a_later_release_is_current(connection: sa.Connection) -> None:
    upgrade(connection)
    connection.execute(sa.update(version).values(version=len(STEPS) + 1))
    assert is_current(connection)


def test_a_table_without_its_version_is_not(connection: sa.Connection) -> None:
    version.create(connection)
    assert not is_current(connection)


def test_a_lost_connection_does_not_count_as_a_database_without_tables(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(statement: str) -> None:
        raise OperationalError(statement, None, Exception("gone"), connection_invalidated=True)

    monkeypatch.setattr(connection, "exec_driver_sql", lose)
    with pytest.raises(OperationalError):
        is_current(connection)
