"""``python -m tests.fuzz``: the exit status is 1 if anything was found."""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz import guided
from tests.fuzz.pure import ALL


def main() -> int:
    arguments = _parser().parse_args()
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.seconds} s each: {', '.join(arguments.kinds)}", flush=True)
    failures = [failure for kind in arguments.kinds for failure in KINDS[kind](seed, arguments.seconds)]
    print(f"{len(failures)} found; the same again: make fuzz SEED={seed} SECONDS={arguments.seconds}")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=KINDS, default=list(KINDS), metavar=f"{{{','.join(KINDS)}}}")
    parser.add_argument("--seed", type=int, metavar="N", help="what all inputs follow from; made up without it")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each kind (60)")
    return parser


def _pure(seed: int, seconds: int) -> list[str]:
    failures = []
    for target in ALL:
        run = guided.run(target.__name__, seed=seed, seconds=max(1, seconds // len(ALL)))
        print(f"pure {run.target}: {run.runs:,} inputs{': ' + run.failure if run.failure else ''}", flush=True)
        failures += [run.failure] if run.failure else []
    return failures


KINDS = {"pure": _pure}


if __name__ == "__main__":
    sys.exit(main())
