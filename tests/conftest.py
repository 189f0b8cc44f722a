"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.hmacfs import HmacFileServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    """A server with one worker and small limits, for tests that leave it as it was but for new files."""
    with HmacFileServer(tmp_path_factory.mktemp("server"), UploadMaxSize="64MB", ReadTimeout="1s") as running:
        yield running
        running.stop()
        assert running.leftovers() == []


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., HmacFileServer]]:
    """A function that starts servers of the test's own."""
    started: list[HmacFileServer] = []

    def start(**settings: object) -> HmacFileServer:
        server = HmacFileServer(tmp_path / f"server-{len(started)}", **settings)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.daemon.kill()
