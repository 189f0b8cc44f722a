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

from hmacfs.sessions.database import DatabaseError, IntegrityViolation, Result, UnstorableValue

_ENGINE_OPTIONS: dict[str, Any] = {
    "poolclass": NullPool,
    "pool_reset_on_return": None,
    "isolation_level": "AUTOCOMMIT",
    "hide_parameters": True,  # tokens are capabilities: not for messages
}
_PLACEHOLDER = re.compile(r":(\w+)")


def make_engine(url: sa.URL, **arguments: object) -> sa.Engine:
    """An engine whose every statement is a transaction of its own, one round trip each. It pools nothing: the store
    keeps its connections itself."""
    return sa.create_engine(url, **_ENGINE_OPTIONS, connect_args=arguments)


def engine_over(dialect: str, connect: Callable[[], Any]) -> sa.Engine:
    """The same over connections of the driver's that ``connect`` makes."""
    return sa.create_engine(sa.URL.create(dialect), **_ENGINE_OPTIONS, creator=connect)


class EngineConnection:
    """A ``DatabaseConnection`` of an engine, whose driver takes ``%(name)s`` for a placeholder. Raises
    ``DatabaseError``."""

    def __init__(self, engine: sa.Engine) -> None:
        with translated():
            self._connection = engine.connect()

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> Result:
        with translated():
            result = self._connection.exec_driver_sql(_for_driver(statement), dict(parameters) if parameters else None)
            return Result(tuple(map(tuple, result)) if result.returns_rows else (), result.rowcount)

    @contextlib.contextmanager
    def schema_access(self) -> Iterator[sa.Connection]:
        with translated():
            yield self._connection

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.invalidate()
        with contextlib.suppress(Exception):
            self._connection.close()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """SQLAlchemy's errors as those of ``database``."""
    try:
        yield
    except DBAPIError as error:
        kind = DatabaseError
        if isinstance(error, IntegrityError):
            kind = IntegrityViolation
        elif isinstance(error, (DataError, NotSupportedError)):
            kind = UnstorableValue
        raise kind(error.orig or error, is_unreachable=error.connection_invalidated) from error


@functools.cache
def _for_driver(statement: str) -> str:
    """With the placeholders of psycopg2 and mysqlclient."""
    return _PLACEHOLDER.sub(r"%(\1)s", statement)
