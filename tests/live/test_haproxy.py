"""Two servers with one store and one Redis, behind a real HAProxy with the shipped configuration."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.live.client import Answer, Client, request
from tests.live.confiding import confide, leaks
from tests.servers import accepts_connections, require_binary, wait_until
from tests.servers.haproxy import DEPLOY, HAProxy
from tests.servers.hmacfs import HmacFileServer
from tests.servers.redis import RedisServer


class Cluster:
    """Two machines, their Redis, and the proxy."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.redis = cleanup.enter_context(RedisServer(folder / "redis"))
        self.nodes = [
            HmacFileServer(
                folder / name,
                StoreDir=str(folder / "store"),
                RedisAddr=self.redis.address,
                RuntimeDir=str(folder / name / "workers"),
                TrustedProxies=["127.0.0.1"],
                DownloadOffload="none",
                Workers=2,
                GracefulShutdownTimeout="20s",
            )
            for name in ("one", "two")
        ]
        for node in self.nodes:
            node.store = folder / "store"
            cleanup.enter_context(node)
        self.haproxy = HAProxy(folder / "haproxy", *(node.port for node in self.nodes))
        cleanup.callback(self.haproxy.daemon.kill)

    @property
    def port(self) -> int:
        return self.haproxy.port

    def ask(self, method: str, target: str, body: bytes = b"", **headers: object) -> Answer:
        return request(self.port, method, target, body, **headers)

    def put(self, name: str, body: bytes) -> Answer:
        return self.ask("PUT", self.nodes[0].sign_v(name, len(body)), body)

    def get(self, name: str, **headers: str) -> Answer:
        return self.ask("GET", self.nodes[0].path(name), b"", **headers)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as cleanup:
        running = Cluster(tmp_path_factory.mktemp("cluster"), cleanup)
        yield running
        running.haproxy.stop()
        for node in running.nodes:
            assert node.stop() == 0
            assert node.complaints() == []
            assert node.leftovers() == []


def test_the_machines_are_configured_as_the_file_says(cluster: Cluster) -> None:
    text = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    documented = set(re.findall(r"^#     (\w+) = ", text, re.MULTILINE))
    assert documented <= set(cluster.nodes[0].settings)


