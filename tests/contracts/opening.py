"""Opens a session store by two words, so that a test can have another process open the same one."""

from __future__ import annotations

from pathlib import Path

from hmacfs.sessions.database_spec import DatabaseAddress
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.sql import SqlStore
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.system.threads import ThreadOffload

TTL = 3600.0


def open_store(kind: str, where: str, *, timeout: float) -> Replica:
    """kind: ``sqlite``, ``redis``, ``postgres`` or ``mariadb``. where: its file, or its port."""
    if kind == "sqlite":
        return SqlStore(open_sqlite(Path(where), timeout=timeout), ThreadOffload(2), repeats=5)
    if kind == "redis":
        from hmacfs.config.redis_address import parse_redis_address
        from hmacfs.redis_client import connect
        from hmacfs.sessions.redis_store import CONNECTIONS, RedisStore

        address = parse_redis_address(f"127.0.0.1:{where}")
        client = connect(address, password=None, database=0, timeout=timeout, max_connections=CONNECTIONS)
        return RedisStore(client, timeout=timeout, ttl=TTL)
    at = DatabaseAddress("127.0.0.1", int(where), "hmacfs", "hmacfs", "hmacfs", timeout=timeout)
    if kind == "postgres":
        from hmacfs.sessions.postgres import open_postgres

        return SqlStore(open_postgres(at), ThreadOffload(8), repeats=5)
    from hmacfs.sessions.mysql import open_mysql

    return SqlStore(open_mysql(at), ThreadOffload(8), repeats=5)
