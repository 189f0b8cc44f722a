"""Telling processes apart: the number of one that ended is given to another sooner or later, and after a restart of the
machine soon."""

from __future__ import annotations

import os
from typing import NamedTuple, Self


class Process(NamedTuple):
    """``started``: when, in ticks since the machine's start; 0 where the kernel does not tell (Linux does)."""

    pid: int
    started: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The inverse of ``str``; ``None`` for a text that is no process."""
        pid, _, started = text.partition("-")
        return cls(int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}"

    @property
    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            return False  # not one of ours
        return not self.started or _started(self.pid) == self.started


def _started(pid: int) -> int:
    """0 also for a process that has ended and is not yet reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def current() -> Process:
    """This process."""
    return _current


def parent() -> Process:
    """Of this process; of a worker the server's master."""
    pid = os.getppid()
    return Process(pid, _started(pid))


def _identify() -> None:
    global _current
    _current = Process(os.getpid(), _started(os.getpid()))


_current = Process(0, 0)
_identify()
os.register_at_fork(after_in_child=_identify)
