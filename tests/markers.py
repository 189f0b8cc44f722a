"""The markers of the tests, found from where a test stands and from what it reaches, so that nobody can forget one.

``unit``, ``live`` and ``fuzz`` are the folders. ``needs_redis`` and its like: the test, a fixture or a parameter of it, or
a helper that one of these names asks ``require_binary`` for a program of that server. ``slow``: it is in
``tests/slow.txt``. What is found is checked when the test runs: a program that it starts and that its markers do not
tell of is a failure.

``stores`` says over which stores a test runs, where that is not a folder alone (``tests/conftest.py``).
Only ``alone`` is else written by hand, since nothing but its author knows it: the test watches time, memory or how a processor
is shared out, and so runs without the tracer of the coverage and with no other test beside it.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SLOW_LIST = Path(__file__).with_name("slow.txt")
#: From how many seconds a test goes into that list.
SLOW_SECONDS = 5.0

FOLDERS = ("unit", "live", "fuzz")
#: What a test that starts one of these programs has to be marked with.
PROGRAMS = {
    "chromium": "needs_chromium",
    "debootstrap": "needs_debian",
    "ejabberdctl": "needs_xmpp",
    "haproxy": "needs_haproxy",
    "initdb": "needs_postgres",
    "juicefs": "needs_juicefs",
    "mariadb-install-db": "needs_mariadb",
    "mariadbd": "needs_mariadb",
    "nginx": "needs_nginx",
    "node": "needs_node",
    "postgres": "needs_postgres",
    "prometheus": "needs_prometheus",
    "promtool": "needs_prometheus",
    "prosody": "needs_xmpp",
    "radosgw": "needs_ceph",
    "redis-server": "needs_redis",
    "systemd-analyze": "needs_systemd",
    "systemd-sysusers": "needs_systemd",
    "systemd-tmpfiles": "needs_systemd",
    "weed": "needs_seaweedfs",
}
#: What a parameter can say, so that of these servers a test needs only those that its own parameters name.
_NAMES = {
    "ceph": "needs_ceph",
    "haproxy": "needs_haproxy",
    "juicefs": "needs_juicefs",
    "mariadb": "needs_mariadb",
    "mariadbserver": "needs_mariadb",
    "mysql": "needs_mariadb",
    "nginx": "needs_nginx",
    "postgres": "needs_postgres",
    "postgresserver": "needs_postgres",
    "redis": "needs_redis",
    "seaweedfs": "needs_seaweedfs",
    "sqlite": "no server",
}

_running: set[str] | None = None


def mark(items: Sequence[pytest.Item]) -> None:
    """Add to each test the markers that can be found."""
    slow = set(SLOW_LIST.read_text(encoding="utf-8").split())
    choices: dict[tuple[str, str], list[set[str]]] = defaultdict(list)
    for item in items:
        for parameter, needs in _named(item):
            choices[parameter].append(needs)
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        found = {folder} & set(FOLDERS) | ({"slow"} if name_of(item) in slow else set())
        if isinstance(item, pytest.Function):
            found |= _needs(item)
        for parameter, needs in _named(item):
            if all(choices[parameter]):  # else it is a word in a sentence, not the choice of a server
                found -= set().union(*choices[parameter]) - needs
        for marker in sorted(found):
            item.add_marker(marker)


def name_of(item: pytest.Item) -> str:
    """As the list of slow tests has it: its function's name, wherever that stands and with all its parameters."""
    return str(getattr(item, "originalname", item.name))


def enter(item: pytest.Item | None) -> None:
    """From now on this test, or none, is the one that starts programs."""
    global _running
    _running = None if item is None else {marker.name for marker in item.iter_markers()}


def check_program(name: str) -> None:
    """A failure if the running test starts a program without the marker for it."""
    marker = PROGRAMS.get(name)
    if marker is not None and _running is not None and marker not in _running:
        pytest.fail(
            f"this test starts {name} and is not marked {marker}: tests/markers.py did not find out; mark it by hand"
        )


def _named(item: pytest.Item) -> Iterator[tuple[tuple[str, str], set[str]]]:
    """Each parameter of the test, with the markers of the servers that its value names. SQLite is none."""
    test = item.nodeid.partition("[")[0]
    for name, value in getattr(getattr(item, "callspec", None), "params", {}).items():
        said = value.__name__ if isinstance(value, type) else value
        words = re.split(r"[^a-z]+", said.lower()) if isinstance(said, str) else []
        yield (test, name), {_NAMES[word] for word in words if word in _NAMES}


def _needs(item: pytest.Function) -> set[str]:
    fixtures = (definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found)
    parameters = getattr(item, "callspec", None)
    given = parameters.params.values() if parameters is not None else ()
    return {PROGRAMS[name] for name in _programs(item.function, *fixtures, *given)}


def _programs(*entries: object) -> set[str]:
    """The programs that can be started from these functions, as far as their names tell."""
    found: set[str] = set()
    seen: set[int] = set()
    todo = list(entries)
    while todo:
        value = inspect.unwrap(value) if callable(value := todo.pop()) else value
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):
            codes = list(_codes(value.__code__))
            reached = [other for code in codes for other in _reached(code, value.__globals__)]
            if any(_asks_for_programs(other) for other in reached):
                found.update(text for code in codes for text in _texts(code.co_consts) if text in PROGRAMS)
            todo += reached
        else:
            todo += _members(value)
    return found


def _asks_for_programs(value: object) -> bool:
    """Whether it is ``require_binary``, or a function that hands the name of a program on to it."""
    return isinstance(value, FunctionType) and "require_binary" in (value.__name__, *value.__code__.co_names)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _texts(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from _texts(constant)


def _reached(code: CodeType, names: Mapping[str, object]) -> Iterator[object]:
    """What the tests' own modules have under the names that a piece of code uses, also as an attribute of a module."""
    for name in code.co_names:
        value = names.get(name)
        if isinstance(value, ModuleType):
            if value.__name__.startswith("tests."):
                yield from (vars(value)[other] for other in code.co_names if other in vars(value))
        elif value is not None:
            yield value


def _members(value: object) -> list[object]:
    """What a class or a constant of the tests is made of."""
    if isinstance(value, type):
        classes = [base for base in value.__mro__ if base.__module__.startswith("tests.")]
        return [
            getattr(member, "__func__", getattr(member, "fget", member))
            for base in classes
            for member in vars(base).values()
        ]
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []
