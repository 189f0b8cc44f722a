"""One measured run: what a load did, and what it cost the contender."""

from __future__ import annotations

from bench.contenders import Contender
from bench.loads import Load
from bench.metrics import Sample
from bench.outcome import Outcome

MIB = 1024 * 1024


def measure(contender: Contender, load: Load, seconds: int) -> Sample:
    """Run the load. Raises ``LoadFailed`` if an answer or a stored file is wrong."""
    load.prepare(contender)
    contender.wait_until_idle()
    contender.reset_peaks()
    before = contender.cpu_seconds()
    outcome = load.run(contender, seconds)
    after = contender.usage()
    contender.wait_until_idle()
    load.verify(contender, outcome)
    return rates(outcome) | {
        "cpu_per_gb": (after.cpu_seconds - before) / (outcome.moved / 1e9),
        "cpu_ms": (after.cpu_seconds - before) * 1e3 / outcome.answered,
        "peak_mib": after.peak / MIB,
        "pss_mib": after.pss / MIB,
    }


def rates(outcome: Outcome) -> Sample:
    """What the outcome itself tells; GB are 10^9 bytes."""
    return {
        "gb_per_s": outcome.moved / 1e9 / outcome.seconds,
        "per_s": outcome.answered / outcome.seconds,
        "mean_ms": outcome.seconds * 1e3 / outcome.answered,
        "p50_ms": outcome.p50 * 1e3,
        "p99_ms": outcome.p99 * 1e3,
    }
