"""A connection to an SQL database as the store uses it: what it does, what it gives, and what goes wrong.

No SQLAlchemy here: with SQLite, a server that has its tables never imports it (docs/facts.md, section 14).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa


class DatabaseError(Exception):
    """A connection or a statement failed.

    driver_error: what the driver, or the operating system, raised. is_unreachable: whether the database could not be
    asked (the connection is lost, the file locked or damaged), so that this says nothing about the statement.
    """

    def __init__(self, driver_error: BaseException, *, is_unreachable: bool = False) -> None:
        super().__init__(str(driver_error))
        self.driver_error = driver_error
        self.is_unreachable = is_unreachable


class IntegrityViolation(DatabaseError):
    """A constraint refuses the row. Every row has a value in each column that must have one, so it is a unique index:
    such a row is there already."""


class UnstorableValue(DatabaseError):
    """The database can store no such value, however often it is tried."""


class Result(NamedTuple):
    """rows: what a query found; none for other statements. rowcount: how many rows an ``UPDATE`` found, whether or not
    it changed their values."""

    rows: Sequence[tuple[Any, ...]]
    rowcount: int

    def scalar(self) -> Any:
        """The first column of the first row; ``None`` if there is none."""
        return self.rows[0][0] if self.rows else None


class DatabaseConnection(Protocol):
    """A connection whose every statement is a transaction of its own, for one thread at a time.

    ``execute`` and ``schema_access`` raise ``DatabaseError`` and its kinds.
    """

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> Result:
        """Run one statement, and fetch all rows that it finds.

        Every ``:word`` in it is a placeholder, also within quotes, and stands for the parameter of that name. There may
        be more parameters than placeholders. It has no ``%``, which some drivers would take for a placeholder.
        """

    def schema_access(self) -> AbstractContextManager[sa.Connection]:
        """To the same database, by SQLAlchemy: what its tables are made and upgraded by."""

    def close(self) -> None:
        """In whatever state it is. Raises nothing."""