def test_haproxy_accepts_the_file_as_it_is() -> None:
    done = subprocess.run(
        [require_binary("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_what_one_machine_stores_the_other_serves(cluster: Cluster) -> None:
    for number in range(20):
        body = os.urandom(number * 5000)
        name = f"shared/{number} ☃ 100%+.bin"
        stored = cluster.put(name, body)
        assert stored.status == 201
        assert len(stored.headers["X-Request-ID"]) == 36
        for node in cluster.nodes:
            answer = request(node, "GET", node.path(name))
            assert (answer.status, answer.body, answer.headers["ETag"]) == (200, body, stored.headers["ETag"])
        part = cluster.get(name, range="bytes=10-19")
        assert part.body == body[10:20] or number == 0
        assert cluster.get(name, if_none_match=stored.headers["ETag"]).status == 304
        assert cluster.put(name, body).status == 409
    for node in cluster.nodes:
        assert "path=/upload/shared/" in node.log()


def test_a_name_sent_to_both_at_once_has_one_winner(cluster: Cluster) -> None:
    one, two = (Client(node) for node in cluster.nodes)
    with one, two:
        for client, letter in ((one, b"1"), (two, b"2")):
            client.head("PUT", cluster.nodes[0].sign_v("both", 100_000), content_length=100_000)
            client.send(letter * 99_999)
        for client, letter in ((one, b"1"), (two, b"2")):
            client.send(letter)
        assert Counter(client.answer().status for client in (one, two)) == {201: 1, 409: 1}
    assert cluster.get("both").body in (b"1" * 100_000, b"2" * 100_000)


def test_paths_that_are_utf_8_as_they_are(cluster: Cluster) -> None:
    target = cluster.nodes[0].sign_v("naïve/☃.txt", 3).replace("%C3%AF", "ï").replace("%E2%98%83", "☃")
    assert not target.isascii()
    with Client(cluster.port) as client:
        client.send(f"PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc".encode())
        assert client.answer().status == 201
    assert cluster.get("naïve/☃.txt").body == b"abc"


def test_a_path_as_long_as_allowed_passes(cluster: Cluster) -> None:
    """4,095 bytes, each of them escaped. The signature is wrong: the tests' own tools cannot handle such files."""
    target = cluster.nodes[0].path("/".join(["ü" * 127] * 16))
    answer = cluster.ask("PUT", f"{target}?v={'0' * 64}", b"x", authorization="Bearer " + "x" * 2000)
    assert (answer.status, answer.body) == (403, b"The signature is missing, wrong or expired.\n")


def test_pieces_go_to_both_machines(cluster: Cluster) -> None:
    """Alternately, so that each goes on with what the other one stored; and through HAProxy, as it comes."""
    body, size = os.urandom(1_000_000), 100_000
    for name, ports in [("pieces/turns", [node.port for node in cluster.nodes]), ("pieces/proxy", [cluster.port])]:
        target = cluster.nodes[0].sign_v(name, len(body))
        for number, first in enumerate(range(0, len(body), size)):
            piece = body[first : first + size]
            span = f"bytes {first}-{first + size - 1}/{len(body)}"
            answer = request(ports[number % len(ports)], "PUT", target, piece, content_range=span)
            assert answer.status == (201 if first + size == len(body) else 202)
            if answer.status == 202:
                assert answer.headers["Upload-Offset"] == str(first + size)
                assert cluster.ask("HEAD", target).headers["Upload-Offset"] == str(first + size)
        assert cluster.get(name).body == body


def test_a_tus_upload_moves_from_a_machine_that_stops_to_the_other(cluster: Cluster) -> None:
    """Mid-piece, with the connection broken: what the first has kept the second goes on with."""
    body = os.urandom(300_000)
    first, second = cluster.nodes
    target = first.sign_v("tus/file", len(body))
    made = cluster.ask("POST", target, tus_resumable="1.0.0", upload_length=len(body), content_length=0)
    assert made.status == 201
    where = urlsplit(made.headers["Location"])
    location = f"{where.path}?{where.query}" if where.query else where.path
    tus = {"tus_resumable": "1.0.0", "content_type": "application/offset+octet-stream"}
    with Client(first) as client:
        client.head("PATCH", location, upload_offset=0, content_length=len(body), **tus)
        client.send(body[:120_000])
        wait_until(lambda: offset_of(second, location) > 0, what="bytes that the other machine sees")
    offset = wait_until(lambda: offset_of(second, location) if "body-cut-short" in first.log() else 0)
    answer = request(second, "PATCH", location, body[offset:], upload_offset=offset, **tus)
    assert answer.status == 204
    assert cluster.get("tus/file").body == body


def test_without_redis_all_goes_on_that_needs_none(tmp_path: Path) -> None:
    """Though no machine is ready then."""
    with ExitStack() as cleanup:
        cluster = Cluster(tmp_path, cleanup)
        cluster.redis.kill()
        wait_until(lambda: not any(cluster.haproxy.is_up(name) for name in ("one", "two")), what="both unready")
        assert cluster.put("alone", b"abc").status == 201
        assert cluster.get("alone").body == b"abc"
        refused = cluster.ask("PUT", cluster.nodes[0].sign_v("piece", 6), b"abc", content_range="bytes 0-2/6")
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)


def offset_of(server: HmacFileServer, location: str) -> int:
    return int(request(server, "HEAD", location, tus_resumable="1.0.0").headers["Upload-Offset"])


def test_the_client_s_address_is_the_one_haproxy_saw(cluster: Cluster) -> None:
    """A list, a second header: none of them is believed."""
    with Client(cluster.port) as client:
        client.send(b"PUT /upload/spoofed?v=0 HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nX-Request-ID: mine\r\n")
        client.send(b"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\nx-forwarded-for: 203.0.113.7\r\n")
        client.send(b"Forwarded: for=203.0.113.8\r\n\r\nx")
        answer = client.answer()
    assert answer.status == 403
    assert answer.headers["X-Request-ID"] != "mine"

    def logged() -> list[str]:
        log = "".join(node.log() for node in cluster.nodes)
        return [line for line in log.splitlines() if "path=/upload/spoofed" in line]

    (line,) = wait_until(logged)
    assert " client=127.0.0.1 " in line


def test_no_log_has_what_gives_rights(cluster: Cluster) -> None:
    """Signatures, bearer tokens and the tokens of unfinished uploads, in query, path, header and Referer."""
    secrets = confide(cluster.port, cluster.nodes[0])
    log = cluster.haproxy.daemon.log
    wait_until(lambda: log().count('"PATCH ') > 50, what="the requests in HAProxy's log")
    assert '"PUT /upload/name/of.txt HTTP/1.1" ' in log()
    assert '"PATCH /upload/.hmacfs/... HTTP/1.1" ' in log()
    assert leaks(log() + "".join(node.log() for node in cluster.nodes), secrets) == []
    with Client(cluster.port) as client:
        client.send(b'GET /upload/a"b\xc2\x9b2Jc HTTP/1.1\r\nHost: test\r\n\r\n')
        client.answer()
    wait_until(lambda: '"GET /upload/a?b??2Jc HTTP/1.1" ' in log(), what="a field that ends where it should")
    answer = cluster.get("not/there")
    wait_until(lambda: f'"GET /upload/not/there HTTP/1.1" {answer.headers["X-Request-ID"]}\n' in log(), what="the id")


@pytest.mark.parametrize("protocol", ["1.0", "1.1"])
@pytest.mark.parametrize("host", ["", "Host:\r\n", "Host: a.example:81\r\n"])
def test_a_host_that_is_missing_empty_or_another_changes_nothing(cluster: Cluster, protocol: str, host: str) -> None:
    if protocol == "1.1" and not host:
        host = "Host: [::1]\r\n"  # it must not be missing there
    name = f"hosts/{protocol}/{len(host)}"
    more = f" HTTP/{protocol}\r\n{host}Connection: close\r\n"
    for method, target, status in [
        ("PUT", cluster.nodes[0].sign_v(name, 1), 201),
        ("GET", cluster.nodes[0].path(name), 200),
        ("GET", "/readyz", 200),
    ]:
        with Client(cluster.port) as client:
            body = "Content-Length: 1\r\n\r\nx" if method == "PUT" else "\r\n"
            client.send(f"{method} {target}{more}{body}".encode())
            assert client.answer().status == status


def test_one_client_has_its_share_of_haproxy(cluster: Cluster, tmp_path: Path) -> None:
    haproxy = HAProxy(
        tmp_path, *(node.port for node in cluster.nodes), changes={"sc0_conn_cur gt 256": "sc0_conn_cur gt 4"}
    )
    with ExitStack() as stack:
        stack.callback(haproxy.daemon.kill)
        silent, refused = [], 0
        for _ in range(12):
            try:
                silent.append(stack.enter_context(Client(haproxy.port, source="127.0.0.2")))
            except ConnectionError:  # closed as soon as it was there
                refused += 1
        wait_until(lambda: refused + sum(map(is_closed, silent)) == 8, what="the end of those that are too many")
        with Client(haproxy.port, source="127.0.0.3") as client:
            client.head("PUT", cluster.nodes[0].sign_v("beside/haproxy", 1), content_length=1)
            client.send(b"x")
            assert client.answer().status == 201


def is_closed(client: Client) -> bool:
    try:
        return not client.stays_silent(0.01)
    except ConnectionError:
        return True


def test_a_refusal_reaches_every_curl_that_still_sends(cluster: Cluster, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(256 * 1024**2)
    target = f"http://127.0.0.1:{cluster.port}/upload/refused?v={'0' * 64}"
    command = [require_binary("curl"), "-sS", "-o", os.devnull, "-w", "%{http_code} %{errormsg}", "-H", "Expect:"]
    for _ in range(30):
        done = subprocess.run([*command, "-T", tmp_path / "large", target], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "403"
    assert "refused" not in cluster.nodes[0].stored()


def test_a_client_that_waits_for_100_continue(cluster: Cluster) -> None:
    with Client(cluster.port) as client:
        client.head("PUT", cluster.nodes[0].sign_v("expect", 3), content_length=3, expect="100-continue")
        assert client.informational().startswith(b"HTTP/1.1 100")
        client.send(b"abc")
        assert client.answer().status == 201
    with Client(cluster.port) as client:
        client.head("PUT", "/upload/expect2?v=0", content_length=3, expect="100-continue")
        assert client.answer().status == 403


class Load(threading.Thread):
    """Uploads and downloads through the proxy, one after the other on kept connections, until told to stop."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(daemon=True)
        self._cluster, self._number = cluster, number
        self.is_over = threading.Event()
        self.statuses: Counter[object] = Counter()

    def run(self) -> None:
        body, node = os.urandom(200_000), self._cluster.nodes[0]
        with Client(self._cluster.port) as client:
            count = 0
            while not self.is_over.is_set():
                count += 1
                name, size = f"load/{self._number}/{count}", (100, 5000, 200_000)[count % 3]
                try:
                    client.head("PUT", node.sign_v(name, size), content_length=size)
                    client.send(body[:size])
                    self.statuses[client.answer().status] += 1
                    client.head("GET", node.path(name))
                    answer = client.answer()
                    self.statuses[answer.status if answer.body == body[:size] else "wrong bytes"] += 1
                except OSError as error:
                    self.statuses[repr(error)] += 1
                    return


def test_a_machine_can_be_stopped_and_started_under_load_without_a_failed_request(cluster: Cluster) -> None:
    clients = [Load(cluster, number) for number in range(6)]
    for client in clients:
        client.start()
    dripped: list[int] = []
    slow = [threading.Thread(target=drip, args=(cluster, number, dripped)) for number in range(4)]
    for thread in slow:
        thread.start()
    try:
        for node in (*cluster.nodes, cluster.nodes[0]):
            for each in cluster.nodes:  # the other one too: the proxy may not have found yet that it is back
                wait_for_load(each)
            assert node.stop() == 0
            assert not accepts_connections(node.port)
            node.start()
    finally:
        for client in clients:
            client.is_over.set()
        for client in clients:
            client.join()
        for thread in slow:
            thread.join()
    statuses = sum((client.statuses for client in clients), Counter())
    ends = [
        line for line in cluster.haproxy.daemon.log().splitlines() if "/upload/load/" in line and " ---- " not in line
    ]
    assert set(statuses) == {200, 201}, (statuses, ends)
    assert statuses[200] == statuses[201]
    assert dripped == [201] * 4


def wait_for_load(node: HmacFileServer) -> None:
    """Until the proxy sends it some of the load (again)."""
    before = node.log().count(" path=/upload/load/")
    wait_until(lambda: node.log().count(" path=/upload/load/") > before + 20, what="requests")


def drip(cluster: Cluster, number: int, statuses: list[int]) -> None:
    """An upload that takes a while, so that it is under way when its machine is stopped."""
    with Client(cluster.port) as client:
        client.head("PUT", cluster.nodes[0].sign_v(f"drip/{number}", 100_000), content_length=100_000)
        for _ in range(100):
            client.send(b"x" * 1000)
            time.sleep(0.03)
        statuses.append(client.answer().status)
