"""Real engines: SeaweedFS, Ceph, JuiceFS' gateway. Through the client they pass the contract of ``Bucket``, but for what
each of them is known to do in its own way."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmacfs.config.values import Secret
from hmacfs.errors import NoSpace, StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import NO_ATTRIBUTES, Bucket, Doubt
from hmacfs.stores.s3.client import S3Bucket
from tests.contracts.buckets import BucketContract, Expected, content
from tests.servers import wait_until
from tests.servers.ceph import Ceph
from tests.servers.engines import ENGINES
from tests.servers.faulty_engine import LOST_ANSWER, RESET, SLOW_DOWN, STORED_500, Fault, FaultyEngine
from tests.servers.juicefs import JuiceFS
from tests.servers.object_store import ObjectStoreServer


@pytest.fixture(params=ENGINES)
def running(request: pytest.FixtureRequest) -> ObjectStoreServer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ENGINES[request.param])
    return found


@pytest.fixture
def engine(running: ObjectStoreServer) -> Expected:
    return Expected(
        heeds_new=running.heeds_new,
        heeds_complete=running.heeds_complete,
        heeds_delete=running.heeds_delete,
        checks_parts=running.checks_parts,
        replaces_parts=running.replaces_parts,
        tells_aborted=running.tells_aborted,
        is_flat=running.is_flat,
        is_ordered=running.is_ordered,
        has_backslash=running.has_backslash,
    )


@pytest.fixture
def bucket(running: ObjectStoreServer) -> Iterator[Bucket]:
    client = running.client(running.make_bucket())
    yield client
    client.close()


class TestContract(BucketContract):
    pass


def test_a_quota_that_is_used_up_is_no_space(ceph: Ceph) -> None:
    user = ceph.limited_user(3_000_000)
    with contextlib.closing(ceph.client(ceph.make_bucket(**user), **user)) as client:

        def is_full() -> bool:
            try:
                client.put(f"file-{secrets.token_hex(4)}", bytes(1_000_000))
            except NoSpace as error:
                assert "QuotaExceeded" in str(error.__cause__)
                return True
            return False

        wait_until(is_full, what="the quota's end")
        assert next(client.pages("file-", limit=10))
        upload = client.begin_multipart("large", NO_ATTRIBUTES)
        with pytest.raises(NoSpace):
            client.put_part("large", upload, 1, bytes(3_000_000))


def test_a_wrong_key_and_a_bucket_that_is_not_there_are_faults_to_mend(running: ObjectStoreServer) -> None:
    name = running.make_bucket()
    wrong = running.client(name, secret_key=Secret("another"))
    nowhere = running.client("not-there-at-all")
    for client in (wrong, nowhere):
        calls: list[Callable[[S3Bucket], object]] = [
            lambda client: client.check("pre"),
            lambda client: list(client.pages("")),
            lambda client: client.put("key", b"data"),
            lambda client: client.begin_multipart("key", NO_ATTRIBUTES),
        ]
        for call in calls:
            with pytest.raises(StorageFailed) as raised:
                call(client)
            assert not isinstance(raised.value, StoreUnavailable)
        client.close()


def test_an_engine_that_hangs_or_is_away(tmp_path: Path) -> None:
    with JuiceFS(tmp_path / "juicefs") as engine:
        name = engine.make_bucket()
        with contextlib.closing(engine.client(name, timeout=0.5)) as client:
            client.put("key", b"data")
            engine.pause()
            with pytest.raises(StoreUnavailable):
                client.head("key")
            with pytest.raises(Doubt) as raised:
                client.put("other", b"data", is_new=True)
            assert not raised.value.may_repeat
            with pytest.raises(StoreUnavailable):
                client.check("pre")
            engine.resume()
            wait_until(lambda: _answers(client), what="the engine's return")
            engine.kill()
            with pytest.raises(StoreUnavailable):
                client.head("key")
            engine.start()
            assert client.head("key") is not None


def _answers(client: S3Bucket) -> bool:
    try:
        client.check("pre")
    except StoreUnavailable:
        return False
    return True


@pytest.mark.parametrize("fault", [LOST_ANSWER, RESET, SLOW_DOWN, STORED_500])
def test_a_proxy_that_fails_is_survived_where_that_is_safe(juicefs: JuiceFS, fault: Fault) -> None:
    name = juicefs.make_bucket()
    with (
        FaultyEngine(juicefs.port) as proxy,
        contextlib.closing(juicefs.client(name, endpoint=proxy.endpoint)) as client,
    ):
        for operation in ("put", "head", "get", "list", "begin_multipart", "put_part", "parts", "uploads", "delete"):
            proxy.fail(operation, fault)
        client.put("key", b"data")
        assert client.head("key") is not None
        assert content(client, "key") == b"data"
        assert [len(page) for page in client.pages("")] == [1]
        upload = client.begin_multipart("large", NO_ATTRIBUTES)
        tag = client.put_part("large", upload, 1, b"part")
        assert len(client.parts("large", upload)) == 1
        assert client.uploads("large")
        client.delete("key")
        assert set(proxy.failed.values()) <= {0, 1}
        assert sum(proxy.failed.values()) == 9
        proxy.fail("complete", fault)
        with pytest.raises(Doubt) as raised:
            client.complete("large", upload, {1: tag})
        assert raised.value.may_repeat
        assert (client.head("large") is not None) is fault.reaches
        proxy.fail("get", Fault(passed=2))
        if fault.reaches:
            with pytest.raises(Doubt):
                content(client, "large")
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            client.head("large")
        proxy.accept()
        proxy.delay = 0.3
        before = time.monotonic()
        client.head("large")
        assert time.monotonic() - before >= 0.3
