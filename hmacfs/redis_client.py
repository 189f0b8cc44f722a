"""A client for the server that ``RedisAddr`` names. Its driver is an extra: to be imported only where it is needed."""

from __future__ import annotations

from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from hmacfs.config.redis_address import RedisAddress, RedisServer, RedisSettings


def connect_configured(settings: RedisSettings, *, max_connections: int) -> redis.Redis:
    """A client for the server that the settings name."""
    assert settings.redis_addr is not None
    password = settings.redis_password
    return connect(
        settings.redis_addr,
        password=(password.reveal().decode() if password is not None else "") or None,
        database=settings.redis_db,
        timeout=settings.redis_timeout,
        max_connections=max_connections,
    )


def connect(
    address: RedisAddress,
    *,
    username: str | None = None,
    password: str | None,
    database: int,
    timeout: float,
    max_connections: int,
) -> redis.Redis:
    """A client; nothing is connected yet. What the address says itself goes before the arguments.

    timeout: seconds for connecting and for each answer. redis-py's own retries are off: the caller decides.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "max_connections": max_connections,
        "protocol": 2,  # its handshake is shorter, and the server pushes nothing
    }
    if isinstance(address, RedisServer):
        if address.url.startswith("rediss:") and "ssl_cert_reqs" not in address.url:
            options["ssl_check_hostname"] = True  # redis-py before its sixth release does not
        return redis.Redis.from_url(
            address.url, **{"username": username, "password": password, "db": database, **options}
        )
    # A request may have to ask each of them before it can connect, and all that within the time of one.
    patience = timeout / (len(address.addresses) + 1)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.addresses,
        sentinel_kwargs={
            **options,
            "socket_timeout": patience,
            "socket_connect_timeout": patience,
            "username": address.sentinel_username,
            "password": address.sentinel_password,
            "ssl": address.is_tls,
        },
        **options,
        username=address.username or username,
        password=password if address.password is None else address.password,
        db=database if address.database is None else address.database,
        ssl=address.is_tls,
    )
    return cast("redis.Redis", sentinel.master_for(address.service))  # type: ignore[no-untyped-call]
