"""Shared entries in Redis: a hash for each, which expires once it may be forgotten."""

from __future__ import annotations

import secrets
from typing import cast

import redis

from hmacfs.sessions import redis_scripts
from hmacfs.sessions.codec import digest
from hmacfs.sessions.redis_errors import translated
from hmacfs.uploads.contracts.entries import KEPT_SECONDS, Entry

_PREFIX = "hmacfs:entry:"
_VERSION_BITS = 63


class RedisEntries:
    """An ``EntryTable``. What is said of ``RedisStore``'s errors holds here."""

    def __init__(self, client: redis.Redis) -> None:
        self._read = client.register_script(redis_scripts.READ_ENTRY)
        self._replace = client.register_script(redis_scripts.REPLACE_ENTRY)
        self._remove = client.register_script(redis_scripts.REMOVE_ENTRY)

    def read(self, key: str) -> Entry | None:
        with translated():
            found = cast("list[str] | None", self._read([_key(key)]))
        if found is None:
            return None
        value, version, seconds_left = found
        return Entry(value, int(version), float(seconds_left))

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        made = secrets.randbits(_VERSION_BITS)
        former, lasting = "" if version is None else version, "" if seconds is None else repr(seconds)
        with translated():
            is_made = self._replace([_key(key)], [former, made, value, lasting, KEPT_SECONDS])
        return made if is_made else None

    def remove(self, key: str, version: int) -> bool:
        with translated():
            return bool(self._remove([_key(key)], [version]))

    def forget(self) -> None:
        """They expire by themselves."""


def _key(key: str) -> str:
    return _PREFIX + digest(key)
