"""Sessions in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB.

The drivers block, so every operation is one function that runs in a native thread of its own, with a connection that
no other thread uses meanwhile. Nearly all are a single statement, committed by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from gevent import monkey
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError

from hmacfs.errors import SessionStoreUnreachable
from hmacfs.sessions import schema
from hmacfs.sessions.codec import decode, digest, encode, is_key, save_with
from hmacfs.sessions.database_spec import DatabaseSpec
from hmacfs.system.threads import ThreadOffload
from hmacfs.uploads.session import CountedBy, Session, State

R = TypeVar("R")

_POLL_SECONDS = 0.005
# It is called in native threads, where gevent's would start an event loop of its own.
_sleep = monkey.get_original("time", "sleep")

_TABLE = schema.sessions
_C = _TABLE.c

# Making these is most of what a query costs, so they are made once.
_BY_KEY = sa.select(_C.record).where(_C.token == sa.bindparam("sought"))
_BY_SLOT = sa.select(_C.record).where(_C.open_slot == sa.bindparam("sought"))
_BY_FINISHED_SLOT = (
    sa.select(_C.record).where(_C.finished_slot == sa.bindparam("sought")).order_by(_C.touched.desc()).limit(1)
)
_BY_PATH = sa.select(_C.record).where(_C.path_digest == sa.bindparam("sought"))
_OPEN_BY = {CountedBy.OWNER: _C.open_owner, CountedBy.SITE: _C.open_site}
_COUNT_OPEN = {
    by: sa.select(sa.func.count()).where(column == sa.bindparam("sought")) for by, column in _OPEN_BY.items()
}
_INSERT = sa.insert(_TABLE)
#: Only an older copy is replaced. The columns to set are those that are given besides.
_REPLACE = sa.update(_TABLE).where(
    _C.token == sa.bindparam("sought"),
    sa.or_(
        _C.revision < sa.bindparam("newer"),
        sa.and_(_C.revision == sa.bindparam("newer"), _C.touched < sa.bindparam("later")),
    ),
)
# Plain ones, for what each worker does at its start: to compile them would write to memory shared with the master.
_COUNT_BY_STATE = f"SELECT state, count(*) FROM {_TABLE.name} GROUP BY state"  # noqa: S608 - constants
_CHANGE_NOTHING = f"UPDATE {schema.version.name} SET version = 0 WHERE version < 0"  # noqa: S608 - a constant


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
        self._database = database
        self._offload = offload
        self._repeats = repeats
        self._idle: deque[sa.Connection] = deque()
        self._open: set[sa.Connection] = set()
        self._identity: object = None
        self._is_prepared = False
        self._preparing = threading.Lock()

    # -- the contract ---------------------------------------------------------------------------------

    def create(self, session: Session) -> bool:
        return self._run(lambda connection: _create(connection, session))

    def get(self, key: str) -> Session | None:
        return self._run(lambda connection: _one(connection, _BY_KEY, key)) if is_key(key) else None

    def find(self, slot: str) -> Session | None:
        return self._run(lambda connection: _one(connection, _BY_SLOT, digest(slot)))

    def find_finished(self, slot: str) -> Session | None:
        return self._run(lambda connection: _one(connection, _BY_FINISHED_SLOT, digest(slot)))

    def put(self, session: Session) -> Session:
        return self._run(lambda connection: _put(connection, session))

    def save(self, session: Session) -> Session:
        return save_with(self.put, session)

    def remove(self, key: str) -> None:
        if is_key(key):
            self._run(lambda connection: connection.execute(sa.delete(_TABLE).where(_C.token == key)))

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        query = sa.select(_C.record).where(_C.touched < touched_before).order_by(_C.touched, _C.token).limit(limit)
        return [decode(record) for record in self._run(lambda connection: connection.scalars(query).all())]

    def keys_since(self, touched: float) -> list[str]:
        query = sa.select(_C.token).where(_C.touched >= touched).order_by(_C.touched, _C.token)
        return self._run(lambda connection: list(connection.scalars(query)))

    def of_path(self, path: str) -> list[Session]:
        records = self._run(lambda connection: connection.scalars(_BY_PATH, {"sought": digest(path)}).all())
        return [decode(record) for record in records]

    def count_open(self, by: CountedBy, who: str) -> int:
        sought = {"sought": digest(who)}
        return self._run(lambda connection: int(connection.execute(_COUNT_OPEN[by], sought).scalar_one()))

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        query = sa.select(_C.record).where(_OPEN_BY[by] == digest(who)).order_by(_C.touched, _C.token).limit(limit)
        return [decode(record) for record in self._run(lambda connection: connection.scalars(query).all())]

    def count_by_state(self) -> dict[str, int]:
        counted = self._run(lambda connection: connection.exec_driver_sql(_COUNT_BY_STATE).all())
        return {**dict.fromkeys(map(str, State), 0), **dict(counted)}

    def ping(self) -> None:
        """Also makes and upgrades the tables. A database that can only be read is of no use: it does not answer."""
        self._run(lambda connection: connection.exec_driver_sql(_CHANGE_NOTHING))

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

    def _run(self, operation: Callable[[sa.Connection], R]) -> R:
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

    def _upgrade(self, connection: sa.Connection) -> None:
        if schema.is_current(connection):
            return
        for statement in self._database.begin:
            result = connection.exec_driver_sql(statement)
            if result.returns_rows and result.scalar() == 0:
                raise SessionStoreUnreachable  # MySQL's way to say that the lock is another's
        schema.upgrade(connection)
        for statement in self._database.end:
            connection.exec_driver_sql(statement)

    def _attempt(self, operation: Callable[[sa.Connection], R]) -> R:
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
            except (DataError, NotSupportedError):
                self._discard(connection)
                raise
            except DBAPIError as error:
                self._discard(connection)
                is_transient = error.orig is not None and self._database.is_transient(error.orig)
                if time.monotonic() - started > self.timeout / 2 or not (is_used or (is_transient and repeats > 0)):
                    self._is_prepared = False  # a database that was replaced by an empty one needs its tables again
                    raise SessionStoreUnreachable from error.orig
                repeats -= is_transient
            except BaseException:
                self._discard(connection)
                raise
            else:
                self._idle.append(connection)
                return result

    def _connect(self) -> tuple[sa.Connection, bool]:
        """A connection, and whether it was used before: then its server may have gone since."""
        with contextlib.suppress(IndexError):
            return self._idle.pop(), True
        try:
            connection = self._database.engine.connect()
        except DBAPIError as error:
            return self._next_idle(error), True
        self._open.add(connection)
        return connection, False

    def _next_idle(self, refusal: DBAPIError) -> sa.Connection:
        """For a server that takes no more connections: the next idle one of those that it took, unless it has closed
        them as well."""
        deadline = time.monotonic() + self.timeout / 2
        while self._open and time.monotonic() < deadline:
            with contextlib.suppress(IndexError):
                return self._idle.pop()
            _sleep(_POLL_SECONDS)
        raise SessionStoreUnreachable from refusal.orig

    def _discard(self, connection: sa.Connection) -> None:
        self._open.discard(connection)
        with contextlib.suppress(Exception):
            connection.invalidate()
        with contextlib.suppress(Exception):
            connection.close()


# -- operations, each on a connection of its own --------------------------------------------------


def _one(connection: sa.Connection, query: sa.Select[str], sought: str) -> Session | None:
    record = connection.execute(query, {"sought": sought}).scalar()
    return None if record is None else decode(record)


def _load(connection: sa.Connection, key: str) -> Session | None:
    return _one(connection, _BY_KEY, key)


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


def _create(connection: sa.Connection, session: Session) -> bool:
    try:
        connection.execute(_INSERT, _row(session))
    except IntegrityError:
        # Its own record is there if a first attempt succeeded and only the answer was lost.
        return _load(connection, session.key) is not None
    return True


def _put(connection: sa.Connection, session: Session) -> Session:
    row = _row(session)
    changes = {name: value for name, value in row.items() if name not in ("token", "open_slot")}
    if session.state is not State.OPEN:
        changes["open_slot"] = None
    those = {"sought": session.key, "newer": session.revision, "later": session.touched}
    if connection.execute(_REPLACE, {**changes, **those}).rowcount:
        return session
    for claim in (row["open_slot"], None):
        stored = _load(connection, session.key)
        if stored is not None:
            return stored
        try:
            connection.execute(_INSERT, {**row, "open_slot": claim})
        except IntegrityError:
            continue  # the slot is another's, or the key was inserted this moment
        return session
    stored = _load(connection, session.key)
    if stored is None:
        raise SessionStoreUnreachable  # inserted and removed again by others within these statements
    return stored
