"""A crowd of strangers that ask of unfinished uploads takes nothing from who has a right, and is no failure of a store."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.live.client import request
from tests.live.pieces import DIALECTS, TUS, Upload, begun
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer, fallback
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.alone

StartServer = Callable[..., HmacFileServer]

#: Connections of the crowd, and the addresses that they share.
CROWD, ADDRESSES = 400, 6
#: Seconds by which each word to the session store is late: so the crowd, if it gets there, waits longer than a store may
#: take.
DELAYS = {"redis": 0.15, "postgres": 0.1}
#: Seconds from an answer to the next question: the processor is not what is fought for here.
PAUSE = 0.1
HONEST: dict[str, Any] = {"x_forwarded_for": "203.0.113.5"}
MAC = "0" * 64


def questions(server: HmacFileServer) -> list[bytes]:
    """What anybody can ask that has the form of a right."""

    def head(method: str, target: str, number: int, more: str = "") -> bytes:
        address = f"X-Forwarded-For: 192.0.2.{number % ADDRESSES}\r\n"
        return f"{method} {target} HTTP/1.1\r\nHost: test\r\n{address}{more}\r\n".encode()

    found = []
    for number in range(CROWD):
        token, tus = f"s{secrets.token_urlsafe(32)}", "Tus-Resumable: 1.0.0\r\n"
        found += [
            head("HEAD", f"{server.path(f'made/up-{number}')}?v={MAC}", number),
            head("HEAD", f"{server.prefix}.hmacfs/tus/{token}", number, tus),
            head("HEAD", "/readyz", number),
        ]
    return found


class Crowd:
    """Asks on ``CROWD`` connections for as long as the context lasts. ``statuses`` counts the answers."""

    def __init__(self, server: HmacFileServer) -> None:
        self.statuses: Counter[int] = Counter()
        self._port = server.port
        self._questions = questions(server)
        self._stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(
            lambda: self.statuses.total() > CROWD or not self._thread.is_alive(), what="the crowd's first answers"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(CROWD)))

    async def _ask(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._stopped:
            number = (number + 1) % len(self._questions)
            writer.write(self._questions[number])
            head = await reader.readuntil(b"\r\n\r\n")
            self.statuses[int(head.split()[1])] += 1
            await asyncio.sleep(PAUSE)
        writer.close()


@contextmanager
def proxied(kind: str, folder: Path) -> Iterator[tuple[dict[str, object], dict[str, Proxy]]]:
    """The settings of a server whose session stores are behind proxies, and those."""
    with ExitStack() as stack:
        settings: dict[str, object] = {}
        proxies: dict[str, Proxy] = {}
        for name in kind.split("+") if kind != "sqlite" else ():
            server: Any = {"redis": RedisServer, "postgres": PostgresServer}[name](folder / name)
            stack.enter_context(server)
            proxies[name] = stack.enter_context(Proxy(server.port))
            host = f"127.0.0.1:{proxies[name].port}"
            settings |= {"RedisAddr": host} if name == "redis" else {**fallback(server), "FallbackDBHost": host}
        yield settings, proxies


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres", "redis+postgres"])
def test_honest_uploads_go_on_and_no_store_is_lost(start_server: StartServer, tmp_path: Path, kind: str) -> None:
    with proxied(kind, tmp_path) as (settings, proxies):
        server = start_server(TrustedProxies=["127.0.0.1"], MaxConnections=4 * CROWD, Durability="none", **settings)
        for name, proxy in proxies.items():
            proxy.delay = DELAYS[name]
        with Crowd(server) as crowd:
            uploads: list[Upload] = [
                begun(dialect, server, dialect.dialect, headers=lambda: HONEST) for dialect in DIALECTS
            ]
            for upload in uploads:
                for offset in (40_000, 80_000):
                    assert upload.send(offset).status in (201, 202, 204), upload.dialect
                assert upload.stored().read_bytes() == upload.body
        assert set(crowd.statuses) <= {200, 404, 503}, crowd.statuses
        assert "is lost" not in server.log()
        assert server.is_ready()


def test_what_cannot_be_a_right_never_reaches_the_store(start_server: StartServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        server = start_server(RedisAddr=redis.address, RedisTimeout="300ms", RetryDelay="60s")
        upload = begun(DIALECTS[0], server, "begun")
        redis.kill()
        assert upload.probe().status == 503
        path, tus = server.path("begun"), f"{server.prefix}.hmacfs/tus/"
        token = f"s{secrets.token_urlsafe(32)}"
        # A token of the right form may be an upload's: nobody can tell now.
        assert request(server, "HEAD", path, x_session_token=token).status == 503
        probes: list[tuple[str, dict[str, Any]]] = [
            (path, {"x_session_token": "made up"}),
            (path + "?v=00", {}),
            (path + f"?v={MAC}&v={MAC}", {}),
            (path + "?v3=00&expires=4000000000", {}),
            (path, {"authorization": "Bearer a.b.c"}),
            (tus + "short", TUS),
            (tus + token + "x", TUS),
            (tus + token[:-1] + ".", TUS),
        ]
        for target, headers in probes:
            assert request(server, "HEAD", target, **headers).status in (403, 404), target
        chunk = {"x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": 9}
        wrong = path + f"?v={MAC}"
        for piece in ({"content_range": "bytes 0-0/5"}, {"x_session_token": token, **chunk}):
            assert request(server, "PUT", wrong, b"x", **piece).status == 403
        assert request(server, "POST", wrong, upload_length=1, **TUS).status == 403
