"""Sessions in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import redis

from hmacfs.errors import SessionStoreUnavailable
from hmacfs.sessions import redis_scripts
from hmacfs.sessions.records import decode, digest, encode, is_token, save_with
from hmacfs.uploads.session import Session, State

_PREFIX = "hmacfs:session:"
_STATES = tuple(map(str, State))
_STATE_KEYS = [f"hmacfs:state:{state}" for state in _STATES]
#: Holds the identity of the server whose data were last known to be complete. Not there, or another's: a server that
#: started empty, from an old snapshot, or was a replica that lagged behind.
_WHOLE_KEY = "hmacfs:whole"
_PING_KEY = "hmacfs:ping"

#: Operations at once; each has a connection of its own. The probe and the copying of sessions come on top.
_CONCURRENCY = 64
CONNECTIONS = _CONCURRENCY + 16
_PAGE = 100


class RedisStore:
    """A ``Replica`` in Redis. Whatever Redis answers but what was asked for (it is loading, a replica, out of memory,
    cannot save, wants a password) is ``SessionStoreUnavailable``.

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
        self._create = client.register_script(redis_scripts.CREATE)
        self._put = client.register_script(redis_scripts.PUT)
        self._remove = client.register_script(redis_scripts.REMOVE)
        self._find = client.register_script(redis_scripts.FIND)
        self._count_open = client.register_script(redis_scripts.COUNT_OPEN)

    def create(self, session: Session) -> bool:
        with _translated():
            return bool(self._create(*self._arguments(session)))

    def get(self, token: str) -> Session | None:
        if not is_token(token):
            return None
        with _translated():
            record = cast("str | None", self._redis.hget(_PREFIX + token, "record"))
        return None if record is None else decode(record)

    def find(self, slot: str) -> Session | None:
        with _translated():
            record = cast("str | None", self._find([_slot_key(slot)], [_PREFIX]))
        session = None if record is None else decode(record)
        return session if session is not None and session.slot == slot and session.state is State.OPEN else None

    def find_finished(self, slot: str) -> Session | None:
        with _translated():
            record = cast("str | None", self._find([_finished_key(slot)], [_PREFIX]))
        session = None if record is None else decode(record)
        return session if session is not None and session.slot == slot and session.state is State.FINISHED else None

    def put(self, session: Session) -> Session:
        with _translated():
            newer = cast("str | None", self._put(*self._arguments(session)))
        return session if newer is None else decode(newer)

    def save(self, session: Session) -> Session:
        return save_with(self.put, session)

    def remove(self, token: str) -> None:
        if not is_token(token):
            return
        with _translated():
            self._remove([_PREFIX + token, *_STATE_KEYS], [token])

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        found: list[Session] = []
        with _translated():
            for key in _STATE_KEYS:
                found += self._oldest(key, touched_before, limit)
        return sorted(found, key=lambda session: (session.touched, session.token))[:limit]

    def _oldest(self, key: str, touched_before: float, limit: int) -> list[Session]:
        """The oldest sessions of a state's set; what the set holds beyond them is cleared away on the way."""
        found: list[Session] = []
        while len(found) < limit:
            tokens = self._redis.zrange(
                key, "-inf", f"({touched_before!r}", byscore=True, offset=len(found), num=limit - len(found)
            )
            records = self._records(cast("list[str]", tokens))
            found += [decode(record) for record in records.values() if record is not None]
            gone = [token for token, record in records.items() if record is None]
            if not gone:
                break
            self._redis.zrem(key, *gone)
        return found

    def _records(self, tokens: list[str]) -> dict[str, str | None]:
        pipeline = self._redis.pipeline(transaction=False)
        for token in tokens:
            pipeline.hget(_PREFIX + token, "record")
        return dict(zip(tokens, pipeline.execute(), strict=True))

    def tokens_since(self, touched: float) -> list[str]:
        scored: list[tuple[str, float]] = []
        with _translated():
            for key in _STATE_KEYS:
                found = self._redis.zrange(key, repr(touched), "+inf", byscore=True, withscores=True)
                scored += cast("list[tuple[str, float]]", found)
        return [token for token, _ in sorted(scored, key=lambda pair: (pair[1], pair[0]))]

    def count_open(self, owner: str) -> int:
        with _translated():
            return int(cast("int", self._count_open([_owner_key(owner)], [_PREFIX])))

    def count_by_state(self) -> dict[str, int]:
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            for key in _STATE_KEYS:
                pipeline.zcard(key)
            return dict(zip(_STATES, pipeline.execute(), strict=True))

    def ping(self) -> None:
        """By writing: a Redis that can only be read is of no use."""
        with _translated():
            self._redis.set(_PING_KEY, "1", ex=60)

    def close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            self._redis.close()

    def is_whole(self) -> bool:
        with _translated():
            declared = self._redis.get(_WHOLE_KEY)
        return bool(self._server) and declared == self._server

    def declare_whole(self) -> None:
        with _translated():
            self._redis.set(_WHOLE_KEY, self._server)

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._lost = callback

    def _greet(self, connection: Any) -> None:
        """Begin a connection as redis-py does, and look whose it is: each start of a server has an identity."""
        try:
            connection.on_connect()
            server = self._ask_identity(connection)
        except BaseException:
            connection.disconnect()  # half a greeting must not be taken for an answer by whoever has it next
            raise
        before, self._server = self._server, server
        if before and before != server:
            self._lost()

    @staticmethod
    def _ask_identity(connection: Any) -> str:
        """Empty if the server does not tell."""
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
        slot, finished = ("", "") if session.slot is None else (_slot_key(session.slot), _finished_key(session.slot))
        keys = [_PREFIX + session.token, slot, _owner_key(session.owner), finished, *_STATE_KEYS]
        values = [_PREFIX, session.token, session.revision, repr(session.touched), str(session.state), encode(session)]
        return keys, [*values, self._key_seconds, *_STATES]


def _slot_key(slot: str) -> str:
    return f"hmacfs:slot:{digest(slot)}"


def _finished_key(slot: str) -> str:
    return f"hmacfs:finished:{digest(slot)}"


def _owner_key(owner: str) -> str:
    return f"hmacfs:owner:{digest(owner)}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise SessionStoreUnavailable from error
