"""One contract, four session stores: SQLite, Redis, PostgreSQL, MariaDB, each a real one."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from hmacfs.config.redis_address import parse_redis_address
from hmacfs.errors import SessionStoreUnavailable
from hmacfs.redis_client import connect
from hmacfs.sessions import redis_store, schema, sql
from hmacfs.sessions.codec import digest
from hmacfs.sessions.database_spec import DatabaseAddress, DatabaseSpec
from hmacfs.sessions.redis_store import CONNECTIONS, RedisStore
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.sql import SqlStore
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.system.threads import ThreadOffload
from hmacfs.uploads.session import CountedBy, Session, State
from tests.live.pieces import new_key
from tests.servers import folder_of, wait_until
from tests.servers.machine import Duration
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

TTL = 3600.0
#: What a store is given for each call, in seconds: more than a busy machine ever takes, and so short that a test can wait.
PATIENT, SHORT = 15.0, 1.0


class Backend:
    """A real server (or file) that several stores, as of several workers, can be opened on."""

    server: RedisServer | PostgresServer | MariaDBServer | None = None
    timeout = PATIENT

    def __init__(self) -> None:
        self.stores: list[Replica] = []

    def open(self) -> Replica:
        store = self._open()
        self.stores.append(store)
        return store

    def _open(self) -> Replica:
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all sessions, tables included."""
        raise NotImplementedError

    def connections(self) -> int:
        """How many the server has from its stores."""
        raise NotImplementedError

    def close_stores(self) -> None:
        while self.stores:
            self.stores.pop().close()


class SqliteBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / ".hmacfs" / "sessions.sqlite3"

    def _open(self) -> Replica:
        return SqlStore(open_sqlite(self.path, timeout=self.timeout), ThreadOffload(2), repeats=5)

    def clear(self) -> None:
        for path in self.path.parent.glob("sessions.sqlite3*"):
            path.unlink()

    def connections(self) -> int:
        log = self.path.resolve().with_name(f"{self.path.name}-wal")  # each connection opens it, and nobody else
        return sum(descriptor.resolve() == log for descriptor in Path("/proc/self/fd").iterdir())


class RedisBackend(Backend):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server

    def _open(self) -> Replica:
        assert isinstance(self.server, RedisServer)
        address = parse_redis_address(self.server.address)
        client = connect(address, password=None, database=0, timeout=self.timeout, max_connections=CONNECTIONS)
        return RedisStore(client, timeout=self.timeout, ttl=TTL)

    def clear(self) -> None:
        assert isinstance(self.server, RedisServer)
        with self.server.client() as client:
            client.flushall()

    def connections(self) -> int:
        assert isinstance(self.server, RedisServer)
        with self.server.client() as client:
            return len(client.client_list()) - 1


def address_of(server: PostgresServer | MariaDBServer, *, timeout: float) -> DatabaseAddress:
    return DatabaseAddress("127.0.0.1", server.port, "hmacfs", "hmacfs", "hmacfs", timeout=timeout)


class SqlBackend(Backend):
    count: str

    def __init__(self, server: PostgresServer | MariaDBServer) -> None:
        super().__init__()
        self.server = server

    def database(self) -> DatabaseSpec:
        raise NotImplementedError

    def _open(self) -> Replica:
        return SqlStore(self.database(), ThreadOffload(8), repeats=5)

    def query(self, statement: str) -> list[tuple[object, ...]]:
        assert isinstance(self.server, (PostgresServer, MariaDBServer))
        return self.server.query(statement)

    def clear(self) -> None:
        self.query(f"DROP TABLE IF EXISTS {schema.sessions.name}, {schema.version.name}")

    def connections(self) -> int:
        return int(str(self.query(self.count)[0][0])) - 1


class PostgresBackend(SqlBackend):
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hmacfs'"

    def database(self) -> DatabaseSpec:
        from hmacfs.sessions.postgres import open_postgres

        assert isinstance(self.server, PostgresServer)
        return open_postgres(address_of(self.server, timeout=self.timeout))


