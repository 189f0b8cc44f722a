"""Twenty uploads in pieces, of all dialects, while what they depend on is killed, stopped and started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import psutil
import pytest

from tests.live.pieces import DIALECTS, Upload, begun, persist
from tests.servers import folder_of, wait_until
from tests.servers.hmacfs import HmacFileServer, fallback
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.alone

StartServer = Callable[..., HmacFileServer]
Database = PostgresServer | MariaDBServer

COUNT = 20
PIECE = 256 * 1024
PIECES = 16
#: A piece takes an eighth of a second at this rate, so that at any moment nearly all clients are in the middle of one.
RATE = 8 * PIECE
#: The fault begins once each upload has so many pieces, and no upload goes beyond the other number until it is over.
BEGUN, ALMOST_DONE = 3, 12

_addresses = (f"192.0.2.{number % 250}" for number in range(10**9))


def another_address() -> dict[str, str]:
    """As behind a proxy, whose client has moved into another network since its last request."""
    return {"x_forwarded_for": next(_addresses)}


class Fleet:
    """The uploads, each with a client that persists. As a context: they run while the fault happens in it, and are
    complete after it."""

    def __init__(self, server: HmacFileServer, headers: Callable[[], dict[str, str]] = dict) -> None:
        self.tally: Counter[str] = Counter()
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(COUNT)
        self._server = server
        self.uploads: list[Upload] = [
            DIALECTS[number % len(DIALECTS)](server, f"fleet/{number}", os.urandom(PIECES * PIECE), PIECE, headers)
            for number in range(COUNT)
        ]
        self._running: list[Future[None]] = []

    def _before_piece(self, upload: Upload) -> None:
        if upload.acknowledged >= ALMOST_DONE * PIECE:
            assert self._is_over.wait(60)

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(persist, upload, self.tally, self._before_piece) for upload in self.uploads]
        self.all_have(BEGUN)
        return self

    def all_have(self, pieces: int) -> None:
        """Wait until each upload has so many pieces."""

        def reached() -> bool:
            for future in self._running:
                if future.done():
                    future.result()
            return all(upload.acknowledged >= pieces * PIECE for upload in self.uploads)

        wait_until(reached, timeout=60, what=f"{pieces} pieces of each upload")

    def clients_met(self, *answers: str) -> None:
        """Wait until clients were answered so."""
        wait_until(lambda: any(self.tally[answer] for answer in answers), what=f"an answer of {answers}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        with self._pool:
            if kind is None:
                for future in self._running:
                    future.result()

    def check(self) -> None:
        """Each is complete and right, in the session it began."""
        right = sum(upload.content() == upload.body for upload in self.uploads)
        restarted = sum(len(upload.tokens) != 1 for upload in self.uploads)
        successes = ("200", "201", "202", "204")
        retries = {answer: count for answer, count in sorted(self.tally.items()) if answer not in successes}
        pieces = sum(self.tally[answer] for answer in successes)
        print(f"{right} of {COUNT} uploads complete and right, {restarted} lost their session;")
        print(f"{pieces} requests succeeded, tried again after: {retries or 'nothing'}")
        assert (right, restarted) == (COUNT, 0)
        assert len(self._server.stored()) == COUNT
        assert self._server.files.unfinished() == {}
        assert self._server.leftovers() == []


class Stage(NamedTuple):
    """What a fault can break."""

    server: HmacFileServer
    fleet: Fleet
    redis: RedisServer
    database: Database

    def logged(self, pattern: str, times: int) -> None:
        """Wait until that many lines of the server's log are such."""
        found = re.compile(pattern)
        wait_until(
            lambda: sum(1 for line in self.server.log().splitlines() if found.search(line)) >= times, what=pattern
        )


# -- the faults: each with what the server may say of it ------------------------------------------

WORKERS = 3
LOST = r" WARNING .* session store (redis|postgres|mysql) is lost "
UNRECORDED = r" WARNING .* the end of an upload session could not be recorded yet"
NOT_READY = r" WARNING .* not ready: session store"


