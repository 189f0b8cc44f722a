"""The figures of a whole run: kept, summed up as medians and ratios, and judged. Pure but for ``Results.write``."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.metrics import METRICS, Sample
from bench.targets import TARGETS, Comparison


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
        """The median of the ratios within each round: what the machine does besides moves both of a round alike."""
        ratios = self._ratios(entry, other, metric)
        return statistics.median(ratios) if ratios else None

    def spread(self, entry: str, other: str, metric: str) -> tuple[float, float] | None:
        """The lowest and the highest ratio within one round."""
        ratios = self._ratios(entry, other, metric)
        return (min(ratios), max(ratios)) if ratios else None

    def _ratios(self, entry: str, other: str, metric: str) -> list[float]:
        pairs = zip(self.samples.get(entry, ()), self.samples.get(other, ()), strict=False)
        return [one[metric] / two[metric] for one, two in pairs if metric in one and two.get(metric)]


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


class Verdict(NamedTuple):
    """value and reached are ``None`` where the run did not measure it. medians: of the entry and of the one that it is
    compared with, in the metric. bound: ``None`` where there is none to reach."""

    text: str
    bound: float | None
    at_least: bool
    value: float | None
    spread: tuple[float, float] | None
    reached: bool | None
    metric: str = ""
    medians: tuple[float | None, float | None] = (None, None)


def judge(results: Results, targets: Sequence[Comparison] = TARGETS) -> list[Verdict]:
    """What became of each target."""
    return [_verdict(results.work(target.work), target) for target in targets]


def _verdict(work: WorkResult | None, target: Comparison) -> Verdict:
    value, other, spread = None, None, None
    own = None if work is None else work.median(target.entry, target.metric)
    if work is not None and target.against is not None:
        other = work.median(target.against, target.metric)
        value = work.ratio(target.entry, target.against, target.metric)
        spread = work.spread(target.entry, target.against, target.metric)
    elif target.against is None:
        value = own
    at_least = METRICS[target.metric].more_is_better
    reached = None
    if value is not None and target.bound is not None:
        reached = value >= target.bound if at_least else value <= target.bound
    return Verdict(target.text, target.bound, at_least, value, spread, reached, target.metric, (own, other))
