"""The texts of a figure as they are drawn, and which of them cannot be read."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure

from bench.drawing import DPI


class DrawnText(NamedTuple):
    """One line of text, and the box of its letters in dots from the left upper corner."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def lies_over(self, other: DrawnText) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def is_within(self, width: float, height: float) -> bool:
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


class _Recorder(RendererSVG):
    """Draws what the SVG shows, and notes its texts."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(width, height, io.StringIO(), image_dpi=DPI)  # type: ignore[no-untyped-call]
        self.texts: list[DrawnText] = []

    def draw_text(
        self, gc: Any, x: Any, y: Any, s: str, prop: Any, angle: Any, ismath: Any = False, mtext: Any = None
    ) -> None:
        assert not angle, "a box that stands askew is not known here"
        assert gc.get_clip_rectangle() is None, "the box may be cut"
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)  # type: ignore[no-untyped-call]
        self.texts.append(DrawnText(s, float(x), y - (height - descent), x + width, y + descent))
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)  # type: ignore[no-untyped-call]


def drawn_texts(figure: Figure) -> list[DrawnText]:
    recorder = _Recorder(*_size(figure))
    figure.draw(recorder)
    return recorder.texts


def unreadable(figure: Figure) -> Iterator[str]:
    """The texts that the figure's edge cuts, and the pairs that lie over one another."""
    texts = drawn_texts(figure)
    for one in texts:
        if not one.is_within(*_size(figure)):
            yield f"{one} is cut"
    for one, other in itertools.combinations(texts, 2):
        if one.lies_over(other):
            yield f"{one} lies over {other}"


def _size(figure: Figure) -> tuple[float, float]:
    width, height = figure.get_size_inches() * DPI
    return float(width), float(height)
