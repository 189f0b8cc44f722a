"""The stand-in of a shared rate counter passes the contract."""

from __future__ import annotations

import pytest

from hmacfs.rates.window import RemoteCounter
from tests.contracts.rate_counters import RemoteCounterContract
from tests.fakes import MemoryRateCounter


@pytest.fixture
def counter() -> RemoteCounter:
    return MemoryRateCounter()


class TestContract(RemoteCounterContract):
    pass
