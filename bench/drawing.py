"""matplotlib's figures as SVG pictures."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

#: How matplotlib names an area that something is cut to.
_AREA = re.compile(r"\bp[0-9a-f]{10}\b")

#: Figures have this many dots per inch, as SVG counts, so that a point of a font is a dot.
DPI = 72


def new_figure(width: float, height: float) -> Figure:
    """An empty one, of so many dots."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def svg(figure: Figure) -> str:
    """The same text for the same figure: no date, no random name. Letters are outlines, so that they take the room that
    the layout gave them, whichever fonts the reader has.

    An area is numbered: its name is a hash of its place with all digits, the last of which the layout leaves to chance.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "hmacfs"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    numbers: dict[str, str] = {}
    return _AREA.sub(lambda name: numbers.setdefault(name[0], f"area{len(numbers)}"), text.getvalue())
