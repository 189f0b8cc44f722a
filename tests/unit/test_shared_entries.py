"""The tables of shared entries that need no server pass the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from unittest.mock import ANY

import pytest

from hmacfs.sessions.database import DatabaseConnection
from hmacfs.sessions.sql import SqlStore
from hmacfs.sessions.sql_entries import SqlEntries
from hmacfs.sessions.sqlite import open_sqlite
from hmacfs.system.threads import ThreadOffload
from tests.contracts.entries import EntriesContract
from tests.contracts.entries_of_processes import ProcessesContract
from tests.contracts.session_stores import Backend, MemoryBackend, SqliteBackend

R = TypeVar("R")


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path)
    yield made
    made.close_stores()


class TestContract(EntriesContract):
    pass


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestProcesses(ProcessesContract):
    pass


def test_a_change_that_was_made_before_its_answer_was_lost_is_told_as_made(tmp_path: Path) -> None:
    """The statement is repeated then."""
    store = SqlStore(open_sqlite(tmp_path / "sessions.sqlite3"), ThreadOffload(1), repeats=0)

    def run_twice(operation: Callable[[DatabaseConnection], R], /) -> R:
        store._run(operation)
        return store._run(operation)

    entries = SqlEntries(run_twice, store._database.clock)
    first = entries.replace("name a", None, "one", 30.0)
    assert first is not None
    second = entries.replace("name a", first, "two", 30.0)
    assert second is not None
    third = entries.replace("name a", second, "three", None)
    assert third is not None
    assert store.entries.read("name a") == (ANY, third, ANY)
    assert entries.replace("name a", second, "late", 30.0) is None
    assert entries.replace("name a", None, "late", 30.0) is None
    assert not entries.remove("name a", second)
    assert entries.remove("name a", third)
    assert store.entries.read("name a") is None
    store.close()
