"""The counters that the settings describe."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hmacfs.config.redis_address import RedisSettings
from hmacfs.errors import ConfigError
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.table import WindowTable
from hmacfs.rates.window import RemoteCounter
from hmacfs.system.ownership import reason


class CounterSettings(RedisSettings, Protocol):
    """The part of ``hmacfs.config.Settings`` that says where requests are counted."""

    @property
    def runtime_dir(self) -> Path: ...
    @property
    def retry_delay(self) -> float: ...


def open_counter(settings: CounterSettings) -> FailoverCounter:
    """The machine's table, and Redis if that is configured. To be called once in each worker, after its fork.

    A Redis that does not answer now delays this by its timeout once. Raises ``ConfigError``.
    """
    path = settings.runtime_dir / "rates"
    try:
        table = WindowTable(path)
    except OSError as error:
        raise ConfigError(f"RuntimeDir: {path} cannot be written: {reason(path, error)}") from None
    return FailoverCounter(table, _redis(settings) if settings.redis_addr else None, longest_pause=settings.retry_delay)


def _redis(settings: CounterSettings) -> RemoteCounter:
    from hmacfs.rates.redis_windows import CONNECTIONS, RedisWindows  # an extra
    from hmacfs.redis_client import connect_configured

    return RedisWindows(connect_configured(settings, max_connections=CONNECTIONS), timeout=settings.redis_timeout)
