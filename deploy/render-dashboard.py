#!/usr/bin/env python3
"""Draw grafana-dashboard.json as an SVG, with the data of a Prometheus: what the dashboard shows, without a Grafana.

    render-dashboard.py http://127.0.0.1:9090 [--minutes 60] >dashboard.svg

It draws the panels where the dashboard has them, their lines, last values and legends; not every option of Grafana's.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

WIDTH, ROW, MARGIN, TITLE, LEGEND_LINE = 1440, 30, 4, 24, 15
COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#5794f2", "#ba43a9", "#b877d9", "#508642", "#cca300")
POINTS = 240
UNITS = {
    "bytes": ("B", "KiB", "MiB", "GiB", "TiB"),
    "Bps": ("B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"),
}
SUFFIXES = {"ops": "/s", "reqps": "/s", "percent": " %", "short": ""}


class Line(NamedTuple):
    """points: time and value."""

    name: str
    points: list[tuple[float, float]]


def shown(value: float, unit: str) -> str:
    """A value with its unit, short enough for an axis."""
    if unit in UNITS:
        step = min(4, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024**step:.4g} {UNITS[unit][step]}"
    if unit == "s":
        return f"{value:.3g} s" if abs(value) >= 1 else f"{value * 1000:.3g} ms"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    return f"{value:.4g}{SUFFIXES.get(unit, '')}"


class Prometheus:
    """What a Prometheus held in the ``seconds`` before now."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url.rstrip("/")
        self.end = time.time()
        self.start = self.end - seconds
        self._step = max(1.0, seconds / POINTS)

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """The series of one of a panel's expressions, named as its legend says."""
        window = f"{max(4 * self._step, 15):.0f}s"
        expression = target["expr"].replace("$__rate_interval", window).replace("$instance", ".*")
        found = self._ask(query=expression, start=self.start, end=self.end, step=self._step)
        lines = []
        for series in found["data"]["result"]:
            points = [(float(when), float(value)) for when, value in series["values"] if math.isfinite(float(value))]
            lines.append(Line(self._legend(target["legendFormat"], series["metric"]), points))
        return [line for line in lines if line.points]

    def _legend(self, form: str, labels: dict[str, str]) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form) or ", ".join(
            f"{name} {labels[name]}" for name in ("version", "python", "gunicorn", "gevent") if name in labels
        )

    def _ask(self, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{query}", timeout=30) as answer:  # noqa: S310 - the operator gave it
            return json.load(answer)


class Panel:
    """One panel and where it is."""

    def __init__(self, panel: dict[str, Any], lines: list[Line], span: tuple[float, float]) -> None:
        place = panel["gridPos"]
        self.panel, self.lines, self.span = panel, lines, span
        self.left, self.top = place["x"] * WIDTH / 24 + MARGIN, place["y"] * ROW + MARGIN
        self.width, self.height = place["w"] * WIDTH / 24 - 2 * MARGIN, place["h"] * ROW - 2 * MARGIN
        self.unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")

    def draw(self) -> list[str]:
        """Its part of the picture."""
        title = escape(self.panel["title"])
        if self.panel["type"] == "row":
            return [f'<text class="row" x="{self.left}" y="{self.top + 16}">{title}</text>']
        box = f'x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}" rx="3"'
        parts = [f'<rect class="panel" {box}/>', self._text(10, 16, self.panel["title"], "title")]
        if not self.lines:
            return [*parts, self._text(self.width / 2 - 20, self.height / 2, "No data", "small")]
        kinds: dict[str, Callable[[], list[str]]] = {
            "stat": self._stat,
            "heatmap": self._heatmap,
            "state-timeline": self._timeline,
            "table": self._table,
        }
        return parts + kinds.get(self.panel["type"], self._graph)()

    def _text(self, x: float, y: float, text: str, kind: str, more: str = "") -> str:
        return f'<text class="{kind}" x="{self.left + x:.1f}" y="{self.top + y:.1f}" {more}>{escape(text)}</text>'

    def _stat(self) -> list[str]:
        value = shown(self.lines[0].points[-1][1], self.unit)
        return [self._text(self.width / 2, self.height / 2 + 22, value, "stat", 'text-anchor="middle"')]

    def _table(self) -> list[str]:
        return [self._text(10, TITLE + 20 + 16 * n, line.name, "small") for n, line in enumerate(self.lines)]

    def _x(self, when: float, left: float) -> float:
        start, end = self.span
        across = self.width - left - 10
        return float(self.left + left + (when - start) / (end - start) * across)

    def _timeline(self) -> list[str]:
        parts = []
        height = (self.height - TITLE - 10) / len(self.lines)
        for number, line in enumerate(self.lines):
            y = self.top + TITLE + number * height
            for (when, value), (after, _) in zip(line.points, line.points[1:], strict=False):
                x, end = self._x(when, 10), self._x(after, 10)
                colour = COLOURS[0] if value else "#6b4040"
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{end - x + 0.5:.1f}" height="{height - 4:.1f}" '
                             f'fill="{colour}" fill-opacity="0.6"/>')  # fmt: skip
            parts.append(self._text(16, TITLE + number * height + 16, line.name, "small"))
        return parts

    def _heatmap(self) -> list[str]:
        lines = sorted(self.lines, key=lambda line: float(line.name.replace("+Inf", "inf")))
        height = (self.height - TITLE - 8) / len(lines)
        columns: dict[float, list[tuple[int, float]]] = {}
        for number, line in enumerate(lines):
            for when, value in line.points:
                columns.setdefault(when, []).append((number, value))
        cells = [
            (when, number, value - (column[index - 1][1] if index else 0.0))
            for when, column in columns.items()
            for index, (number, value) in enumerate(column)
        ]
        top = max((value for *_, value in cells), default=0.0) or 1.0
        wide = (self.width - 70) / POINTS + 0.5
        parts = [
            f'<rect x="{self._x(when, 60):.1f}" y="{self.top + self.height - 8 - (number + 1) * height:.1f}" '
            f'width="{wide:.1f}" height="{height:.1f}" fill="#5794f2" fill-opacity="{math.sqrt(value / top):.2f}"/>'
            for when, number, value in cells
            if value > 0
        ]
        for number in range(0, len(lines), 4):
            label = lines[number].name
            label = label if label == "+Inf" else shown(float(label), "s")
            parts.append(self._text(54, self.height - 8 - number * height, label, "axis", 'text-anchor="end"'))
        return parts

    def _graph(self) -> list[str]:
        legend = sorted(self.lines, key=lambda line: -line.points[-1][1])[:4]
        bottom = self.height - 12 - LEGEND_LINE * len(legend)
        lines = self._stacked() if self._is_stacked() else self.lines
        top = self.panel["fieldConfig"]["defaults"].get("max") or max(v for line in lines for _, v in line.points) or 1
        parts = []
        for share in (0, 0.5, 1):
            y = bottom - share * (bottom - TITLE - 8)
            parts.append(f'<path class="grid" d="M{self.left + 60} {self.top + y:.1f}h{self.width - 70:.1f}"/>')
            parts.append(self._text(54, y + 4, shown(share * top, self.unit), "axis", 'text-anchor="end"'))
        for number, line in enumerate(lines):
            scaled = (
                f"{self._x(when, 60):.1f},{self.top + bottom - value / top * (bottom - TITLE - 8):.1f}"
                for when, value in line.points
            )
            parts.append(f'<polyline points="{" ".join(scaled)}" stroke="{COLOURS[number % len(COLOURS)]}"/>')
        for number, line in enumerate(legend):
            y = bottom + 18 + number * LEGEND_LINE
            colour = COLOURS[self.lines.index(line) % len(COLOURS)]
            parts.append(f'<path d="M{self.left + 12} {self.top + y - 4:.1f}h12" stroke="{colour}" stroke-width="3"/>')
            parts.append(self._text(30, y, f"{line.name}: {shown(line.points[-1][1], self.unit)}", "small"))
        return parts

    def _is_stacked(self) -> bool:
        stacking: str = self.panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"]
        return stacking == "normal"

    def _stacked(self) -> list[Line]:
        below: dict[float, float] = {}
        stacked = []
        for line in self.lines:
            points = []
            for when, value in line.points:
                below[when] = below.get(when, 0.0) + value
                points.append((when, below[when]))
            stacked.append(Line(line.name, points))
        return stacked


STYLE = """
svg { background: #111217; font-family: Inter, Helvetica, Arial, sans-serif; }
text { fill: #ccccdc; } .title { font-size: 13px; font-weight: 500; } .row { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; fill: #a0a0b0; } .axis { font-size: 10px; fill: #8e8e9e; }
.stat { font-size: 34px; font-weight: 500; fill: #73bf69; }
.panel { fill: #181b1f; stroke: #2c3235; } .grid { stroke: #2c3235; } polyline { fill: none; stroke-width: 1.4; }
"""


def picture(dashboard: dict[str, Any], prometheus: Prometheus) -> str:
    """The whole dashboard, as an SVG."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>']
    for panel in panels:
        lines = [line for target in panel.get("targets", []) for line in prometheus.lines(target)]
        parts += Panel(panel, lines, (prometheus.start, prometheus.end)).draw()
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the Prometheus")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: 60)")
    arguments = parser.parse_args()
    dashboard = json.loads((Path(__file__).parent / "grafana-dashboard.json").read_text(encoding="utf-8"))
    print(picture(dashboard, Prometheus(arguments.url, arguments.minutes * 60)), end="")


if __name__ == "__main__":
    main()
