"""The figures of a whole run: kept, summed up as medians and ratios, and judged. Pure but for ``Results.write``."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.metrics import METRICS, Sample
from bench.targets import S3_TABLE, TABLE, TARGETS, Comparison


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
        ratios = self.ratios(entry, other, metric)
        return statistics.median(ratios) if ratios else None

    def ratios(self, entry: str, other: str, metric: str) -> list[float]:
        """Within each round."""
        return [one / two for one, two in self._pairs(entry, other, metric) if two]

    def differences(self, entry: str, other: str, metric: str) -> list[float]:
        """By how much more one's figure is, within each round."""
        return [one - two for one, two in self._pairs(entry, other, metric)]

    def _pairs(self, entry: str, other: str, metric: str) -> list[tuple[float, float]]:
        pairs = zip(self.samples.get(entry, ()), self.samples.get(other, ()), strict=False)
        return [(one[metric], two[metric]) for one, two in pairs if metric in one and metric in two]


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


def judge(results: Results, targets: Sequence[Comparison] | None = None) -> list[Verdict]:
    """What became of each target; of those that the run was for, if none are given."""
    if targets is None:
        targets = [target for target in shown(results) if target.bound is not None] if is_s3(results) else TARGETS
    return [_verdict(results.work(target.work), target) for target in targets]


def shown(results: Results) -> Sequence[Comparison]:
    """What the summary of the run shows."""
    return S3_TABLE if is_s3(results) else TABLE


def is_s3(results: Results) -> bool:
    """Whether it was a run of ``--s3``."""
    return "engine" in results.facts


def _verdict(work: WorkResult | None, target: Comparison) -> Verdict:
    own = None if work is None else work.median(target.entry, target.metric)
    value, other, spread = own, None, None
    if target.against is not None:
        value = None
    if work is not None and target.against is not None:
        other = work.median(target.against, target.metric)
        if target.is_difference:
            figures = work.differences(target.entry, target.against, target.metric)
        else:
            figures = work.ratios(target.entry, target.against, target.metric)
        if figures:
            value, spread = statistics.median(figures), (min(figures), max(figures))
    at_least = METRICS[target.metric].more_is_better
    reached = None
    if value is not None and target.bound is not None:
        reached = value >= target.bound if at_least else value <= target.bound
    return Verdict(target.text, target.bound, at_least, value, spread, reached, target.metric, (own, other))