class MariaDBBackend(SqlBackend):
    count = "SELECT count(*) FROM information_schema.processlist WHERE user = 'hmacfs'"

    def database(self) -> DatabaseSpec:
        from hmacfs.sessions.mysql import open_mysql

        assert isinstance(self.server, MariaDBServer)
        return open_mysql(address_of(self.server, timeout=self.timeout))


@pytest.fixture(scope="module", params=["sqlite", "redis", "postgres", "mariadb"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    if request.param == "sqlite":
        yield SqliteBackend(tmp_path_factory.mktemp("sqlite"))
    elif request.param == "redis":
        with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
            yield RedisBackend(redis)
    elif request.param == "postgres":
        with folder_of("postgres") as folder, PostgresServer(folder) as postgres:
            yield PostgresBackend(postgres)
    else:
        with folder_of("mysql") as folder, MariaDBServer(folder) as mariadb:
            yield MariaDBBackend(mariadb)


@pytest.fixture
def backend(running: Backend) -> Iterator[Backend]:
    running.clear()
    yield running
    running.close_stores()


@pytest.fixture
def store(backend: Backend) -> Replica:
    return backend.open()


def session(path: str = "a/photo.jpg", **changes: object) -> Session:
    basic = Session(
        key=new_key(),
        path=path,
        slot=path,
        length=1_048_576,
        content_type="image/jpeg",
        owner="192.0.2.1",
        created=1_700_000_000.25,
        touched=1_700_000_001.123457,
    )
    return dataclasses.replace(basic, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"slot": None, "length": None, "content_type": None, "metadata": "filename d29ybGQ=,empty"},
        {"path": "0b7e/héllo wörld ☃ 🎉.jpg", "slot": "0b7e/héllo wörld ☃ 🎉.jpg"},
        {"path": "/".join(["☃" * 85] * 16)[:1365], "slot": "/".join(["☃" * 85] * 16)[:1365]},
        {"metadata": "x" * 16_384, "owner": "2001:db8::/64", "chunks": 2**31, "length": 2**53 - 1},
        {"metadata": "quotes ' \" \\ % %s :name ; -- \x00 \x7f \n", "content_type": 'text/plain; charset="utf-8"'},
    ],
    ids=["plain", "nothing", "unicode", "longest", "large", "hostile"],
)
def test_it_gives_back_what_it_was_given(backend: Backend, changes: dict[str, object]) -> None:
    store, other = backend.open(), backend.open()
    made = session(**changes)  # type: ignore[arg-type]
    assert store.create(made)
    assert other.get(made.key) == made
    assert other.find(made.path) == (made if made.slot else None)


def test_a_slot_has_one_open_session(store: Replica) -> None:
    first, second = session(), session()
    assert store.create(first)
    assert not store.create(second)
    assert store.get(second.key) is None
    assert store.find(first.path) == first


def test_sessions_without_a_slot_share_a_path(store: Replica) -> None:
    assert all(store.create(session(slot=None)) for _ in range(3))
    assert store.find("a/photo.jpg") is None


def test_a_creation_may_be_repeated_when_its_answer_was_lost(store: Replica) -> None:
    made = session()
    assert store.create(made)
    assert store.create(made)
    assert store.count_by_state()["open"] == 1


@pytest.mark.parametrize(
    "near", ["a/Photo.jpg", "a/photo.jpg ", "A/photo.jpg", "a/photo.jpé", "a/photo.jp", "a/photo%"]
)
def test_slots_are_compared_byte_by_byte(store: Replica, near: str) -> None:
    made, other = session(), session(near)
    assert store.create(made)
    assert store.find(near) is None
    assert store.create(other)
    assert (store.find("a/photo.jpg"), store.find(near)) == (made, other)


