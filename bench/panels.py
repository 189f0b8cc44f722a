"""The panels of a Grafana dashboard as a figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from bench.drawing import DPI, new_figure
from bench.units import round_top, shown

# In dots, as all lengths here.
_WIDTH, _ROW, _MARGIN, _TITLE, _LEGEND_LINE, _AXIS, _PAD = 1440, 30, 4, 28, 15, 68, 10
_COLUMNS = 24
_LEGEND_LINES = 4
_SHADES = 16
_BACK, _PANEL, _EDGE = "#111217", "#181b1f", "#2c3235"
_TEXT, _FAINT, _GOOD, _BAD, _CELL = "#ccccdc", "#a0a0b0", "#73bf69", "#6b4040", "#5794f2"
_COLOURS = (
    *("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42"),
    *("#5794f2", "#ba43a9", "#b877d9", "#508642", "#cca300"),
)


class Span(NamedTuple):
    """A time of so many points, each ``step`` seconds after the one before."""

    points: int
    step: float


class Line(NamedTuple):
    """points: number of the point in its ``Span``, and value."""

    name: str
    points: list[tuple[int, float]]


def draw(panels: list[dict[str, Any]], lines: Mapping[int, list[Line]], span: Span) -> Figure:
    """The whole dashboard. lines: those of each panel, by its ``id``."""
    figure = new_figure(_WIDTH, max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * _ROW)
    figure.set_facecolor(_BACK)
    for panel in panels:
        _Panel(figure, panel, lines.get(panel["id"], []), span).draw()
    return figure


class _Panel:
    """One panel and where it is: distances are from its left upper corner."""

    def __init__(self, figure: Figure, panel: dict[str, Any], lines: list[Line], span: Span) -> None:
        place = panel["gridPos"]
        self._figure, self._panel, self._lines, self._span = figure, panel, lines, span
        self._left, self._top = place["x"] * _WIDTH / _COLUMNS + _MARGIN, place["y"] * _ROW + _MARGIN
        self._width, self._height = place["w"] * _WIDTH / _COLUMNS - 2 * _MARGIN, place["h"] * _ROW - 2 * _MARGIN
        self._unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")

    def draw(self) -> None:
        if self._panel["type"] == "row":
            self._text(0, self._height / 2, self._panel["title"], fontsize=15, fontweight="bold")
            return
        self._figure.add_artist(self._box())
        self._text(_PAD, _TITLE / 2, self._panel["title"], fontsize=12.5, fontweight="bold")
        kinds: dict[str, Callable[[], None]] = {
            "stat": self._stat,
            "heatmap": self._heatmap,
            "state-timeline": self._timeline,
            "table": self._table,
        }
        if self._lines:
            kinds.get(self._panel["type"], self._graph)()
        else:
            self._text(self._width / 2, self._height / 2, "No data", ha="center", color=_FAINT)

    def _box(self) -> Rectangle:
        left, bottom = self._place(0, self._height)
        width, height = self._width / self._dots[0], self._height / self._dots[1]
        return Rectangle(
            (left, bottom), width, height, transform=self._figure.transFigure, zorder=-1, fc=_PANEL, ec=_EDGE
        )

    @property
    def _dots(self) -> tuple[float, float]:
        width, height = self._figure.get_size_inches() * DPI
        return float(width), float(height)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        width, height = self._dots
        return (self._left + x) / width, 1 - (self._top + y) / height

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        """In one line, around the height ``y``; cut where the panel ends."""
        style = {"fontsize": 11, "color": _TEXT, "va": "center_baseline", **style}
        written = self._figure.text(*self._place(x, y), text, **style)
        end = self._left + self._width - _MARGIN
        while text and (box := written.get_window_extent()).x1 > end:
            text = text[: int(len(text) * (end - box.x0) / box.width) - 1]
            written.set_text(f"{text.rstrip()}…")

    def _axes(self, left: float, bottom: float) -> Axes:
        """From the title down to ``bottom``, without a frame. x counts the points."""
        x, y = self._place(left, bottom)
        width, height = self._dots
        axes = self._figure.add_axes(
            (x, y, (self._width - left - _PAD) / width, (bottom - _TITLE - _PAD / 2) / height), facecolor="none"
        )
        axes.spines[:].set_visible(False)
        axes.xaxis.set_visible(False)
        axes.set_xlim(0, self._span.points)
        axes.tick_params(axis="y", length=0, pad=6, labelsize=10, labelcolor=_FAINT)
        return axes

    def _stat(self) -> None:
        value = shown(self._lines[0].points[-1][1], self._unit)
        y = (self._height + _TITLE) / 2
        self._text(self._width / 2, y, value, ha="center", fontsize=32, fontweight="bold", color=_GOOD)

    def _table(self) -> None:
        cells = [cell for line in self._lines for cell in line.name.split(", ")]
        room = int((self._height - _TITLE - _PAD) / _LEGEND_LINE)
        for number, cell in enumerate(cells[:room]):
            self._text(_PAD, _TITLE + _PAD + _LEGEND_LINE * number, cell, color=_FAINT)

    def _timeline(self) -> None:
        bottom = self._height - _PAD
        axes = self._axes(_PAD, bottom)
        axes.set_ylim(len(self._lines), 0)
        axes.yaxis.set_visible(False)
        height = (bottom - _TITLE - _PAD / 2) / len(self._lines)
        for number, line in enumerate(self._lines):
            for value, points in itertools.groupby(line.points, key=lambda point: point[1]):
                steps = [step for step, _ in points]
                bar = [(steps[0], min(steps[-1] + 1, self._span.points) - steps[0])]
                axes.broken_barh(bar, (number, 0.9), facecolor=_COLOURS[0] if value else _BAD, alpha=0.6)
            self._text(_PAD + 6, _TITLE + _PAD / 2 + (number + 0.45) * height, line.name, color="white")

    def _heatmap(self) -> None:
        lines = sorted(self._lines, key=lambda line: float(line.name.replace("+Inf", "inf")))
        axes = self._axes(_AXIS, self._height - _PAD)
        axes.set_ylim(0, len(lines))
        for shade, squares in _shades(_cells(lines)).items():
            axes.add_patch(PathPatch(Path.make_compound_path(*squares), facecolor=_CELL, alpha=shade, linewidth=0))
        names = [line.name if line.name == "+Inf" else shown(float(line.name), "s") for line in lines]
        axes.set_yticks([number + 0.5 for number in range(0, len(lines), 4)], names[::4])

    def _graph(self) -> None:
        legend = sorted(self._lines, key=lambda line: -line.points[-1][1])[:_LEGEND_LINES]
        bottom = self._height - _PAD - 4 - _LEGEND_LINE * len(legend)
        defaults = self._panel["fieldConfig"]["defaults"]
        lines = _stacked(self._lines) if defaults["custom"]["stacking"]["mode"] == "normal" else self._lines
        highest = max(value for line in lines for _, value in line.points) or 1
        top = defaults.get("max") or round_top(highest, self._unit)
        axes = self._axes(_AXIS, bottom)
        axes.set_ylim(0, top)
        axes.set_yticks([0, top / 2, top], [shown(value, self._unit) for value in (0, top / 2, top)])
        axes.grid(axis="y", color=_EDGE, linewidth=1, clip_on=False)
        for number, line in enumerate(lines):
            steps, values = zip(*_with_gaps(line.points), strict=True)
            axes.plot(steps, values, color=_COLOURS[number % len(_COLOURS)], linewidth=1.4, clip_on=False)
        for number, line in enumerate(legend):
            colour = _COLOURS[self._lines.index(line) % len(_COLOURS)]
            y = bottom + 16 + number * _LEGEND_LINE
            self._text(_PAD, y, "—", color=colour, fontweight="bold")
            self._text(_PAD + 20, y, f"{line.name}: {shown(line.points[-1][1], self._unit)}", color=_FAINT)


def _cells(lines: list[Line]) -> list[tuple[int, int, float]]:
    """The step, the row and the value of each cell that is not empty. The lines count what is at most so large: a cell
    is its line without the one below."""
    below: dict[int, float] = {}
    cells = []
    for number, line in enumerate(lines):
        for step, value in line.points:
            if value > below.get(step, 0.0):
                cells.append((step, number, value - below.get(step, 0.0)))
            below[step] = value
    return cells


def _shades(cells: list[tuple[int, int, float]]) -> dict[float, list[Path]]:
    """The squares of the cells, by how much of the colour they have: one path for each shade is a small picture."""
    top = max((value for *_, value in cells), default=0.0)
    shades: dict[float, list[Path]] = {}
    for step, row, value in cells:
        shade = math.ceil(math.sqrt(value / top) * _SHADES) / _SHADES
        corners = [(step, row), (step + 1, row), (step + 1, row + 1), (step, row + 1), (step, row)]
        shades.setdefault(shade, []).append(Path(corners, closed=True))
    return shades


def _with_gaps(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """No line leads from one point to another that is not the next."""
    drawn = points[:1]
    for step, value in points[1:]:
        if step > drawn[-1][0] + 1:
            drawn.append((step - 1, math.nan))
        drawn.append((step, value))
    return drawn


def _stacked(lines: list[Line]) -> list[Line]:
    below: dict[int, float] = {}
    stacked = []
    for line in lines:
        points = []
        for step, value in line.points:
            below[step] = below.get(step, 0.0) + value
            points.append((step, below[step]))
        stacked.append(Line(line.name, points))
    return stacked
