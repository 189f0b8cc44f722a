"""Stopping and reloading while transfers run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.live.client import Client, put
from tests.servers import accepts_connections, free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer

pytestmark = pytest.mark.alone

StartServer = Callable[..., HmacFileServer]

#: Throttled to that many bytes a second, a transfer of five times as many takes five seconds.
RATE = 100_000
SIZE = 5 * RATE


def slow_upload(server: HmacFileServer, name: str, pieces: int, rest: float) -> list[int]:
    """An upload of 10,000 bytes a piece; the list holds its status once it is done."""
    statuses: list[int] = []
    begun = threading.Event()

    def upload() -> None:
        with Client(server) as client:
            client.head("PUT", server.sign_v(name, pieces * 10_000), content_length=pieces * 10_000)
            for _ in range(pieces):
                client.send(b"x" * 10_000)
                begun.set()
                time.sleep(rest)
            statuses.append(client.answer().status)

    threading.Thread(target=upload, daemon=True).start()
    begun.wait()
    return statuses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_uploads_finish_and_ends_idle_connections(start_server: StartServer, number: int) -> None:
    server = start_server(IdleTimeout="60s", Workers=2)
    with Client(server) as idle:
        idle.head("GET", "/healthz")
        assert idle.answer().status == 200
        statuses = slow_upload(server, "slow", 20, 0.05)
        os.killpg(server.pid, number)  # as Ctrl-C in a terminal: to the master and to all workers
        assert idle.is_closed(within=5)
        assert server.daemon.process.wait(20) == 0
    assert statuses == [201]
    assert (server.store / "slow").stat().st_size == 200_000
    assert server.complaints() == []


def test_a_reload_to_an_address_in_use_is_refused(start_server: StartServer) -> None:
    other, server = start_server(), start_server()
    server.settings["ListenPort"] = other.settings["ListenPort"]
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "keeping the running configuration" in server.log())
    assert f"cannot listen at {server.settings['ListenPort']}: Address already in use" in server.log()
    assert put(server, "afterwards", b"x").status == 201
    assert server.stop() == 0


def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path)
    server.command = [require_binary("prlimit"), "--nofile=60:60", *server.command]
    with server:
        clients = [Client(server) for _ in range(80)]
        wait_until(lambda: "a connection has to wait: Too many open files" in server.log())
        for client in clients:
            client.close()
        assert put(server, "afterwards", b"x").status == 201
        assert server.stop() == 0
        assert "Traceback" not in server.log()
        assert max(map(len, server.log().splitlines())) < 500


def test_what_takes_too_long_is_broken_off_and_leaves_nothing(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout="500ms", ReadTimeout="60s")
    with Client(server) as client:
        client.head("PUT", server.sign_v("long", 1_000_000), content_length=1_000_000)
        client.send(b"x" * 100_000)
        assert client.stays_silent(0.2)
        server.daemon.process.send_signal(signal.SIGTERM)
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert server.daemon.process.wait(10) == 0
    assert server.stored() == []
    assert server.leftovers() == []
    assert [line.rpartition("] ")[2] for line in server.complaints()] == ["breaking off 1 transfers to stop"]


def test_a_second_signal_stops_at_once(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout="60s", ReadTimeout="60s")
    with Client(server) as client:
        client.head("PUT", server.sign_v("long", 1_000_000), content_length=1_000_000)
        client.send(b"x" * 100_000)
        assert client.stays_silent(0.2)
        server.daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port))
        server.daemon.process.send_signal(signal.SIGTERM)
        assert server.daemon.process.wait(10) == 0
    assert server.stored() == []
    assert server.leftovers() == []


def test_a_reload_takes_the_new_settings_and_keeps_running_uploads(start_server: StartServer) -> None:
    server = start_server(UploadMaxSize="1MB")
    statuses = slow_upload(server, "slow", 20, 0.05)
    server.settings["UploadMaxSize"] = 10
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: put(server, f"size-{time.monotonic()}", b"x" * 11).status == 413)
    wait_until(lambda: statuses == [201])
    server.settings["UploadMaxSize"] = "nonsense"
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "keeping the running configuration" in server.log())
    assert put(server, "still", b"x").status == 201
    assert server.stop() == 0


def test_a_reload_sets_running_uploads_no_limit_but_a_stop_does(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout="500ms", MaxBytesPerSecond=RATE, ReadTimeout="60s")
    with Client(server) as slow, Client(server) as silent:
        for client, name, size in ((slow, "slow", 2 * RATE), (silent, "silent", 2 * RATE)):
            client.head("PUT", server.sign_v(name, size), content_length=size)
            client.send(b"x" * 10_000)
            assert client.stays_silent(0.1)
        old = server.workers()[0].pid
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 2, what="a new worker")
        slow.send(b"x" * (2 * RATE - 10_000))
        assert slow.answer().status == 201
        # The old worker, which still serves the other one, takes no new worker's place.
        (young,) = (worker for worker in server.workers() if worker.pid != old)
        young.kill()
        wait_until(lambda: {one.pid for one in server.workers()} not in ({old}, {old, young.pid}), what="a new worker")
        wait_until(lambda: put(server, "meanwhile", b"x").status in (201, 409))
        server.daemon.process.send_signal(signal.SIGTERM)
        assert silent.answer().status == 503
        assert server.daemon.process.wait(5) == 0
    assert server.leftovers() == []


def test_a_second_signal_ends_connections_that_were_not_served_yet(start_server: StartServer) -> None:
    server = start_server(Workers=1, ReadTimeout="60s", GracefulShutdownTimeout="60s")
    (worker,) = server.workers()
    with ExitStack() as stack:
        worker.suspend()
        clients = [stack.enter_context(Client(server)) for _ in range(50)]
        for number, client in enumerate(clients):
            client.head("PUT", server.sign_v(f"long{number}", 1000), content_length=1000)
        for number, line in ((signal.SIGTERM, "stopping: "), (signal.SIGTERM, "stopping at once")):
            server.daemon.process.send_signal(number)
            wait_until(lambda line=line: line in server.log(), what=line)  # type: ignore[misc]
        worker.resume()
        assert {client.answer().status for client in clients} == {503}
        assert server.daemon.process.wait(10) == 0
    assert server.leftovers() == []
    assert [line for line in server.complaints() if "breaking off" not in line] == []


def test_a_stop_need_not_wait_for_a_reload(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout="60s", ReadTimeout="60s")
    with Client(server) as client:
        client.head("PUT", server.sign_v("long", 1_000_000), content_length=1_000_000)
        client.send(b"x" * 100_000)
        assert client.stays_silent(0.1)
        os.kill(server.pid, signal.SIGHUP)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: len(server.workers()) >= 2, what="a new worker")
        server.daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port), what="the end of new connections", timeout=5)
        server.daemon.process.send_signal(signal.SIGINT)
        assert server.daemon.process.wait(10) == 0
    assert server.leftovers() == []
    assert [line for line in server.complaints() if "breaking off" not in line] == []


def test_a_log_folder_that_is_gone_ends_no_server(start_server: StartServer, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    server = start_server(LogFile=str(logs / "log"))
    with (logs / "log").open() as log:  # it stays readable when its folder is gone
        shutil.rmtree(logs)
        for number, words in ((signal.SIGHUP, "keeping the running"), (signal.SIGUSR1, "going on with the old one")):
            os.kill(server.pid, number)
            wait_until(lambda words=words: words in log.read(), what=words)  # type: ignore[misc]
            assert put(server, f"file{number}", b"x").status == 201
        assert server.stop() == 0


def test_a_refused_client_that_keeps_sending_does_not_spoil_the_stop(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout=0, ReadTimeout="60s")
    done = threading.Event()

    def flood() -> None:
        with Client(server) as client, suppress(OSError):
            client.head("PUT", server.sign_v("long", 10**8), content_length=10**8)
            while not done.is_set():
                client.send(b"x" * 1000)
                done.wait(0.01)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        wait_until(lambda: len(psutil.Process(server.workers()[0].pid).net_connections()) > 1, what="the upload")
        assert server.stop(timeout=10) == 0
    finally:
        done.set()
        thread.join()
    assert "Traceback" not in server.log()
    assert server.leftovers() == []


@contextmanager
def transfers(server: HmacFileServer, count: int) -> Iterator[list[Future[bytes | int]]]:
    """Uploads and downloads of five seconds, ``count`` of each, all begun; the uploads give their status, the downloads
    their bytes."""
    bodies = [os.urandom(SIZE) for _ in range(count)]
    for number, body in enumerate(bodies):
        (server.store / f"down{number}").write_bytes(body)
    begun = threading.Semaphore(0)

    def upload(number: int) -> int:
        with Client(server, timeout=60) as client:
            client.head("PUT", server.sign_v(f"up{number}", SIZE), content_length=SIZE, expect="100-continue")
            assert client.informational().startswith(b"HTTP/1.1 100")
            begun.release()
            client.send(bodies[number])
            return client.answer().status

    def download(number: int) -> bytes:
        with Client(server, timeout=60) as client:
            client.head("GET", server.path(f"down{number}"))
            client.informational()
            begun.release()
            received = bytearray()
            buffer = bytearray(65536)
            while count := client.read_into(buffer):
                received += buffer[:count]
                if len(received) == SIZE:
                    break
            return bytes(received)

    with ThreadPoolExecutor(2 * count) as pool:
        futures: list[Future[bytes | int]] = [pool.submit(upload, number) for number in range(count)]
        futures += [pool.submit(download, number) for number in range(count)]
        for _ in futures:
            assert begun.acquire(timeout=20)
        yield futures
    for number, future in enumerate(futures):
        if number < count:
            assert future.result() == 201
            assert (server.store / f"up{number}").read_bytes() == bodies[number]
        else:
            assert future.result() == bodies[number - count]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_twenty_uploads_and_twenty_downloads_finish(
    start_server: StartServer, tmp_path: Path, number: signal.Signals
) -> None:
    metrics, log = free_port(), tmp_path / "server.log"
    server = start_server(
        MaxBytesPerSecond=RATE,
        DownloadMaxBytesPerSecond=RATE,
        Workers=2,
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{metrics}",
        LogFile=str(log),
    )
    with transfers(server, 20):
        server.daemon.process.send_signal(number)
        wait_until(lambda: not accepts_connections(server.port), what="the end of new connections")
        assert server.daemon.process.poll() is None
    assert server.daemon.process.wait(20) == 0
    assert server.leftovers() == []
    lines = [line for line in log.read_text().splitlines() if "/upload/" in line and "status=" in line]
    assert sum("status=201" in line for line in lines) == sum("status=200" in line for line in lines) == 20
    assert [line for line in log.read_text().splitlines() if " INFO [" not in line] == []
    # What was counted up to the last moment is there after the next start.
    server.start()
    with Client(metrics) as client:
        client.head("GET", "/metrics")
        text = client.answer().body.decode()
    assert "hmacfs_uploads_total 20.0" in text
    assert "hmacfs_downloads_total 20.0" in text


def test_a_reload_drops_no_transfer(start_server: StartServer) -> None:
    server = start_server(MaxBytesPerSecond=RATE, DownloadMaxBytesPerSecond=RATE, Workers=2)
    with transfers(server, 20):
        old = {worker.pid for worker in server.workers()}
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: {worker.pid for worker in server.workers()} - old, what="new workers")
        assert put(server, "meanwhile", b"x").status == 201
    wait_until(lambda: not old & {worker.pid for worker in server.workers()}, what="the end of the old workers")
    assert server.complaints() == []


@pytest.mark.parametrize(
    ("number", "told", "status"),
    [(signal.SIGHUP, "reload: waiting for 1 transfer", 200), (signal.SIGTERM, "waiting for 1 transfer, up", 503)],
)
def test_a_reload_is_no_stop_to_a_monitor(start_server: StartServer, number: int, told: str, status: int) -> None:
    """One that asks a worker which is about to end: its answer is about the server, which goes on after a reload."""
    server = start_server(Workers=1)
    with Client(server) as monitor:
        monitor.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\n")
        assert monitor.answer().status == 200
        server.daemon.process.send_signal(number)
        wait_until(lambda: told in server.log(), what="the draining")
        monitor.send(b"Host: localhost\r\n\r\n")
        answer = monitor.answer()
        assert (answer.status, answer.headers["Connection"]) == (status, "close")
    assert number == signal.SIGHUP or server.daemon.process.wait(10) == 0


def test_the_socket_file_goes_with_the_server(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = start_server(UnixSocket=True, ListenPort=str(path))
    assert put(server, "file", b"x").status == 201
    assert server.stop() == 0
    assert not path.exists()


def test_a_connection_ends_with_the_request_that_the_stop_found_on_it(start_server: StartServer) -> None:
    server = start_server(MaxBytesPerSecond=RATE)
    with transfers(server, 1), Client(server) as client:
        client.head("PUT", server.sign_v("small", 10), content_length=10, expect="100-continue")
        client.informational()  # the worker has it
        client.send(b"12345")
        server.daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port))
        client.send(b"67890")
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (201, "close")
        assert client.is_closed()
    assert server.daemon.process.wait(20) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_that_nobody_had_accepted_yet_are_served(start_server: StartServer, workers: int) -> None:
    """They are the kernel's, and their clients have sent their requests: the end of the listener would reset them."""
    server = start_server(Workers=workers)
    clients = [Client(server) for _ in range(10)]
    wait_until(lambda: len(server.workers()) == workers, what="all workers")
    found = server.workers()
    for client in clients[:5]:
        client.head("GET", "/healthz")
        assert client.answer().status == 200
    for worker in found:
        worker.suspend()
        wait_until(lambda worker=worker: worker.status() == psutil.STATUS_STOPPED, what="the pause")  # type: ignore[misc]
    clients += [Client(server) for _ in range(10)]
    for number, client in enumerate(clients[5:]):
        client.head("PUT", server.sign_v(f"{number}", 5), content_length=5)
        client.send(b"12345")
    server.daemon.process.send_signal(signal.SIGTERM)
    wait_until(lambda: all(has_pending(worker.pid, signal.SIGTERM) for worker in found), what="the master's signal")
    assert not accepts_connections(server.port)  # none can come between the last accept and the close
    for worker in found:
        worker.resume()
    for client in clients[5:]:
        assert client.answer().status == 201
        client.close()
    for client in clients[:5]:
        assert client.is_closed()
        client.close()
    assert server.daemon.process.wait(20) == 0
    assert server.complaints() == []


