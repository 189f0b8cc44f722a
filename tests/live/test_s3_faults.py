"""An engine that is slow, silent, away, full or cuts connections: what clients are told, and that nobody else waits."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.live.client import Answer, Client, get, latencies, put, request
from tests.live.pieces import PIECE_TYPE, TUS, RangeUpload, TusUpload, begun, create, patch, persist
from tests.live.shared_bucket import KEPT
from tests.servers import free_port, wait_until
from tests.servers.ceph import Ceph
from tests.servers.faulty_engine import (
    HUNG_AFTER,
    HUNG_BEFORE,
    LOST_ANSWER,
    SLOW_DOWN,
    Fault,
    FaultyEngine,
)
from tests.servers.hmacfs import HmacFileServer, in_bucket
from tests.servers.seaweedfs import SeaweedFS

MIB = 1024 * 1024
#: All that the engine can be asked for; a check is a listing.
OPERATIONS = (
    *("put", "head", "get", "delete", "list", "uploads"),
    *("begin_multipart", "put_part", "parts", "complete", "abort"),
)
#: What a request that wants nothing of the engine may take, in seconds.
AT_ONCE = 0.25


class Stage:
    """A server of one worker, and the engine's proxy before its bucket."""

    def __init__(self, folder: Path, seaweedfs: SeaweedFS, proxy: FaultyEngine) -> None:
        self.proxy = proxy
        self.metrics_port = free_port()
        self.bucket_name = seaweedfs.make_bucket()
        self.bucket = seaweedfs.client(self.bucket_name)
        settings = in_bucket(seaweedfs, self.bucket_name, folder) | {
            "S3Endpoint": proxy.endpoint,
            "S3Timeout": "3s",
            "S3ConditionalWrites": "on",  # the trial at each start has tests of its own
            "MaxRetries": 1,
            "RetryDelay": "100ms",
            "MetricsEnabled": True,
            "MetricsPort": f"127.0.0.1:{self.metrics_port}",
        }
        self.server = HmacFileServer(folder / "server", **settings)

    def fails(self, fault: Fault) -> None:
        """All that the engine is asked for, until it is forgiven."""
        for operation in OPERATIONS:
            self.proxy.fail_always(operation, fault)

    def fails_once(self, fault: Fault) -> None:
        """The next request of each operation."""
        self.proxy.forgive()
        for operation in OPERATIONS:
            self.proxy.fail(operation, fault)

    def is_ready(self) -> bool:
        return request(self.server, "GET", "/readyz").status == 200

    def metric(self, name: str) -> float:
        text = request(self.metrics_port, "GET", "/metrics").body.decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def worker(self) -> psutil.Process:
        (worker,) = self.server.workers()
        return worker

    def objects(self) -> list[str]:
        return sorted(one.key for page in self.bucket.pages("") for one in page if one.key not in KEPT)


@pytest.fixture
def stage(tmp_path: Path, seaweedfs: SeaweedFS) -> Iterator[Stage]:
    with FaultyEngine(seaweedfs.port) as proxy:
        built = Stage(tmp_path, seaweedfs, proxy)
        with contextlib.closing(built.bucket), built.server:
            yield built


def refused(answer: Answer, status: int = 503) -> bool:
    return answer.status == status and (status != 503 or int(answer.headers["Retry-After"]) > 0)


# -- nobody else waits ------------------------------------------------------------------------------


