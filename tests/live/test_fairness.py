"""One transfer must not cost the others: throttles, slow clients, full-speed clients, slow disks, floods."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from hmacfs.server.memory_return import WORTH_CONNECTIONS
from tests.live.client import Client, get, latencies, put, request
from tests.programs import program
from tests.servers import descriptor_limit, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.machine import Duration

pytestmark = pytest.mark.alone

StartServer = Callable[..., HmacFileServer]
MIB = 1024 * 1024


def typical(found: list[float]) -> float:
    """The 90th percentile: this machine runs the clients too, so single outliers say nothing about the server."""
    assert len(found) >= 10
    return sorted(found)[int(len(found) * 0.9)]


def test_connections_are_spread_over_the_workers(start_server: StartServer) -> None:
    server = start_server(Workers=2)
    totals = Counter[int]()
    for _ in range(5):
        clients = [Client(server) for _ in range(40)]
        for client in clients:
            client.head("GET", "/healthz")
        assert {client.answer().status for client in clients} == {200}
        totals.update({worker.pid: len(established(worker)) for worker in server.workers()})
        for client in clients:
            client.close()
        wait_until(lambda: not any(established(worker) for worker in server.workers()), what="the end of all")
    assert totals.total() == 200
    assert min(totals.values()) >= 60, totals


def established(process: psutil.Process) -> list[object]:
    """The connections that it has."""
    return [one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]


@pytest.mark.parametrize("way", ["length", "chunked"])
def test_uploads_are_throttled(start_server: StartServer, way: str) -> None:
    rate, size = 4 * MIB, 12 * MIB
    server = start_server(MaxBytesPerSecond="4MB/s", Durability="none")
    piece, sent_at = b"x" * 65536, []
    with Client(server, timeout=60) as client, Duration() as own:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        before = time.monotonic()
        if way == "length":
            client.head("PUT", server.sign_v("throttled", size), content_length=size)
        else:
            client.head("PUT", server.sign_v3("PUT", "throttled"), transfer_encoding="chunked")
        for _ in range(size // len(piece)):
            client.send(piece if way == "length" else b"10000\r\n" + piece + b"\r\n")
            sent_at.append(time.monotonic() - before)
        if way == "chunked":
            client.send(b"0\r\n\r\n")
        assert client.answer().status == 201
        took = time.monotonic() - before
    assert took >= size / rate * 0.9
    assert own.seconds <= size / rate * 1.25 + 1
    # No burst of more than a second's worth, as the sender sees it: what the buffers of both ends hold included.
    assert max(count * len(piece) - rate * when for count, when in enumerate(sent_at, start=1)) <= rate


def test_downloads_are_throttled(start_server: StartServer) -> None:
    server = start_server(DownloadMaxBytesPerSecond="4MB/s", Durability="none")
    body = os.urandom(8 * MIB)
    assert put(server, "file", body).status == 201
    with Duration() as own:
        before = time.monotonic()
        assert get(server, "file").body == body
        took = time.monotonic() - before
    assert took >= 1.5
    assert own.seconds <= 5


@pytest.mark.parametrize("direction", ["up", "down"])
def test_others_are_served_while_one_client_goes_at_full_speed(start_server: StartServer, direction: str) -> None:
    server = start_server(UploadMaxSize="2GB", Durability="none")
    size = 512 * MIB
    with (server.store / "large").open("wb") as file:
        file.truncate(size)
    transfer = upload_at_full_speed if direction == "up" else download_at_full_speed
    with latencies(server) as found:
        while len(found) < 200:  # of thirty, which one transfer takes, three stray ones are the 90th percentile
            transfer(server, size)
    assert typical(found) < 0.05


def upload_at_full_speed(server: HmacFileServer, size: int) -> None:
    piece = bytes(4 * MIB)
    with Client(server, timeout=60) as client:
        client.head("PUT", server.sign_v("up", size), content_length=size)
        for _ in range(size // len(piece)):
            client.send(piece)
        assert client.answer().status == 201
    (server.store / "up").unlink()


def download_at_full_speed(server: HmacFileServer, size: int) -> None:
    with Client(server, timeout=60) as client:
        client.head("GET", server.path("large"))
        client.informational()
        buffer, left = bytearray(MIB), size
        while left:
            left -= client.read_into(buffer)


def test_two_hundred_slow_uploads_beside_fast_ones(start_server: StartServer) -> None:
    server = start_server(MaxBytesPerSecond=0)
    slow = [Client(server) for _ in range(200)]
    try:
        for number, client in enumerate(slow):
            client.head("PUT", server.sign_v(f"slow/{number}", 100), content_length=100)
        finished = threading.Event()

        def dribble() -> None:
            sent = 0
            while not finished.is_set() and sent < 99:
                for client in slow:
                    client.send(b"s")
                sent += 1
                time.sleep(0.05)

        dribbler = threading.Thread(target=dribble)
        dribbler.start()
        with latencies(server) as found, ThreadPoolExecutor(4) as pool:
            done = pool.map(lambda number: put(server, f"fast/{number}", b"f" * 100_000).status, range(100))
            assert set(done) == {201}
        assert typical(found) < 0.05
        finished.set()
        dribbler.join()
        assert len(server.stored()) == 100
    finally:
        for client in slow:
            client.close()


def test_a_flood_after_a_refusal_is_bounded_and_costs_others_little(start_server: StartServer) -> None:
    server = start_server(UploadMaxSize="1TB")
    sent = 0
    with latencies(server) as found, Client(server) as client:
        client.head("PUT", "/upload/flood?v=" + "0" * 64, content_length=1024**4)
        piece = bytes(MIB)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - which send it is differs
            while True:
                client.send(piece)
                sent += len(piece)
    assert sent < 512 * MIB
    assert typical(found) < 0.05


def test_a_slow_disk_stalls_only_the_upload_that_waits_for_it(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path, Durability="none")
    server.command = [sys.executable, str(program("slow_disk.py")), "-config", str(server.config)]
    server.start(PYTHONPATH=str(Path(__file__).parents[2]))
    try:
        size = 4 * MIB
        with latencies(server) as found, Client(server, timeout=60) as client:
            client.head("PUT", server.sign_v("slow", size), content_length=size)
            client.send(bytes(size))
            assert client.answer().status == 201
        # The first two slow calls are how the disk is found to be slow; none after them may stall the loop.
        assert sum(1 for seconds in found if seconds > 0.2) <= 2
        assert len(found) > 50
        assert "the store's disk is slow" in server.log()
        assert (server.store / "slow").stat().st_size == size
    finally:
        server.daemon.kill()


def test_small_durable_uploads_do_not_wait_for_one_another(start_server: StartServer) -> None:
    server = start_server()
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda number: put(server, f"{number}/file", b"x" * 1000).status, range(320)))
    assert statuses == [201] * 320
    assert len(server.stored()) == 320
    assert server.leftovers() == []


def test_many_idle_connections_do_no_harm(start_server: StartServer) -> None:
    server = start_server(IdleTimeout="60s", MaxConnectionsPerClient=0)
    count = min(1000, descriptor_limit() // 4)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    try:
        assert put(server, "beside/the-idle", b"x").status == 201
        assert request(server, "GET", "/healthz").status == 200
        with Duration() as own:
            assert server.stop() == 0
        assert own.seconds < 10
    finally:
        for connection in idle:
            connection.close()


def test_memory_of_many_closed_connections_is_given_back(start_server: StartServer) -> None:
    """Most of it: without a hint to the allocator more than half stays."""
    server = start_server(MaxConnectionsPerClient=0, IdleTimeout="120s")
    worker = server.workers()[0].pid
    count = min(4000, descriptor_limit() // 4)
    if count < 2 * WORTH_CONNECTIONS:
        pytest.skip(f"{descriptor_limit()} descriptors are too few")
    put(server, "first", b"x")
    before = private_bytes(worker)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        taken = private_bytes(worker) - before
    wait_until(lambda: private_bytes(worker) - before < 0.5 * taken, what="memory's return")


def private_bytes(pid: int) -> int:
    """What the process shares with no other."""
    return int(psutil.Process(pid).memory_full_info().uss)


def test_the_store_of_a_durable_server_is_synced(tmp_path: Path) -> None:
    """fsync of the file before it is linked, and of each folder that got an entry, before the 201."""
    strace = subprocess.run(
        ["sh", "-c", "command -v strace"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not strace:
        pytest.skip("strace is not installed")
    server = HmacFileServer(tmp_path)
    server.start()
    try:
        worker = server.workers()[0].pid
        trace = tmp_path / "trace"
        tracer = subprocess.Popen(
            [strace, "-f", "-y", "-e", "trace=fsync,linkat,mkdirat,write,sendto", "-o", str(trace), "-p", str(worker)]
        )
        wait_until(lambda: trace.exists() and tracer.poll() is None)
        wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{worker}/status").read_text())
        assert put(server, "new/folder/file", b"hello").status == 201
        tracer.terminate()
        tracer.wait()
        lines = [line for line in trace.read_text().splitlines() if str(server.store) in line or "HTTP/1.1 201" in line]
        calls = [line.split("(")[0].split()[-1] for line in lines]
        link = calls.index("linkat")
        assert "fsync" in calls[:link]
        answer = next(index for index, line in enumerate(lines) if "HTTP/1.1 201" in line)
        assert calls[link + 1 : answer].count("fsync") == 3  # new/folder, new, and the store itself
    finally:
        server.daemon.kill()