def test_a_stop_leaves_the_listener_to_a_successor(start_server: StartServer) -> None:
    """After SIGUSR2 it is the same: to refuse connections would be for both."""
    server = start_server()
    os.kill(server.pid, signal.SIGUSR2)
    wait_until(lambda: server.log().count("listening at") == 2, what="the successor")
    os.kill(server.pid, signal.SIGTERM)
    assert server.daemon.process.wait(20) == 0
    assert put(server, "afterwards", b"x").status == 201


def has_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for that process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_reload_and_stop_say_what_happens(start_server: StartServer) -> None:
    """At level info; and Ctrl-C beside a transfer does not look like a server that hangs."""
    server = start_server(GracefulShutdownTimeout="45s", Workers=2)
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "] reloaded: 2 workers with the new settings\n" in server.log())
    assert f"] SIGHUP: reloading {server.config}\n" in server.log()
    server.settings["Workers"] = "many"
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "] reloaded: 2 workers with the settings they had\n" in server.log())
    wait_until(server.is_ready)
    wait_until(lambda: len(server.workers()) == 2, what="the end of those that were replaced")
    before = len(server.log())  # one of them may have had to answer whether it is ready
    with Client(server) as idle, Client(server) as client:
        idle.head("GET", "/healthz")
        assert idle.answer().status == 200
        client.head("PUT", server.sign_v("slow", 10), content_length=10, expect="100-continue")
        client.informational()
        client.send(b"12345")
        os.killpg(server.pid, signal.SIGINT)
        waits = "waiting for 1 transfer, up to 45 s; Ctrl-C or SIGTERM again to end at once"
        wait_until(lambda: waits in server.log())
        client.send(b"67890")
        assert client.answer().status == 201
        assert server.daemon.process.wait(20) == 0
    assert server.log()[before:].count("waiting for") == 1
    said = [line.rpartition("] ")[2] for line in server.log().splitlines()]
    assert [line for line in said if line.startswith("stop")] == [
        "stopping: transfers may go on for up to 45 s",
        "stopped",
    ]


def test_a_second_signal_is_told_too(start_server: StartServer) -> None:
    server = start_server(GracefulShutdownTimeout="45s")
    with Client(server) as client:
        client.head("PUT", server.sign_v("slow", 10), content_length=10, expect="100-continue")
        client.informational()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: "waiting for 1 transfer" in server.log())
        assert server.stop() == 0
    assert "] stopping at once\n" in server.log()
    assert server.log().endswith("] stopped\n")
