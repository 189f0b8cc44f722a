"""The metrics of an object store."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from hmacfs.stores.s3.observer import OPERATIONS, OUTCOMES
from hmacfs.telemetry.object_store import CALL_BUCKETS, ObjectStoreMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> ObjectStoreMetrics:
    return ObjectStoreMetrics(registry, OPERATIONS, OUTCOMES)


def test_everything_begins_at_zero(registry: CollectorRegistry, metrics: ObjectStoreMetrics) -> None:
    del metrics
    samples = [
        sample for family in registry.collect() for sample in family.samples if not sample.name.endswith("_created")
    ]
    assert {sample.value for sample in samples} == {0.0}
    by_name = {name: sum(sample.name == name for sample in samples) for name in {sample.name for sample in samples}}
    assert by_name == {
        "hmacfs_s3_calls_total": len(OPERATIONS),
        "hmacfs_s3_errors_total": len(OPERATIONS) * (len(OUTCOMES) - 1),
        "hmacfs_s3_call_duration_seconds_bucket": len(OPERATIONS) * (len(CALL_BUCKETS) + 1),
        "hmacfs_s3_call_duration_seconds_sum": len(OPERATIONS),
        "hmacfs_s3_call_duration_seconds_count": len(OPERATIONS),
        "hmacfs_s3_retries_total": 1,
        "hmacfs_s3_bytes_total": 2,
        "hmacfs_s3_spool_bytes": 1,
    }


def test_what_is_counted(registry: CollectorRegistry, metrics: ObjectStoreMetrics) -> None:
    for outcome in ("ok", "ok", "timeout"):
        metrics.note_call("put", 0.3, outcome)
    metrics.note_retry()
    metrics.note_bytes(100, 0)
    metrics.note_bytes(0, 7)
    metrics.spool.set(5)
    value = registry.get_sample_value
    assert value("hmacfs_s3_calls_total", {"operation": "put"}) == 3
    assert value("hmacfs_s3_errors_total", {"operation": "put", "reason": "timeout"}) == 1
    assert value("hmacfs_s3_errors_total", {"operation": "put", "reason": "lost"}) == 0
    assert value("hmacfs_s3_call_duration_seconds_bucket", {"operation": "put", "le": "0.25"}) == 0
    assert value("hmacfs_s3_call_duration_seconds_bucket", {"operation": "put", "le": "0.5"}) == 3
    assert value("hmacfs_s3_retries_total") == 1
    assert value("hmacfs_s3_bytes_total", {"direction": "sent"}) == 100
    assert value("hmacfs_s3_bytes_total", {"direction": "received"}) == 7
    assert value("hmacfs_s3_spool_bytes") == 5


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_of_every_operation_has_a_place(
    metrics: ObjectStoreMetrics, operation: str, outcome: str
) -> None:
    metrics.note_call(operation, 0.1, outcome)
