"""The metrics port, for those who mean it no good: silent, dribbling, broken-off and many connections."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest

from hmacfs.server.metrics_server import CONNECTIONS, MetricsServer
from tests.live.client import Client, request
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
MIB = 2**20


@pytest.fixture
def metered(start_server: StartServer) -> HmacFileServer:
    return start_server(MetricsEnabled=True, MetricsPort=f"127.0.0.1:{free_port()}")


def port_of(server: HmacFileServer) -> int:
    return int(str(server.settings["MetricsPort"]).rpartition(":")[2])


@contextlib.contextmanager
def silent(server: HmacFileServer, count: int) -> Iterator[list[Client]]:
    """Connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(port_of(server))) for _ in range(count)]


def held(port: int, pid: int) -> int:
    """How many sockets at this port a process has, its listener too."""
    own = psutil.Process(pid).net_connections("tcp")
    return sum(bool(each.laddr) and each.laddr.port == port for each in own)


def test_silent_connections_keep_no_scrape_out_and_cost_neither_threads_nor_many_descriptors(
    metered: HmacFileServer,
) -> None:
    assert request(port_of(metered), "GET", "/metrics").status == 200
    master = psutil.Process(metered.pid)
    threads = master.num_threads()
    with silent(metered, 5 * CONNECTIONS):
        for _ in range(3):
            answer = request(port_of(metered), "GET", "/metrics")
            assert answer.status == 200
            assert b"hmacfs_uploads_total" in answer.body
        assert master.num_threads() == threads
        assert held(port_of(metered), metered.pid) <= CONNECTIONS + 2
    assert metered.complaints() == []


def test_connections_without_a_request_are_ended(metered: HmacFileServer) -> None:
    with silent(metered, 2) as (_, dribbling):
        dribbling.send(b"GET /metrics HTTP/1.1\r\nX: ")
        wait_until(lambda: held(port_of(metered), metered.pid) == 3, what="the connections")

        def are_ended() -> bool:
            with contextlib.suppress(ConnectionError):
                dribbling.send(b"x")
            return held(port_of(metered), metered.pid) == 1

        wait_until(are_ended, what="their end")


@contextlib.contextmanager
def hasty(content: bytes) -> Iterator[int]:
    """A port in this process that has little patience: its number."""
    port = free_port()
    metrics = MetricsServer("127.0.0.1", port, lambda *_: ([], content), request_seconds=30, connection_seconds=0.5)
    try:
        yield port
    finally:
        metrics.stop()


@pytest.mark.parametrize("size", [1, 32 * MIB], ids=["close", "take its answer"])
def test_a_client_that_does_not_is_ended(size: int) -> None:
    with hasty(bytes(size)) as port, Client(port) as client:
        client.head("GET", "/metrics")
        assert not client.stays_silent(10)  # the answer
        wait_until(lambda: held(port, os.getpid()) == 1, what="its end")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_workers_and_a_new_server_get_no_connection_of_the_port(metered: HmacFileServer, number: int) -> None:
    before = [worker.pid for worker in metered.workers()]
    with silent(metered, 8):
        wait_until(lambda: held(port_of(metered), metered.pid) == 9, what="the connections")
        os.kill(metered.pid, number)

        def others() -> list[psutil.Process]:
            family = psutil.Process(metered.pid).children(recursive=True)
            return [process for process in family if process.pid not in before]

        wait_until(others, what="a new process")
        wait_until(lambda: request(metered, "GET", "/readyz").status == 200, what="readiness")
        assert [held(port_of(metered), process.pid) for process in others()] == [0] * len(others())
    if number == signal.SIGUSR2:
        for process in psutil.Process(metered.pid).children():
            if process.pid not in before:
                process.terminate()


def test_what_is_asked_for_and_what_is_not(metered: HmacFileServer) -> None:
    port = port_of(metered)
    text = request(port, "GET", "/metrics", accept_encoding="gzip")
    assert text.headers["Content-Encoding"] == "gzip"
    assert b"hmacfs_build_info" in gzip.decompress(text.body)
    open_metrics = request(port, "GET", "/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain")
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.body.endswith(b"# EOF\n")
    assert request(port, "GET", "/metrics", accept="application/openmetrics-text;version=x").status == 200
    assert request(port, "HEAD", "/metrics").body == b""
    assert request(port, "GET", "/").status == 200
    assert request(port, "GET", "/upload/x").status == 404
    assert request(port, "POST", "/metrics", b"x" * 100_000).status == 405
    with Client(port) as client:
        client.send(b"nonsense\r\n\r\n")
        assert client.answer().status == 400
    assert metered.complaints() == []


def test_the_other_addresses_of_the_machine_are_not_listened_at(metered: HmacFileServer) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port_of(metered)), timeout=5)