def redis_is_killed(stage: Stage) -> None:
    stage.redis.kill()
    stage.logged("session store redis is lost", 1)
    stage.fleet.all_have(ALMOST_DONE)


def redis_is_killed_and_restarted_empty(stage: Stage) -> None:
    stage.redis.kill()
    stage.redis.start()
    with stage.redis.client() as client:
        wait_until(lambda: client.dbsize() > 0, what="sessions in the new Redis")
    stage.fleet.all_have(ALMOST_DONE)


def redis_hangs_and_goes_on(stage: Stage) -> None:
    stage.redis.pause()
    stage.logged("session store redis is lost", 1)
    stage.fleet.all_have(BEGUN + 3)
    stage.redis.resume()
    lost = stage.server.log().count("session store redis is lost")
    stage.logged("session store redis is back", lost)
    stage.fleet.all_have(ALMOST_DONE)


def the_database_is_killed_and_restarted(stage: Stage) -> None:
    """While it is the active store: Redis is away as well."""
    if stage.server.settings.get("RedisAddr"):
        stage.redis.kill()
        stage.logged("session store redis is lost", 1)
        stage.fleet.all_have(BEGUN + 2)
    stage.database.kill()
    stage.fleet.clients_met("503")
    stage.database.start()
    stage.fleet.all_have(ALMOST_DONE)


def workers_are_killed(stage: Stage) -> None:
    """One after the other."""
    for worker in stage.server.workers():
        worker.kill()
        wait_until(lambda worker=worker: _is_replaced(stage.server, worker), what="a new worker")  # type: ignore[misc]
    stage.fleet.clients_met("cut off")
    stage.fleet.all_have(ALMOST_DONE)


def _is_replaced(server: HmacFileServer, worker: psutil.Process) -> bool:
    return worker not in server.workers() and len(server.workers()) == WORKERS


def the_server_is_killed(stage: Stage) -> None:
    stage.server.daemon.kill()
    stage.fleet.clients_met("cut off")
    stage.server.start()
    stage.fleet.all_have(ALMOST_DONE)


def the_server_is_stopped_and_started(stage: Stage) -> None:
    assert stage.server.stop(signal.SIGTERM) == 0
    stage.fleet.clients_met("cut off")
    stage.server.start()
    stage.fleet.all_have(ALMOST_DONE)


def the_clients_move(stage: Stage) -> None:
    """With each request to another address."""
    stage.fleet.all_have(ALMOST_DONE)
    addresses = set(re.findall(r" client=(192\.0\.2\.\d+) ", stage.server.log()))
    assert len(addresses) > COUNT


class Case(NamedTuple):
    """stores: of ``redis``, ``postgres``, ``mysql``; SQLite without them. explained: lines that the log may have."""

    fault: Callable[[Stage], None]
    stores: tuple[str, ...]
    explained: tuple[str, ...] = ()


CASES = [
    Case(redis_is_killed, ("redis", "postgres"), (LOST,)),
    Case(redis_is_killed_and_restarted_empty, ("redis", "mysql"), (LOST,)),
    Case(redis_hangs_and_goes_on, ("redis", "postgres"), (LOST,)),
    Case(the_database_is_killed_and_restarted, ("redis", "postgres"), (LOST, UNRECORDED, NOT_READY)),
    Case(the_database_is_killed_and_restarted, ("postgres",), (LOST, UNRECORDED, NOT_READY)),
    Case(the_database_is_killed_and_restarted, ("mysql",), (LOST, UNRECORDED, NOT_READY)),
    Case(workers_are_killed, (), (r" ERROR .* Worker \(pid:\d+\) was sent SIGKILL!",)),
    Case(the_server_is_killed, ()),
    Case(the_server_is_killed, ("redis", "postgres")),
    Case(the_server_is_stopped_and_started, ()),
    Case(the_clients_move, ()),
]


