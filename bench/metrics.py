"""The figures that runs bring."""

from __future__ import annotations

from typing import NamedTuple

#: Figures of one run, by the keys of ``METRICS``.
Sample = dict[str, float]


class Metric(NamedTuple):
    """digits: after the decimal point."""

    label: str
    digits: int
    more_is_better: bool


METRICS = {
    "gb_per_s": Metric("GB/s", 2, True),
    "per_s": Metric("per s", 0, True),
    "cpu_per_gb": Metric("CPU s per GB", 2, False),
    "cpu_ms": Metric("CPU ms each", 3, False),
    "mean_ms": Metric("ms each", 2, False),
    "p50_ms": Metric("median ms", 2, False),
    "p99_ms": Metric("99 % ms", 2, False),
    "peak_mib": Metric("peak MiB", 0, False),
    "pss_mib": Metric("PSS MiB", 0, False),
    "share": Metric("share of rate without", 2, True),
    "idle_mib": Metric("idle MiB", 0, False),
    "idle_pss_mib": Metric("idle PSS MiB", 0, False),
    "start_s": Metric("seconds to the first answer", 2, False),
    "growth_mib": Metric("growth MiB", 1, False),
    "refused": Metric("refused", 0, False),
    "tries": Metric("attacker's tries", 0, True),
    "put_1k": Metric("PUT 1 KiB", 0, False),
    "get_1k": Metric("GET 1 KiB", 0, False),
    "put_16k": Metric("PUT 16 KiB", 0, False),
    "get_16k": Metric("GET 16 KiB", 0, False),
    "get_16k_each": Metric("GET 16 KiB, each another", 0, False),
    "threads": Metric("threads", 0, True),
}
