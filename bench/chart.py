"""The decisive figures as bars, as an SVG picture."""

from __future__ import annotations

from html import escape

from bench.metrics import METRICS
from bench.results import Results, WorkResult

_COLUMNS = 2
_PANEL_WIDTH = 440
_PANEL_GAP = 24
_MARGIN = 20
_TITLE_HEIGHT = 26
_BAR_HEIGHT = 15
_BAR_STEP = 20
_NAME_WIDTH = 120
_VALUE_WIDTH = 96
_OURS, _OTHERS = "#2a6fbb", "#b8bfc7"


def svg(results: Results) -> str:
    """One panel for each work, with a bar for each entry; this project's own are coloured."""
    works = [work for work in results.works if any(work.median(entry, work.columns[0]) for entry in work.samples)]
    rows = [works[start : start + _COLUMNS] for start in range(0, len(works), _COLUMNS)]
    panels, y = [], _MARGIN
    for row in rows:
        for column, work in enumerate(row):
            panels.append(_panel(work, _MARGIN + column * (_PANEL_WIDTH + _PANEL_GAP), y))
        y += _TITLE_HEIGHT + _BAR_STEP * max(len(work.samples) for work in row) + _PANEL_GAP
    width = 2 * _MARGIN + _COLUMNS * _PANEL_WIDTH + (_COLUMNS - 1) * _PANEL_GAP
    box = f'width="{width}" height="{y}"'
    font = 'font-family="system-ui, sans-serif" font-size="12" fill="#24292f"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width} {y}" {font}>'
    return "\n".join([head, f'<rect {box} fill="#ffffff"/>', *panels, "</svg>\n"])


def _panel(work: WorkResult, x: int, y: int) -> str:
    metric = METRICS[work.columns[0]]
    values = {entry: work.median(entry, work.columns[0]) or 0.0 for entry in work.samples}
    room = _PANEL_WIDTH - _NAME_WIDTH - _VALUE_WIDTH
    hint = metric.label if metric.more_is_better else f"{metric.label}, less is better"
    lines = [f'<text x="{x}" y="{y + 12}"><tspan font-weight="bold">{escape(work.title)}</tspan> ({hint})</text>']
    for index, (entry, value) in enumerate(values.items()):
        top = y + _TITLE_HEIGHT + index * _BAR_STEP
        length = max(1.0, room * value / max(values.values()))
        fill = _OURS if "hmacfs" in entry or "store" in entry else _OTHERS
        bar = x + _NAME_WIDTH
        lines += [
            f'<text x="{bar - 8}" y="{top + 12}" text-anchor="end">{escape(entry)}</text>',
            f'<rect x="{bar}" y="{top}" width="{length:.1f}" height="{_BAR_HEIGHT}" fill="{fill}"/>',
            f'<text x="{bar + length + 6:.1f}" y="{top + 12}">{value:,.{metric.digits}f}</text>',
        ]
    return "\n".join(lines)
