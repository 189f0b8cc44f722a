"""What the tests of bodies have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmacfs.stores.local.sinks import FileSink
from tests.stores.local import file_calls
from tests.unit.net.pairs import ConnectedPair


@pytest.fixture
def pair() -> Iterator[ConnectedPair]:
    pair = ConnectedPair()
    yield pair
    pair.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileSink]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield FileSink(fd, file_calls())
    os.close(fd)
