"""Real session stores: SQLite, Redis, PostgreSQL, MariaDB. They pass one contract, and survive what servers do."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from hmacfs.errors import SessionStoreUnavailable
from hmacfs.sessions import redis_store, schema, sql
from hmacfs.sessions.codec import digest
from hmacfs.sessions.database_spec import DatabaseAddress
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.sql import SqlStore
from hmacfs.sessions.statements import ENTRIES, SCHEMA_VERSION, SESSIONS, VERSION
from hmacfs.system.threads import ThreadOffload
from hmacfs.uploads.session import Session, State
from tests.contracts.entries import EntriesContract
from tests.contracts.entries_of_processes import ProcessesContract
from tests.contracts.session_stores import Backend, SessionStoreContract, SqliteBackend, session, together
from tests.servers import folder_of, wait_until
from tests.servers.machine import Duration
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

TTL = 3600.0
#: Seconds that a store is given for each call where a test waits for them.
SHORT = 1.0


Server = RedisServer | PostgresServer | MariaDBServer

with_server = pytest.mark.parametrize("running", ["redis", "postgres", "mariadb"], indirect=True)


class ServerBackend(Backend):
    server: Server


class RedisBackend(ServerBackend):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server

    @property
    def words(self) -> tuple[str, str]:
        return "redis", str(self.server.port)

    def clear(self) -> None:
        assert isinstance(self.server, RedisServer)
        with self.server.client() as client:
            client.flushall()

    def connections(self) -> int:
        assert isinstance(self.server, RedisServer)
        with self.server.client() as client:
            return len(client.client_list()) - 1


class SqlBackend(ServerBackend):
    kind: str
    count: str

    def __init__(self, server: PostgresServer | MariaDBServer) -> None:
        super().__init__()
        self.server = server

    @property
    def words(self) -> tuple[str, str]:
        return self.kind, str(self.server.port)

    def query(self, statement: str) -> list[tuple[object, ...]]:
        assert isinstance(self.server, (PostgresServer, MariaDBServer))
        return self.server.query(statement)

    def clear(self) -> None:
        self.query(f"DROP TABLE IF EXISTS {SESSIONS}, {ENTRIES}, {VERSION}")

    def connections(self) -> int:
        return int(str(self.query(self.count)[0][0])) - 1


class PostgresBackend(SqlBackend):
    kind = "postgres"
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hmacfs'"


class MariaDBBackend(SqlBackend):
    kind = "mariadb"
    count = "SELECT count(*) FROM information_schema.processlist WHERE user = 'hmacfs'"


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


@with_server
class TestContract(SessionStoreContract):
    """SQLite passes it among the unit tests."""


@with_server
class TestEntries(EntriesContract):
    """The same."""


@with_server
class TestProcesses(ProcessesContract):
    """The same."""


@pytest.fixture
def store(backend: Backend) -> Replica:
    return backend.open()


def test_workers_that_start_at_once_make_the_tables_once(backend: Backend) -> None:
    for _ in range(3):
        backend.close_stores()
        backend.clear()
        stores = [backend.open() for _ in range(8)]
        assert together(8, lambda worker, stores=stores: stores[worker].ping()) == [None] * 8  # type: ignore[misc]
        assert stores[0].create(session())
        assert stores[7].find("a/photo.jpg") is not None
        if isinstance(backend, SqlBackend):
            assert backend.query(f"SELECT version FROM {VERSION}") == [(SCHEMA_VERSION,)]


def _table_of_the_first_release() -> sa.TableClause:
    names = ("token", "open_slot", "open_owner", "state", "touched", "revision", "record")
    return sa.table(SESSIONS, *(sa.column(name) for name in names))


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
def test_the_tables_of_the_first_release_are_upgraded(backend: Backend, *, is_broken_off: bool) -> None:
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
        connection.execute(sa.insert(_table_of_the_first_release()), rows)
        if is_broken_off:
            schema.STEPS[1](connection)
            connection.execute(sa.update(schema.sessions).values(finished_slot=None))

    with closing(store._database.connect()) as database, database.schema_access() as access:
        of_the_first_release(access)
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
    table = _table_of_the_first_release()
    other = session("a/other")

    def write(connection: sa.Connection) -> None:
        schema.upgrade(connection, schema.STEPS[:1])
        row = {"token": other.key, "state": "open", "touched": 1.0, "revision": 0}
        connection.execute(sa.insert(table), {**row, "record": _record_of_the_first_release(other)})
        change = sa.update(table).where(table.c.token == made.key)
        connection.execute(change.values(state="finished", open_slot=None, revision=1))

    with closing(store._database.connect()) as database, database.schema_access() as access:
        write(access)
    assert store.get(other.key) == dataclasses.replace(other, dialect="range")
    assert store.of_path(other.path) == [], "its path is known once it is saved here"
    saved = store.save(dataclasses.replace(other, touched=2.0, dialect="range"))
    assert store.of_path(other.path) == [saved]
    assert store.find(made.path) is None
    assert store.find_finished(made.path) is None, "it is not known to have finished, which costs its client an answer"


def test_closing_gives_the_connections_back(backend: Backend) -> None:
    store = backend.open()
    together(4, lambda number: store.create(session(f"a/{number}")))
    assert backend.connections() > 0
    store.close()
    wait_until(lambda: backend.connections() == 0, what="the end of all connections")


@pytest.mark.parametrize("running", ["postgres"], indirect=True)
def test_a_server_that_takes_few_connections_is_not_taken_for_a_lost_one(backend: Backend) -> None:
    from hmacfs.sessions.postgres import open_postgres

    assert isinstance(backend, PostgresBackend)
    backend.query("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 2")
    backend.query("GRANT ALL ON SCHEMA public TO few")
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
        backend.query("DROP OWNED BY few")
        backend.query("DROP ROLE few")


@pytest.fixture
def server(backend: Backend) -> Server:
    assert isinstance(backend, ServerBackend)
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
