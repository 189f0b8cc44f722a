"""Metrics, as a scrape and a real Prometheus see them."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.client import Client, get, put
from tests.servers import accepts_connections, free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.prometheus import PrometheusServer

StartServer = Callable[..., HmacFileServer]

#: Names that dashboards of the original know.
ORIGINALS = {
    *("file_server_upload_duration_seconds", "file_server_download_duration_seconds"),
    *("file_server_upload_errors_total", "file_server_download_errors_total"),
    *("memory_usage_bytes", "cpu_usage_percent", "active_connections_total", "goroutines_count", "http_requests_total"),
}


class Metered:
    """A server with metrics on a port of their own."""

    def __init__(self, start_server: StartServer, **settings: object) -> None:
        self.port = free_port()
        self.server = start_server(
            MetricsEnabled=True, MetricsPort=f"127.0.0.1:{self.port}", Durability="none", **settings
        )

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        samples = [s for family in text_string_to_metric_families(self.text()) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def test_names_labels_and_what_promtool_says(start_server: StartServer) -> None:
    metered = Metered(start_server, Workers=2)
    server = metered.server
    assert put(server, "photo.jpg", b"x" * 1000).status == 201
    assert get(server, "photo.jpg").status == 200
    assert put(server, "photo.jpg", b"x").status == 409
    assert get(server, "none").status == 404
    with Client(server) as client:
        client.head("PUT", server.path("forged") + "?v=" + "0" * 64, content_length=5)
        assert client.answer().status == 403
    for number in range(30):
        with Client(server) as client:
            client.head(f"METHOD{number}", server.path("photo.jpg"))
            assert client.answer().status == 405
    text = metered.text()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert names >= ORIGINALS
    assert "METHOD" not in text
    assert "photo" not in text
    assert metered.value("hmacfs_uploads_total") == metered.value("hmacfs_downloads_total") == 1
    assert metered.value("hmacfs_upload_bytes_total") == 1001  # those of the refused one were here with its head
    assert metered.value("hmacfs_download_bytes_total") == 1000
    assert metered.value("file_server_upload_duration_seconds_count") == 1
    assert metered.value("file_server_upload_errors_total", reason="name-taken") == 1
    assert metered.value("file_server_download_errors_total", reason="not-found") == 1
    assert metered.value("hmacfs_refusals_total", reason="signature") == 1
    assert metered.value("http_requests_total", method="PUT", path="/upload/<path>") == 3
    assert metered.value("http_requests_total", method="other") == 30
    assert metered.value("hmacfs_workers") == 2
    assert metered.value("hmacfs_build_info") == 1
    assert metered.value("hmacfs_session_store_active", store="sqlite") == 1
    assert metered.value("memory_usage_bytes") > 20e6
    check = [require_binary("promtool"), "check", "metrics"]
    linted = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in linted.stderr.splitlines()] == ["active_connections_total", "goroutines_count"]
    with Client(server) as client:
        client.head("GET", "/metrics")
        assert client.answer().status == 404


def test_every_counter_is_there_from_the_first_scrape_on(start_server: StartServer) -> None:
    """At 0, for all labels that alerts and dashboards ask for: ``increase()`` does not see a series that begins at 1."""
    metered = Metered(start_server)
    text = metered.text()
    for line in (
        'file_server_upload_errors_total{reason="name-taken"} 0.0',
        'file_server_upload_errors_total{reason="storage-failed"} 0.0',
        'file_server_upload_errors_total{reason="checksum-mismatch"} 0.0',
        'file_server_download_errors_total{reason="not-found"} 0.0',
        'file_server_download_errors_total{reason="answer-cut-short"} 0.0',
        'hmacfs_refusals_total{reason="space"} 0.0',
        'hmacfs_refusals_total{reason="connections"} 0.0',
        'http_requests_total{method="PUT",path="/upload/<path>"} 0.0',
        'hmacfs_http_responses_total{method="PUT",status="507"} 0.0',
        'hmacfs_http_responses_total{method="GET",status="500"} 0.0',
        "hmacfs_uploads_total 0.0",
    ):
        assert f"\n{line}\n" in text, line
    assert text.count("\n") < 600
    before = {line.rpartition(" ")[0] for line in text.splitlines() if "_total" in line}
    server = metered.server
    assert put(server, "a", b"x").status == 201
    assert put(server, "a", b"x").status == 409
    assert [get(server, name).status for name in ("a", "none", "..")] == [200, 404, 400]
    with Client(server) as client:
        client.head("PUT", server.path("forged") + "?v=" + "0" * 64, content_length=5)
        assert client.answer().status == 403
    wait_until(lambda: metered.value("hmacfs_refusals_total", reason="signature") == 1, what="a scrape of all that")
    assert {line.rpartition(" ")[0] for line in metered.text().splitlines() if "_total" in line} == before


def test_what_begins_at_zero_leaves_room_in_its_file(start_server: StartServer) -> None:
    """prometheus_client enlarges a file that is full by a hole, and a full disk then kills the process."""
    metered = Metered(start_server)
    (file,) = (metered.server.store / ".hmacfs" / "run" / socket.gethostname() / "metrics").glob("counter_*-*.db")
    used = int.from_bytes(file.read_bytes()[:4], "little")
    assert 4 * used < file.stat().st_size


def test_an_aborted_download_is_an_error(start_server: StartServer) -> None:
    metered = Metered(start_server)
    with (metered.server.store / "large").open("wb") as file:
        file.truncate(200 * 2**20)
    with Client(metered.server) as client:
        client.head("GET", metered.server.path("large"))
        client.informational()
        client.reset()
    wait_until(lambda: metered.value("file_server_download_errors_total", reason="answer-cut-short") == 1)
    assert metered.value("hmacfs_downloads_total") == 0


def test_gauges_follow_what_happens_and_leave_no_ghosts(start_server: StartServer) -> None:
    metered = Metered(start_server, Workers=2)
    server = metered.server
    clients = [Client(server) for _ in range(20)]
    for number, client in enumerate(clients):
        client.head("PUT", server.sign_v(f"file{number}", 10), content_length=10)
        client.send(b"12345")
    for name in ("active_connections_total", "hmacfs_uploads_in_progress"):
        wait_until(lambda name=name: metered.value(name) == 20, what=f"{name} 20")  # type: ignore[misc]
    assert metered.value("goroutines_count") == metered.value("greenlets_count") > 20
    victim = server.workers()[0]
    held = sum(connection.status == "ESTABLISHED" for connection in victim.net_connections())
    victim.kill()
    wait_until(lambda: metered.value("active_connections_total") == 20 - held, what="the end of the ghosts")
    wait_until(lambda: metered.value("hmacfs_workers") == 2, what="a new worker")
    assert metered.value("hmacfs_workers_started_total") == 3
    for client in clients:
        client.close()
    wait_until(lambda: metered.value("hmacfs_uploads_in_progress") == 0, what="the end of the uploads")


def test_counts_of_the_dead_are_kept_in_one_place_and_outlive_a_restart(start_server: StartServer) -> None:
    metered = Metered(start_server, Workers=1)
    server = metered.server
    files = Path(server.store / ".hmacfs" / "run" / socket.gethostname() / "metrics")
    for number in range(5):
        assert put(server, f"file{number}", b"12345").status == 201
        before = server.workers()[0].pid
        server.workers()[0].kill()
        wait_until(lambda before=before: [p.pid for p in server.workers()] not in ([], [before]))  # type: ignore[misc]
        wait_until(lambda: accepts_connections(server.port) and get(server, "file0").status == 200)
    assert metered.value("hmacfs_uploads_total") == metered.value("file_server_upload_duration_seconds_count") == 5
    assert metered.value("hmacfs_upload_bytes_total") == 25
    wait_until(lambda: metered.text() and len(list(files.glob("counter_*.db"))) == 2, what="the folding")
    assert server.stop() == 0
    server.start()
    assert put(server, "one more", b"12345").status == 201
    assert metered.value("hmacfs_uploads_total") == metered.value("file_server_upload_duration_seconds_count") == 6
    buckets = metered.value("file_server_upload_duration_seconds_bucket", le="+Inf")
    assert buckets == 6


def test_the_port_can_be_moved_and_switched_off_by_a_reload(start_server: StartServer) -> None:
    metered = Metered(start_server)
    server, old = metered.server, metered.port
    assert put(server, "file", b"12345").status == 201
    metered.port = free_port()
    server.settings["MetricsPort"] = f"127.0.0.1:{metered.port}"
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: accepts_connections(metered.port), what="metrics at the new port")
    assert metered.value("hmacfs_uploads_total") == 1
    assert not accepts_connections(old)
    server.settings["MetricsEnabled"] = False
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: not accepts_connections(metered.port), what="no metrics")
    assert server.complaints() == []


def test_the_folder_can_be_moved_by_a_reload(start_server: StartServer, tmp_path: Path) -> None:
    metered = Metered(start_server)
    server = metered.server
    assert put(server, "file", b"12345").status == 201
    old = server.workers()[0].pid
    server.settings["RuntimeDir"] = str(tmp_path / "run")
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: old not in [worker.pid for worker in server.workers()], what="the end of the old worker")
    assert put(server, "another", b"12345").status == 201
    wait_until(lambda: metered.value("hmacfs_uploads_total") == 1, what="the new worker's counts")


def test_a_port_that_is_taken_is_one_clear_line(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=f"MetricsPort: cannot listen at {address}: Address already in use"):
            start_server(MetricsEnabled=True, MetricsPort=address)


class Load:
    """Clients that upload and download until they are stopped, and count what they were told."""

    def __init__(self, server: HmacFileServer, clients: int) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.received = 0
        self._server = server
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        count = 0
        while not self._is_over.is_set():
            count += 1
            name, size = f"load/{client}/{count}", 1000 + count % 5000
            self._request("PUT", self._server.sign_v(name, size), bytes(size))
            self._request("GET", self._server.path(name), None)
            if count % 10 == 0:
                self._request("PUT", self._server.path(name) + "?v=" + "0" * 64, b"forged")
            self._is_over.wait(0.005)

    def _request(self, method: str, target: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
        try:
            connection.connect()
        except OSError:
            return  # nobody saw this one
        try:
            connection.request(method, target, body)
            answer = connection.getresponse()
            length = len(answer.read())
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.unanswered[method] += 1
        else:
            with self._lock:
                self.statuses[method, answer.status] += 1
                self.received += length if answer.status == 200 else 0
        finally:
            connection.close()


@contextlib.contextmanager
def phase(seconds: float) -> Iterator[None]:
    """What happens within takes effect while the load goes on for so long."""
    until = time.monotonic() + seconds
    yield
    wait_until(lambda: time.monotonic() > until, timeout=seconds + 5)


def test_a_real_prometheus_holds_what_the_clients_counted(start_server: StartServer, tmp_path: Path) -> None:
    metered = Metered(start_server, Workers=4)
    server = metered.server
    with PrometheusServer(tmp_path / "prometheus", metered.port) as prometheus:
        with Load(server, 8) as load:
            with phase(8):
                wait_until(lambda: prometheus.query("up") == 1, what="the first scrape")
            with phase(8):
                server.workers()[0].kill()
            with phase(8):
                os.kill(server.pid, signal.SIGHUP)
            with phase(8):
                assert server.stop() == 0
                server.start()
        answered = load.statuses
        with phase(1.5):  # what is remembered of the time before is a second old at most
            pass

        def settled() -> bool:
            now = prometheus.query("sum(http_requests_total)")
            return now is not None and now == metered.value("http_requests_total")

        wait_until(settled, timeout=30, what="a scrape after the last request")
        for expression, low, method in [
            ("sum(hmacfs_uploads_total)", answered["PUT", 201], "PUT"),
            ("sum(file_server_upload_duration_seconds_count)", answered["PUT", 201], "PUT"),
            ('sum(hmacfs_refusals_total{reason="signature"})', answered["PUT", 403], "PUT"),
            ("sum(hmacfs_downloads_total)", answered["GET", 200], "GET"),
            ('sum(http_requests_total{method="PUT"})', answered["PUT", 201] + answered["PUT", 403], "PUT"),
            (
                'sum(http_requests_total{method="GET",path="/upload/<path>"})',
                answered["GET", 200] + answered["GET", 404],
                "GET",
            ),
        ]:
            found = prometheus.query(expression)
            assert found is not None
            # A request that got no answer, because its worker was killed, may have been counted or not. A download is
            # counted once it is sent: the killed worker may have had time for one and not for the other.
            assert low - (method == "GET") <= found <= low + load.unanswered[method], expression
        assert load.unanswered.total() <= 16
        assert answered["PUT", 201] > 1000
        assert prometheus.query("hmacfs_workers") == 4
        # A gauge follows within a sample of the worker and a scrape.
        wait_until(lambda: prometheus.query("sum(active_connections_total)") == 0, what="no connections")
        # A file whose upload found no server is not found.
        assert set(answered) <= {("PUT", 201), ("PUT", 403), ("GET", 200), ("GET", 404)}
