"""MySQL and MariaDB, through mysqlclient."""

from __future__ import annotations

import math
from typing import Any

# MySQLdb.connect imports these three on first use; two native threads that do so at once under gevent's locks hang.
import MySQLdb.connections  # type: ignore[import-untyped]
import MySQLdb.converters  # type: ignore[import-untyped]
import MySQLdb.cursors  # type: ignore[import-untyped]
import sqlalchemy as sa

from hmacfs.sessions.database_spec import DatabaseAddress, DatabaseSpec
from hmacfs.sessions.engine import EngineConnection, make_engine

_CONNECTIONS = 8
_DEADLOCK = 1213
_SSL_CONNECTION_ERROR = 2026
_ENCRYPTED = ("require", "verify-full")
_SSL_MODES = {"disable": "DISABLED", "require": "REQUIRED", "verify-full": "VERIFY_IDENTITY"}


def open_mysql(address: DatabaseAddress) -> DatabaseSpec:
    """The database at that address; nothing is connected yet. To the driver, ``localhost`` without a port is the usual
    Unix socket."""
    seconds = math.ceil(address.timeout)
    # The lock's name counts for the whole server, the tables for one database.
    lock = f"CONCAT('hmacfs.', SHA1(DATABASE())), {seconds}"
    engine = make_engine(
        sa.URL.create("mysql+mysqldb"),
        **_host(address),
        user=address.user,
        password=address.password,
        database=address.database,
        charset="utf8mb4",
        **({"ssl_mode": _SSL_MODES[address.tls.mode]} if address.tls.mode else {}),
        **({"ssl": {"ca": address.tls.ca}} if address.tls.ca else {}),
        connect_timeout=seconds,
        read_timeout=seconds,
        write_timeout=seconds,
        # The server gives up when we do, so that no statement we gave up on is carried out later.
        init_command=f"SET SESSION innodb_lock_wait_timeout={seconds}, lock_wait_timeout={seconds}, "
        "sql_mode=CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    )
    if address.tls.mode in _ENCRYPTED:
        sa.event.listen(engine, "connect", lambda connection, _: _check_encrypted(connection))
    return DatabaseSpec(
        name="mysql",
        connect=lambda: EngineConnection(engine),
        # By local time, an hour of the autumn would come twice.
        clock="(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000e0)",
        begin=(f"SELECT GET_LOCK({lock})",),
        end=("SELECT RELEASE_LOCK(CONCAT('hmacfs.', SHA1(DATABASE())))",),
        is_transient=lambda error: bool(error.args) and error.args[0] == _DEADLOCK,
        timeout=address.timeout,
        connections=_CONNECTIONS,
    )


def _host(address: DatabaseAddress) -> dict[str, Any]:
    if address.host.startswith("/"):
        return {"unix_socket": address.host}
    is_local = address.host == "localhost" and address.port is not None
    return {"host": "127.0.0.1" if is_local else address.host, "port": address.port or 3306}


def _check_encrypted(connection: Any) -> None:
    """MariaDB's client library goes on without TLS where the server has none, whatever it was told."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
    if not (row and row[1]):
        connection.close()
        raise MySQLdb.OperationalError(_SSL_CONNECTION_ERROR, "the server speaks no TLS, which FallbackDBTLS requires")