def test_normal_forms_of_a_name_are_different_slots(store: Replica) -> None:
    assert store.create(session("a/\u00e9"))
    assert store.create(session("a/e\u0301"))


@pytest.mark.parametrize("key", ["", " ", "a b", "tök", "a\0b", "' OR 1=1 --", "%", "x" * 5000, "*", "../x"])
def test_no_text_from_a_url_is_more_than_an_unknown_token(store: Replica, key: str) -> None:
    made = session()
    assert store.create(made)
    assert store.get(key) is None
    store.remove(key)
    assert store.get(made.key) == made


def test_tokens_are_compared_byte_by_byte(store: Replica) -> None:
    made = session(key="AbC-_x")
    assert store.create(made)
    assert [store.get(key) for key in ("abc-_x", "AbC-_x ", "AbC-_", "AbC-_x")] == [None, None, None, made]


def test_a_save_is_seen_by_every_worker(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    made = session()
    store.create(made)
    saved = store.save(dataclasses.replace(made, touched=made.touched + 1, chunks=7))
    assert (saved.revision, saved.chunks) == (made.revision + 1, 7)
    assert other.get(made.key) == other.find(made.path) == saved
    again = other.save(saved)
    assert again.revision == saved.revision + 1
    assert store.get(made.key) == again


def test_a_save_inserts_what_is_missing(store: Replica) -> None:
    saved = store.save(session(revision=4))
    assert saved.revision == 5
    assert store.get(saved.key) == store.find(saved.path) == saved


def test_the_last_save_counts_even_from_an_older_copy(store: Replica) -> None:
    made = session()
    store.create(made)
    for _ in range(3):
        store.save(dataclasses.replace(store.get(made.key) or made, chunks=1))
    saved = store.save(dataclasses.replace(made, chunks=9))
    assert (saved.revision, saved.chunks) == (4, 9)
    assert store.get(made.key) == saved


@pytest.mark.parametrize("end", [State.FINISHED, State.ABORTED])
def test_an_ended_session_gives_its_slot_back(store: Replica, end: State) -> None:
    made, following = session(), session()
    store.create(made)
    ended = store.save(dataclasses.replace(made, state=end))
    assert store.find(made.path) is None
    assert store.get(made.key) == ended
    assert store.count_open(CountedBy.OWNER, made.owner) == 0
    assert store.create(following)
    assert store.find(made.path) == following


def test_a_finished_session_is_found_by_its_slot(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    made, following, beside = session(), session(), session(slot=None)
    assert store.find_finished(made.path) is None
    store.create(made)
    store.create(beside)
    assert store.find_finished(made.path) is None
    ended = store.save(dataclasses.replace(made, state=State.FINISHED, etag='"1-2"', dialect="numbered", chunk_count=7))
    store.save(dataclasses.replace(beside, state=State.FINISHED, touched=made.touched + 5))
    assert other.find_finished(made.path) == ended
    assert other.find_finished("a/Photo.jpg") is None
    # Its file was removed, and the slot used again.
    later = store.put(dataclasses.replace(following, state=State.FINISHED, touched=made.touched + 1))
    assert other.find_finished(made.path) == later
    ended = store.save(dataclasses.replace(ended, chunks=7))
    assert other.find_finished(made.path) == later
    store.remove(later.key)
    store.remove(made.key)
    assert other.find_finished(made.path) is None


def test_an_aborted_session_is_not_found_by_its_slot(store: Replica) -> None:
    made = session()
    store.create(made)
    store.save(dataclasses.replace(made, state=State.ABORTED))
    assert store.find_finished(made.path) is None


def test_put_keeps_the_newer_of_two_copies(store: Replica) -> None:
    older = session(revision=3)
    newer = dataclasses.replace(older, revision=4, touched=older.touched - 100, chunks=2)
    later = dataclasses.replace(newer, touched=newer.touched + 1, chunks=3)
    assert store.put(older) == older
    assert store.put(newer) == newer
    assert store.put(older) == newer
    assert store.put(later) == later
    assert store.put(newer) == later
    assert store.put(later) == later
    assert store.get(older.key) == store.find(older.path) == later


def test_put_does_not_take_a_slot_from_another_session(store: Replica) -> None:
    holder, copy = session(), session()
    store.create(holder)
    assert store.put(copy) == copy
    assert store.get(copy.key) == copy
    assert store.find(copy.path) == holder
    saved = store.save(copy)
    assert store.get(copy.key) == saved
    assert store.find(copy.path) == holder


def test_remove_forgets_all_of_a_session(store: Replica) -> None:
    made = session()
    store.create(made)
    store.remove(made.key)
    store.remove(made.key)
    assert (store.get(made.key), store.find(made.path)) == (None, None)
    assert store.count_open(CountedBy.OWNER, made.owner) == 0
    assert sum(store.count_by_state().values()) == 0
    assert store.keys_since(0.0) == []
    assert store.create(session())


def test_removing_an_ended_session_leaves_its_slot_to_the_next(store: Replica) -> None:
    ended, following = session(), session()
    store.create(ended)
    store.save(dataclasses.replace(ended, state=State.ABORTED))
    store.create(following)
    store.remove(ended.key)
    assert store.find(following.path) == following


def test_stale_gives_the_oldest_of_any_state_first(store: Replica) -> None:
    made = [session(f"a/{age}", touched=1_700_000_000.5 - age) for age in (3, 1, 5, 2, 4)]
    for one in made:
        store.create(one)
    ended = store.save(dataclasses.replace(made[2], state=State.FINISHED))
    by_age = [ended, made[4], made[0], made[3], made[1]]
    assert store.stale(1_700_000_000.5, 10) == by_age
    assert store.stale(1_700_000_000.5, 2) == by_age[:2]
    assert store.stale(made[0].touched, 10) == by_age[:2]
    assert store.stale(made[0].touched - 60, 10) == []


def test_keys_since_a_time_include_that_time(store: Replica) -> None:
    made = [session(f"a/{age}", touched=1_700_000_000.125 - age) for age in (2, 1, 3)]
    for one in made:
        store.put(one)
    ended = store.save(dataclasses.replace(made[0], state=State.ABORTED))
    assert store.keys_since(made[0].touched) == [ended.key, made[1].key]
    assert store.keys_since(0.0) == [made[2].key, ended.key, made[1].key]
    assert store.keys_since(2e9) == []


def test_counts(store: Replica) -> None:
    for number in range(4):
        store.create(session(f"a/{number}", owner="one"))
    store.create(session("b", owner="two"))
    first = store.find("a/0")
    assert first is not None
    store.save(dataclasses.replace(first, state=State.FINISHED))
    assert [store.count_open(CountedBy.OWNER, owner) for owner in ("one", "two", "three")] == [3, 1, 0]
    assert store.count_by_state() == {"open": 4, "finished": 1, "aborted": 0}


def together(count: int, act: Callable[[int], object]) -> list[object]:
    """What ``count`` threads got that began at the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_one_of_many_concurrent_creations_wins(backend: Backend) -> None:
    stores = [backend.open() for _ in range(8)]
    for store in stores:
        store.ping()
    for number in range(10):
        path = f"a/{number}"
        won = together(8, lambda worker, path=path: stores[worker].create(session(path)))  # type: ignore[misc]
        assert sorted(map(str, won)) == ["False"] * 7 + ["True"]
        assert stores[0].find(path) is not None


def test_concurrent_saves_of_different_sessions_all_stay(backend: Backend) -> None:
    stores = [backend.open() for _ in range(6)]

    def save_often(worker: int) -> Session:
        own = session(f"a/{worker}")
        assert stores[worker].create(own)
        for number in range(20):
            own = stores[worker].save(dataclasses.replace(own, chunks=number + 1))
        return own

    saved = together(6, save_often)
    assert [stores[0].get(one.key) for one in saved if isinstance(one, Session)] == saved
    assert stores[0].count_open(CountedBy.OWNER, "192.0.2.1") == 6


def test_every_connection_of_a_store_commits(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    store.ping()
    saved = together(8, lambda number: store.save(session(f"a/{number}")))
    assert [other.get(one.key) for one in saved if isinstance(one, Session)] == saved


def test_workers_that_start_at_once_make_the_tables_once(backend: Backend) -> None:
    for _ in range(3):
        backend.close_stores()
        backend.clear()
        stores = [backend.open() for _ in range(8)]
        assert together(8, lambda worker, stores=stores: stores[worker].ping()) == [None] * 8  # type: ignore[misc]
        assert stores[0].create(session())
        assert stores[7].find("a/photo.jpg") is not None
        if isinstance(backend, SqlBackend):
            assert backend.query(f"SELECT version FROM {schema.version.name}") == [(len(schema.STEPS),)]


def _columns_of_the_first_release(table: sa.TableClause) -> sa.TableClause:
    names = ("token", "open_slot", "open_owner", "state", "touched", "revision", "record")
    return sa.table(table.name, *(sa.column(name) for name in names))


def _record_of_the_first_release(made: Session) -> str:
    fields = dataclasses.asdict(made)
    later = {"key", "dialect", "chunk_count", "etag", "nonce", "site", "next_chunk_at"}
    return json.dumps({"token": made.key, **{name: fields[name] for name in fields if name not in later}})


def test_a_record_of_the_first_release_says_where_the_next_chunk_begins(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.open()
    store.ping()
    made = session(dialect="numbered", next_chunk_at=40_000, chunks=1)
    with monkeypatch.context() as patched:
        for module in (sql, redis_store):
            older = lambda one: _record_of_the_first_release(dataclasses.replace(one, metadata="40000"))  # noqa: E731
            patched.setattr(module, "encode", older)
        assert store.create(made)
    assert store.get(made.key) == store.find(made.path) == made
    saved = store.save(dataclasses.replace(made, next_chunk_at=80_000, chunks=2))
    assert store.get(made.key) == saved


@pytest.mark.parametrize("is_broken_off", [False, True])
def test_the_tables_of_the_first_release_are_upgraded(
    backend: Backend, *, is_broken_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it had remembered is known as it was, though an upgrade was broken off."""
    store = backend.open()
    if not isinstance(store, SqlStore):
        pytest.skip("Redis has no tables")
    made = [session(f"a/{number}") for number in range(schema._PAGE + 20)]
    made[0] = dataclasses.replace(made[0], slot=None, metadata="filename eA==")
    made[1] = dataclasses.replace(made[1], metadata="40000", chunks=1)
    states = [State.FINISHED, State.ABORTED, *[State.FINISHED] * (len(made) - 3), State.OPEN]
    made = [dataclasses.replace(one, state=state) for one, state in zip(made, states, strict=True)]

    def of_the_first_release(connection: sa.Connection) -> None:
        schema.upgrade(connection, schema.STEPS[:1])
        rows = [
            {
                "token": one.key,
                "open_slot": digest(one.path) if one.state is State.OPEN else None,
                "state": str(one.state),
                "touched": one.touched,
                "revision": one.revision,
                "record": _record_of_the_first_release(one),
            }
            for one in made
        ]
        connection.execute(sa.insert(_columns_of_the_first_release(schema.sessions)), rows)
        if is_broken_off:
            schema.STEPS[1](connection)
            connection.execute(sa.update(schema.sessions).values(finished_slot=None))

    monkeypatch.setattr(store, "_upgrade", of_the_first_release)
    store._prepare()
    upgraded = backend.open()
    assert upgraded.find_finished(made[-2].path) == dataclasses.replace(made[-2], dialect="range")
    assert upgraded.find_finished(made[2].path) == dataclasses.replace(made[2], dialect="range")
    assert upgraded.find_finished(made[1].path) is None
    assert upgraded.find_finished(made[0].path) is None
    assert upgraded.get(made[0].key) == dataclasses.replace(made[0], dialect="tus")
    numbered = dataclasses.replace(made[1], dialect="numbered", metadata="", next_chunk_at=40_000)
    assert upgraded.get(made[1].key) == numbered
    assert upgraded.find(made[-1].path) == dataclasses.replace(made[-1], dialect="range")
    ended = upgraded.save(dataclasses.replace(made[-1], state=State.FINISHED))
    assert upgraded.find_finished(made[-1].path) == ended
    assert upgraded.of_path(made[0].path) == [dataclasses.replace(made[0], dialect="tus")]
    assert upgraded.of_path(made[-1].path) == [ended]


def test_a_server_of_the_first_release_goes_on_beside_a_newer_one(backend: Backend) -> None:
    store = backend.open()
    if not isinstance(store, SqlStore):
        pytest.skip("Redis has no tables")
    made = session()
    store.create(made)
    table = _columns_of_the_first_release(schema.sessions)
    other = session("a/other")

    def write(connection: sa.Connection) -> None:
        schema.upgrade(connection, schema.STEPS[:1])
        row = {"token": other.key, "state": "open", "touched": 1.0, "revision": 0}
        connection.execute(sa.insert(table), {**row, "record": _record_of_the_first_release(other)})
        change = sa.update(table).where(table.c.token == made.key)
        connection.execute(change.values(state="finished", open_slot=None, revision=1))

    store._attempt(write)
    assert store.get(other.key) == dataclasses.replace(other, dialect="range")
    assert store.of_path(other.path) == [], "its path is known once it is saved here"
    saved = store.save(dataclasses.replace(other, touched=2.0, dialect="range"))
    assert store.of_path(other.path) == [saved]
    assert store.find(made.path) is None
    assert store.find_finished(made.path) is None, "it is not known to have finished, which costs its client an answer"


def test_all_sessions_of_a_path_are_known(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    path = "0b7e/" + "☃" * 400
    made = [session(path), session(path, slot=None), session(path, slot=None), session("a/b")]
    for one in made:
        assert store.create(one)
    made[1] = store.save(dataclasses.replace(made[1], state=State.ABORTED, touched=made[1].touched + 1))

    def known(path: str) -> dict[str, Session]:
        found = other.of_path(path)
        assert len({one.key for one in found}) == len(found)
        return {one.key: one for one in found}

    assert known(path) == {one.key: one for one in made[:3]}
    assert known("a/b") == {made[3].key: made[3]}
    assert known("a/B") == {}
    store.remove(made[0].key)
    store.remove(made[1].key)
    assert known(path) == {made[2].key: made[2]}
    put = other.put(session(path, slot=None))
    assert known(path) == {made[2].key: made[2], put.key: put}


def test_open_sessions_are_known_by_owner_and_by_site(store: Replica) -> None:
    made = [
        session(f"a/{number}", owner=f"2001:db8::{number % 2}", site="2001:db8::/48", touched=1_700_000_100.0 - number)
        for number in range(6)
    ]
    for one in made:
        store.create(one)
    store.create(session("b", owner="192.0.2.1"))
    assert store.count_open(CountedBy.SITE, "2001:db8::/48") == 6
    assert [store.count_open(CountedBy.OWNER, f"2001:db8::{number}") for number in (0, 1, 2)] == [3, 3, 0]
    assert (store.count_open(CountedBy.SITE, ""), store.open_of(CountedBy.SITE, "", 5)) == (0, [])
    assert store.open_of(CountedBy.SITE, "2001:db8::/48", 2) == [made[5], made[4]]
    assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[4], made[2], made[0]]
    ended = store.save(dataclasses.replace(made[4], state=State.FINISHED))
    assert store.count_open(CountedBy.SITE, "2001:db8::/48") == 5
    assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[2], made[0]]
    store.remove(made[2].key)
    store.remove(ended.key)
    assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[0]]
    touched = store.save(dataclasses.replace(made[5], touched=1_700_000_200.0))
    assert store.open_of(CountedBy.SITE, "2001:db8::/48", 9) == [made[3], made[1], made[0], touched]


