"""How long the tests took: a table by marker at the end of a run, and the list of the slow ones.

With ``RECORD_SLOW`` in the environment the run writes ``tests/slow.txt`` from what it measured. Tests that it did not run
keep their place there. With ``CI`` it adds a line to ``build/tested.txt``: which interpreter ran how many tests.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections import Counter, defaultdict

import pytest

from tests.markers import FOLDERS, ROOT, SLOW_LIST, SLOW_SECONDS

#: What a CI run says at its end.
TESTED = ROOT / "build" / "tested.txt"

_longest: dict[str, float] = {}  # by test, its slowest parameters
_by_marker: defaultdict[str, float] = defaultdict(float)
_tests: Counter[str] = Counter()
_each: defaultdict[str, float] = defaultdict(float)


def note(report: pytest.TestReport) -> None:
    """One phase of a test: setup, call, teardown."""
    _each[report.nodeid] += report.duration
    if report.when == "teardown":
        seconds = _each.pop(report.nodeid)
        name = report.nodeid.partition("[")[0].rpartition("::")[2]
        _longest[name] = max(seconds, _longest.get(name, 0.0))
        for marker in {*_markers(report), "all"}:
            _by_marker[marker] += seconds
            _tests[marker] += 1


def _markers(report: pytest.TestReport) -> set[str]:
    return {word for word in report.keywords if word in (*FOLDERS, "alone", "slow") or word.startswith("needs_")}


def show(reporter: pytest.TerminalReporter) -> None:
    """A line for each marker, if more than one test was run."""
    if _tests["all"] < 2:
        return
    reporter.section(f"seconds by marker, {_interpreter()}")
    for marker, seconds in sorted(_by_marker.items(), key=lambda pair: -pair[1]):
        reporter.line(f"{seconds:8.1f} s  {_tests[marker]:5d} tests  {marker}")
    if os.environ.get("RECORD_SLOW"):
        record()
    if os.environ.get("CI"):
        TESTED.parent.mkdir(exist_ok=True)
        with TESTED.open("a", encoding="utf-8") as file:
            file.write(f"{_tests['all']} tests on {_interpreter()}\n")


def _interpreter() -> str:
    with contextlib.suppress(OSError):
        return f"Python {platform.python_version()}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    return f"Python {platform.python_version()}"


def record() -> None:
    """Write the list of slow tests."""
    kept = {name for name in SLOW_LIST.read_text(encoding="utf-8").split() if name not in _longest and _exists(name)}
    slow = {name for name, seconds in _longest.items() if seconds >= SLOW_SECONDS}
    SLOW_LIST.write_text("".join(f"{name}\n" for name in sorted(kept | slow)), encoding="utf-8")


def _exists(name: str) -> bool:
    return any(f"def {name}(" in path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/test_*.py"))
