"""Several instances of a contender under load at once, each with a store of its own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.contenders import Contender
from bench.loads import Load
from bench.measure import MIB, rates
from bench.metrics import Sample


def measure_together(contenders: Sequence[Contender], load: Load, seconds: int) -> Sample:
    """Their rates summed, and the median of their latencies. Raises ``LoadFailed`` if one of them failed."""
    for contender in contenders:
        load.prepare(contender)
    for contender in contenders:
        contender.wait_until_idle()
        contender.reset_peaks()
    before = sum(contender.cpu_seconds() for contender in contenders)
    with ThreadPoolExecutor(len(contenders)) as pool:
        outcomes = list(pool.map(lambda contender: load.run(contender, seconds), contenders))
    usages = [contender.usage() for contender in contenders]
    for contender, outcome in zip(contenders, outcomes, strict=True):
        contender.wait_until_idle()
        load.verify(contender, outcome)
    figures = [rates(outcome) for outcome in outcomes]
    used = sum(usage.cpu_seconds for usage in usages) - before
    return {
        **{name: sum(sample[name] for sample in figures) for name in ("gb_per_s", "per_s")},
        **{name: statistics.median(sample[name] for sample in figures) for name in ("p50_ms", "p99_ms")},
        "cpu_ms": used * 1e3 / sum(outcome.answered for outcome in outcomes),
        "peak_mib": sum(usage.peak for usage in usages) / MIB,
        "pss_mib": sum(usage.pss for usage in usages) / MIB,
    }
