"""Shared entries in a table of an SQL database.

Every change is one statement that names the version it is made to, and the version that it makes: if the first attempt
was committed and only its answer lost, the repetition finds that one, and tells of it as made.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from hmacfs.sessions.codec import digest
from hmacfs.sessions.database import DatabaseConnection, IntegrityViolation
from hmacfs.sessions.statements import EntryStatements
from hmacfs.uploads.contracts.entries import KEPT_SECONDS, Entry

R = TypeVar("R")

_VERSION_BITS = 63


class Run(Protocol):
    """Runs an idempotent operation on a connection. Raises ``SessionStoreUnreachable``."""

    def __call__(self, operation: Callable[[DatabaseConnection], R], /) -> R: ...


class SqlEntries:
    """An ``EntryTable``. clock: see ``DatabaseSpec``."""

    def __init__(self, run: Run, clock: str) -> None:
        self._run = run
        self._statements = EntryStatements(clock)

    def read(self, key: str) -> Entry | None:
        sought = {"entry": digest(key)}
        rows = self._run(lambda connection: connection.execute(self._statements.read, sought).rows)
        if not rows:
            return None
        ((value, version, seconds_left),) = rows
        return Entry(json.loads(value), version, float(seconds_left))

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        made = secrets.randbits(_VERSION_BITS)
        change = {
            "entry": digest(key),
            "former": version,
            "value": json.dumps(value),  # in ASCII, whatever the database's character set
            "version": made,
            "seconds": seconds or 0.0,
        }
        statements = self._statements
        if version is None:
            statement = statements.insert
        else:
            statement = statements.replace_value if seconds is None else statements.replace
        return made if self._run(lambda connection: self._change(connection, statement, change)) else None

    def remove(self, key: str, version: int) -> bool:
        sought = {"entry": digest(key), "former": version}
        return self._run(lambda connection: self._remove(connection, sought))

    def forget(self) -> None:
        self._run(lambda connection: connection.execute(self._statements.forget, {"kept": KEPT_SECONDS}))

    def _change(self, connection: DatabaseConnection, statement: str, change: Mapping[str, object]) -> bool:
        try:
            if connection.execute(statement, change).rowcount:
                return True
        except IntegrityViolation:
            pass  # it is there already
        return bool(connection.execute(self._statements.version, change).scalar() == change["version"])

    def _remove(self, connection: DatabaseConnection, sought: Mapping[str, object]) -> bool:
        if connection.execute(self._statements.remove, sought).rowcount:
            return True
        return connection.execute(self._statements.version, sought).scalar() is None
