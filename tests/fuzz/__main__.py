"""``python -m tests.fuzz``: the exit status is 1 if anything was found."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import guided, protocol, smuggling
from tests.fuzz.pure import ALL


def main() -> int:
    arguments = _parser().parse_args()
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    kinds = arguments.kinds or list(KINDS)
    print(f"seed {seed}, {arguments.seconds} s each: {', '.join(kinds)}", flush=True)
    failures = [failure for kind in kinds for failure in KINDS[kind](seed, arguments.seconds)]
    print(f"{len(failures)} found; the same again: make fuzz SEED={seed} SECONDS={arguments.seconds}")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", type=_kind, metavar=f"{{{','.join(KINDS)}}}")
    parser.add_argument("--seed", type=int, metavar="N", help="what all inputs follow from; made up without it")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each kind (60)")
    return parser


def _kind(text: str) -> str:
    if text not in KINDS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(KINDS)}")
    return text


def _pure(seed: int, seconds: int) -> list[str]:
    failures = []
    for target in ALL:
        run = guided.run(target.__name__, seed=seed, seconds=max(1, seconds // len(ALL)))
        failures += _told(f"pure {run.target}: {run.runs:,} inputs", [run.failure] if run.failure else [])
    return failures


def _protocol(seed: int, seconds: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="hmacfs-fuzz-") as folder:
        found = protocol.run(Path(folder) / "server", seed=seed, numbers=_for(seconds))
    return _told(f"protocol: {found.requests:,} requests", found.failures)


def _smuggling(seed: int, seconds: int) -> list[str]:
    failures = []
    for proxy in smuggling.PROXIES:
        found = smuggling.run(proxy, seed=seed, numbers=_for(seconds / len(smuggling.PROXIES)))
        failures += _told(f"smuggling through {proxy}: {found.attempts:,} attempts", found.failures)
    return failures


def _for(seconds: float) -> Iterator[int]:
    """0, 1, 2 ... for so long."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


def _told(what: str, failures: list[str]) -> list[str]:
    print("\n".join([what, *failures]), flush=True)
    return failures


KINDS = {"pure": _pure, "protocol": _protocol, "smuggling": _smuggling}


if __name__ == "__main__":
    sys.exit(main())