@pytest.mark.alone
def test_while_the_engine_is_slow_all_that_does_not_need_it_goes_on(stage: Stage) -> None:
    """Every answer is two seconds late: within the time limit."""
    server, large = stage.server, os.urandom(64 * MIB)
    stage.server.stop()
    stage.server.settings["S3Timeout"] = "30s"
    server.start()
    assert put(server, "large", large).status == 201
    with Client(server) as reader, ThreadPoolExecutor(16) as pool:
        reader.head("GET", server.path("large"))
        assert b" 200 " in reader.informational()
        stage.proxy.delay = 2.0
        with latencies(server) as found:
            uploads = [pool.submit(put, server, f"small/{number}", b"x" * 20_000) for number in range(8)]
            uploads += [pool.submit(put, server, f"parts/{number}", bytes(20 * MIB)) for number in range(4)]
            downloads = [pool.submit(get, server, "large", range="bytes=0-9") for _ in range(4)]
            buffer, left, longest = bytearray(MIB), len(large), 0.0
            while left:  # what was under way goes on
                before = time.monotonic()
                count = reader.read_into(buffer)
                longest = max(longest, time.monotonic() - before)
                assert count
                assert buffer[:count] == large[len(large) - left :][:count]
                left -= count
            assert longest < 1.0, "the download waited"
            assert {future.result().status for future in uploads} == {201}
            assert {future.result().body for future in downloads} == {large[:10]}
    print(f"{len(found)} requests to /healthz, the slowest took {max(found):.3f} s")
    assert sorted(found)[len(found) * 99 // 100] < AT_ONCE
    stage.proxy.delay = 0.0
    assert [get(server, f"parts/{number}").body == bytes(20 * MIB) for number in range(4)] == [True] * 4


@pytest.mark.alone
def test_while_the_engine_is_silent_all_that_does_not_need_it_goes_on(stage: Stage) -> None:
    """Who asks for a file is told so after the time limit, and an upload whose bytes still come does not wait."""
    server = stage.server
    assert put(server, "there", b"x").status == 201
    with Client(server) as slow, ThreadPoolExecutor(32) as pool:
        body, looks = os.urandom(2 * MIB), stage.proxy.calls["head"]
        slow.head("PUT", server.sign_v("slow", len(body)), content_length=len(body))
        slow.send(body[:MIB])
        wait_until(lambda: stage.proxy.calls["head"] > looks, what="the look for the name")
        stage.fails(HUNG_BEFORE)
        with latencies(server) as found:
            asked = [pool.submit(put, server, f"silent/{number}", b"x") for number in range(10)]
            asked += [pool.submit(put, server, f"silent/large{number}", bytes(300_000)) for number in range(5)]
            asked += [pool.submit(get, server, "there") for _ in range(10)]
            asked += [pool.submit(create, server, f"silent/tus{number}", 10) for number in range(5)]
            for start in range(MIB, len(body) - 1, 100_000):
                slow.send(body[start : min(start + 100_000, len(body) - 1)])
            answers = [future.result() for future in asked]
            assert request(server, "GET", "/").status == 200
            ready = request(server, "GET", "/readyz")
        assert all(refused(answer) for answer in answers), Counter(answer.status for answer in answers)
        assert (ready.status, ready.body.startswith(b"store: ")) == (503, True)
        stage.proxy.forgive()
        wait_until(stage.is_ready, what="readiness")
        slow.send(body[-1:])
        assert slow.answer().status == 201
    print(f"{len(found)} requests to /healthz, the slowest took {max(found):.3f} s")
    assert sorted(found)[len(found) * 99 // 100] < AT_ONCE
    assert get(server, "slow").body == body
    assert stage.objects() == ["slow", "there"]


# -- what clients are told --------------------------------------------------------------------------


def test_an_engine_that_is_away_is_503_at_once_and_then_it_is_there_again(stage: Stage) -> None:
    server = stage.server
    upload = begun(TusUpload, server, "tus", 40_000)
    stage.proxy.refuse()
    before = time.monotonic()
    answers = [put(server, "new", b"x"), put(server, "new/large", bytes(20 * MIB)), get(server, "new")]
    answers += [request(server, "HEAD", server.path("new")), create(server, "new", 10), upload.send(40_000)]
    answers.append(upload.probe())
    assert all(refused(answer) for answer in answers), [answer.status for answer in answers]
    assert time.monotonic() - before < len(answers) * 0.5
    wait_until(lambda: not stage.is_ready(), what="the end of readiness")
    stage.proxy.accept()
    wait_until(stage.is_ready, what="readiness")
    persist(upload, Counter())
    assert get(server, "tus").body == upload.body
    assert put(server, "new", b"x").status == 201
    assert stage.objects() == ["new", "tus"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (SLOW_DOWN, 503),
        (HUNG_BEFORE, 503),
        (Fault(reaches=False, status=403, code="AccessDenied"), 500),
        (Fault(reaches=False, status=403, code="QuotaExceeded"), 507),
        (Fault(reaches=False, status=400, code="KeyTooLongError"), 400),
    ],
    ids=lambda value: value.code or f"{value.status}-{value.hangs}" if isinstance(value, Fault) else str(value),
)
def test_each_failure_has_its_status_and_goes_by(stage: Stage, fault: Fault, status: int) -> None:
    """In whichever way the bytes come. One of each kind: the client's unit tests have the others."""
    server = stage.server
    upload = begun(RangeUpload, server, "pieces", 40_000)
    tus = create(server, "tus", 5).headers["Location"]
    for operation in ("put", "begin_multipart", "put_part"):
        stage.proxy.fail_always(operation, fault)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(put, server, "small", b"x"), pool.submit(put, server, "large", bytes(20 * MIB))]
        asked += [pool.submit(upload.send, 40_000), pool.submit(create, server, "new", 5)]
        asked.append(pool.submit(patch, server, tus, 0, b"hello"))
        answers = [future.result() for future in asked]
    assert all(refused(answer, status) for answer in answers), [answer.status for answer in answers]
    if status == 500:
        told = [line for line in server.log().splitlines() if " ERROR " in line and "storage failed: " in line]
        assert 1 <= len(told) <= 3, "one line for each operation, and not for each request"
        stage.fails(fault)
        wait_until(lambda: not stage.is_ready(), what="the end of readiness")
    stage.proxy.forgive()
    wait_until(stage.is_ready, what="readiness")
    persist(upload, Counter())
    assert get(server, "pieces").body == upload.body
    assert (
        patch(server, tus, int(upload_offset(server, tus)), b"hello"[int(upload_offset(server, tus)) :]).status == 204
    )
    assert put(server, "small", b"x").status == put(server, "large", b"y").status == 201
    assert stage.objects() == ["large", "pieces", "small", "tus"]


