"""Sessions in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import redis

from hmacfs.sessions import redis_scripts
from hmacfs.sessions.codec import decode, digest, encode, is_key, save_with
from hmacfs.sessions.redis_entries import RedisEntries
from hmacfs.sessions.redis_errors import translated
from hmacfs.uploads.session import CountedBy, Session, State

_PREFIX = "hmacfs:session:"
_STATES = tuple(map(str, State))
_STATE_KEYS = [f"hmacfs:state:{state}" for state in _STATES]
#: Holds the identity of the server whose data were last known to be complete. If it is missing, or another server's,
#: this one started empty, from an old snapshot, or was a replica that lagged.
_COMPLETE_KEY = "hmacfs:whole"
_PING_KEY = "hmacfs:ping"

#: Operations at once; each has a connection of its own. The probe and the copying of sessions come on top.
_CONCURRENCY = 64
CONNECTIONS = _CONCURRENCY + 16
#: As many as there are.
_ALL = 1_000_000


class RedisStore:
    """A ``Replica`` in Redis. Every error that Redis answers with (it is loading, a replica, out of memory, cannot
    save, wants a password) is ``SessionStoreUnreachable``.

    ttl: ``SessionTTL`` in seconds.
    """

    name = "redis"
    concurrency = _CONCURRENCY
    is_durable = False

    def __init__(self, client: redis.Redis, *, timeout: float, ttl: float) -> None:
        self.timeout = timeout
        self._redis = client
        self._key_seconds = int(2 * ttl) + 3600
        self._server = ""
        self._lost: Callable[[], None] = lambda: None
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._greet
        self.entries = RedisEntries(client)
        self._create = client.register_script(redis_scripts.CREATE)
        self._put = client.register_script(redis_scripts.PUT)
        self._remove = client.register_script(redis_scripts.REMOVE)
        self._find = client.register_script(redis_scripts.FIND)
        self._count_open = client.register_script(redis_scripts.COUNT)
        self._oldest_of = client.register_script(redis_scripts.OLDEST)

    def create(self, session: Session) -> bool:
        with translated():
            return bool(self._create(*self._arguments(session)))

    def get(self, key: str) -> Session | None:
        if not is_key(key):
            return None
        with translated():
            record = cast("str | None", self._redis.hget(_PREFIX + key, "record"))
        return None if record is None else decode(record)

    def find(self, slot: str) -> Session | None:
        with translated():
            record = cast("str | None", self._find([_index("slot", slot)], [_PREFIX]))
        session = None if record is None else decode(record)
        return session if session is not None and session.slot == slot and session.state is State.OPEN else None

    def find_finished(self, slot: str) -> Session | None:
        with translated():
            record = cast("str | None", self._find([_index("finished", slot)], [_PREFIX]))
        session = None if record is None else decode(record)
        return session if session is not None and session.slot == slot and session.state is State.FINISHED else None

    def put(self, session: Session) -> Session:
        with translated():
            newer = cast("str | None", self._put(*self._arguments(session)))
        return session if newer is None else decode(newer)

    def save(self, session: Session) -> Session:
        return save_with(self.put, session)

    def remove(self, key: str) -> None:
        if not is_key(key):
            return
        with translated():
            self._remove([_PREFIX + key, *_STATE_KEYS], [key])

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        found: list[Session] = []
        with translated():
            for index in _STATE_KEYS:
                found += self._oldest(index, touched_before, limit)
        return sorted(found, key=lambda session: (session.touched, session.key))[:limit]

    def _oldest(self, index: str, touched_before: float, limit: int) -> list[Session]:
        """The oldest sessions of a state's set. Members without a session are removed from it."""
        found: list[Session] = []
        while len(found) < limit:
            keys = self._redis.zrange(
                index, "-inf", f"({touched_before!r}", byscore=True, offset=len(found), num=limit - len(found)
            )
            records = self._records(cast("list[str]", keys))
            found += [decode(record) for record in records.values() if record is not None]
            gone = [key for key, record in records.items() if record is None]
            if not gone:
                break
            self._redis.zrem(index, *gone)
        return found

    def _records(self, keys: list[str]) -> dict[str, str | None]:
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.hget(_PREFIX + key, "record")
        return dict(zip(keys, pipeline.execute(), strict=True))

    def keys_since(self, touched: float) -> list[str]:
        scored: list[tuple[str, float]] = []
        with translated():
            for index in _STATE_KEYS:
                found = self._redis.zrange(index, repr(touched), "+inf", byscore=True, withscores=True)
                scored += cast("list[tuple[str, float]]", found)
        return [key for key, _ in sorted(scored, key=lambda pair: (pair[1], pair[0]))]

    def of_path(self, path: str) -> list[Session]:
        return self._members(_index("path", path), _ALL)

    def count_open(self, by: CountedBy, who: str) -> int:
        with translated():
            return int(cast("int", self._count_open([_index(by, who)], [_PREFIX])))

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        return self._members(_index(by, who), limit)

    def _members(self, index: str, limit: int) -> list[Session]:
        """Of an index's sessions, those that were touched longest ago first."""
        with translated():
            records = cast("list[str]", self._oldest_of([index], [_PREFIX, limit]))
        return [decode(record) for record in records]

    def count_by_state(self) -> dict[str, int]:
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for index in _STATE_KEYS:
                pipeline.zcard(index)
            return dict(zip(_STATES, pipeline.execute(), strict=True))

    def ping(self) -> None:
        """By writing: a Redis that can only be read is of no use."""
        with translated():
            self._redis.set(_PING_KEY, "1", ex=60)

    def close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            self._redis.close()

    def is_complete(self) -> bool:
        with translated():
            declared = self._redis.get(_COMPLETE_KEY)
        return bool(self._server) and declared == self._server

    def mark_complete(self) -> None:
        with translated():
            self._redis.set(_COMPLETE_KEY, self._server)

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._lost = callback

    def _greet(self, connection: Any) -> None:
        """Begin a connection as redis-py does, and ask for the server's identity, which changes at each start."""
        try:
            connection.on_connect()
            server = self._ask_identity(connection)
        except BaseException:
            connection.disconnect()  # or the rest of the greeting would be read as the next operation's answer
            raise
        before, self._server = self._server, server
        if before and before != server:
            self._lost()

    @staticmethod
    def _ask_identity(connection: Any) -> str:
        """Empty if the server tells none."""
        connection.send_command("INFO", "server")
        try:
            answer = connection.read_response()
        except redis.ResponseError:
            return ""
        text = answer if isinstance(answer, str) else bytes(answer).decode()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return fields.get("run_id", "")

    def _arguments(self, session: Session) -> tuple[list[str], list[Any]]:
        """A storing script's KEYS and ARGV."""
        indexes = [
            _index("slot", session.slot),
            _index("finished", session.slot),
            _index(CountedBy.OWNER, session.owner),
            _index(CountedBy.SITE, session.site or None),
            _index("path", session.path),
        ]
        keys = [_PREFIX + session.key, *indexes, *_STATE_KEYS]
        values = [_PREFIX, session.key, session.revision, repr(session.touched), str(session.state), encode(session)]
        return keys, [*values, self._key_seconds, *_STATES]


def _index(kind: str, text: str | None) -> str:
    """The key of the index of sessions with this text; empty if there is none."""
    return "" if text is None else f"hmacfs:{kind}:{digest(text)}"
