"""The counters that the settings describe."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hmacfs.config import Secret
from hmacfs.errors import ConfigError
from hmacfs.rates.switch import Switch
from hmacfs.rates.table import WindowTable
from hmacfs.rates.window import RemoteWindows
from hmacfs.redis_address import parse_redis_address


class CounterSettings(Protocol):
    """The part of ``hmacfs.config.Settings`` that says where requests are counted."""

    @property
    def runtime_dir(self) -> Path: ...
    @property
    def retry_delay(self) -> float: ...
    @property
    def redis_addr(self) -> str: ...
    @property
    def redis_password(self) -> Secret | None: ...
    @property
    def redis_db(self) -> int: ...
    @property
    def redis_timeout(self) -> float: ...


def open_counter(settings: CounterSettings) -> Switch:
    """The machine's table, and Redis if that is configured. To be called once in each worker, after its fork.

    A Redis that does not answer now delays this by its timeout once. Raises ``ConfigError``.
    """
    path = settings.runtime_dir / "rates"
    try:
        table = WindowTable(path)
    except OSError as error:
        raise ConfigError(f"RuntimeDir: {path} cannot be written: {error.strerror}") from None
    return Switch(table, _redis(settings) if settings.redis_addr else None, longest_pause=settings.retry_delay)


def _redis(settings: CounterSettings) -> RemoteWindows:
    from hmacfs.rates.redis_windows import CONNECTIONS, RedisWindows  # an extra
    from hmacfs.redis_client import connect

    password = settings.redis_password
    client = connect(
        parse_redis_address(settings.redis_addr),
        password=(password.reveal().decode() if password is not None else "") or None,
        database=settings.redis_db,
        timeout=settings.redis_timeout,
        max_connections=CONNECTIONS,
    )
    return RedisWindows(client, timeout=settings.redis_timeout)
