"""Databases through SQLAlchemy: PostgreSQL and MySQL, and the tables of all."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError
from sqlalchemy.pool import NullPool

from hmacfs.sessions.database_spec import DatabaseFailed, Result, RowRefused, ValueRefused

_AS_THE_STORE_NEEDS: dict[str, Any] = {
    "poolclass": NullPool,
    "pool_reset_on_return": None,
    "isolation_level": "AUTOCOMMIT",
    "hide_parameters": True,  # tokens are capabilities: not for messages
}
_PLACEHOLDER = re.compile(r":(\w+)")


def make_engine(url: sa.URL, **arguments: object) -> sa.Engine:
    """An engine whose every statement is a transaction of its own, one round trip each. It pools nothing: the store
    keeps its connections itself."""
    return sa.create_engine(url, **_AS_THE_STORE_NEEDS, connect_args=arguments)


def make_own_engine(dialect: str, connect: Callable[[], Any]) -> sa.Engine:
    """The same over connections that ``connect`` makes."""
    return sa.create_engine(sa.URL.create(dialect), **_AS_THE_STORE_NEEDS, creator=connect)


class EngineConnection:
    """A ``DatabaseConnection`` of an engine. Raises ``DatabaseFailed``."""

    def __init__(self, engine: sa.Engine) -> None:
        with failures_of_the_database():
            self._connection = engine.connect()

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> Result:
        with failures_of_the_database():
            result = self._connection.exec_driver_sql(_for_driver(statement), dict(values) if values else None)
            return Result(tuple(map(tuple, result)) if result.returns_rows else (), result.rowcount)

    @contextlib.contextmanager
    def schema_access(self) -> Iterator[sa.Connection]:
        with failures_of_the_database():
            yield self._connection

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.invalidate()
        with contextlib.suppress(Exception):
            self._connection.close()


@contextlib.contextmanager
def failures_of_the_database() -> Iterator[None]:
    """SQLAlchemy's errors as those of ``database_spec``."""
    try:
        yield
    except DBAPIError as error:
        kind = DatabaseFailed
        if isinstance(error, IntegrityError):
            kind = RowRefused
        elif isinstance(error, (DataError, NotSupportedError)):
            kind = ValueRefused
        raise kind(error.orig or error, is_lost=error.connection_invalidated) from error


@functools.cache
def _for_driver(statement: str) -> str:
    """With the placeholders of psycopg2 and mysqlclient."""
    return _PLACEHOLDER.sub(r"%(\1)s", statement)
