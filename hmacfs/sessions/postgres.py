"""PostgreSQL, through psycopg2."""

from __future__ import annotations

import select
from typing import Any

import psycopg2  # type: ignore[import-untyped]
import psycopg2.errors  # type: ignore[import-untyped]
import psycopg2.extensions  # type: ignore[import-untyped]
import psycopg2.extras  # type: ignore[import-untyped]
import sqlalchemy as sa
from gevent import monkey

from hmacfs.sessions.database_spec import DATABASE_TIMEOUT, DatabaseAddress, DatabaseSpec
from hmacfs.sessions.engine import EngineConnection, make_engine

#: The number of an advisory lock, which other users of the same database are unlikely to choose.
_LOCK = 0x686D616366730001
_CONNECTIONS = 8

# These calls are made in native threads, where gevent's version would start an event loop of its own.
_poll = monkey.get_original("select", "poll")

_TRANSIENT = (psycopg2.errors.DeadlockDetected, psycopg2.errors.SerializationFailure)


class _ImpatientConnection(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection that waits at most ``patience`` milliseconds for each answer of its server."""

    patience = int(DATABASE_TIMEOUT * 1000)


def open_postgres(address: DatabaseAddress) -> DatabaseSpec:
    """The database at that address; nothing is connected yet."""
    psycopg2.extensions.set_wait_callback(_wait)
    factory = type("Connection", (_ImpatientConnection,), {"patience": int(address.timeout * 1000)})
    engine = make_engine(
        sa.URL.create("postgresql+psycopg2"),
        host=address.host,
        port=address.port or 5432,
        user=address.user,
        password=address.password,
        dbname=address.database,
        application_name="hmac-file-server",
        connection_factory=factory,
        # libpq's own default encrypts where it can; without a file it would look for certificates in the home folder.
        **({"sslmode": address.tls.mode} if address.tls.mode else {}),
        **({"sslrootcert": address.tls.ca} if address.tls.ca else {}),
    )
    sa.event.listen(engine, "connect", lambda connection, _: _limit_statements(connection, address.timeout))
    return DatabaseSpec(
        name="postgres",
        connect=lambda: EngineConnection(engine),
        clock="CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS double precision)",
        begin=("BEGIN", f"SELECT pg_advisory_xact_lock({_LOCK})"),
        end=("COMMIT",),
        is_transient=lambda error: isinstance(error, _TRANSIENT),
        timeout=address.timeout,
        connections=_CONNECTIONS,
    )


def _limit_statements(connection: Any, timeout: float) -> None:
    """The server gives up when we do, so that no statement we gave up on is carried out later."""
    connection.autocommit = True  # a rollback would undo it
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {int(timeout * 1000)}")


def _wait(connection: Any) -> None:
    """psycopg2 calls this while it waits for the server.

    libpq has no time limit for answers: a server that hangs with its connections open would keep the thread for ever.
    """
    if not isinstance(connection, _ImpatientConnection):
        psycopg2.extras.wait_select(connection)
        return
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        poller = _poll()
        poller.register(
            connection.fileno(), select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        )
        if not poller.poll(connection.patience):
            raise psycopg2.OperationalError("the server did not answer in time")
