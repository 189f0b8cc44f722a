"""Draw ``deploy/grafana-dashboard.json`` with the data of a Prometheus: what the dashboard shows, without a Grafana.

    python -m bench.dashboard http://127.0.0.1:9090 [--minutes 60] [--save bench/dashboard-data.json]
    python -m bench.dashboard bench/dashboard-data.json >deploy/grafana-dashboard.svg

It draws the panels where the dashboard has them, their lines, last values and legends; not every option of Grafana's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.drawing import svg
from bench.panels import Line, Span, draw

DASHBOARD = Path(__file__).parents[1] / "deploy/grafana-dashboard.json"
#: What the repository's picture shows.
RECORDING = Path(__file__).with_name("dashboard-data.json")
POINTS = 120


@dataclasses.dataclass
class Recording:
    """What a Prometheus held, rounded to what can be seen. lines: those of each panel, by its ``id``."""

    span: Span
    lines: dict[int, list[Line]]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"span": self.span, "panels": self.lines}, separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, path: Path) -> Recording:
        document = json.loads(path.read_text())
        lines = {
            int(number): [Line(name, [(step, value) for step, value in points]) for name, points in panel]
            for number, panel in document["panels"].items()
        }
        return cls(Span(*document["span"]), lines)


class Prometheus(NamedTuple):
    """One that answers at ``url``."""

    url: str

    def record(self, panels: list[dict[str, Any]], seconds: float) -> Recording:
        """What the panels show of the ``seconds`` before now. Raises ``OSError``."""
        span = Span(POINTS, max(1.0, seconds / POINTS))
        end = time.time()
        lines = {
            panel["id"]: [line for target in panel.get("targets", []) for line in self._lines(target, end, span)]
            for panel in panels
        }
        return Recording(span, lines)

    def _lines(self, target: Mapping[str, Any], end: float, span: Span) -> list[Line]:
        """The series of one of a panel's expressions, named as its legend says."""
        window = f"{max(4 * span.step, 15):.0f}s"
        expression = target["expr"].replace("$__rate_interval", window).replace("$instance", ".*")
        start = end - span.points * span.step
        found = self._ask(query=expression, start=start, end=end, step=span.step)
        lines = []
        for series in found["data"]["result"]:
            points = [
                (round((float(when) - start) / span.step), float(f"{float(value):.4g}"))
                for when, value in series["values"]
                if math.isfinite(float(value))
            ]
            lines.append(Line(_legend(target["legendFormat"], series["metric"]), points))
        return [line for line in lines if line.points]

    def _ask(self, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url.rstrip('/')}/api/v1/query_range?{query}", timeout=30) as answer:
            return json.load(answer)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form) or ", ".join(
        f"{name} {labels[name]}" for name in ("version", "python", "gunicorn", "gevent") if name in labels
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the URL of the Prometheus, or a file that --save wrote")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: 60)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the data, to draw them again")
    arguments = parser.parse_args()
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    if arguments.source.startswith(("http://", "https://")):
        recording = Prometheus(arguments.source).record(panels, arguments.minutes * 60)
    else:
        recording = Recording.read(Path(arguments.source))
    if arguments.save:
        recording.write(arguments.save)
    print(svg(draw(panels, recording.lines, recording.span)), end="")


if __name__ == "__main__":
    main()