def upload_offset(server: HmacFileServer, url: str) -> str:
    return str(request(server, "HEAD", url, **TUS).headers["Upload-Offset"])


@pytest.mark.parametrize("fault", [LOST_ANSWER, SLOW_DOWN], ids=["lost answer", "slow down"])
def test_a_failure_that_goes_by_is_no_client_s_matter(stage: Stage, fault: Fault) -> None:
    """Each operation fails once, whether or not the engine has carried it out."""
    server, large = stage.server, os.urandom(20 * MIB)
    stage.fails_once(fault)
    assert put(server, "small", b"x").status == 201
    assert put(server, "small", b"y").status == 409
    stage.fails_once(fault)
    assert put(server, "large", large).status == 201
    upload = TusUpload(server, "tus", large, 9 * MIB)
    assert upload.create().status == 201
    stage.fails_once(fault)
    tally: Counter[str] = Counter()
    persist(upload, tally)
    assert set(tally) <= {"200", "204", "409", "503"}
    for name in ("large", "tus"):
        stage.fails_once(fault)
        assert get(server, name).body == large
    assert get(server, "small").body == b"x"
    assert [name for name in stage.objects() if not name.startswith(".hmacfs/")] == ["large", "small", "tus"]


def test_a_download_that_breaks_off_goes_on_once(stage: Stage) -> None:
    server, body = stage.server, os.urandom(10 * MIB)
    assert put(server, "file", body).status == 201
    stage.proxy.fail("get", Fault(passed=3_000_000))
    assert get(server, "file").body == body
    stage.proxy.fail("get", Fault(passed=1_000_000))
    assert get(server, "file", range="bytes=5000000-").body == body[5_000_000:]
    stage.proxy.fail("get", Fault(passed=3_000_000), Fault(passed=3_000_000))
    with Client(server) as client:  # what it announced does not come: the connection ends
        client.head("GET", server.path("file"))
        assert b"Content-Length: 10485760" in client.informational()
        buffer, received = bytearray(MIB), 0
        while count := client.read_into(buffer):
            assert buffer[:count] == body[received : received + count]
            received += count
        assert 0 < received < len(body)
    assert get(server, "file").body == body


def test_a_server_that_starts_while_the_engine_is_silent_serves_once_it_answers(stage: Stage) -> None:
    server = stage.server
    server.stop()
    server.settings["S3ConditionalWrites"] = "auto"
    stage.fails(HUNG_BEFORE)
    server.ready_path = "/healthz"
    server.start()
    assert refused(put(server, "early", b"x"))
    assert not stage.is_ready()
    stage.proxy.forgive()
    wait_until(stage.is_ready, what="readiness")
    assert put(server, "early", b"x").status == 201
    assert server.stop(signal.SIGTERM) == 0


def test_a_stop_does_not_wait_for_a_silent_engine(stage: Stage) -> None:
    """Longer than the time limit is."""
    server = stage.server
    stage.proxy.fail_always("put", HUNG_AFTER)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(put, server, f"silent/{number}", b"x") for number in range(5)]
        wait_until(lambda: stage.proxy.failed["put"] >= 5, what="the uploads")
        before = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - before < 15
        assert {answer.status for answer in (future.result() for future in asked)} <= {201, 503}


