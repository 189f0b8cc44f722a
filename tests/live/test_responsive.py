"""The event loop goes on while the session store makes uploads in pieces wait."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.client import latencies
from tests.live.pieces import DIALECTS, Upload, persist
from tests.servers import folder_of, wait_until
from tests.servers.hmacfs import HmacFileServer, fallback
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.alone

StartServer = Callable[..., HmacFileServer]

CLIENTS = 9
PIECES, PIECE = 8, 16 * 1024
#: Requests to /healthz that are measured, and what 99 of 100 of them may take, in seconds.
MEASURED, BOUND = 300, 0.1


@contextmanager
def uploads_in_flight(server: HmacFileServer, tally: Counter[str]) -> Iterator[None]:
    """Clients that persist and upload file after file; after the context these are complete and right."""
    is_over = threading.Event()

    def go_on(number: int) -> list[Upload]:
        uploads: list[Upload] = []
        while not is_over.is_set():
            kind = DIALECTS[number % len(DIALECTS)]
            uploads.append(kind(server, f"{number}/{len(uploads)}", os.urandom(PIECES * PIECE), PIECE))
            persist(uploads[-1], tally, lambda _: time.sleep(0.03))
        return uploads

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(go_on, number) for number in range(CLIENTS)]
        try:
            wait_until(lambda: tally.total() > CLIENTS * PIECES)
            yield
        finally:
            is_over.set()
    for upload in (upload for future in running for upload in future.result()):
        assert upload.stored().read_bytes() == upload.body
        assert len(upload.tokens) == 1


def slowest_of_hundred(server: HmacFileServer) -> float:
    """The 99th percentile of what /healthz takes now."""
    with latencies(server) as found:
        wait_until(lambda: len(found) >= MEASURED, timeout=60)
    return sorted(found)[int(len(found) * 0.99)]


def check(before: float, during: float, tally: Counter[str]) -> None:
    """``before``: how long it takes without trouble, which a busy machine makes longer."""
    print(f"99 of 100 answers of /healthz within {during * 1000:.0f} ms, before that {before * 1000:.0f} ms;", end=" ")
    print(f"clients got {dict(sorted(tally.items()))}")
    assert during < max(BOUND, 3 * before)


@pytest.mark.parametrize("kind", [PostgresServer, MariaDBServer])
def test_a_database_that_takes_a_second_for_each_statement(
    start_server: StartServer, kind: type[PostgresServer | MariaDBServer]
) -> None:
    tally: Counter[str] = Counter()
    user = "postgres" if kind is PostgresServer else "mysql"
    with folder_of(user) as folder, kind(folder) as database, Proxy(database.port) as proxy:
        settings = {**fallback(database), "FallbackDBHost": f"127.0.0.1:{proxy.port}"}
        server = start_server(Workers=1, RetryDelay="200ms", **settings)
        with uploads_in_flight(server, tally):
            before = slowest_of_hundred(server)
            proxy.delay = 1.0
            delayed = proxy.delayed
            during = slowest_of_hundred(server)
            assert proxy.delayed > delayed, "statements were under way"
            proxy.delay = 0.0
        check(before, during, tally)
        assert server.stop() == 0
        assert [line for line in server.complaints() if f"session store {database.type} is lost" not in line] == []


@pytest.mark.parametrize("kind", [None, PostgresServer])
def test_a_redis_that_hangs(start_server: StartServer, tmp_path: Path, kind: type[PostgresServer] | None) -> None:
    """Alone, and with a database behind it."""
    tally: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        settings: dict[str, object] = {"RedisAddr": redis.address, "RetryDelay": "200ms"}
        if kind is not None:
            database = stack.enter_context(kind(stack.enter_context(folder_of("postgres"))))
            settings |= fallback(database)
        server = start_server(Workers=1, **settings)
        with uploads_in_flight(server, tally):
            before = slowest_of_hundred(server)
            redis.pause()
            during = slowest_of_hundred(server)
            redis.resume()
        check(before, during, tally)
        assert bool(tally["503"]) == (kind is None)
        assert server.stop() == 0
        lines = [line for line in server.complaints() if "session store redis is lost" not in line]
        assert [line for line in lines if "the end of an upload session could not be recorded yet" not in line] == []
