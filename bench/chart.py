"""The decisive figures as bars."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure, SubFigure

from bench.drawing import DPI, new_figure
from bench.metrics import METRICS
from bench.results import Results, WorkResult

_COLUMNS = 2
_PANEL_WIDTH = 464
_TITLE_LETTERS = 56
_LINE_HEIGHT = 17
#: What is above and below a panel's bars, and around everything.
_MARGINS = 56
_PAD = 7
_BAR_STEP = 21
#: Space for the value to the right of the longest bar, in lengths of that bar.
_VALUE_SHARE = 0.22
_OURS, _OTHERS, _HINT = "#2a6fbb", "#b8bfc7", "#57606a"


def chart(results: Results) -> Figure:
    """One panel for each work, with a bar for each entry; this project's own are coloured."""
    works = [work for work in results.works if any(work.median(entry, work.columns[0]) for entry in work.samples)]
    columns = min(_COLUMNS, len(works))
    rows = [works[start : start + columns] for start in range(0, len(works), columns)]
    heights = [max(map(_height, row)) for row in rows]
    figure = new_figure(columns * _PANEL_WIDTH, sum(heights))
    figure.set_layout_engine("constrained", w_pad=_PAD / DPI, h_pad=_PAD / DPI)
    panels = figure.subfigures(len(rows), columns, height_ratios=heights, squeeze=False)
    for row, places in zip(rows, panels, strict=True):
        lines = max(len(work.samples) for work in row)
        for work, panel in zip(row, places, strict=False):
            _draw(work, panel, lines)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each drawing would move things a little further
    return figure


def _title(work: WorkResult) -> str:
    return textwrap.fill(work.title, _TITLE_LETTERS)


def _height(work: WorkResult) -> int:
    return _MARGINS + _LINE_HEIGHT * len(_title(work).splitlines()) + _BAR_STEP * len(work.samples)


def _draw(work: WorkResult, panel: SubFigure, lines: int) -> None:
    """lines: bars for which there is room."""
    metric = METRICS[work.columns[0]]
    values = [work.median(entry, work.columns[0]) or 0.0 for entry in work.samples]
    panel.suptitle(_title(work), x=_PAD / _PANEL_WIDTH, ha="left", fontsize=12, fontweight="bold")
    axes = panel.add_subplot()
    hint = metric.label if metric.more_is_better else f"{metric.label}, less is better"
    axes.set_title(hint, loc="left", fontsize=11, color=_HINT)
    colours = [_OURS if "hmacfs" in entry or "store" in entry else _OTHERS for entry in work.samples]
    bars = axes.barh(range(len(values)), values, height=0.75, color=colours)
    axes.bar_label(bars, [f"{value:,.{metric.digits}f}" for value in values], padding=5, fontsize=11)
    axes.set_yticks(range(len(values)), list(work.samples), fontsize=11)
    axes.tick_params(left=False)
    axes.set_ylim(lines - 0.5, -0.5)
    axes.set_xlim(0, max(values) * (1 + _VALUE_SHARE))
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
