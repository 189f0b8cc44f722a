"""The tables of the SQL stores, and the steps that make and upgrade them.

What queries look for is in columns of fixed length; everything else is in the record. ``open_slot`` and
``open_owner`` are digests, and null once the session has ended: a unique index over the first says that a slot has one
open session at most (nulls never collide), in 64 bytes where the slot itself would exceed MySQL's limit for keys.
``open_site`` is such a digest too, ``finished_slot`` as well, of sessions that became a file, and ``path_digest`` of
all. The column of the keys is called ``token``: in 1.0.0 they were the tokens themselves. Shared entries have a table
of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from hmacfs.errors import SessionStoreUnreachable
from hmacfs.sessions.codec import decode, digest
from hmacfs.sessions.statements import ENTRIES, SESSIONS, VERSION
from hmacfs.uploads.session import State

Step = Callable[[sa.Connection], None]

_PAGE = 500


def _ascii(length: int) -> sa.types.TypeEngine[str]:
    """Compared byte by byte: MySQL's default collations take upper and lower case for equal."""
    binary = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, sa.MetaData(), *columns, mysql_engine="InnoDB", mariadb_engine="InnoDB")


#: The columns that steps fill, and what they fill them from.
sessions = sa.table(
    SESSIONS,
    sa.column("token", sa.String),
    sa.column("state", sa.String),
    sa.column("record", sa.Text),
    sa.column("finished_slot", sa.String),
    sa.column("path_digest", sa.String),
)

version = _table(VERSION, sa.Column("version", sa.Integer, nullable=False))


def _first_tables(connection: sa.Connection) -> None:
    table = _table(
        SESSIONS,
        sa.Column("token", _ascii(64), primary_key=True),
        sa.Column("open_slot", _ascii(64)),
        sa.Column("open_owner", _ascii(64)),
        sa.Column("state", _ascii(16), nullable=False),
        sa.Column("touched", sa.Double, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
        sa.Index(f"{SESSIONS}_open_slot", "open_slot", unique=True),
        sa.Index(f"{SESSIONS}_open_owner", "open_owner"),
        sa.Index(f"{SESSIONS}_touched", "touched"),
    )
    table.create(connection, checkfirst=True)
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def _finished_slots(connection: sa.Connection) -> None:
    _add_column(connection, "finished_slot")
    _fill_finished_slots(connection)


def _fill_finished_slots(connection: sa.Connection) -> None:
    """For the sessions that finished before there was the column."""
    c = sessions.c
    query = sa.select(c.token, c.record).where(c.state == str(State.FINISHED), c.finished_slot.is_(None))
    last = ""
    while rows := connection.execute(query.where(c.token > last).order_by(c.token).limit(_PAGE)).all():
        for token, record in rows:
            slot = decode(record).slot
            if slot is not None:
                connection.execute(sa.update(sessions).where(c.token == token).values(finished_slot=digest(slot)))
        last = rows[-1].token


def _paths_and_sites(connection: sa.Connection) -> None:
    for name in ("path_digest", "open_site"):
        _add_column(connection, name)
    c = sessions.c
    query, last = sa.select(c.token, c.record).where(c.path_digest.is_(None)), ""
    while rows := connection.execute(query.where(c.token > last).order_by(c.token).limit(_PAGE)).all():
        for token, record in rows:
            path = digest(decode(record).path)
            connection.execute(sa.update(sessions).where(c.token == token).values(path_digest=path))
        last = rows[-1].token


def _shared_entries(connection: sa.Connection) -> None:
    """entry: a digest of the key. ends: by the database's clock, in Unix seconds."""
    table = _table(
        ENTRIES,
        sa.Column("entry", _ascii(64), primary_key=True),
        sa.Column("value", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.Double, nullable=False),
        sa.Index(f"{ENTRIES}_ends", "ends"),
    )
    table.create(connection, checkfirst=True)
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def _add_column(connection: sa.Connection, name: str) -> None:
    """A column of digests with an index, null for what is there."""
    if name not in {column["name"] for column in sa.inspect(connection).get_columns(SESSIONS)}:
        kind = _ascii(64).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {SESSIONS} ADD COLUMN {name} {kind}")
    columns = _table(SESSIONS, sa.Column(name, _ascii(64)))
    sa.Index(f"{SESSIONS}_{name}", columns.c[name]).create(connection, checkfirst=True)


#: In their order; a step is never changed once it was released. MySQL commits after each statement, so each step must
#: be able to start over from where it broke off. A server of an older release goes on with a newer schema (machines are
#: not updated at the same moment), so a step must leave it what it needs.
STEPS: Sequence[Step] = (_first_tables, _finished_slots, _paths_and_sites, _shared_entries)


def upgrade_under_lock(connection: sa.Connection, begin: Sequence[str], end: Sequence[str]) -> None:
    """Take the steps that this database has not yet had, while no other process does. begin, end: see ``DatabaseSpec``.
    Raises ``SessionStoreUnreachable`` if another process keeps the lock."""
    for statement in begin:
        result = connection.exec_driver_sql(statement)
        if result.returns_rows and result.scalar() == 0:
            raise SessionStoreUnreachable  # MySQL's way to say that the lock is another's
    upgrade(connection)
    for statement in end:
        connection.exec_driver_sql(statement)


def upgrade(connection: sa.Connection, steps: Sequence[Step] = STEPS) -> None:
    """The same under a lock that the caller has taken."""
    version.create(connection, checkfirst=True)
    reached = connection.execute(sa.select(version.c.version)).scalar()
    if reached is None:
        reached = 0
        connection.execute(sa.insert(version).values(version=reached))
    for number, step in enumerate(steps[reached:], start=reached + 1):
        step(connection)
        connection.execute(sa.update(version).values(version=number))
