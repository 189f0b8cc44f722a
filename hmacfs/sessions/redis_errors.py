"""Redis' errors, as this project's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from hmacfs.errors import SessionStoreUnreachable


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Whatever Redis answers with but a result is ``SessionStoreUnreachable``."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise SessionStoreUnreachable from error