def test_a_full_engine_is_507_whatever_the_way_and_stays_ready(tmp_path: Path, ceph: Ceph) -> None:
    user = ceph.limited_user(4_000_000)
    name = ceph.make_bucket(**user)
    settings = in_bucket(ceph, name, tmp_path) | {"S3AccessKey": user["access_key"], "RetryDelay": "100ms"}
    with HmacFileServer(tmp_path / "server", **settings) as server:
        upload = begun(RangeUpload, server, "pieces", 40_000)
        tus = create(server, "tus", 1_000_000).headers["Location"]

        def is_full() -> bool:
            answer = put(server, f"fill/{os.urandom(4).hex()}", bytes(1_000_000))
            assert answer.status in (201, 507)
            return answer.status == 507

        wait_until(is_full, what="the quota's end")
        answers = [put(server, "large", bytes(20 * MIB)), patch(server, tus, 0, bytes(1_000_000))]
        assert [answer.status for answer in answers] == [507, 507]
        assert get(server, "fill").status == 404
        assert request(server, "GET", "/readyz").status == 200
        with contextlib.closing(ceph.client(name, **user)) as client:
            for page in client.pages("fill/"):
                for one in page:
                    client.delete(one.key)
            wait_until(lambda: put(server, f"again/{os.urandom(4).hex()}", b"x").status == 201, what="room")
            wait_until(lambda: rest_of_tus(server, tus) == 204, what="room for the rest")
            persist(upload, Counter())
            assert get(server, "tus").body == bytes(1_000_000)
            assert get(server, "pieces").body == upload.body
            assert "large" not in {one.key for page in client.pages("") for one in page}


def rest_of_tus(server: HmacFileServer, url: str) -> int:
    """Send what the server lacks of the upload above; the status."""
    offset = int(upload_offset(server, url))
    return patch(server, url, offset, bytes(1_000_000 - offset)).status


# -- nothing is left --------------------------------------------------------------------------------


@pytest.mark.alone
def test_thirty_uploads_at_a_silent_engine_take_no_memory_and_leave_nothing(stage: Stage) -> None:
    """In three rounds of 20 MB each, whole and in pieces: a leak would add up."""
    server, body = stage.server, os.urandom(20_000_000)
    assert put(server, "warm/up", body).status == 201
    assert get(server, "warm/up").body == body
    worker = stage.worker()
    memory, threads = worker.memory_info().rss, worker.num_threads()
    descriptors = settled(worker.num_fds)
    kept: list[tuple[int, int]] = []
    for turn in range(3):
        stage.proxy.fail_always("put_part", HUNG_BEFORE)
        hung = stage.proxy.failed["put_part"]
        with ThreadPoolExecutor(30) as pool:
            asked = [pool.submit(put, server, f"hung/{turn}-{number}", body) for number in range(20)]
            asked += [pool.submit(in_one_piece, server, f"hung/tus{turn}-{number}", body) for number in range(10)]
            wait_until(lambda hung=hung: stage.proxy.failed["put_part"] >= hung + 30, what="the parts")  # type: ignore[misc]
            highest = worker.memory_info().rss
            answers = [future.result() for future in asked]
        assert all(refused(answer) for answer in answers), Counter(answer.status for answer in answers)
        stage.proxy.forgive()
        wait_until(lambda: stage.metric("hmacfs_s3_spool_bytes") == 0.0, what="an empty spool")
        kept.append((highest - memory, worker.memory_info().rss - memory))
        assert put(server, f"after/{turn}", b"x").status == 201
    print("bytes more, at most and after each round:", kept)
    assert max(most for most, _ in kept) < 64 * MIB
    assert kept[2][1] - kept[0][1] < 8 * MIB, "memory grows with each round"

    def is_back() -> bool:
        """With each call to the engine those connections are closed that were idle for long; a check opens a new one."""
        return request(server, "HEAD", server.path("warm/up")).status == 200 and worker.num_fds() <= descriptors + 4

    wait_until(is_back, what="the end of all descriptors")
    assert worker.num_threads() <= threads + 16
    assert worker == stage.worker()
    assert stage.metric("hmacfs_uploads_in_progress") == 0
    assert [name for name in stage.objects() if not name.startswith(".hmacfs/")] == [
        *(f"after/{turn}" for turn in range(3)),
        "warm/up",
    ]


def in_one_piece(server: HmacFileServer, name: str, body: bytes) -> Answer:
    url = create(server, name, len(body)).headers["Location"]
    return request(server, "PATCH", url, body, upload_offset=0, content_type=PIECE_TYPE, **TUS)


def settled(count: Callable[[], int]) -> int:
    """A number that has not changed for a moment."""
    seen: list[int] = []

    def is_settled() -> bool:
        seen.append(count())
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    wait_until(is_settled, what="an even number")
    return seen[-1]
