"""The figures of a whole run: kept, summed up as medians and ratios, and judged. Pure but for ``Results.write``."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.metrics import METRICS, Sample


@dataclasses.dataclass
class WorkResult:
    """columns: keys of ``METRICS``, the decisive one first. samples: of each entry, by round; a round that failed has
    an empty one."""

    name: str
    title: str
    columns: Sequence[str]
    baseline: str
    samples: dict[str, list[Sample]]

    def median(self, entry: str, metric: str) -> float | None:
        """Over the rounds; ``None`` if nothing was measured."""
        figures = [sample[metric] for sample in self.samples.get(entry, ()) if metric in sample]
        return statistics.median(figures) if figures else None

    def ratio(self, entry: str, other: str, metric: str) -> float | None:
        """Of the medians."""
        one, two = self.median(entry, metric), self.median(other, metric)
        return one / two if one is not None and two else None

    def spread(self, entry: str, other: str, metric: str) -> tuple[float, float] | None:
        """The lowest and the highest ratio within one round."""
        pairs = zip(self.samples.get(entry, ()), self.samples.get(other, ()), strict=False)
        ratios = [one[metric] / two[metric] for one, two in pairs if metric in one and two.get(metric)]
        return (min(ratios), max(ratios)) if ratios else None


@dataclasses.dataclass
class Results:
    """facts: of the machine and the run. problems: what went wrong, one line each."""

    facts: dict[str, Any]
    works: list[WorkResult] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def work(self, name: str) -> WorkResult | None:
        return next((work for work in self.works if work.name == name), None)

    def write(self, path: Path) -> None:
        """As JSON: all samples, and for readers without this program the medians and verdicts."""
        document = dataclasses.asdict(self)
        for work, written in zip(self.works, document["works"], strict=True):
            written["medians"] = {
                entry: {metric: work.median(entry, metric) for metric in work.columns} for entry in work.samples
            }
        document["targets"] = [verdict._asdict() for verdict in judge(self)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        document: Mapping[str, Any] = json.loads(path.read_text())
        works = [
            WorkResult(**{field.name: work[field.name] for field in dataclasses.fields(WorkResult)})
            for work in document["works"]
        ]
        return cls(document["facts"], works, document["problems"])


class Target(NamedTuple):
    """A bound for a figure of ``entry``, or for its ratio to that of ``against``. Whether it is a lower or an upper
    bound follows from the metric."""

    text: str
    work: str
    entry: str
    metric: str
    bound: float
    against: str | None = None


class Verdict(NamedTuple):
    """value and reached are ``None`` where the run did not measure it."""

    text: str
    bound: float
    at_least: bool
    value: float | None
    spread: tuple[float, float] | None
    reached: bool | None


TARGETS = (
    Target("PUT 1 GiB against nginx DAV", "put-1g", "hmacfs", "gb_per_s", 1.2, "nginx"),
    Target("PUT 1 GiB against Go", "put-1g", "hmacfs", "gb_per_s", 1.5, "go"),
    Target("PUT 8 x 32 MiB against Go", "put-8x32m", "hmacfs", "gb_per_s", 1.2, "go"),
    Target("PUT 1 MiB against Go", "put-1m", "hmacfs", "per_s", 1.0, "go"),
    Target("PUT 64 KiB against Go", "put-64k", "hmacfs", "per_s", 0.6, "go"),
    Target("PUT 1 KiB against Go", "put-1k", "hmacfs", "per_s", 0.4, "go"),
    Target("PUT 1 KiB durable against the disk alone", "put-1k-fsync", "hmacfs-fsync", "per_s", 0.5, "disk alone"),
    Target("GET 1 GiB against nginx", "get-1g", "hmacfs", "gb_per_s", 0.95, "nginx"),
    Target("GET 16 KiB behind nginx against bare nginx", "get-16k", "hmacfs+nginx", "per_s", 0.9, "nginx"),
    Target("resident memory, 2 idle workers, MiB", "memory", "hmacfs", "idle_pss_mib", 150.0),
    Target("its growth by an upload of 2 GiB, MiB", "memory", "hmacfs", "growth_mib", 16.0),
    Target(
        "latency durable in 1,000,000 files against none",
        "million-hmacfs-fsync",
        "filled store",
        "p50_ms",
        1.2,
        "empty store",
    ),
    Target(
        "latency not durable in 1,000,000 files against none",
        "million-hmacfs",
        "filled store",
        "p50_ms",
        1.2,
        "empty store",
    ),
    Target("200 MiB by tus in pieces of 8 MiB against a plain PUT", "tus", "tus", "gb_per_s", 0.7, "plain PUT"),
    Target("99 % of an honest client's uploads under all attacks, ms", "attack", "all at once", "p99_ms", 1000.0),
    Target("an honest client's uploads refused under all attacks", "attack", "all at once", "refused", 0.0),
    Target("CPU seconds per GB received against Go", "put-1g", "hmacfs", "cpu_per_gb", 0.7, "go"),
)


def judge(results: Results, targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """What became of each target."""
    return [_verdict(results.work(target.work), target) for target in targets]


def _verdict(work: WorkResult | None, target: Target) -> Verdict:
    value, spread = None, None
    if work is not None and target.against is None:
        value = work.median(target.entry, target.metric)
    elif work is not None and target.against is not None:
        value = work.ratio(target.entry, target.against, target.metric)
        spread = work.spread(target.entry, target.against, target.metric)
    at_least = METRICS[target.metric].more_is_better
    reached = None if value is None else (value >= target.bound if at_least else value <= target.bound)
    return Verdict(target.text, target.bound, at_least, value, spread, reached)
