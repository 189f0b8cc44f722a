"""Values with their unit, as Grafana shows them, and round ends for axes. Pure."""

from __future__ import annotations

import math

UNITS = {
    "bytes": ("B", "KiB", "MiB", "GiB", "TiB"),
    "Bps": ("B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"),
}
SUFFIXES = {"ops": "/s", "reqps": "/s", "percent": " %", "short": ""}


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
