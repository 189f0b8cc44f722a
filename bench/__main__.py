"""``python -m bench``."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hmacfs
from bench.chart import chart
from bench.contenders import ROOT, WORKERS, Unavailable, program
from bench.drawing import svg
from bench.fleet import Fleet, Place
from bench.report import render
from bench.results import Results
from bench.rounds import Rounds
from bench.works import Workshop, select

_RAM_BYTES = 8 * 2**30
_DISK_BYTES = 8 * 2**30
_FULL_DISK_BYTES = 24 * 2**30


def main() -> int:
    """The exit status: 0, 1 if a run did not count, 2 for a mistake that one line explains."""
    arguments = _parser().parse_args()
    try:
        if arguments.show is not None:
            results, path = Results.read(arguments.show), arguments.show
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes and folders are cleared away
            results = run(arguments)
            path = arguments.out or ROOT / "bench" / "results" / f"{results.facts['date']}.json"
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    results.write(path)
    path.with_suffix(".svg").write_text(svg(chart(results)))
    print(f"{render(results)}\n\nsaved as {path} and {path.with_suffix('.svg')}")
    return 1 if results.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=hmacfs.__doc__, epilog="GB are 10^9 bytes; all figures are medians."
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="rounds after the warm-up (3)")
    add("--seconds", type=int, default=3, metavar="N", help="length of a run with small files (3)")
    add("--only", type=_names, default=(), metavar="NAME,...", help="these works only")
    add("--quick", action="store_true", help="one round of one second, no warm-up")
    add("--full", action="store_true", help="also the stores of a million files, which take minutes to fill")
    add("--out", type=Path, metavar="FILE", help="JSON file (bench/results/<date>.json), beside it the picture")
    add("--ram", type=Path, default=Path("/dev/shm"), metavar="FOLDER", help="a RAM disk (/dev/shm)")
    add("--disk", type=Path, default=ROOT / "build" / "bench", metavar="FOLDER", help="a real one (build/bench)")
    add("--show", type=Path, metavar="FILE", help="measure nothing: print a JSON file, draw its picture again")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def run(arguments: argparse.Namespace) -> Results:
    """Measure. Raises ``ValueError`` if that cannot begin, ``OSError``."""
    rounds, seconds = (1, 1) if arguments.quick else (arguments.rounds, arguments.seconds)
    with Place(arguments.ram) as ram, Place(arguments.disk) as disk, Fleet() as fleet:
        _require_space(ram, _RAM_BYTES)
        _require_space(disk, _FULL_DISK_BYTES if arguments.full else _DISK_BYTES)
        workshop = Workshop(fleet, ram.folder, disk.folder, longest=seconds, quick=arguments.quick)
        works = select(workshop.works(full=arguments.full), arguments.only)
        results = Results(_facts(rounds, seconds, disk.folder))
        turns = Rounds(rounds, seconds, warm_up=not arguments.quick, say=_say)
        for work in works:
            turns.run(work, results)
    return results


def _require_space(place: Place, wanted: int) -> None:
    if place.free_bytes < wanted:
        raise ValueError(f"{place.folder.parent} needs {wanted / 2**30:.0f} GiB of free space")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _facts(rounds: int, seconds: int, disk: Path) -> dict[str, Any]:
    file_system = subprocess.run(["df", "--output=fstype", str(disk)], stdout=subprocess.PIPE, text=True, check=True)
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "hmacfs": hmacfs.__version__,
        "rounds": rounds,
        "seconds": seconds,
        "workers": WORKERS,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "disk": file_system.stdout.split()[-1],
        "python": platform.python_version(),
        **{name: version(name) for name in ("gunicorn", "gevent", "flask")},
        "nginx": _version_of(["nginx", "-v"]),
        "go": _version_of(["go", "env", "GOVERSION"]),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(command: Sequence[str]) -> str:
    """What a program says of itself; "-" if it is not there."""
    try:
        said = subprocess.run(
            [program(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GOTOOLCHAIN": "local"},
            check=False,
        )
    except Unavailable:
        return "-"
    return said.stdout.strip().rpartition("/")[2].removeprefix("go")


if __name__ == "__main__":
    sys.exit(main())
