"""What ``test_session_replication.py`` runs, each in a process of its own that gevent has patched as it does a worker.

A scenario starts the servers it needs, breaks them, and asserts what must hold; it prints what it measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import logging
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent

from hmacfs.config.redis_address import parse_redis_address
from hmacfs.errors import SessionStoreUnavailable
from hmacfs.redis_client import connect
from hmacfs.sessions.database_spec import DatabaseAddress
from hmacfs.sessions.postgres import open_postgres
from hmacfs.sessions.redis_store import CONNECTIONS, RedisStore
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.replicated import ReplicatedSessionStore
from hmacfs.sessions.sql import SqlStore
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.system.threads import ThreadOffload
from hmacfs.uploads.session import CountedBy, Session, State
from tests.live.pieces import new_key
from tests.servers import wait_until
from tests.servers.machine import OwnClock
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

PASSED, FAILED = "== passed", "== failed"
#: Seconds after which a scenario counts as hanging; then all threads' stacks are printed.
SCENARIO_TIMEOUT = 120

REDIS_TIMEOUT = 0.4
DATABASE_TIMEOUT = 2.0
RETRY_DELAY = 0.3
#: How long the event loop may stand still, in seconds by ``own_clock``.
LONGEST_GAP = 0.1

#: A machine that does other things as well makes everything here slower, and is no fault of the stores.
own_clock = OwnClock()

Database = PostgresServer | MariaDBServer


class Lines(logging.Handler):
    """What the replicated store logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def of(self, name: str) -> list[str]:
        """The transitions of a store, in their order: "lost" and "back"."""
        return [line.split()[4].rstrip(":") for line in self.lines if line.startswith(f"session store {name} is ")]


