"""The server of these tests, with several workers, and a new name for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.dialects.limits import MAX_SIZE, TTL, new_names
from tests.servers.hmacfs import HmacFileServer


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, store_settings: Callable[[Path], dict[str, object]]
) -> Iterator[HmacFileServer]:
    folder = tmp_path_factory.mktemp("server")
    settings: dict[str, object] = {"Workers": 3, "UploadMaxSize": MAX_SIZE, "SessionTTL": TTL, "ReadTimeout": "1s"}
    settings |= {"TrustedProxies": ["127.0.0.1"], "MaxSessionsPerClient": 1000, "AcceptUnsizedChunks": True}
    with HmacFileServer(folder, **(settings | store_settings(folder))) as running:
        yield running
        running.stop()
        (warning,) = running.complaints()
        assert "AcceptUnsizedChunks: a signature over one chunk is good for files of UploadMaxSize" in warning
        assert running.leftovers() == []


@pytest.fixture
def name() -> str:
    return next(new_names)
