"""Draw ``deploy/grafana-dashboard.json`` as an SVG, with the data of a Prometheus: what the dashboard shows, without a
Grafana.

    python -m bench.dashboard http://127.0.0.1:9090 [--minutes 60] >deploy/grafana-dashboard.svg

It draws the panels where the dashboard has them, their lines, last values and legends; not every option of Grafana's.
"""

from __future__ import annotations

import argparse
import itertools
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

DASHBOARD = Path(__file__).parents[1] / "deploy/grafana-dashboard.json"
WIDTH, ROW, MARGIN, TITLE, LEGEND_LINE, AXIS = 1440, 30, 4, 24, 15, 72
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
        return f"{short(value / 1024**step)} {UNITS[unit][step]}"
    if unit == "s":
        return duration(value)
    if unit == "percentunit":
        return f"{short(value * 100)} %"
    return f"{short(value)}{SUFFIXES.get(unit, '')}"


def duration(seconds: float) -> str:
    for name, size in (("h", 3600), ("min", 60), ("s", 1)):
        if abs(seconds) >= size:
            return f"{short(seconds / size)} {name}"
    return f"{short(seconds * 1000)} ms"


def short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def round_top(value: float, unit: str) -> float:
    """The end of an axis that holds ``value``: a round number, as the unit counts."""
    base = 1024 ** int(math.log(value, 1024)) if unit in UNITS and value >= 1 else 1
    power = 10.0 ** math.floor(math.log10(value / base))
    return next(base * power * step for step in (1, 2, 4, 5, 6, 8, 10) if base * power * step >= value * 0.999)


class Prometheus:
    """What a Prometheus held in the ``seconds`` before now."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url.rstrip("/")
        self.end = time.time()
        self.start = self.end - seconds
        self.step = max(1.0, seconds / POINTS)

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """The series of one of a panel's expressions, named as its legend says."""
        window = f"{max(4 * self.step, 15):.0f}s"
        expression = target["expr"].replace("$__rate_interval", window).replace("$instance", ".*")
        found = self._ask(query=expression, start=self.start, end=self.end, step=self.step)
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
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{query}", timeout=30) as answer:
            return json.load(answer)


class Panel:
    """One panel and where it is."""

    def __init__(self, panel: dict[str, Any], lines: list[Line], span: tuple[float, float], step: float) -> None:
        place = panel["gridPos"]
        self.panel, self.lines, self.span, self.step = panel, lines, span, step
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
            for value, points in itertools.groupby(line.points, key=lambda point: point[1]):
                times = [when for when, _ in points]
                x, end = self._x(times[0], 10), self._x(min(times[-1] + self.step, self.span[1]), 10)
                colour = COLOURS[0] if value else "#6b4040"
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{end - x:.1f}" height="{height - 4:.1f}" '
                             f'fill="{colour}" fill-opacity="0.6"/>')  # fmt: skip
            parts.append(self._text(16, TITLE + number * height + 16, line.name, "label"))
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
        wide = self._x(self.step, AXIS) - self._x(0, AXIS) + 0.3
        parts = [
            f'<rect x="{self._x(when, AXIS):.1f}" y="{self.top + self.height - 8 - (number + 1) * height:.1f}" '
            f'width="{wide:.1f}" height="{height:.1f}" fill="#5794f2" fill-opacity="{math.sqrt(value / top):.2f}"/>'
            for when, number, value in cells
            if value > 0
        ]
        for number in range(0, len(lines), 4):
            label = lines[number].name
            label = label if label == "+Inf" else shown(float(label), "s")
            parts.append(self._text(AXIS - 6, self.height - 8 - number * height, label, "axis", 'text-anchor="end"'))
        return parts

    def _graph(self) -> list[str]:
        legend = sorted(self.lines, key=lambda line: -line.points[-1][1])[:4]
        bottom = self.height - 12 - LEGEND_LINE * len(legend)
        lines = self._stacked() if self._is_stacked() else self.lines
        highest = max(value for line in lines for _, value in line.points) or 1
        top = self.panel["fieldConfig"]["defaults"].get("max") or round_top(highest, self.unit)
        parts = []
        for share in (0, 0.5, 1):
            y = bottom - share * (bottom - TITLE - 8)
            parts.append(
                f'<path class="grid" d="M{self.left + AXIS} {self.top + y:.1f}h{self.width - AXIS - 10:.1f}"/>'
            )
            parts.append(self._text(AXIS - 6, y + 4, shown(share * top, self.unit), "axis", 'text-anchor="end"'))
        for number, line in enumerate(lines):
            scaled = (
                f"{self._x(when, AXIS):.1f},{self.top + bottom - value / top * (bottom - TITLE - 8):.1f}"
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
svg { font-family: Inter, Helvetica, Arial, sans-serif; }
text { fill: #ccccdc; } .title { font-size: 13px; font-weight: 500; } .row { font-size: 15px; font-weight: 600; }
.label { font-size: 11px; fill: #ffffff; }
.back { fill: #111217; } .small { font-size: 11px; fill: #a0a0b0; } .axis { font-size: 10px; fill: #8e8e9e; }
.stat { font-size: 34px; font-weight: 500; fill: #73bf69; }
.panel { fill: #181b1f; stroke: #2c3235; } .grid { stroke: #2c3235; } polyline { fill: none; stroke-width: 1.4; }
"""


def picture(dashboard: dict[str, Any], prometheus: Prometheus) -> str:
    """The whole dashboard, as an SVG."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>',
             f'<rect class="back" width="{WIDTH}" height="{height}"/>']  # fmt: skip
    for panel in panels:
        lines = [line for target in panel.get("targets", []) for line in prometheus.lines(target)]
        parts += Panel(panel, lines, (prometheus.start, prometheus.end), prometheus.step).draw()
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the Prometheus")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: 60)")
    arguments = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    print(picture(dashboard, Prometheus(arguments.url, arguments.minutes * 60)), end="")


if __name__ == "__main__":
    main()
