"""Windows in Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, cast

import redis

from hmacfs.rates.window import Unreachable, Window

#: Operations at once, each on a connection of its own; the probe's comes on top.
CONCURRENCY = 16
CONNECTIONS = CONCURRENCY + 2

_PREFIX = "hmacfs:rate:"
_PING_KEY = "hmacfs:rate-ping"

#: KEYS: the window. ARGV: requests, milliseconds until it ends if it is opened now. A key without an end would stay.
_HIT = """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
return {count, left}
"""


class RedisWindows:
    """A ``RemoteCounter``. Every error that Redis answers with is ``Unreachable``."""

    concurrency = CONCURRENCY

    def __init__(self, client: redis.Redis, *, timeout: float) -> None:
        self.timeout = timeout
        self._redis = client

    def hit(self, key: str, left: float, amount: int) -> Window:
        with _translated():
            # Not by the script's hash: a Redis that was restarted does not know the script.
            answer = self._redis.eval(_HIT, 1, _PREFIX + key, str(amount), str(max(1, round(left * 1000))))
            count, milliseconds = cast("list[int]", answer)
        return Window(count, time.time() + milliseconds / 1000)

    def forget(self, key: str) -> None:
        with _translated():
            self._redis.delete(_PREFIX + key)

    def ping(self) -> None:
        """By writing: a Redis that can only be read is of no use."""
        with _translated():
            self._redis.set(_PING_KEY, "1", ex=60)

    def close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            cast("Any", self._redis).close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError, ValueError, TypeError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