@pytest.fixture(scope="module")
def databases() -> Iterator[Callable[[str], Database]]:
    """A function that gives the database of that type, running and without sessions."""
    kinds: dict[str, type[Database]] = {"postgres": PostgresServer, "mysql": MariaDBServer}
    made: dict[str, Database] = {}
    with contextlib.ExitStack() as stack:

        def give(kind: str) -> Database:
            if kind not in made:
                made[kind] = kinds[kind](stack.enter_context(folder_of(kind)))
                stack.callback(made[kind].kill)
                made[kind].start()
            database = made[kind]
            if not database.answers():
                database.start()
            database.query("DROP TABLE IF EXISTS hmacfs_sessions, hmacfs_entries, hmacfs_schema")
            return database

        yield give


def settings_of(stores: tuple[str, ...], redis: RedisServer, database: Database | None) -> dict[str, object]:
    settings: dict[str, object] = {"RedisTimeout": "300ms", "RetryDelay": "300ms"}
    if "redis" in stores:
        settings["RedisAddr"] = redis.address
    if database is not None:
        settings |= fallback(database)
    return settings


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join((case.fault.__name__, *case.stores)))
def test_twenty_uploads_survive(
    start_server: StartServer, databases: Callable[[str], Database], tmp_path: Path, case: Case
) -> None:
    redis = RedisServer(tmp_path / "redis")
    kind = next((store for store in case.stores if store != "redis"), None)
    database = databases(kind) if kind else None
    with contextlib.ExitStack() as stack:
        if "redis" in case.stores:
            stack.enter_context(redis)
        settings = settings_of(case.stores, redis, database)
        server = start_server(Workers=WORKERS, MaxBytesPerSecond=RATE, TrustedProxies=["127.0.0.1"], **settings)
        fleet = Fleet(server, another_address if case.fault is the_clients_move else dict)
        with fleet:
            case.fault(Stage(server, fleet, redis, database))  # type: ignore[arg-type]  # asked for if it is there
        fleet.check()
        assert server.stop() == 0
        assert [
            line for line in server.complaints() if not any(re.search(known, line) for known in case.explained)
        ] == []


@pytest.mark.stores("seaweedfs")
@pytest.mark.parametrize("fault", [the_server_is_killed, redis_is_killed])
def test_twenty_uploads_survive_over_an_object_store(
    start_server: StartServer, databases: Callable[[str], Database], tmp_path: Path, fault: Callable[[Stage], None]
) -> None:
    """Their leases are in the session store. Those of who was killed are waited for."""
    case = next(case for case in reversed(CASES) if case.fault is fault)
    test_twenty_uploads_survive(start_server, databases, tmp_path, case)


@pytest.mark.parametrize("probes", [False, True], ids=["goes on at once", "probes"])
@pytest.mark.parametrize("kind", DIALECTS, ids=lambda kind: kind.dialect)
def test_what_was_saved_without_redis_is_known_where_redis_is(
    start_server: StartServer,
    databases: Callable[[str], Database],
    tmp_path: Path,
    kind: type[Upload],
    probes: bool,
) -> None:
    """Two servers share all stores; the network between one of them and Redis breaks."""
    with RedisServer(tmp_path / "redis") as redis:
        settings = settings_of(("redis",), redis, databases("postgres"))
        with_redis = start_server(**settings)
        with Proxy(redis.port) as network:
            shared = {"RedisAddr": f"127.0.0.1:{network.port}", "StoreDir": str(with_redis.store)}
            cut_off = start_server(**settings | shared)
            upload = begun(kind, cut_off, "apart/photo.jpg")
        assert upload.send(40_000).headers["Upload-Offset"] == "80000"
        assert "session store redis is lost" in cut_off.log()
        upload.server = with_redis
        if probes:
            assert upload.probe().headers["Upload-Offset"] == "80000"
        assert upload.send(80_000).status in (201, 204)
        assert upload.content() == upload.body
        assert with_redis.complaints() == []
