"""Uploads over two machines that share a bucket, while servers, workers, the engine and Redis die or freeze, and answers of
the engine are lost: see ``tests/s3_deaths.py``, which does the same with many more."""

from __future__ import annotations

import os
from pathlib import Path

from tests.s3_deaths import run


def test_what_was_acknowledged_outlives_all_deaths(tmp_path: Path) -> None:
    seed = int(os.environ.get("HMACFS_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))
    print(f"HMACFS_TEST_SEED={seed} repeats it")  # which pytest shows of a failure
    print(run(tmp_path, uploads=12, seed=seed, engine_deaths=1))
