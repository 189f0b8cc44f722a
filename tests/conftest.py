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
from tests.servers.hmacfs import HmacFileServer, in_bucket
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that say so run over several stores, if a server of theirs has one."""
    marker = metafunc.definition.get_closest_marker("stores")
    if marker is not None and marker.args != ("folder",) and "store_settings" in metafunc.fixturenames:
        stores = [pytest.param(name, marks=_STORE_MARKS.get(name, ())) for name in marker.args]
        metafunc.parametrize("store_settings", stores, indirect=True, scope="module")


_STORE_MARKS = {"seaweedfs": pytest.mark.needs_seaweedfs}


@pytest.fixture(scope="module")
def store_settings(request: pytest.FixtureRequest) -> Callable[[Path], dict[str, object]]:
    """A function that gives the settings of a server in that folder, with a store of its own."""
    if getattr(request, "param", "folder") == "folder":
        return lambda _: {}
    engine: SeaweedFS = request.getfixturevalue("seaweedfs")
    return lambda folder: in_bucket(engine, engine.make_bucket(), folder)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, store_settings: Callable[[Path], dict[str, object]]
) -> Iterator[HmacFileServer]:
    """A server with one worker and small limits, for tests that leave it as it was but for new files."""
    folder = tmp_path_factory.mktemp("server")
    with HmacFileServer(folder, UploadMaxSize="64MB", ReadTimeout="1s", **store_settings(folder)) as running:
        yield running
        running.stop()
        assert running.leftovers() == []


@pytest.fixture
def start_server(
    tmp_path: Path, store_settings: Callable[[Path], dict[str, object]]
) -> Iterator[Callable[..., HmacFileServer]]:
    """A function that starts servers of the test's own."""
    started: list[HmacFileServer] = []

    def start(**settings: object) -> HmacFileServer:
        folder = tmp_path / f"server-{len(started)}"
        server = HmacFileServer(folder, **(store_settings(folder) | settings))
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
