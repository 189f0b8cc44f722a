"""The server of these tests, with several workers, and a new name for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.dialects.limits import MAX_SIZE, TTL, new_names
from tests.servers.hmacfs import HmacFileServer


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"Workers": 3, "UploadMaxSize": MAX_SIZE, "SessionTTL": TTL, "ReadTimeout": "1s"}
    settings |= {"TrustedProxies": ["127.0.0.1"], "MaxSessionsPerClient": 1000, "AcceptUnsizedChunks": True}
    with HmacFileServer(folder, **settings) as running:
        yield running
        running.stop()
        (warning,) = running.complaints()
        assert "AcceptUnsizedChunks: a signature over one chunk is good for files of UploadMaxSize" in warning
        assert running.leftovers() == []


@pytest.fixture
def name() -> str:
    return next(new_names)
