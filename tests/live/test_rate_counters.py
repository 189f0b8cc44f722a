"""A real Redis as the shared rate counter: it passes the contract, and what becomes of it when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hmacfs.config.redis_address import parse_redis_address
from hmacfs.rates.redis_windows import CONNECTIONS, RedisWindows
from hmacfs.rates.window import RemoteCounter, Unreachable
from hmacfs.redis_client import connect
from tests.contracts.rate_counters import RemoteCounterContract
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def counter(redis_server: RedisServer) -> Iterator[RemoteCounter]:
    with redis_server.client() as client:
        client.flushall()
    address = parse_redis_address(redis_server.address)
    client = connect(address, password=None, database=0, timeout=15.0, max_connections=CONNECTIONS)
    opened = RedisWindows(client, timeout=15.0)
    yield opened
    opened.close()


class TestContract(RemoteCounterContract):
    pass


def test_a_server_that_is_gone_is_unreachable_in_each_operation(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        address = parse_redis_address(server.address)
    client = connect(address, password=None, database=0, timeout=1.0, max_connections=CONNECTIONS)
    gone = RedisWindows(client, timeout=1.0)
    for operation in (lambda: gone.hit("a", 60.0, 1), lambda: gone.forget("a"), gone.ping):
        with pytest.raises(Unreachable):
            operation()
    gone.close()
