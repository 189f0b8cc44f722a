"""What the markers of a test are found from."""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import markers
from tests.servers import postgres, require_binary
from tests.servers.redis import RedisServer


@contextmanager
def running() -> Iterator[RedisServer]:
    with RedisServer(Path("nowhere")) as redis:
        yield redis


def handed_on(program: str) -> str:
    return require_binary(program)


def unrelated() -> str:
    return "nginx"


@pytest.mark.parametrize(
    ("entry", "programs"),
    [
        (lambda: RedisServer(Path("nowhere")), {"redis-server"}),
        (lambda: postgres.PostgresServer(Path("nowhere")), {"postgres", "initdb"}),
        (lambda: running(), {"redis-server"}),
        (lambda: [handed_on(name) for name in ("haproxy", "curl")], {"haproxy"}),
        (unrelated, set()),
    ],
    ids=["a class", "of a module", "through a decorator", "by name", "a word"],
)
def test_a_program_is_found_where_it_is_started(entry: Callable[..., object], programs: set[str]) -> None:
    assert markers._programs(entry) == programs


@pytest.mark.parametrize("kind", [None, RedisServer])
def test_a_server_that_is_a_parameter_is_found(
    request: pytest.FixtureRequest, kind: Callable[[Path], object] | None
) -> None:
    found = {marker.name for marker in request.node.iter_markers()}
    assert found & set(markers.PROGRAMS.values()) == ({"needs_redis"} if kind else set())


def test_a_program_without_its_marker_is_a_failure(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match="is not marked needs_redis"):
        markers.check_program("redis-server")
    request.node.add_marker("needs_redis")
    markers.enter(request.node)
    markers.check_program("redis-server")


def test_this_test_is_marked_by_its_folder(request: pytest.FixtureRequest) -> None:
    assert [marker.name for marker in request.node.iter_markers()] == ["unit"]


def test_slow_tests_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for path in markers.ROOT.glob("tests/*/test_*.py")]
    for name in markers.SLOW_LIST.read_text(encoding="utf-8").split():
        assert any(f"def {name}(" in text for text in texts), f"{name} is gone: remove it from {markers.SLOW_LIST}"


def test_every_marker_is_declared() -> None:
    settings = configparser.ConfigParser()
    settings.read(markers.ROOT / "setup.cfg")
    declared = {line.partition(":")[0] for line in settings["tool:pytest"]["markers"].split("\n")}
    assert declared - {"", "alone", "slow", "stores(*names)"} == {*markers.FOLDERS, *markers.PROGRAMS.values()}
