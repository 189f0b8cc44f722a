"""The metrics of an object store: what its engine is asked for, how that ends, and what waits in the spool."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Seconds: from an engine on this machine to a part that takes long.
CALL_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)


class ObjectStoreMetrics:
    """Is told of each call. One per process, made after the fork, beside ``Metrics``; its values are in the same files.

    operations, outcomes: all that there are, so that each series begins at zero; the first outcome is the good one.
    """

    def __init__(self, registry: CollectorRegistry, operations: Sequence[str], outcomes: Sequence[str]) -> None:
        self._good, *reasons = outcomes
        calls = Counter("hmacfs_s3_calls_total", "Requests to the engine.", ["operation"], registry=registry)
        errors = Counter(
            "hmacfs_s3_errors_total", "Those that failed, by reason.", ["operation", "reason"], registry=registry
        )
        seconds = Histogram(
            "hmacfs_s3_call_duration_seconds",
            "How long they took.",
            ["operation"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        transferred = Counter("hmacfs_s3_bytes_total", "Bytes of bodies.", ["direction"], registry=registry)
        self._calls = {operation: calls.labels(operation) for operation in operations}
        self._seconds = {operation: seconds.labels(operation) for operation in operations}
        self._errors = {
            (operation, reason): errors.labels(operation, reason) for operation in operations for reason in reasons
        }
        self._sent, self._received = transferred.labels("sent"), transferred.labels("received")
        self._retries = Counter("hmacfs_s3_retries_total", "Requests that were made again.", registry=registry)
        #: Bytes that are on their way to the engine.
        self.spool = Gauge(
            "hmacfs_s3_spool_bytes", "Bytes in the spool.", multiprocess_mode="livesum", registry=registry
        )

    def note_call(self, operation: str, seconds: float, outcome: str) -> None:
        """A request has ended."""
        self._calls[operation].inc()
        self._seconds[operation].observe(seconds)
        if outcome != self._good:
            self._errors[operation, outcome].inc()

    def note_retry(self) -> None:
        """A request is made again."""
        self._retries.inc()

    def note_bytes(self, sent: int, received: int) -> None:
        """Bytes of bodies went, or came."""
        if sent:
            self._sent.inc(sent)
        if received:
            self._received.inc(received)
