"""An honest client: one upload a second, on a connection each, from an address of its own."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

from bench.metrics import Sample
from bench.names import signed_path

_ADDRESS = "127.0.77.1"
_TIMEOUT_SECONDS = 30.0


def uploads(port: int, secret: str, source: Path, names: Iterator[str], count: int, *, interval: float = 1.0) -> Sample:
    """Upload ``source`` so often, once every ``interval`` seconds. One that takes longer makes the next one late, as
    people are."""
    body = source.read_bytes()
    latencies: list[float] = []
    refused = 0
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number * interval - time.monotonic()))
        before = time.monotonic()
        refused += not _upload(port, signed_path(secret, next(names), len(body)), body)
        latencies.append(time.monotonic() - before)
    latencies.sort()
    return {
        "refused": float(refused),
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)] * 1e3,
    }


def _upload(port: int, target: str, body: bytes) -> bool:
    """Whether it was stored."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS, source_address=(_ADDRESS, 0))
    try:
        connection.request("PUT", target, body)
        return connection.getresponse().status == 201
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
