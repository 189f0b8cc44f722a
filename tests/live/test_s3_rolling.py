"""Two servers on one bucket behind a real HAProxy, as ``deploy/compose-s3.yaml`` has them: both are stopped and started,
one after the other, while clients of every kind upload. No upload fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hmacfs.stores.s3.client import S3Bucket
from tests.live.client import Client, request
from tests.live.pieces import DIALECTS, Upload, persist
from tests.live.test_resuming_clients import NAME, RealClient, TusJs, Tuspy
from tests.servers import accepts_connections, wait_until
from tests.servers.faulty_engine import FaultyEngine
from tests.servers.haproxy import HAProxy
from tests.servers.hmacfs import HmacFileServer, in_bucket
from tests.servers.redis import RedisServer
from tests.servers.seaweedfs import SeaweedFS

MIB = 1024 * 1024
#: Bytes a second of each transfer: slow enough to be under way at a stop.
RATE = 8 * MIB
#: Of the files that come in pieces: more than two parts, so that a stop finds some of them and a remainder.
LENGTH, PIECE = 20 * MIB, 5_000_000


class Cluster:
    """Two servers, what they share, and the proxy. endpoint: that of the engine."""

    def __init__(self, folder: Path, seaweedfs: SeaweedFS, cleanup: ExitStack, endpoint: str) -> None:
        redis = cleanup.enter_context(RedisServer(folder / "redis"))
        bucket = seaweedfs.make_bucket()
        self.bucket: S3Bucket = cleanup.enter_context(contextlib.closing(seaweedfs.client(bucket)))
        self.nodes = [
            HmacFileServer(
                folder / name,
                **in_bucket(seaweedfs, bucket, folder / name) | {"S3Endpoint": endpoint},
                RedisAddr=redis.address,
                TrustedProxies=["127.0.0.1"],
                MaxBytesPerSecond=RATE,
                MaxSessionsPerClient=1000,
                Workers=2,
                GracefulShutdownTimeout="20s",
            )
            for name in ("one", "two")
        ]
        for node in self.nodes:
            cleanup.enter_context(node)
        self.haproxy = HAProxy(folder / "haproxy", *(node.port for node in self.nodes), is_composed=True)
        cleanup.callback(self.haproxy.daemon.kill)

    @property
    def port(self) -> int:
        return self.haproxy.port

    def digest_of(self, name: str) -> str:
        download = self.bucket.get(name)
        assert download is not None, name
        digest = hashlib.sha256()
        with contextlib.closing(download):
            for piece in download.pieces(MIB):
                digest.update(piece)
        return digest.hexdigest()


@pytest.fixture
def cluster(tmp_path: Path, seaweedfs: SeaweedFS) -> Iterator[Cluster]:
    with ExitStack() as cleanup:
        yield Cluster(tmp_path, seaweedfs, cleanup, seaweedfs.endpoint)


class Load(threading.Thread):
    """Uploads file after file until it is told to stop. ``stored``: the digest of each that is there, by its name;
    ``failures``: what should not have been."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.prefix = name
        self.is_over = threading.Event()
        self.stored: dict[str, str] = {}
        self.failures: list[str] = []
        self.tally: Counter[str] = Counter()

    def run(self) -> None:
        number = 0
        while not self.is_over.is_set() and not self.failures:
            number += 1
            try:
                self.upload(f"{self.prefix}/{number}", number)
            except Exception as error:  # what a thread raises nobody sees
                self.failures.append(repr(error))

    def upload(self, name: str, number: int) -> None:
        raise NotImplementedError


class Whole(Load):
    """Whole uploads of several sizes, and each is read back, on one connection as long as that is kept."""

    sizes = (100, 5000, 300_000, 9 * MIB)

    def upload(self, name: str, number: int) -> None:
        body = os.urandom(self.sizes[number % len(self.sizes)])
        with Client(self.cluster.port) as client:
            client.head("PUT", self.cluster.nodes[0].sign_v(name, len(body)), content_length=len(body))
            client.send(body)
            answer = client.answer()
            self.tally[str(answer.status)] += 1
            assert answer.status == 201, (name, answer)
        self.stored[name] = hashlib.sha256(body).hexdigest()
        answer = request(self.cluster.port, "GET", self.cluster.nodes[0].path(name))
        assert (answer.status, answer.body == body) == (200, True), (name, answer.status)


class Slow(Load):
    """Whole uploads that take some seconds, so that each stop finds one of them."""

    def upload(self, name: str, number: int) -> None:
        del number
        body = os.urandom(100_000)
        with Client(self.cluster.port) as client:
            client.head("PUT", self.cluster.nodes[0].sign_v(name, len(body)), content_length=len(body))
            for start in range(0, len(body), 1000):
                client.send(body[start : start + 1000])
                time.sleep(0.03)
            status = client.answer().status
        self.tally[str(status)] += 1
        assert status == 201, name
        self.stored[name] = hashlib.sha256(body).hexdigest()


