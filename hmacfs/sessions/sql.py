"""Sessions in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB.

The drivers block, so every operation is one function that runs in a native thread of its own, with a connection that
no other thread uses meanwhile. Nearly all are a single statement, committed by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gevent import monkey

from hmacfs.errors import SessionStoreUnreachable
from hmacfs.sessions import statements
from hmacfs.sessions.codec import decode, digest, encode, is_key, save_with
from hmacfs.sessions.database import DatabaseConnection, DatabaseError, IntegrityViolation, UnstorableValue
from hmacfs.sessions.database_spec import DatabaseSpec
from hmacfs.sessions.sql_entries import SqlEntries
from hmacfs.system.threads import ThreadOffload
from hmacfs.uploads.session import CountedBy, Session, State

R = TypeVar("R")

_POLL_SECONDS = 0.005
# It is called in native threads, where gevent's would start an event loop of its own.
_sleep = monkey.get_original("time", "sleep")


class _Replaced(SessionStoreUnreachable):
    """The database has been replaced by another since it was prepared."""


class SqlStore:
    """A ``Replica`` in a database.

    offload: runs blocking calls where they don't stop the event loop; outside a gevent worker it simply calls them.
    repeats: how often a statement is repeated at once after a failure that the driver calls transient (``MaxRetries``).
    A connection that the server has closed since its last use is replaced in any case.
    """

    is_durable = True

    def __init__(self, database: DatabaseSpec, offload: ThreadOffload, *, repeats: int) -> None:
        self.name = database.name
        self.timeout = database.timeout
        self.concurrency = database.connections
        self.entries = SqlEntries(self._run, database.clock)
        self._database = database
        self._offload = offload
        self._repeats = repeats
        self._idle: deque[DatabaseConnection] = deque()
        self._open: set[DatabaseConnection] = set()
        self._identity: object = None
        self._is_prepared = False
        self._preparing = threading.Lock()

    # -- the contract ---------------------------------------------------------------------------------

    def create(self, session: Session) -> bool:
        return self._run(lambda connection: _create(connection, session))

    def get(self, key: str) -> Session | None:
        return self._run(lambda connection: _load(connection, key)) if is_key(key) else None

    def find(self, slot: str) -> Session | None:
        return self._run(lambda connection: _one(connection, statements.BY_SLOT, digest(slot)))

    def find_finished(self, slot: str) -> Session | None:
        return self._run(lambda connection: _one(connection, statements.BY_FINISHED_SLOT, digest(slot)))

    def put(self, session: Session) -> Session:
        return self._run(lambda connection: _put(connection, session))

    def save(self, session: Session) -> Session:
        return save_with(self.put, session)

    def remove(self, key: str) -> None:
        if is_key(key):
            self._rows(statements.REMOVE, sought=key)

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        return self._sessions(statements.STALE, before=touched_before, most=limit)

    def keys_since(self, touched: float) -> list[str]:
        return [key for (key,) in self._rows(statements.KEYS_SINCE, since=touched)]

    def of_path(self, path: str) -> list[Session]:
        return self._sessions(statements.BY_PATH, sought=digest(path))

    def count_open(self, by: CountedBy, who: str) -> int:
        ((count,),) = self._rows(statements.COUNT_OPEN[by], sought=digest(who))
        return int(count)

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        return self._sessions(statements.OPEN_BY[by], sought=digest(who), most=limit)

    def count_by_state(self) -> dict[str, int]:
        return {**dict.fromkeys(map(str, State), 0), **dict(self._rows(statements.COUNT_BY_STATE))}

    def ping(self) -> None:
        """Also makes and upgrades the tables. A database that can only be read is of no use: it does not answer."""
        self._rows(statements.CHANGE_NOTHING)

    def close(self) -> None:
        while self._idle:
            self._offload(self._discard, self._idle.pop())

    def is_complete(self) -> bool:
        return True

    def mark_complete(self) -> None:
        """A database remembers by itself."""

    def on_loss(self, callback: Callable[[], None]) -> None:
        """A database does not lose what it has committed."""

    # -- connections ----------------------------------------------------------------------------------

    def _sessions(self, statement: str, **parameters: object) -> list[Session]:
        return [decode(record) for (record,) in self._rows(statement, **parameters)]

    def _rows(self, statement: str, **parameters: object) -> Sequence[tuple[Any, ...]]:
        return self._run(lambda connection: connection.execute(statement, parameters).rows)

    def _run(self, operation: Callable[[DatabaseConnection], R]) -> R:
        if not self._is_prepared:
            self._prepare()
        try:
            return self._offload(self._attempt, operation)
        except _Replaced:
            self._prepare()
            return self._offload(self._attempt, operation)

    def _check_identity(self) -> None:
        """Close the connections to a database that has been replaced by another. Raises ``SessionStoreUnreachable``."""
        try:
            identity = self._database.identity()
        except OSError as error:
            raise SessionStoreUnreachable from error
        if identity is not self._identity:
            self._identity = identity
            self._is_prepared = False
            while self._idle:
                self._discard(self._idle.pop())

    def _prepare(self) -> None:
        """Under a lock: SQLAlchemy's first connection hangs for ever if several threads of a gevent process make it at
        the same time."""
        with self._preparing:
            if not self._is_prepared:
                self._offload(self._attempt, self._upgrade)
                self._is_prepared = True

    def _upgrade(self, connection: DatabaseConnection) -> None:
        if is_current(connection):
            return
        from hmacfs.sessions import schema  # SQLAlchemy

        with connection.schema_access() as access:
            schema.upgrade_under_lock(access, self._database.begin, self._database.end)

    def _attempt(self, operation: Callable[[DatabaseConnection], R]) -> R:
        """Run an operation, in the thread that is to wait for it. Every operation is idempotent. Raises ``_Replaced``
        if the database needs its tables first."""
        self._check_identity()
        if not self._is_prepared and operation != self._upgrade:
            raise _Replaced
        started = time.monotonic()
        repeats = self._repeats
        while True:
            connection, is_used = self._connect()
            try:
                result = operation(connection)
            except UnstorableValue:
                self._discard(connection)
                raise
            except DatabaseError as error:
                self._discard(connection)
                is_transient = self._database.is_transient(error.driver_error)
                if time.monotonic() - started > self.timeout / 2 or not (is_used or (is_transient and repeats > 0)):
                    self._is_prepared = False  # a database that was replaced by an empty one needs its tables again
                    raise SessionStoreUnreachable from error.driver_error
                repeats -= is_transient
            except BaseException:
                self._discard(connection)
                raise
            else:
                self._idle.append(connection)
                return result

    def _connect(self) -> tuple[DatabaseConnection, bool]:
        """A connection, and whether it was used before: then its server may have gone since."""
        with contextlib.suppress(IndexError):
            return self._idle.pop(), True
        try:
            connection = self._database.connect()
        except DatabaseError as error:
            return self._next_idle(error), True
        self._open.add(connection)
        return connection, False

    def _next_idle(self, refusal: DatabaseError) -> DatabaseConnection:
        """For a server that takes no more connections: the next idle one of those that it took, unless it has closed
        them as well."""
        deadline = time.monotonic() + self.timeout / 2
        while self._open and time.monotonic() < deadline:
            with contextlib.suppress(IndexError):
                return self._idle.pop()
            _sleep(_POLL_SECONDS)
        raise SessionStoreUnreachable from refusal.driver_error

    def _discard(self, connection: DatabaseConnection) -> None:
        self._open.discard(connection)
        connection.close()


# -- operations, each on a connection of its own --------------------------------------------------


def is_current(connection: DatabaseConnection) -> bool:
    """Whether this database has had all steps. One plain statement, without a lock: a server that finds its tables as
    they should be needs nothing of what makes them."""
    try:
        reached = connection.execute(statements.REACHED).scalar()
    except DatabaseError as error:
        if error.is_unreachable:
            raise
        return False  # it has no tables
    return reached is not None and reached >= statements.SCHEMA_VERSION


def _one(connection: DatabaseConnection, query: str, sought: str) -> Session | None:
    record = connection.execute(query, {"sought": sought}).scalar()
    return None if record is None else decode(record)


def _load(connection: DatabaseConnection, key: str) -> Session | None:
    return _one(connection, statements.BY_KEY, key)


def _row(session: Session) -> dict[str, object]:
    is_open, is_finished = session.state is State.OPEN, session.state is State.FINISHED
    slot = None if session.slot is None else digest(session.slot)
    return {
        "token": session.key,
        "open_slot": slot if is_open else None,
        "finished_slot": slot if is_finished else None,
        "open_owner": digest(session.owner) if is_open else None,
        "open_site": digest(session.site) if is_open and session.site else None,
        "path_digest": digest(session.path),
        "state": str(session.state),
        "touched": session.touched,
        "revision": session.revision,
        "record": encode(session),
    }


def _create(connection: DatabaseConnection, session: Session) -> bool:
    try:
        connection.execute(statements.INSERT, _row(session))
    except IntegrityViolation:
        # Its own record is there if a first attempt succeeded and only the answer was lost.
        return _load(connection, session.key) is not None
    return True


def _put(connection: DatabaseConnection, session: Session) -> Session:
    row = _row(session)
    replace = statements.REPLACE_OPEN if session.state is State.OPEN else statements.REPLACE_ENDED
    if connection.execute(replace, row).rowcount:
        return session
    for claim in (row["open_slot"], None):
        stored = _load(connection, session.key)
        if stored is not None:
            return stored
        try:
            connection.execute(statements.INSERT, {**row, "open_slot": claim})
        except IntegrityViolation:
            continue  # the slot is another's, or the key was inserted this moment
        return session
    stored = _load(connection, session.key)
    if stored is None:
        raise SessionStoreUnreachable  # inserted and removed again by others within these statements
    return stored
