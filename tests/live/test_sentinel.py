"""Redis behind Sentinel: the server follows a failover, sessions and rate limits with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.live.client import put, request
from tests.servers import Daemon, free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]

SERVICE = "uploads"
PASSWORD = "a password for redis"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    with RedisServer(tmp_path / "one", "--masterauth", PASSWORD, password=PASSWORD) as master:
        options = ("--replicaof", f"127.0.0.1 {master.port}", "--masterauth", PASSWORD)
        with RedisServer(tmp_path / "two", *options, password=PASSWORD) as replica:
            with master.client() as client:
                wait_until(lambda: client.info("replication")["connected_slaves"] == 1, what="the replica")
            yield master, replica


@pytest.fixture
def sentinel(tmp_path: Path, pair: tuple[RedisServer, RedisServer]) -> Iterator[int]:
    """The port of a Sentinel that watches them."""
    master, _ = pair
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
        f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
        f"sentinel down-after-milliseconds {SERVICE} 300\n"
        f"sentinel failover-timeout {SERVICE} 2000\n"
    )
    daemon = Daemon([require_binary("redis-server"), str(config), "--sentinel"], folder=tmp_path)
    with redis.Redis(port=port, decode_responses=True, protocol=2) as client:

        def knows_both() -> bool:
            try:
                return len(client.sentinel_slaves(SERVICE)) == 1
            except redis.RedisError:
                return False

        daemon.wait_until(knows_both, what="Sentinel's readiness")
    yield port
    daemon.kill()


def test_an_upload_goes_on_after_a_failover(
    start_server: StartServer, pair: tuple[RedisServer, RedisServer], sentinel: int
) -> None:
    server = start_server(
        RedisAddr=f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}",
        RedisPassword=PASSWORD,
        UploadRateLimit="1000/minute",
        Workers=2,
    )
    master, replica = pair
    body = os.urandom(20_000)

    def piece(first: int, end: int) -> int:
        headers = {"content_range": f"bytes {first}-{end - 1}/{len(body)}"}
        return request(server, "PUT", server.sign_v("file", len(body)), body[first:end], **headers).status

    assert piece(0, 10_000) == 202
    with master.client() as client:
        assert client.keys("hmacfs:session:*")
        assert client.wait(1, 10_000) == 1
    master.kill()
    assert put(server, "whole", b"x").status == 201  # needs no session
    statuses = set()

    def is_done() -> bool:
        statuses.add(piece(10_000, len(body)))
        return 201 in statuses

    wait_until(is_done, what="the failover", timeout=30)
    assert statuses <= {201, 503}
    assert (server.store / "file").read_bytes() == body
    with replica.client() as client:
        wait_until(lambda: client.keys("hmacfs:rate:*"), what="rate limits at the new master")