def test_closing_gives_the_connections_back(backend: Backend) -> None:
    store = backend.open()
    together(4, lambda number: store.create(session(f"a/{number}")))
    assert backend.connections() > 0
    store.close()
    wait_until(lambda: backend.connections() == 0, what="the end of all connections")


@pytest.mark.parametrize("running", ["postgres"], indirect=True)
def test_a_server_that_takes_few_connections_is_not_taken_for_a_lost_one(backend: Backend) -> None:
    from hmacfs.sessions.postgres import open_postgres

    assert isinstance(backend.server, PostgresServer)
    backend.server.query("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 2")
    backend.server.query("GRANT ALL ON SCHEMA public TO few")
    try:
        database = open_postgres(DatabaseAddress("127.0.0.1", backend.server.port, "few", "few", "hmacfs"))
        store = SqlStore(database, ThreadOffload(8), repeats=0)
        store.ping()
        for turn in range(10):
            made = together(8, lambda number, turn=turn: store.create(session(f"{turn}/{number}")))  # type: ignore[misc]
            assert made == [True] * 8
        store.close()
    finally:
        backend.clear()
        backend.server.query("DROP OWNED BY few")
        backend.server.query("DROP ROLE few")


with_server = pytest.mark.parametrize("running", ["redis", "postgres", "mariadb"], indirect=True)
Server = RedisServer | PostgresServer | MariaDBServer


