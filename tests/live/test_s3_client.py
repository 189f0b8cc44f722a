"""Real engines: SeaweedFS, Ceph, JuiceFS' gateway. Through the client they pass the contract of ``Bucket``, but for what
each of them is known to do in its own way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hmacfs.stores.s3.bucket import Bucket
from tests.contracts.buckets import BucketContract, Expected
from tests.servers.ceph import Ceph
from tests.servers.juicefs import JuiceFS
from tests.servers.object_store import ObjectStoreServer
from tests.servers.seaweedfs import SeaweedFS

ENGINES: dict[str, type[ObjectStoreServer]] = {"seaweedfs": SeaweedFS, "ceph": Ceph, "juicefs": JuiceFS}


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
