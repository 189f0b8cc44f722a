"""Runs a work in rounds, its entries by turns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from bench.contenders import Unavailable
from bench.metrics import METRICS, Sample
from bench.outcome import LoadFailed
from bench.results import Results, WorkResult
from bench.works import Entry, Work

_FAILURES = (LoadFailed, TimeoutError, RuntimeError, OSError, subprocess.SubprocessError)
_WARM_UP_SECONDS = 1
_PROBLEM_LETTERS = 400


class Rounds:
    """count: rounds that are kept, after one that is not if warm_up. seconds: of each run. say: takes lines about
    the progress."""

    def __init__(self, count: int, seconds: int, *, warm_up: bool, say: Callable[[str], None]) -> None:
        self._count = count
        self._seconds = seconds
        self._warm_up = warm_up
        self._say = say

    def run(self, work: Work, results: Results) -> None:
        """Add the work to ``results``. A run that fails is a problem there and does not stop the others."""
        self._say(work.title)
        samples: dict[str, list[Sample]] = {entry.name: [] for entry in work.entries}
        result = WorkResult(work.name, work.title, work.columns, work.baseline, samples)
        results.works.append(result)
        work.setup()
        entries = list(work.entries)
        first = 0 if self._warm_up else 1
        for number in range(first, min(self._count, work.rounds) + 1):
            turn = number % len(entries) if entries else 0
            for entry in (*entries[turn:], *entries[:turn]):
                try:
                    sample = entry.measure(self._seconds if number else _WARM_UP_SECONDS)
                except Unavailable as error:
                    results.problems.append(f"{work.name}, {entry.name}: {error}")
                    entries.remove(entry)
                    continue
                except _FAILURES as error:
                    text = " ".join(str(error).split())[:_PROBLEM_LETTERS]
                    results.problems.append(f"{work.name}, {entry.name}, round {number}: {text}")
                    sample = {}
                self._tell(work, entry, number, sample)
                if number:
                    samples[entry.name].append(sample)

    def _tell(self, work: Work, entry: Entry, number: int, sample: Sample) -> None:
        when = f"round {number}" if number else "warm-up"
        figures = ", ".join(
            f"{sample[metric]:,.{METRICS[metric].digits}f} {METRICS[metric].label}"
            for metric in work.columns
            if metric in sample
        )
        self._say(f"  {when:8} {entry.name:26} {figures or 'failed'}")
