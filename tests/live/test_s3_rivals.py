"""Twenty rivals for one name at once, half of them at each of two machines: one has it, and nothing is left of the others."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.client import Answer, Client, get, put
from tests.live.pieces import BODY, RangeUpload, TusUpload, begun
from tests.live.shared_bucket import sharing, wait_for_sweep
from tests.servers import folder_of
from tests.servers.ceph import Ceph
from tests.servers.hmacfs import HmacFileServer, fallback
from tests.servers.juicefs import JuiceFS
from tests.servers.object_store import ObjectStoreServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.seaweedfs import SeaweedFS

RIVALS = 20
SMALL, LARGE = 1024, 9_000_000


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


def compete(servers: list[HmacFileServer], name: str, size: int) -> Counter[str]:
    """How often each answer was given; exactly one is 201, and the file is that one's."""
    start = threading.Barrier(RIVALS)
    bodies = [os.urandom(size) for _ in range(RIVALS)]

    def send(number: int) -> Answer:
        start.wait()
        return put(servers[number % len(servers)], name, bodies[number])

    with ThreadPoolExecutor(RIVALS) as pool:
        answers = list(pool.map(send, range(RIVALS)))
    tally = Counter(str(answer.status) for answer in answers)
    assert tally["201"] == 1, (name, tally)
    assert set(tally) <= {"201", "409", "503"}, (name, tally)
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status == 503)
    (winner,) = [number for number, answer in enumerate(answers) if answer.status == 201]
    for server in servers:
        assert get(server, name).body == bodies[winner], name
    return tally


def run(tmp_path: Path, engine: ObjectStoreServer, rounds: tuple[int, int], **settings: object) -> None:
    """rounds: so many of small files, and of large ones."""
    small, large = rounds
    bucket = engine.make_bucket()
    names = [f"round/{number}" for number in range(small + large)]
    tally: Counter[str] = Counter()
    with sharing(tmp_path, engine, bucket, Workers=2, SessionTTL="2s", **settings) as servers:
        for number, name in enumerate(names):
            tally += compete(servers, name, SMALL if number < small else LARGE)
        print(f"{len(names)} rounds over {type(engine).__name__}: {dict(tally)}")
        assert tally["503"] == 0
        wait_for_sweep(servers[0], engine, bucket, names)
        assert [line for server in servers for line in server.complaints() if " ERROR " in line] == []


def test_one_of_twenty_has_the_name(tmp_path: Path, seaweedfs: SeaweedFS, redis: RedisServer) -> None:
    run(tmp_path, seaweedfs, (15, 5), RedisAddr=redis.address)


def test_over_ceph(tmp_path: Path, ceph: Ceph, redis: RedisServer) -> None:
    run(tmp_path, ceph, (5, 1), RedisAddr=redis.address)


@pytest.mark.parametrize("conditional_writes", ["auto", "off"])
def test_claims_in_redis_decide(tmp_path: Path, juicefs: JuiceFS, redis: RedisServer, conditional_writes: str) -> None:
    run(tmp_path, juicefs, (5, 1), RedisAddr=redis.address, S3ConditionalWrites=conditional_writes)


def test_claims_in_a_database_decide(tmp_path: Path, juicefs: JuiceFS) -> None:
    with folder_of("postgres") as folder, PostgresServer(folder) as database:
        run(tmp_path, juicefs, (5, 1), S3ConditionalWrites="off", **fallback(database))


def test_another_s_file_ends_an_upload_in_the_middle_of_its_last_piece(
    tmp_path: Path, seaweedfs: SeaweedFS, redis: RedisServer
) -> None:
    bucket = seaweedfs.make_bucket()
    with sharing(tmp_path, seaweedfs, bucket, SessionTTL="2s", RedisAddr=redis.address) as (one, other):
        for kind in (RangeUpload, TusUpload):
            name = f"ended/{kind.dialect}"
            upload = begun(kind, one, name, 80_000)
            method, headers = upload.head_of(80_000)
            with Client(one) as client:
                client.head(method, upload.url, content_length=20_000, **headers)
                client.send(BODY[80_000:90_000])
                assert put(other, name, b"another's").status == 201
                client.send(BODY[90_000:])
                assert client.answer(method).status == 409
            assert get(one, name).body == b"another's"
            upload.server = other
            assert upload.send(80_000).status in (409, 410)
        wait_for_sweep(one, seaweedfs, bucket, ["ended/range", "ended/tus"])