class Stage:
    """A worker's replicated store over real servers, and the means to break them."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.redis = RedisServer(folder / "redis")
        self.database = database
        self.log = Lines()
        logging.getLogger("hmacfs.sessions").addHandler(self.log)
        logging.getLogger("hmacfs.sessions").setLevel(logging.INFO)
        self._opened: list[ReplicatedSessionStore] = []
        self._uploads: list[Uploads] = []

    def redis_store(self) -> RedisStore:
        address = parse_redis_address(self.redis.address)
        client = connect(address, password=None, database=0, timeout=REDIS_TIMEOUT, max_connections=CONNECTIONS)
        return RedisStore(client, timeout=REDIS_TIMEOUT, ttl=3600)

    def database_store(self) -> SqlStore:
        address = DatabaseAddress(
            "127.0.0.1", self.database.port, "hmacfs", "hmacfs", "hmacfs", timeout=DATABASE_TIMEOUT
        )
        if isinstance(self.database, PostgresServer):
            database = open_postgres(address)
        else:
            from hmacfs.sessions.mysql import open_mysql  # whose driver may not be installed

            database = open_mysql(address)
        return SqlStore(database, ThreadOffload(database.connections), repeats=5)

    @property
    def sqlite_file(self) -> Path:
        return self.redis.folder / "sessions.sqlite3"

    def sqlite_store(self) -> SqlStore:
        database = open_sqlite(self.sqlite_file, timeout=DATABASE_TIMEOUT)
        return SqlStore(database, ThreadOffload(database.connections), repeats=5)

    def replicated(self, *stores: Replica) -> ReplicatedSessionStore:
        """As a worker opens it when it starts."""
        replicated = ReplicatedSessionStore(
            stores or (self.redis_store(), self.database_store()), ttl=3600, retry_delay=RETRY_DELAY
        )
        self._opened.append(replicated)
        return replicated

    def uploads(self, replicated: ReplicatedSessionStore, count: int) -> Uploads:
        uploads = Uploads(replicated, count)
        self._uploads.append(uploads)
        return uploads

    def settle(self, replicated: ReplicatedSessionStore) -> None:
        """Wait until all stores are there and up to date."""
        wait_until(
            lambda: all(link.is_closed and link.stale_since is None for link in replicated._connections),
            what="recovery",
        )

    def close(self) -> None:
        logging.getLogger("hmacfs.sessions").removeHandler(self.log)
        for uploads in self._uploads:
            uploads.kill()
        for replicated in self._opened:
            replicated.close()
        self.redis.kill()
        self.database.resume()


@contextlib.contextmanager
def ticking(longest: float = LONGEST_GAP) -> Iterator[None]:
    """Asserts that the event loop never stood still for longer."""
    gaps = [0.0]

    def tick() -> None:
        last = own_clock()
        while True:
            gevent.sleep(0.002)
            now = own_clock()
            gaps.append(now - last)
            last = now

    ticker = gevent.spawn(tick)
    try:
        yield
    finally:
        ticker.kill()
    print(f"longest gap of the event loop: {max(gaps) * 1000:.0f} ms")
    assert max(gaps) < longest


class Calls:
    """Counts the calls of a store's operations."""

    def __init__(self, store: Replica, *names: str) -> None:
        self.count = 0
        for name in names:
            setattr(store, name, self._counting(getattr(store, name)))

    def _counting(self, operation: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self.count += 1
            return operation(*arguments)

        return call


def timed(operation: Callable[[], object]) -> float:
    began = own_clock()
    operation()
    return own_clock() - began


def unavailable(operation: Callable[[], object]) -> bool:
    try:
        operation()
    except SessionStoreUnavailable:
        return True
    return False


def session(path: str, **changes: object) -> Session:
    now = time.time()
    basic = Session(new_key(), path, path, 1000, "image/jpeg", "192.0.2.1", created=now, touched=now)
    return dataclasses.replace(basic, **changes)  # type: ignore[arg-type]


class Uploads:
    """Upload sessions that go on and on, each in a greenlet, and check that the replicated store remembers each step. A
    refused one may have been saved: by a store that is killed between its commit and its answer."""

    def __init__(self, replicated: ReplicatedSessionStore, count: int) -> None:
        self._replicated = replicated
        self._is_over = False
        self.steps = 0
        self.slowest = 0.0
        self.refused = 0
        self.latest = {made.key: made for made in (session(f"uploads/{number}") for number in range(count))}
        assert all(replicated.create(made) for made in self.latest.values())
        self._greenlets = [gevent.spawn(self._go_on, key) for key in self.latest]

    def _go_on(self, key: str) -> None:
        possible = [self.latest[key]]
        while not self._is_over:
            began = own_clock()
            try:
                found = self._replicated.get(key)
                assert found in possible, f"{found} instead of one of {possible}"
                by_slot = self._replicated.find(found.path)
                assert by_slot == found
                changed = dataclasses.replace(found, chunks=found.chunks + 1, touched=time.time())
                possible = [found, dataclasses.replace(changed, revision=found.revision + 1)]
                self.latest[key] = self._replicated.save(changed)
                possible = [self.latest[key]]
                self.steps += 1
            except SessionStoreUnavailable:
                self.refused += 1
            self.slowest = max(self.slowest, own_clock() - began)
            gevent.sleep(0.02)

    def run(self, seconds: float) -> None:
        """Let them go on for a while; they must get on."""
        before = self.steps
        gevent.sleep(seconds)

        def got_on() -> bool:
            gevent.joinall([greenlet for greenlet in self._greenlets if greenlet.ready()], raise_error=True)
            return self.steps > before

        wait_until(got_on, what="a step of some upload")

    def end(self) -> None:
        self._is_over = True
        gevent.joinall(self._greenlets, raise_error=True)
        print(f"{self.steps} steps, {self.refused} refused, the slowest took {self.slowest * 1000:.0f} ms")

    def kill(self) -> None:
        gevent.killall(self._greenlets)

    def are_in(self, *stores: Replica) -> bool:
        """Whether each store has the latest of all of them."""
        return all(store.get(key) == latest for store in stores for key, latest in self.latest.items())


# -- scenarios ------------------------------------------------------------------------------------


def redis_killed_and_restarted_empty(stage: Stage) -> None:
    replicated = stage.replicated()
    assert replicated.status().active == "redis"
    with ticking():
        uploads = stage.uploads(replicated, 20)
        uploads.run(0.3)
        stage.redis.kill()
        uploads.run(0.5)
        assert replicated.status().active == stage.database.type
        stage.redis.start()
        stage.settle(replicated)
        assert replicated.status().active == "redis"
        uploads.run(0.3)
        uploads.end()
    assert uploads.refused == 0
    assert uploads.slowest < REDIS_TIMEOUT
    assert uploads.are_in(stage.redis_store(), stage.database_store())
    assert stage.log.of("redis") == ["lost", "back"]
    assert stage.log.of(stage.database.type) == []


def redis_hangs_and_goes_on(stage: Stage) -> None:
    redis = stage.redis_store()
    calls = Calls(redis, "get", "find", "put")
    replicated = stage.replicated(redis, stage.database_store())
    with ticking():
        uploads = stage.uploads(replicated, 20)
        uploads.run(0.3)
        stage.redis.pause()
        uploads.run(REDIS_TIMEOUT + 0.2)
        assert replicated.status().active == stage.database.type
        print(f"while Redis hangs, a step takes {uploads.slowest * 1000:.0f} ms at most")
        assert uploads.slowest < 1.5 * REDIS_TIMEOUT + 0.1
        before = calls.count
        uploads.run(1.0)
        assert calls.count == before, "nobody but the probe tries it again"
        stage.redis.resume()
        stage.settle(replicated)
        uploads.run(0.3)
        uploads.end()
    assert uploads.refused == 0
    assert uploads.are_in(stage.redis_store(), stage.database_store())
    assert stage.log.of("redis") == ["lost", "back"]


def many_requests_find_redis_hanging_at_once(stage: Stage) -> None:
    """None of them pays more than one timeout, though there are more of them than connections."""
    replicated = stage.replicated()
    made = session("a")
    replicated.create(made)
    stage.redis.pause()
    costs: list[float] = []

    def ask() -> None:
        costs.append(timed(lambda: replicated.get(made.key)))

    with ticking(0.3):
        gevent.joinall([gevent.spawn(ask) for _ in range(300)], raise_error=True)
    print(f"300 requests took {min(costs) * 1000:.0f} to {max(costs) * 1000:.0f} ms")
    assert max(costs) < REDIS_TIMEOUT + 0.4
    assert timed(lambda: replicated.get(made.key)) < 0.1
    assert stage.log.of("redis") == ["lost"]


def redis_restarted_from_an_old_snapshot(stage: Stage) -> None:
    """No request notices the restart itself; the first one after it must not believe what Redis then has."""
    replicated = stage.replicated()
    made = [session(f"a/{number}") for number in range(5)]
    for one in made:
        replicated.create(one)
    with stage.redis.client() as client:
        client.save()
    newest = [replicated.save(dataclasses.replace(one, chunks=5)) for one in made]
    ended = replicated.save(dataclasses.replace(newest[4], state=State.FINISHED))
    following = session("a/4")
    assert replicated.create(following)
    stage.redis.kill()
    stage.redis.start()
    assert replicated.get(made[0].key) == newest[0]
    assert replicated.find("a/1") == newest[1]
    assert replicated.find("a/4") == following
    stage.settle(replicated)
    assert stage.redis_store().get(made[4].key) == ended
    assert [stage.redis_store().find(f"a/{number}") for number in range(5)] == [*newest[:4], following]
    assert any("was restarted" in line for line in stage.log.lines)


def redis_evicts_keys(stage: Stage) -> None:
    """Any one of them, and all."""
    replicated = stage.replicated()
    made = session("a")
    other = session("b", slot=None)
    replicated.create(made)
    replicated.create(other)
    with stage.redis.client() as client:
        for key in [*client.keys(), None]:
            before = replicated.get(made.key)
            if key is None:
                client.flushall()
            else:
                client.delete(key)
            assert replicated.find("a") == replicated.get(made.key) == before
            assert replicated.get(other.key) == other
            assert not replicated.create(session("a"))
            assert replicated.count_open(CountedBy.OWNER, "192.0.2.1") == 2
            assert before is not None
            saved = replicated.save(before)
            assert stage.redis_store().find("a") == saved


def the_database_is_killed_beside_redis(stage: Stage) -> None:
    replicated = stage.replicated()
    with ticking():
        uploads = stage.uploads(replicated, 20)
        uploads.run(0.3)
        stage.database.kill()
        uploads.run(0.5)
        meanwhile = session("meanwhile")
        assert replicated.find("meanwhile") is None
        assert replicated.create(meanwhile)
        assert not replicated.create(session("meanwhile"))
        gone = next(iter(uploads.latest))
        assert unavailable(lambda: replicated.get(new_key())), "the database may know it"
        assert replicated.status().active == "redis"
        gevent.spawn(stage.database.start).join()
        stage.settle(replicated)
        uploads.run(0.3)
        uploads.end()
    assert replicated.get(new_key()) is None
    assert uploads.refused == 0
    assert uploads.are_in(stage.redis_store(), stage.database_store())
    assert stage.database_store().find("meanwhile") == meanwhile
    assert stage.log.of(stage.database.type) == ["lost", "back"]
    stage.redis.kill()
    assert replicated.get(gone) == uploads.latest[gone]
    assert replicated.find("meanwhile") == meanwhile


def the_active_database_is_killed(stage: Stage) -> None:
    """With Redis away too: refused at once, and nothing lost when it comes back."""
    replicated = stage.replicated()
    stage.redis.kill()
    with ticking():
        uploads = stage.uploads(replicated, 20)
        uploads.run(0.3)
        stage.database.kill()
        gevent.sleep(0.1)
        for operation in (
            lambda: replicated.get(new_key()),
            lambda: replicated.find("a"),
            lambda: replicated.create(session("a")),
            lambda: replicated.stale(time.time(), 10),
            lambda: replicated.count_open(CountedBy.OWNER, "192.0.2.1"),
            lambda: replicated.remove(new_key()),
            replicated.ping,
        ):
            assert timed(lambda operation=operation: unavailable(operation) or sys.exit("answered")) < 0.05  # type: ignore[misc]
        assert replicated.status().active == ""
        gevent.spawn(stage.database.start).join()
        wait_until(lambda: replicated.status().active == stage.database.type, what="the database's return")
        uploads.run(0.3)
        uploads.end()
    assert uploads.refused > 0
    assert uploads.are_in(stage.database_store())


def stores_come_one_after_the_other(stage: Stage) -> None:
    """Nothing is there when the worker starts; sessions are begun with the one, then with the other."""
    stage.redis.kill()
    stage.database.kill()
    replicated = stage.replicated()
    assert unavailable(lambda: replicated.create(session("a")))
    assert list(replicated.status().is_up.values()) == [False, False]
    stage.redis.start()
    wait_until(lambda: replicated.status().active == "redis", what="Redis's return")
    with_redis = session("with redis")
    assert replicated.create(with_redis)
    stage.redis.pause()
    assert unavailable(lambda: replicated.get(with_redis.key))
    gevent.spawn(stage.database.start).join()
    wait_until(lambda: replicated.status().active == stage.database.type, what="the database's return")
    with_database = session("with database")
    assert replicated.create(with_database)
    stage.redis.resume()
    stage.settle(replicated)
    for store in (stage.redis_store(), stage.database_store(), replicated):
        assert store.get(with_redis.key) == store.find("with redis") == with_redis
        assert store.get(with_database.key) == store.find("with database") == with_database


def a_database_that_missed_sessions_does_not_deny_them(stage: Stage) -> None:
    replicated = stage.replicated()
    known = session("known")
    replicated.create(known)
    stage.database.kill()
    missed = session("missed")
    assert replicated.create(missed)
    stage.redis.pause()
    assert unavailable(lambda: replicated.get(missed.key))
    gevent.spawn(stage.database.start).join()
    wait_until(lambda: replicated.status().active == stage.database.type, what="the database's return")
    assert replicated.get(known.key) == known
    assert unavailable(lambda: replicated.get(missed.key))
    assert unavailable(lambda: replicated.find("missed"))
    assert unavailable(lambda: replicated.stale(time.time() + 60, 10))
    stage.redis.resume()
    stage.settle(replicated)
    assert replicated.get(missed.key) == stage.database_store().get(missed.key) == missed


def slots_stay_unique_over_transitions(stage: Stage) -> None:
    replicated, other_worker = stage.replicated(), stage.replicated()
    first = session("a")
    assert replicated.create(first)
    stage.redis.kill()
    assert not replicated.create(session("a"))
    second = session("b")
    assert other_worker.create(second)
    stage.redis.start()
    for worker in (replicated, other_worker):
        stage.settle(worker)
        assert not worker.create(session("a"))
        assert not worker.create(session("b"))
        assert (worker.find("a"), worker.find("b")) == (first, second)
    with stage.redis.client() as client:
        client.flushall()
    refused = session("a")
    assert not replicated.create(refused)
    assert stage.redis_store().get(refused.key) is None


def what_is_removed_during_an_outage_stays_removed(stage: Stage) -> None:
    replicated = stage.replicated()
    made = [session(f"a/{number}") for number in range(3)]
    for one in made:
        replicated.create(one)
    replicated.remove(made[0].key)
    stage.redis.pause()
    replicated.remove(made[1].key)
    stage.redis.resume()
    stage.settle(replicated)
    stage.database.kill()
    replicated.remove(made[2].key)
    gevent.spawn(stage.database.start).join()
    stage.settle(replicated)
    for store in (stage.redis_store(), stage.database_store()):
        assert [store.get(one.key) for one in made] == [None, None, None]
    assert replicated.count_by_state()["open"] == 0


def a_sweep_sees_the_newest_copies(stage: Stage) -> None:
    replicated = stage.replicated()
    old = time.time() - 5000
    resting, resumed = session("resting", touched=old), session("resumed", touched=old + 1)
    replicated.create(resting)
    replicated.create(resumed)
    assert replicated.stale(time.time() - 1000, 10) == [resting, resumed]
    saved = stage.redis_store().save(dataclasses.replace(resumed, touched=time.time()))
    assert replicated.stale(time.time() - 1000, 10) == [resting]
    assert stage.database_store().get(resumed.key) == saved
    only_redis = session("only redis", touched=old - 1)
    stage.redis_store().create(only_redis)
    assert replicated.stale(time.time() - 1000, 1) == [only_redis]


def the_database_hangs_beside_redis(stage: Stage) -> None:
    database = stage.database_store()
    calls = Calls(database, "get", "find", "put")
    replicated = stage.replicated(stage.redis_store(), database)
    with ticking():
        uploads = stage.uploads(replicated, 20)
        uploads.run(0.3)
        stage.database.pause()
        uploads.run(DATABASE_TIMEOUT + 0.5)
        print(f"while the database hangs, a step takes {uploads.slowest * 1000:.0f} ms at most")
        assert uploads.slowest < 1.5 * DATABASE_TIMEOUT
        before = calls.count
        uploads.run(0.5)
        assert calls.count == before, "nobody but the probe tries it again"
        stage.database.resume()
        stage.settle(replicated)
        uploads.end()
    assert uploads.refused == 0
    assert uploads.are_in(stage.redis_store(), stage.database_store())
    assert stage.log.of(stage.database.type) == ["lost", "back"]


def the_database_takes_a_second_for_each_statement(stage: Stage) -> None:
    """While it is the only store: everything gets slow, but for the event loop."""
    stage.redis.kill()
    replicated = stage.replicated(stage.database_store())
    made = [session(f"a/{number}") for number in range(10)]
    for one in made:
        replicated.create(one)
    if isinstance(stage.database, PostgresServer):
        stage.database.query(
            "CREATE OR REPLACE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END' LANGUAGE plpgsql"
        )
        stage.database.query(
            "CREATE TRIGGER slow BEFORE UPDATE ON hmacfs_sessions FOR EACH ROW EXECUTE FUNCTION slow()"
        )
    else:
        stage.database.query("CREATE TRIGGER slow BEFORE UPDATE ON hmacfs_sessions FOR EACH ROW DO SLEEP(1)")
    with ticking():
        began, own_began = time.monotonic(), own_clock()
        greenlets = [gevent.spawn(replicated.save, one) for one in made]
        gevent.joinall(greenlets, raise_error=True)
        elapsed, own = time.monotonic() - began, own_clock() - own_began
    print(f"10 saves of 1 s took {elapsed:.1f} s")
    assert elapsed > 1
    assert own < 3
    assert stage.log.lines == []


def everybody_comes_at_once_to_a_fresh_worker(stage: Stage) -> None:
    """First connections, of which drivers and SQLAlchemy made deadlocks, and then all that the threads can take."""
    everybody_comes_at_once(stage, stage.database_store())


def everybody_comes_at_once_to_sqlite(stage: Stage) -> None:
    everybody_comes_at_once(stage, stage.sqlite_store())


def everybody_comes_at_once(stage: Stage, store: Replica) -> None:
    replicated = stage.replicated(store)
    finished = 0

    def work(number: int) -> None:
        nonlocal finished
        own = session(f"a/{number}")
        assert replicated.create(own)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            own = replicated.save(own)
            assert replicated.get(own.key) == own
            finished += 2

    with ticking(0.25), gevent.Timeout(20):
        gevent.joinall([gevent.spawn(work, number) for number in range(60)], raise_error=True)
    print(f"{finished} operations in 1.5 s")
    assert stage.log.lines == []


def sqlite_is_locked_by_another_process(stage: Stage) -> None:
    replicated = stage.replicated(stage.sqlite_store())
    made = session("a")
    assert replicated.create(made)
    other = sqlite3.connect(stage.sqlite_file, isolation_level=None)
    with ticking(), contextlib.closing(other):
        other.execute("BEGIN EXCLUSIVE")
        saving = gevent.spawn(replicated.save, made)
        gevent.sleep(0.5)
        assert not saving.ready()
        assert replicated.get(made.key) == made, "WAL: readers go on"
        other.execute("COMMIT")
        assert saving.get(timeout=5).revision == 1
    assert stage.log.lines == []


def main(kind: str, folder: str, database_folder: str) -> None:
    """Run the scenarios whose names come on standard input, one a line, and tell of each how it ended. All of them use
    the database that was made in the last folder."""
    kinds: dict[str, type[Database]] = {"postgres": PostgresServer, "mysql": MariaDBServer}
    with kinds[kind](Path(database_folder)) as database:
        for number, line in enumerate(sys.stdin):
            faulthandler.dump_traceback_later(SCENARIO_TIMEOUT, exit=True)
            try:
                run(line.strip(), Path(folder) / str(number), database)
                print(PASSED, flush=True)
            except Exception:
                traceback.print_exc(file=sys.stdout)
                print(FAILED, flush=True)


def run(name: str, folder: Path, database: Database) -> None:
    if not database.answers():
        database.start()
    database.query("DROP TABLE IF EXISTS hmacfs_sessions, hmacfs_entries, hmacfs_schema")
    stage = Stage(folder, database)
    stage.redis.start()
    try:
        globals()[name](stage)
    finally:
        stage.close()
        print("\n".join(stage.log.lines))
