"""The session store that the settings describe."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hmacfs.config import DatabaseHost, DatabaseTls, DatabaseType, Secret
from hmacfs.config.redis_address import RedisSettings
from hmacfs.errors import ConfigError, SessionStoreUnreachable
from hmacfs.masking import mask
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.replicated import ReplicatedSessionStore
from hmacfs.system.ownership import path_of, reason, unreadable
from hmacfs.system.threads import ThreadOffload

if TYPE_CHECKING:
    from hmacfs.sessions.database_spec import DatabaseSpec

_DATABASE_FILE = "sessions.sqlite3"
#: The drivers are extras of this package: what each type needs, and what the extra is called.
_DRIVERS = {DatabaseType.POSTGRES: "psycopg2", DatabaseType.MYSQL: "MySQLdb"}
#: mysqlclient has no wheels for Linux.
_COMPILED = " (it is compiled; on Debian that needs gcc, pkg-config, python3-dev and default-libmysqlclient-dev)"
_TITLES = {DatabaseType.POSTGRES: "PostgreSQL", DatabaseType.MYSQL: "MySQL"}


class SessionStoreSettings(RedisSettings, Protocol):
    """The part of ``hmacfs.config.Settings`` that says where sessions are kept."""

    @property
    def origins(self) -> Mapping[str, str]: ...
    @property
    def hidden(self) -> Sequence[str]: ...
    @property
    def state_dir(self) -> Path: ...
    @property
    def has_own_state_dir(self) -> bool: ...
    @property
    def reserved_folder(self) -> Path | None: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def retry_delay(self) -> float: ...
    @property
    def session_ttl(self) -> float: ...
    @property
    def fallback_enabled(self) -> bool: ...
    @property
    def fallback_db_type(self) -> DatabaseType: ...
    @property
    def fallback_db_host(self) -> DatabaseHost: ...
    @property
    def fallback_db_user(self) -> str: ...
    @property
    def fallback_db_password(self) -> Secret | None: ...
    @property
    def fallback_db_name(self) -> str: ...
    @property
    def fallback_db_tls(self) -> DatabaseTls: ...
    @property
    def fallback_db_tls_ca(self) -> Path | None: ...


def check_settings(settings: SessionStoreSettings) -> None:
    """Raises ``ConfigError`` if a driver is not installed or a certificate cannot be read. Connects to nothing and
    imports no driver, so a process that has yet to fork or to be patched may ask."""
    key = "RedisAddr"
    try:
        if settings.redis_addr:
            _require_driver("redis", "hmac-file-server[redis]")
        if settings.fallback_enabled:
            key = "FallbackDBType"
            kind = settings.fallback_db_type
            hint = _COMPILED if kind is DatabaseType.MYSQL else ""
            _require_driver(_DRIVERS[kind], f"hmac-file-server[{kind}]", hint=hint)
            key = "FallbackDBTLSCA"
            _check_ca(settings.fallback_db_tls_ca)
    except ValueError as error:
        raise ConfigError(f"{settings.origins[key]}: {error}") from None


def _check_ca(path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {unreadable(path or Path(), error)}") from None


def remote_stores(settings: SessionStoreSettings) -> list[str]:
    """The names of the servers that sessions are kept in, in the order they are asked; none for SQLite."""
    stores = ["Redis"] if settings.redis_addr else []
    return stores + ([_TITLES[settings.fallback_db_type]] if settings.fallback_enabled else [])


def unreachable(settings: SessionStoreSettings) -> Iterator[str]:
    """A sentence about each of those servers that does not answer within its timeout. Connects to each, and changes
    nothing there."""
    check_settings(settings)
    checks = [_redis_problem] if settings.redis_addr else []
    checks += [_database_problem] if settings.fallback_enabled else []
    for name, problem_of in zip(remote_stores(settings), checks, strict=True):
        if problem := problem_of(settings):
            yield mask(f"{name} does not serve: {problem}", settings.hidden)


def _redis_problem(settings: SessionStoreSettings) -> str:
    import redis  # an extra

    from hmacfs.redis_client import connect_configured

    client = connect_configured(settings, max_connections=1)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return _first_line(error)
    finally:
        client.close()
    return ""


def _database_problem(settings: SessionStoreSettings) -> str:
    from hmacfs.sessions.database import DatabaseError

    try:
        with contextlib.closing(_fallback(settings).connect()) as connection:
            connection.execute("SELECT 1")
    except DatabaseError as error:
        return _first_line(error.driver_error)
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_session_store(settings: SessionStoreSettings) -> ReplicatedSessionStore:
    """Redis if it is configured, replicated to the fallback database if that is enabled; the database alone; or SQLite
    in ``StateDir``. To be called once in each worker, after its fork.

    A server that does not answer now delays this by its timeout once and is probed in the background. Raises
    ``ConfigError``.
    """
    check_settings(settings)
    stores: list[Replica] = []
    if settings.redis_addr:
        stores.append(_redis(settings))
    if settings.fallback_enabled or not stores:
        stores.append(_database(settings))
    return ReplicatedSessionStore(stores, ttl=settings.session_ttl, retry_delay=settings.retry_delay)


def _redis(settings: SessionStoreSettings) -> Replica:
    from hmacfs.redis_client import connect_configured  # an extra
    from hmacfs.sessions import redis_store

    client = connect_configured(settings, max_connections=redis_store.CONNECTIONS)
    return redis_store.RedisStore(client, timeout=settings.redis_timeout, ttl=settings.session_ttl)


def _database(settings: SessionStoreSettings) -> Replica:
    from hmacfs.sessions.sql import SqlStore

    database = _fallback(settings) if settings.fallback_enabled else _embedded(settings)
    return SqlStore(database, ThreadOffload(database.connections), repeats=settings.max_retries)


def prepare_embedded(settings: SessionStoreSettings) -> None:
    """Make and upgrade the tables of SQLite, which these settings use, and leave nothing open. A database that does not
    answer, or that another process has locked, is each worker's to try again, and to tell. Raises ``ConfigError``, and
    whatever a step raises."""
    with contextlib.closing(_database(settings)) as store, contextlib.suppress(SessionStoreUnreachable):
        store.ping()


def _embedded(settings: SessionStoreSettings) -> DatabaseSpec:
    from hmacfs.sessions.sqlite import open_sqlite

    path = settings.state_dir / _DATABASE_FILE
    try:
        return open_sqlite(path)
    except OSError as error:
        key, about = "StateDir" if settings.has_own_state_dir else "StoreDir", path_of(error, path)
        raise ConfigError(f"{settings.origins[key]}: {about} cannot be written: {reason(about, error)}") from None


def forgotten_sessions(settings: SessionStoreSettings) -> Iterator[str]:
    """A sentence about the database that a server without ``StateDir`` has left in the store."""
    old, new = _old_database(settings), settings.state_dir / _DATABASE_FILE
    if old is not None and new.exists():
        yield (
            f"{settings.origins['StateDir']}: {old} is used no more, since sessions are in {new}: remove it, and the"
            " files whose names begin with its name"
        )


def sessions_to_move(settings: SessionStoreSettings) -> Iterator[str]:
    """A sentence about what ``move_sessions`` would do."""
    old = _old_database(settings)
    if old is not None and not (settings.state_dir / _DATABASE_FILE).exists():
        yield f"{settings.origins['StateDir']}: {old} is going to be moved to {settings.state_dir} by the next start"


def move_sessions(settings: SessionStoreSettings) -> Iterator[tuple[int, str]]:
    """For the start of a server that has got a ``StateDir``: move the database there, unless it has one. A line for the
    log and its level. Afterwards the unfinished uploads go on as if nothing had happened."""
    old, new = _old_database(settings), settings.state_dir / _DATABASE_FILE
    if old is None or new.exists():
        return
    import sqlite3

    from hmacfs.sessions.moving import move_database

    try:
        move_database(old, new)
    except (OSError, sqlite3.Error) as error:
        problem = f"{old} cannot be moved to {settings.state_dir} ({_first_line(error)})"
        remedy = "the unfinished uploads that it knows of cannot be resumed"
        yield logging.WARNING, f"{settings.origins['StateDir']}: {problem}: {remedy}"
    else:
        yield logging.INFO, f"moved the sessions of unfinished uploads from {old} to {settings.state_dir}"


def _old_database(settings: SessionStoreSettings) -> Path | None:
    """What this server would use without ``StateDir``; ``None`` if it would or does not, or has none."""
    if settings.reserved_folder is None or not settings.has_own_state_dir or remote_stores(settings):
        return None
    path = settings.reserved_folder / _DATABASE_FILE
    return path if path.exists() else None


def _fallback(settings: SessionStoreSettings) -> DatabaseSpec:
    from hmacfs.sessions.database_spec import DatabaseAddress, tls_of

    host, port = settings.fallback_db_host
    password = settings.fallback_db_password
    try:
        tls = tls_of(settings.fallback_db_tls, settings.fallback_db_tls_ca)
    except ValueError as error:
        raise ConfigError(f"{settings.origins['FallbackDBTLS']}: {error}") from None
    address = DatabaseAddress(
        host,
        port,
        settings.fallback_db_user,
        "" if password is None else password.reveal().decode(),
        settings.fallback_db_name,
        tls,
    )
    if settings.fallback_db_type is DatabaseType.MYSQL:
        from hmacfs.sessions.mysql import open_mysql  # an extra

        return open_mysql(address)
    from hmacfs.sessions.postgres import open_postgres  # an extra

    return open_postgres(address)


def _require_driver(module: str, package: str, hint: str = "") -> None:
    if find_spec(module) is None:
        raise ValueError(f"its driver is not installed: pip install '{package}'{hint}")