@pytest.fixture
def server(backend: Backend) -> Server:
    assert backend.server is not None
    return backend.server


@with_server
def test_a_restarted_server_is_not_noticed(store: Replica, server: Server) -> None:
    """Connections that the restart has cut are replaced without an error."""
    together(3, lambda number: store.create(session(f"a/{number}")))
    server.kill()
    server.start()
    made = session("a/next")
    store.ping()
    assert store.create(made)
    assert store.find(made.path) == made


@with_server
def test_a_dead_server_is_unavailable_at_once(store: Replica, server: Server) -> None:
    store.ping()
    server.kill()
    try:
        for operation in (store.ping, lambda: store.get("token"), lambda: store.stale(0.0, 1)):
            with Duration() as own, pytest.raises(SessionStoreUnavailable) as raised:
                operation()
            assert own.seconds < 0.5
            assert raised.value.__cause__ is not None
    finally:
        server.start()
    assert store.get("token") is None


@with_server
def test_a_server_that_hangs_costs_a_bounded_time(
    backend: Backend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = session()
    backend.open().create(made)  # which makes the tables
    monkeypatch.setattr(backend, "timeout", SHORT)
    store = backend.open()
    assert store.get(made.key) == made
    server.pause()
    try:
        began = time.monotonic()
        with Duration() as own:
            with pytest.raises(SessionStoreUnavailable):
                store.get(made.key)
            with pytest.raises(SessionStoreUnavailable):  # with a new connection
                store.save(made)
        assert time.monotonic() - began > 0.9 * SHORT
        assert own.seconds < 2.5 * SHORT
    finally:
        server.resume()
    assert store.get(made.key) in (made, dataclasses.replace(made, revision=1))


@pytest.mark.parametrize("running", ["postgres", "mariadb"], indirect=True)
def test_a_database_emptied_under_way_gets_its_tables_again(backend: Backend) -> None:
    store = backend.open()
    store.create(session())
    backend.clear()
    with pytest.raises(SessionStoreUnavailable):
        store.find("a/photo.jpg")
    store.ping()
    assert store.find("a/photo.jpg") is None
