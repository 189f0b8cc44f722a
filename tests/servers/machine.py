"""Time on a busy machine: how long something took, less what the machine's other work had to do with it.

The kernel counts for each thread how long it was ready to run and had to wait for a processor. What the threads of a test
and of its servers waited so is taken off the time by the clock. They may have waited side by side, so that too much is
taken off on a busy machine; on an idle one next to nothing is, and the whole time counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

#: How often new threads and processes are looked for, in seconds.
_LOOK_SECONDS = 0.1


class ProcessorWaits:
    """Sums up the waits of all threads of some processes, from its making on. It keeps a descriptor for each thread.

    ``only``: these processes alone; else this one with all its descendants.
    """

    def __init__(self, *only: int) -> None:
        self._only = only
        self._files: dict[tuple[int, int], int] = {}
        self._waits: dict[tuple[int, int], float] = {}
        self._looked_at = float("-inf")
        self._lock = threading.Lock()
        self._before = 0.0
        self._before = self.seconds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def seconds(self) -> float:
        """The sum so far; 0 where the kernel does not count."""
        with self._lock:
            if time.monotonic() - self._looked_at > _LOOK_SECONDS:
                self._look()
            for thread, file in list(self._files.items()):
                try:
                    self._waits[thread] = int(os.pread(file, 100, 0).split()[1]) / 1e9
                except (OSError, IndexError, ValueError):  # it has ended
                    os.close(self._files.pop(thread))
            return sum(self._waits.values()) - self._before

    def _look(self) -> None:
        for process in self._only or with_descendants(os.getpid()):
            for thread in _threads(process):
                if (process, thread) not in self._files:
                    with contextlib.suppress(OSError):  # it has ended, or the kernel does not count
                        path = f"/proc/{process}/task/{thread}/schedstat"
                        self._files[process, thread] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._looked_at = time.monotonic()


def _threads(process: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{process}/task")]
    except OSError:  # it has ended
        return []


def with_descendants(process: int) -> Iterator[int]:
    yield process
    for thread in _threads(process):
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process}/task/{thread}/children").read_text().split():
                yield from with_descendants(int(child))


class OwnClock:
    """A clock that stands still while something that it watches waits for a processor: its differences are durations, in
    seconds. ``only`` as for ``ProcessorWaits``."""

    def __init__(self, *only: int) -> None:
        self._waits = ProcessorWaits(*only)

    def __call__(self) -> float:
        return time.monotonic() - self._waits.seconds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waits.__exit__()


class Duration:
    """How long a ``with`` block took by such a clock; 0 before its end."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._clock = OwnClock()
        self._began = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = max(0.0, self._clock() - self._began)
        self._clock.__exit__()
