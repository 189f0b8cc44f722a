"""Fixtures for all tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests import markers, times
from tests.servers import raise_descriptor_limit, reaper
from tests.servers.ceph import Ceph
from tests.servers.hmacfs import HmacFileServer
from tests.servers.juicefs import JuiceFS
from tests.servers.seaweedfs import SeaweedFS

# How long an example takes says something of the machine, not of the code: the first one builds hypothesis's own tables.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")

raise_descriptor_limit()
pytest.register_assert_rewrite("tests.contracts")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    markers.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    markers.enter(item)
    try:
        return (yield)
    finally:
        markers.enter(None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    times.note(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    times.show(terminalreporter)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_of_a_killed_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    reaper.watch_folder(tmp_path_factory.getbasetemp())
    yield
    reaper.forget_folder(tmp_path_factory.getbasetemp())


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
        server.end()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """For tests that leave it running; each makes a bucket of its own, in all of these."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as engine:
        yield engine


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as engine:
        yield engine


@pytest.fixture(scope="session")
def juicefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JuiceFS]:
    with JuiceFS(tmp_path_factory.mktemp("juicefs")) as engine:
        yield engine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0755", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
