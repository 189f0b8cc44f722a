"""What a running copy tells: how far it is, what became of files that need attention, and a report at its end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from hmacfs.config.messages import one_line
from hmacfs.cut import cut
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.copying import Copied, Outcome

#: How often it is told on a terminal, and how often a line is written elsewhere.
_TERMINAL_SECONDS, _LINE_SECONDS = 0.5, 60.0
_CLEAR_LINE = "\r\x1b[K"

#: In the order of the report; each with what it is called.
_WORDS = {
    Outcome.COPIED: "copied",
    Outcome.SAME: "the same in both",
    Outcome.MISSING: "missing there",
    Outcome.THERE: "there already",
    Outcome.GONE: "deleted meanwhile",
    Outcome.CONFLICT: "conflicts",
}


class Tally:
    """What became of the files so far. Any thread may tell it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begin = clock()
        self.files: Counter[Outcome] = Counter()
        self.bytes: Counter[Outcome] = Counter()
        self.failed = 0
        #: Failures since the last file that did not fail.
        self.failed_in_a_row = 0
        self.bytes_read = 0
        #: How many files there are in all, once somebody has counted them.
        self.total: int | None = None

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self.bytes_read += count

    def add(self, copied: Copied) -> None:
        with self._lock:
            self.files[copied.outcome] += 1
            self.bytes[copied.outcome] += copied.size
            self.failed_in_a_row = 0

    def add_failure(self) -> None:
        with self._lock:
            self.failed += 1
            self.failed_in_a_row += 1

    @property
    def seconds(self) -> float:
        return max(self._clock() - self._begin, 1e-3)

    @property
    def done(self) -> int:
        return sum(self.files.values()) + self.failed

    @property
    def is_good(self) -> bool:
        """Whether nothing is left to do, and nothing needs attention."""
        return not (self.failed or self.files[Outcome.CONFLICT])

    def progress(self) -> str:
        """One line: ``1,200 of 5,000 files, 1.2 GB, 34.5 MB/s, about 3 min left``."""
        done, seconds = self.done, self.seconds
        total = "" if self.total is None else f" of {max(self.total, done):,}"
        parts = [f"{done:,}{total} files", _size(self.bytes_read), f"{_size(self.bytes_read / seconds)}/s"]
        if self.total is not None and done and self.total > done:
            parts.append(f"about {_duration((self.total - done) * seconds / done)} left")
        if self.files[Outcome.CONFLICT]:
            parts.append(f"{self.files[Outcome.CONFLICT]:,} conflicts")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)

    def report(self) -> str:
        """Some lines, the last of which says how long it took."""
        lines = [
            f"{word}: {self.files[outcome]:,} files, {_size(self.bytes[outcome])}"
            for outcome, word in _WORDS.items()
            if self.files[outcome]
        ]
        if self.failed:
            lines.append(f"failed: {self.failed:,} files")
        rate = f"{_size(self.bytes_read)} read, {_size(self.bytes_read / self.seconds)}/s"
        return "\n".join([*lines, f"{self.done:,} files in {_duration(self.seconds)} ({rate})"])


class Display:
    """Shows a tally while it grows, on ``stream``: a line that is renewed on a terminal, else a line now and then."""

    def __init__(self, tally: Tally, stream: TextIO = sys.stderr) -> None:
        self._tally = tally
        self._stream = stream
        self._lock = threading.Lock()
        self.is_terminal = stream.isatty()

    def tell(self, name: StoredName, word: str, remark: str) -> None:
        """A line about a file that needs attention."""
        self.write(f"{word}: {shown(name)}: {one_line(remark)}")

    def write(self, line: str) -> None:
        with self._lock:
            clear = _CLEAR_LINE if self.is_terminal else ""
            print(f"{clear}{line}", file=self._stream, flush=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show it for as long as the context lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=self._show_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _show_until(self, ended: threading.Event) -> None:
        while not ended.wait(_TERMINAL_SECONDS if self.is_terminal else _LINE_SECONDS):
            if self.is_terminal:
                with self._lock:
                    print(f"{_CLEAR_LINE}{self._tally.progress()}", end="", file=self._stream, flush=True)
            else:
                self.write(self._tally.progress())
        if self.is_terminal:
            with self._lock:
                print(_CLEAR_LINE, end="", file=self._stream, flush=True)


def shown(name: StoredName) -> str:
    """A name on one line: none can end it, or drive a terminal."""
    return one_line(cut(name.path))


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
