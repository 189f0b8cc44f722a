"""The tables of shared entries that need no server pass the contract."""

from __future__ import annotations

import pytest

from tests.contracts.entries import EntriesContract, OpenEntries
from tests.fakes import MemoryEntries


@pytest.fixture
def open_entries() -> OpenEntries:
    entries = MemoryEntries()
    return lambda: entries


class TestContract(EntriesContract):
    pass