class Pieces(Load):
    """In one of our dialects, with a client that asks where it was."""

    def __init__(self, cluster: Cluster, kind: type[Upload]) -> None:
        super().__init__(cluster, kind.dialect)
        self._kind = kind

    def upload(self, name: str, number: int) -> None:
        del number
        upload = self._kind(self.cluster.nodes[0], name, os.urandom(LENGTH), PIECE)
        upload.proxy = self.cluster.port
        persist(upload, self.tally)
        assert len(upload.tokens) == 1, "it began again"
        self.stored[name] = hashlib.sha256(upload.body).hexdigest()


class Program(Load):
    """A program that somebody else wrote, started once for each file: it retries by itself or fails."""

    def __init__(self, cluster: Cluster, kind: type[RealClient], folder: Path) -> None:
        super().__init__(cluster, kind.__name__)
        self._kind = kind
        self._folder = folder

    def upload(self, name: str, number: int) -> None:
        folder = self._folder / str(number)
        folder.mkdir(parents=True)
        body = os.urandom(LENGTH)
        (folder / NAME).write_bytes(body)
        status = named(self._kind, name)(self.cluster.nodes[0], self.cluster.port, folder, PIECE).start().wait(120)
        self.tally[str(status)] += 1
        assert status == 0, (folder / "output.log").read_text(errors="replace")[-2000:]
        self.stored[name] = hashlib.sha256(body).hexdigest()


def named(kind: type[RealClient], name: str) -> type[RealClient]:
    """That client, for the slot of another name than its file's."""

    class Named(kind):  # type: ignore[misc, valid-type]
        @property
        def slot(self) -> str:
            return f"http://127.0.0.1:{self._port}{self._server.sign_v(name, (self.folder / NAME).stat().st_size)}"

    return Named


def test_both_servers_are_restarted_under_load_and_no_upload_fails(cluster: Cluster, tmp_path: Path) -> None:
    loads: list[Load] = [Whole(cluster, f"whole{number}") for number in range(3)]
    loads += [Slow(cluster, f"slow{number}") for number in range(3)]
    loads += [Pieces(cluster, kind) for kind in DIALECTS]
    loads += [Program(cluster, kind, tmp_path / kind.__name__) for kind in (Tuspy, TusJs)]
    for load in loads:
        load.start()
    seconds = []
    try:
        for node in (*cluster.nodes, cluster.nodes[0]):
            for each in cluster.nodes:
                wait_for_load(each)
            # As who restarts machines does: the proxy may not have found yet that the other one is back.
            wait_until(lambda: cluster.haproxy.is_up("one") and cluster.haproxy.is_up("two"), what="both machines")
            wait_until(lambda: all(load.tally or load.failures for load in loads), what="each client's first success")
            before = time.monotonic()
            assert node.stop() == 0
            seconds.append(time.monotonic() - before)
            assert not accepts_connections(node.port)
            node.start()
            assert not any(load.failures for load in loads), [load.failures for load in loads]
    finally:
        for load in loads:
            load.is_over.set()
        for load in loads:
            load.join(150)
    for load in loads:
        print(f"{load.prefix}: {len(load.stored)} files, {dict(sorted(load.tally.items()))}")
    print("seconds to a stop:", [round(each, 1) for each in seconds])
    assert [failure for load in loads for failure in load.failures] == []
    assert all(load.stored for load in loads)
    assert max(seconds) < 20, "the limit broke transfers off"
    wrong = [name for load in loads for name, digest in load.stored.items() if cluster.digest_of(name) != digest]
    assert wrong == []
    left = [one.key for page in cluster.bucket.pages(".hmacfs/partial/") for one in page]
    assert left == [], "what no upload needs any more"
    for node in cluster.nodes:
        assert node.stop() == 0
        # The trial of conditional writes at a start may take an engine under load longer than another worker waits.
        assert [line for line in node.complaints() if "not ready: store: " not in line] == []


def wait_for_load(node: HmacFileServer) -> None:
    """Until the proxy sends it some of the load (again)."""
    before = node.log().count(" path=/upload/")
    wait_until(lambda: node.log().count(" path=/upload/") > before + 20, what="requests")


def test_an_engine_that_is_slow_takes_no_server_out(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    """Every answer comes two seconds late, also those that a check of readiness waits for."""
    with ExitStack() as cleanup:
        engine = cleanup.enter_context(FaultyEngine(seaweedfs.port))
        cluster = Cluster(tmp_path, seaweedfs, cleanup, engine.endpoint)
        engine.delay = 2.0
        for number in range(4):
            target = cluster.nodes[0].sign_v(f"slow/{number}", 5)
            assert request(cluster.port, "PUT", target, b"hello").status == 201
        assert engine.calls["list"] > 4, "no check came to the engine meanwhile"
        assert " is DOWN" not in cluster.haproxy.daemon.log()
        assert request(cluster.port, "GET", cluster.nodes[1].path("slow/3")).body == b"hello"
