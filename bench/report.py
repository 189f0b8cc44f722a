"""Results as Markdown tables, which can be read as they are."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics import METRICS
from bench.results import Results, Verdict, WorkResult, judge, shown

_NOTHING = "-"
_RATES = ("gb_per_s", "per_s")


def render(results: Results) -> str:
    """All of it."""
    parts = [", ".join(f"{name}: {value}" for name, value in results.facts.items())]
    parts += [f"**{work.title}**\n\n{work_table(work)}" for work in results.works if work.samples]
    parts.append(f"**Targets**\n\n{target_table(judge(results))}")
    others = [target for target in shown(results) if target.against != "before"]
    parts.append(f"**The same for README**\n\n{summary_table(judge(results, others))}")
    if results.problems:
        parts.append("**Runs that do not count**\n\n" + "\n".join(f"- {problem}" for problem in results.problems))
    return "\n\n".join(parts)


def work_table(work: WorkResult) -> str:
    """The medians of each entry, and the ratio of the decisive one to the baseline's."""
    decisive = work.columns[0]
    header = ["", *(METRICS[metric].label for metric in work.columns), f"/ {work.baseline}"]
    rows = []
    for entry in work.samples:
        figures = [_figure(work.median(entry, metric), METRICS[metric].digits) for metric in work.columns]
        rows.append([entry, *figures, _figure(work.ratio(entry, work.baseline, decisive), 2)])
    return table(header, rows)


def target_table(verdicts: Sequence[Verdict]) -> str:
    """Of those with a bound."""
    words = {None: "not measured", True: "reached", False: "not reached"}
    rows = []
    for verdict in verdicts:
        spread = "" if verdict.spread is None else f" ({verdict.spread[0]:.2f} to {verdict.spread[1]:.2f})"
        bound = f"{'at least' if verdict.at_least else 'at most'} {verdict.bound:,g}"
        digits = 2 if (verdict.value or 0) < 1000 else 0
        rows.append([verdict.text, bound, f"{_figure(verdict.value, digits)}{spread}", words[verdict.reached]])
    return table(["work", "target", "measured (range over rounds)", ""], rows)


def summary_table(verdicts: Sequence[Verdict]) -> str:
    """What was measured, without a judgement: the medians, and how one relates to the other."""
    rows = []
    for verdict in verdicts:
        if verdict.value is not None:
            metric = METRICS[verdict.metric]
            rate = f", {metric.label}" if verdict.metric in _RATES else ""
            medians = [_figure(median, metric.digits) for median in verdict.medians]
            spread = "" if verdict.spread is None else f"{verdict.spread[0]:.2f} to {verdict.spread[1]:.2f}"
            ratio = _NOTHING if verdict.spread is None else f"{verdict.value:.2f}"
            rows.append([f"{verdict.text}{rate}", *medians, ratio, spread])
    return table(["work", "this server", "the other", "ratio", "over the rounds"], rows) if rows else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width + 1) + (":" if index else "-") for index, width in enumerate(widths)]
    return "\n".join([line(header), f"|{'|'.join(rule)}|", *map(line, rows)])


def _figure(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}"
