"""The tables of shared entries that need no server pass the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.entries import EntriesContract
from tests.contracts.session_stores import Backend, MemoryBackend, SqliteBackend


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path)
    yield made
    made.close_stores()


class TestContract(EntriesContract):
    pass
