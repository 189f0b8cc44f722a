"""The bucket in memory, on which the store's tests stand, passes the contract that real engines pass."""

from __future__ import annotations

import time

import pytest

from tests.contracts.buckets import PART, BucketContract, Expected
from tests.stores.memory_bucket import Engine, MemoryBucket


@pytest.fixture(params=[True, False], ids=["conditions", "no conditions"])
def engine(request: pytest.FixtureRequest) -> Expected:
    heeds = bool(request.param)
    return Expected(heeds_new=heeds, heeds_complete=heeds, heeds_delete=heeds, has_urls=False)


@pytest.fixture
def bucket(engine: Expected) -> MemoryBucket:
    return MemoryBucket(Engine(time.time, PART, heeds_conditions=engine.heeds_new))


class TestContract(BucketContract):
    pass
