"""The pictures: what they show, that all of it can be read, and that those of the repository are of its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.chart import chart
from bench.dashboard import DASHBOARD, RECORDING, Recording
from bench.drawing import new_figure, svg
from bench.metrics import Sample
from bench.panels import Line, Span, draw
from bench.results import Results, WorkResult
from tests.drawn_texts import drawn_texts, unreadable

RESULTS = sorted((Path(__file__).parents[2] / "bench/results").glob("*.json"))
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def work_result(title: str = "PUT", **samples: list[Sample]) -> WorkResult:
    return WorkResult("put", title, ("per_s",), "go", samples)


def texts(figure: Figure) -> list[str]:
    return [one.text for one in drawn_texts(figure)]


def test_a_chart_shows_every_measured_entry() -> None:
    works = [work_result(hmacfs=[{"per_s": 5000.0}], go=[{"per_s": 10000.0}]), work_result(hmacfs=[{}])]
    figure = chart(Results({}, works))
    assert sorted(texts(figure)) == ["10,000", "5,000", "PUT", "go", "hmacfs", "per s"]
    (axes,) = figure.subfigs[0].axes
    widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert widths == [5000, 10000]


def test_a_chart_has_room_for_long_names_and_titles() -> None:
    entries = {"an entry with a rather long name": [{"per_s": 123456789.0}], "b": [{"per_s": 1.0}]}
    works = [work_result("A long title of many words " * 4, **entries), work_result(c=[{"per_s": 0.5}])]
    figure = chart(Results({}, works))
    assert list(unreadable(figure)) == []
    assert "123,456,789" in texts(figure)


def test_a_picture_does_not_tell_the_last_digits_of_a_place() -> None:
    pictures = set[str]()
    for place in (0.3, 0.1 + 0.2):
        figure = new_figure(100, 100)
        axes = figure.add_axes((place, 0.1, 0.5, 0.5))
        axes.plot([1, 2], [1, 2])
        pictures.add(svg(figure))
    assert len(pictures) == 1


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_chart_of_a_run_can_be_read_and_is_the_one_in_the_repository(path: Path) -> None:
    results = Results.read(path)
    figure = chart(results)
    assert list(unreadable(figure)) == []
    assert set(texts(figure)) >= {entry for work in results.works for entry in work.samples}
    assert svg(figure) == path.with_suffix(".svg").read_text()


def test_the_dashboard_can_be_read_and_is_the_one_in_the_repository() -> None:
    recording = Recording.read(RECORDING)
    figure = draw(PANELS, recording.lines, recording.span)
    assert list(unreadable(figure)) == []
    assert set(texts(figure)) >= {panel["title"] for panel in PANELS}
    assert "No data" not in texts(figure)
    assert svg(figure) == DASHBOARD.with_suffix(".svg").read_text()


def test_a_dashboard_has_room_for_large_values_and_cuts_long_names() -> None:
    name = "files.example.org:9091 with a name that goes on and on, further than any panel of the dashboard is wide" * 2
    lines = [Line(f"{number} {name}", [(0, 234567.8), (5, number * 1e4)]) for number in range(6)]
    heat = [Line(bound, [(0, 1e6)]) for bound in ("0.001", "86400", "604800", "+Inf")]
    shown = {panel["id"]: heat if panel["type"] == "heatmap" else lines for panel in PANELS}
    figure = draw(PANELS, shown, Span(10, 1.0))
    assert list(unreadable(figure)) == []
    assert any(text.endswith("…") for text in texts(figure))


def test_a_dashboard_without_data_says_so() -> None:
    figure = draw(PANELS, {}, Span(10, 1.0))
    assert list(unreadable(figure)) == []
    assert texts(figure).count("No data") == sum(panel["type"] != "row" for panel in PANELS)


def test_what_cannot_be_read_is_found() -> None:
    figure = new_figure(100, 100)
    for x, y, text in [(0.1, 0.5, "one"), (0.2, 0.5, "two"), (0.9, 0.1, "three")]:
        figure.text(x, y, text)
    cut, over = unreadable(figure)
    assert "'three'" in cut
    assert "'one'" in over
    assert "'two'" in over


def test_a_recording_is_kept(tmp_path: Path) -> None:
    kept = Recording(Span(10, 2.5), {1: [Line("a", [(0, 1.0), (3, 0.3333)])], 2: []})
    kept.write(tmp_path / "kept")
    assert Recording.read(tmp_path / "kept") == kept
