"""One measured run: what a load did, and what it cost the contender."""

from __future__ import annotations

from typing import NamedTuple

from bench.contenders import Contender
from bench.loads import Load
from bench.outcome import Outcome

MIB = 1024 * 1024

#: Figures of one run, by the keys of ``METRICS``.
Sample = dict[str, float]


class Metric(NamedTuple):
    """digits: behind the decimal point."""

    label: str
    digits: int
    more_is_better: bool


METRICS = {
    "gb_per_s": Metric("GB/s", 2, True),
    "per_s": Metric("per s", 0, True),
    "cpu_per_gb": Metric("CPU s per GB", 2, False),
    "cpu_ms": Metric("CPU ms each", 3, False),
    "p50_ms": Metric("median ms", 2, False),
    "p99_ms": Metric("99 % ms", 2, False),
    "peak_mib": Metric("peak MiB", 0, False),
    "pss_mib": Metric("PSS MiB", 0, False),
    "share": Metric("share of rate without", 2, True),
    "idle_mib": Metric("idle MiB", 0, False),
    "idle_pss_mib": Metric("idle PSS MiB", 0, False),
    "growth_mib": Metric("growth MiB", 1, False),
    "parallel": Metric("processes", 0, True),
}


def measure(contender: Contender, load: Load, seconds: int) -> Sample:
    """Run the load. Raises ``LoadFailed`` if an answer or a stored file is wrong."""
    load.prepare(contender, seconds)
    contender.wait_until_idle()
    contender.reset_peaks()
    before = contender.cpu_seconds()
    outcome = load.run(contender, seconds)
    after = contender.usage()
    contender.wait_until_idle()
    load.verify(contender, outcome)
    return rates(outcome) | {
        "cpu_per_gb": (after.cpu_seconds - before) / (outcome.moved / 1e9),
        "cpu_ms": (after.cpu_seconds - before) * 1e3 / outcome.count,
        "peak_mib": after.peak / MIB,
        "pss_mib": after.pss / MIB,
    }


def rates(outcome: Outcome) -> Sample:
    """What the outcome itself tells; GB are 10^9 bytes."""
    return {
        "gb_per_s": outcome.moved / 1e9 / outcome.seconds,
        "per_s": outcome.count / outcome.seconds,
        "p50_ms": outcome.p50 * 1e3,
        "p99_ms": outcome.p99 * 1e3,
    }
