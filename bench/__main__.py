"""``python -m bench``."""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hmacfs
from bench.chart import chart
from bench.contenders import ROOT
from bench.drawing import svg
from bench.facts import commit_of, facts, s3_facts
from bench.fleet import Fleet, Place
from bench.object_store import Engine
from bench.report import render
from bench.results import Results
from bench.rounds import Rounds
from bench.s3_works import S3Workshop
from bench.targets import TABLE
from bench.works import Work, Workshop, select, select_for

_RAM_BYTES = 8 * 2**30
_DISK_BYTES = 8 * 2**30
_FULL_DISK_BYTES = 24 * 2**30
_S3_BYTES = 10 * 2**30


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
    add("--table", action="store_true", help="what README shows, and nothing else")
    add("--before", type=Path, metavar="FOLDER", help="another state of the project, to compare some works with")
    add("--s3", action="store_true", help="the server with its files in an object store, and nothing else")
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
    if arguments.s3:
        return _run_s3(arguments, rounds, seconds)
    with Place(arguments.ram) as ram, Place(arguments.disk) as disk, Fleet() as fleet:
        _require_space(ram, _RAM_BYTES)
        _require_space(disk, _FULL_DISK_BYTES if arguments.full else _DISK_BYTES)
        workshop = Workshop(
            fleet, ram.folder, disk.folder, longest=seconds, quick=arguments.quick, before=arguments.before
        )
        works = select(workshop.works(full=arguments.full), arguments.only)
        if arguments.table:
            works = select_for(works, TABLE)
        results = Results(_facts(arguments, rounds, seconds) | facts(ram.folder, disk.folder))
        _take_turns(arguments, works, results)
    return results


def _run_s3(arguments: argparse.Namespace, rounds: int, seconds: int) -> Results:
    """Everything is on the RAM disk: the engine's files, the spool, and the folders that it is compared with."""
    with Place(arguments.ram) as ram, Engine(ram.folder / "engine") as engine, Fleet() as fleet:
        _require_space(ram, _S3_BYTES)
        works = select(S3Workshop(fleet, engine, ram.folder, longest=seconds).works(), arguments.only)
        results = Results(_facts(arguments, rounds, seconds) | facts(ram.folder, ram.folder) | s3_facts())
        _take_turns(arguments, works, results)
    return results


def _take_turns(arguments: argparse.Namespace, works: Sequence[Work], results: Results) -> None:
    turns = Rounds(results.facts["rounds"], results.facts["seconds"], warm_up=not arguments.quick, say=_say)
    for work in works:
        turns.run(work, results)


def _facts(arguments: argparse.Namespace, rounds: int, seconds: int) -> dict[str, Any]:
    """Of this run."""
    before = {"before": commit_of(arguments.before)} if arguments.before else {}
    return {"date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"), "rounds": rounds, "seconds": seconds, **before}


def _require_space(place: Place, wanted: int) -> None:
    if place.free_bytes < wanted:
        raise ValueError(f"{place.folder.parent} needs {wanted / 2**30:.0f} GiB of free space")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
