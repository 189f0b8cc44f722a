"""Judging time on a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.servers.machine import Duration, OwnClock, ProcessorWaits, with_descendants

pytestmark = pytest.mark.alone

SPIN = "while True: pass"
COUNTS = Path("/proc/self/schedstat").exists()


@pytest.fixture
def rival() -> Iterator[psutil.Process]:
    """A process that wants the one processor that this one may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    with subprocess.Popen([sys.executable, "-c", SPIN]) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
            os.sched_setaffinity(0, allowed)


def spin(seconds: float) -> None:
    """Work until this thread has had a processor for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_wait_for_something_else_counts_in_full() -> None:
    with OwnClock(os.getpid()) as clock:
        before = clock()
        time.sleep(0.2)
        assert clock() - before > 0.1


@pytest.mark.skipif(not COUNTS, reason="this kernel does not count waits for processors")
def test_a_wait_for_a_processor_does_not_count(rival: psutil.Process) -> None:
    """Two that spin share one processor: each goes half as fast by the wall's clock."""
    with OwnClock(os.getpid()) as clock, ProcessorWaits(rival.pid) as rivals:
        before, own_before = time.monotonic(), clock()
        while rivals.seconds() < 0.3:
            spin(0.02)
        assert clock() - own_before < time.monotonic() - before - 0.1


@pytest.mark.skipif(not COUNTS, reason="this kernel does not count waits for processors")
def test_servers_are_watched_as_well(rival: psutil.Process) -> None:
    assert {os.getpid(), rival.pid} <= set(with_descendants(os.getpid()))
    with ProcessorWaits(rival.pid) as rivals, ProcessorWaits() as all_of_us, Duration() as duration:
        while rivals.seconds() < 0.2:
            spin(0.02)
        assert all_of_us.seconds() >= 0.2
    assert duration.seconds >= 0.0
