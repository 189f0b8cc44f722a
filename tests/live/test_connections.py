"""Connections are shared out: what one address, or many that ask for nothing, can do to all others."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

import pytest

from tests.live.client import Client, request
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]

ATTACKER, HONEST = "127.0.0.2", "127.0.0.3"
BOUND = 16


class Crowd:
    """Connections that bring nothing, each from its source, made again as soon as they are ended. In its context it
    says ``word`` on all of them again and again."""

    def __init__(self, server: HmacFileServer, sources: list[str], word: bytes, first: bytes = b"") -> None:
        self._server = server
        self._sources = sources
        self._first, self._word = first, word
        self._open: dict[int, socket.socket] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        #: How often it has been all round.
        self.rounds = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._open.values():
            sock.close()

    def _run(self) -> None:
        while not self._over.is_set():
            for number, source in enumerate(self._sources):
                self._say(number, source)
            self.rounds += 1
            self._over.wait(0.02)

    def _say(self, number: int, source: str) -> None:
        sock = self._open.get(number)
        try:
            if sock is None:
                sock = socket.create_connection(("127.0.0.1", self._server.port), 5, (source, 0))
                sock.setblocking(False)
                self._open[number] = sock
                sock.send(self._first)
            sock.send(self._word)
            with contextlib.suppress(BlockingIOError):
                if not sock.recv(65536):
                    raise ConnectionResetError
        except OSError:
            if sock is not None:
                self._open.pop(number).close()


#: What is said first on each connection, and then again and again.
CROWDS = {
    "nothing": (b"", b""),
    "a head, byte by byte": (b"GET /upload/x HTTP/1.1\r\nHost: test\r\nX: ", b"x"),
    "unsigned requests": (b"", b"GET /upload/none HTTP/1.1\r\nHost: test\r\n\r\n"),
    "unsigned uploads": (b"", b"PUT /upload/x?v=0 HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx"),
    "probes": (b"", b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"),
}


def statuses(server: HmacFileServer, name: str, count: int) -> Counter[int]:
    """Of so many uploads and downloads of an honest client, each on a connection of its own."""
    found: Counter[int] = Counter()
    for number in range(count):
        body = os.urandom(20_000)
        target = server.sign_v(f"{name}/{number}", len(body))
        with Client(server, source=HONEST) as client:
            client.head("PUT", target, content_length=len(body))
            client.send(body)
            found[client.answer().status] += 1
        with Client(server, source=HONEST) as client:
            client.head("GET", server.path(f"{name}/{number}"))
            answer = client.answer()
            found[answer.status if answer.body == body else 0] += 1
    return found


def is_served(client: Client) -> bool:
    """Whether the connection is one of those that requests are served on."""
    with contextlib.suppress(OSError):
        client.head("GET", "/healthz")
        return client.answer().status == 200
    return False


def all_that_it_gets(server: HmacFileServer, stack: contextlib.ExitStack) -> list[Client]:
    """As many connections as the attacker may have, at the latest when earlier ones are forgotten."""
    clients: list[Client] = []

    def are_enough() -> bool:
        client = Client(server, source=ATTACKER)
        if is_served(client):
            clients.append(stack.enter_context(client))
        else:
            client.close()
        return len(clients) == BOUND

    wait_until(are_enough, what=f"{BOUND} connections")
    return clients


@pytest.mark.parametrize("says", CROWDS)
def test_one_address_gets_its_share_of_the_connections(start_server: StartServer, says: str) -> None:
    server = start_server(Workers=2, MaxConnections=48, MaxConnectionsPerClient=BOUND, IdleTimeout="20s")
    first, word = CROWDS[says]
    with Crowd(server, [ATTACKER] * 200, word, first) as crowd:
        wait_until(lambda: crowd.rounds > 1, what="the crowd")
        assert statuses(server, "beside", 10) == {201: 10, 200: 10}
    told = [line for line in server.complaints() if "MaxConnectionsPerClient" in line]
    assert 1 <= len(told) <= 2  # each worker
    assert server.complaints() == told


@pytest.mark.parametrize("says", CROWDS)
def test_those_that_wait_make_room_for_those_that_ask(start_server: StartServer, says: str) -> None:
    """An attacker of many addresses. A hundred want the 32 connections that there are."""
    server = start_server(Workers=1, MaxConnections=32, IdleTimeout="20s")
    first, word = CROWDS[says]
    with Crowd(server, [f"127.0.1.{number}" for number in range(1, 101)], word, first) as crowd:
        wait_until(lambda: crowd.rounds > 1, what="the crowd")
        assert statuses(server, "beside", 10) == {201: 10, 200: 10}
    assert server.complaints() == []


def test_the_bound_is_exact_and_told_and_ends_with_the_connections(start_server: StartServer) -> None:
    server = start_server(Workers=3, MaxConnectionsPerClient=BOUND)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = all_that_it_gets(server, stack)
            for _ in range(5):
                with Client(server, source=ATTACKER) as client:
                    answer = client.answer()
                    assert (answer.status, answer.headers["Connection"]) == (429, "close")
                    assert answer.headers["Retry-After"]
                    assert answer.headers["X-Request-ID"]
                    assert client.is_closed()
            assert all(map(is_served, clients))
            with Client(server, source=HONEST) as client:
                assert is_served(client)


def test_connections_that_are_too_many_are_counted(start_server: StartServer) -> None:
    port = free_port()
    server = start_server(MetricsEnabled=True, MetricsPort=f"127.0.0.1:{port}", MaxConnectionsPerClient=BOUND)
    with contextlib.ExitStack() as stack:
        all_that_it_gets(server, stack)
        for _ in range(3):
            with Client(server, source=ATTACKER) as client:
                assert client.answer().status == 429
    line = b'\nhmacfs_refusals_total{reason="connections"} 3.0\n'
    wait_until(lambda: line in request(port, "GET", "/metrics").body, what="three in the metrics")


def test_connections_of_a_worker_that_died_are_not_counted(start_server: StartServer) -> None:
    server = start_server(Workers=2, MaxConnectionsPerClient=BOUND)
    with contextlib.ExitStack() as stack:
        all_that_it_gets(server, stack)
        for worker in server.workers():
            worker.kill()
            worker.wait(10)
        all_that_it_gets(server, stack)


def test_refusals_alone_keep_no_connection(start_server: StartServer) -> None:
    server = start_server(IdleTimeout="1s")
    with Client(server) as client:
        for _ in range(1000):
            client.head("GET", "/upload/none")
            answer = client.answer()
            assert answer.status == 404
            if answer.headers["Connection"] == "close":
                assert client.is_closed()
                break
            threading.Event().wait(0.05)
        else:
            pytest.fail("the connection lives on")


def has_ended(client: Client) -> bool:
    try:
        return not client.stays_silent(0.02)
    except ConnectionError:
        return True


def test_a_head_has_one_time_limit_however_it_comes(start_server: StartServer) -> None:
    server = start_server(IdleTimeout="1s")
    with Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(1000):
            with contextlib.suppress(OSError):
                client.send(b"x")
            if has_ended(client):
                break
        else:
            pytest.fail("the connection lives on")


def test_a_reader_that_takes_a_byte_now_and_then_is_dropped(start_server: StartServer) -> None:
    """The kernel says that there is room only when a third of its buffer is: that is what a reader has to take within
    WriteTimeout."""
    server = start_server(WriteTimeout="1s")
    with (server.store / "large").open("wb") as file:
        file.truncate(200 * 2**20)
    with Client(server) as client:
        client.head("GET", server.path("large"))
        for _ in range(1000):
            client.sock.recv(1)
            if "answer-cut-short" in server.log():
                break
            threading.Event().wait(0.02)
        else:
            pytest.fail("the download lives on")
