"""MySQL and MariaDB, through mysqlclient."""

from __future__ import annotations

import math
from typing import Any

# MySQLdb.connect imports these three on first use; two native threads that do so at once under gevent's locks hang.
import MySQLdb.connections  # type: ignore[import-untyped]
import MySQLdb.converters  # type: ignore[import-untyped]
import MySQLdb.cursors  # type: ignore[import-untyped]
import sqlalchemy as sa

from hmacfs.sessions.database_spec import DATABASE_TIMEOUT, DRIVERS_OWN, DatabaseSpec, Tls, make_engine

_CONNECTIONS = 8
_DEADLOCK = 1213
_SSL_CONNECTION_ERROR = 2026
_ENCRYPTED = ("require", "verify-full")
_SSL_MODES = {"disable": "DISABLED", "require": "REQUIRED", "verify-full": "VERIFY_IDENTITY"}


def open_mysql(
    host: str,
    port: int | None,
    user: str,
    password: str,
    database: str,
    *,
    tls: Tls = DRIVERS_OWN,
    timeout: float = DATABASE_TIMEOUT,
) -> DatabaseSpec:
    """A database; nothing is connected yet. ``host`` may be the path of a Unix socket; the driver takes ``localhost``
    without a port for the usual one."""
    seconds = math.ceil(timeout)
    if host == "localhost" and port is not None:
        host = "127.0.0.1"
    address = {"unix_socket": host} if host.startswith("/") else {"host": host, "port": port or 3306}
    # The lock's name counts for the whole server, the tables for one database.
    lock = f"CONCAT('hmacfs.', SHA1(DATABASE())), {seconds}"
    engine = make_engine(
        sa.URL.create("mysql+mysqldb"),
        **address,
        user=user,
        password=password,
        database=database,
        charset="utf8mb4",
        **({"ssl_mode": _SSL_MODES[tls.mode]} if tls.mode else {}),
        **({"ssl": {"ca": tls.ca}} if tls.ca else {}),
        connect_timeout=seconds,
        read_timeout=seconds,
        write_timeout=seconds,
        # The server gives up when we do, so that no statement we gave up on is carried out later.
        init_command=f"SET SESSION innodb_lock_wait_timeout={seconds}, lock_wait_timeout={seconds}, "
        "sql_mode=CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    )
    if tls.mode in _ENCRYPTED:
        sa.event.listen(engine, "connect", lambda connection, _: _check_encrypted(connection))
    return DatabaseSpec(
        name="mysql",
        engine=engine,
        begin=(f"SELECT GET_LOCK({lock})",),
        end=("SELECT RELEASE_LOCK(CONCAT('hmacfs.', SHA1(DATABASE())))",),
        is_passing=lambda error: bool(error.args) and error.args[0] == _DEADLOCK,
        timeout=timeout,
        connections=_CONNECTIONS,
    )


def _check_encrypted(connection: Any) -> None:
    """MariaDB's client library goes on without TLS where the server has none, whatever it was told."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
    if not (row and row[1]):
        connection.close()
        raise MySQLdb.OperationalError(_SSL_CONNECTION_ERROR, "the server speaks no TLS, which FallbackDBTLS requires")
