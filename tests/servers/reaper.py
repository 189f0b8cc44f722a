"""What a test run leaves behind that is killed: its servers are ended and its folders removed.

A process of its own, which outlives the run that it watches and learns of its end, whatever the cause, from the end of
a pipe. Run as a program it reads lines ``+group PID``, ``-group PID``, ``+folder PATH``, ``-folder PATH`` from standard
input; at its end it sends SIGKILL to the process groups and removes the folders that were added and not taken away.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

_REMOVAL_SECONDS = 10.0


class _Reaper:
    """The process, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                # In a session of its own: Ctrl-C, and what else is sent to the run's process group, is not for it.
                command = [sys.executable, "-S", __file__]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True
                )
                atexit.register(self._process.communicate)
            assert self._process.stdin is not None
            self._process.stdin.write(os.fsencode(line) + b"\n")
            self._process.stdin.flush()


_reaper = _Reaper()


def watch_group(leader: int) -> None:
    """End that process group should this run be killed."""
    _reaper.tell(f"+group {leader}")


def forget_group(leader: int) -> None:
    """It has ended: its number may soon be another's."""
    _reaper.tell(f"-group {leader}")


def watch_folder(folder: Path) -> None:
    """Remove that folder should this run be killed."""
    _reaper.tell(f"+folder {folder}")


def forget_folder(folder: Path) -> None:
    _reaper.tell(f"-folder {folder}")


def left_behind(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """What was added and not taken away, each as its kind and its name."""
    left: dict[tuple[str, str], None] = {}
    for line in lines:
        kind, _, name = os.fsdecode(line.rstrip(b"\n")).partition(" ")
        if kind.startswith("+"):
            left[kind[1:], name] = None
        else:
            left.pop((kind[1:], name), None)
    return list(left)


def _main() -> None:
    left = left_behind(sys.stdin.buffer)
    for kind, name in left:
        if kind == "group":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(name), signal.SIGKILL)
    for kind, name in left:
        if kind == "folder":
            _remove(name)


def _remove(folder: str) -> None:
    """A process that is just ending may still write there."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while os.path.lexists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    _main()
