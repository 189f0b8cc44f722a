"""What running programs cost: processor time and memory of whole sessions of processes, from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_RESET_PEAK = "5"  # proc(5), clear_refs


class Stat(NamedTuple):
    """Of one process: its session's leader, and processor seconds, those of its reaped children included."""

    session: int
    cpu_seconds: float


class Usage(NamedTuple):
    """Of several processes together. rss counts what they share once for each, pss once; peak is the sum of each one's
    highest rss since ``reset_peaks``. In bytes."""

    cpu_seconds: float
    rss: int
    peak: int
    pss: int


def parse_stat(text: str) -> Stat:
    """From ``/proc/PID/stat``. The program's name stands in parentheses and may hold any character."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(int(fields[3]), sum(map(int, fields[11:15])) / _TICKS_PER_SECOND)


def parse_sizes(text: str) -> dict[str, int]:
    """The lines in kB of ``/proc/PID/status`` or ``smaps_rollup``, in bytes."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            sizes[name] = int(number) * 1024
    return sizes


def usage(leaders: Collection[int]) -> Usage:
    """What the sessions of these leaders use now."""
    seconds, rss, peak, pss = 0.0, 0, 0, 0
    for process, stat in _members(leaders):
        with contextlib.suppress(OSError):
            status = parse_sizes((process / "status").read_text())
            rollup = parse_sizes((process / "smaps_rollup").read_text())
            rss += status.get("VmRSS", 0)
            peak += status.get("VmHWM", 0)
            pss += rollup.get("Pss", 0)
        seconds += stat.cpu_seconds
    return Usage(seconds, rss, peak, pss)


def peak_bytes(pid: int) -> int:
    """The highest rss of one process so far; 0 if it has ended. What wait4(2) tells includes that of the process that
    forked it."""
    with contextlib.suppress(OSError):
        return parse_sizes((_PROC / str(pid) / "status").read_text()).get("VmHWM", 0)
    return 0


def reset_peaks(leaders: Collection[int]) -> None:
    """Let each process's highest rss count from now on."""
    for process, _ in _members(leaders):
        with contextlib.suppress(OSError):
            (process / "clear_refs").write_text(_RESET_PEAK)


def wait_until_idle(leaders: Collection[int], *, quiet: float = 0.05, timeout: float = 5.0) -> None:
    """Return once the sessions have used no processor time for ``quiet`` seconds, or after ``timeout``."""
    deadline = time.monotonic() + timeout
    before = cpu_seconds(leaders)
    while time.monotonic() < deadline:
        time.sleep(quiet)
        now = cpu_seconds(leaders)
        if now == before:
            return
        before = now


def cpu_seconds(leaders: Collection[int]) -> float:
    """Processor seconds that the sessions of these leaders have used so far."""
    return sum(stat.cpu_seconds for _, stat in _members(leaders))


def _members(leaders: Collection[int]) -> Iterator[tuple[Path, Stat]]:
    for process in _PROC.iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                stat = parse_stat((process / "stat").read_text())
                if stat.session in leaders:
                    yield process, stat
