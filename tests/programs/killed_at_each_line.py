"""Has a row; for each line of the table's code a child is killed there while it claims or releases one of the same key.
Prints what is found of the row after each: FILE."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from hmacfs.system import shared_rows as module
from hmacfs.system.shared_rows import Row, SharedRows


def die_at(line: int) -> None:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal line
        if frame.f_code.co_filename != module.__file__:
            return None
        line -= event == "line"
        if line < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def child(line: int, *, releases: bool) -> int:
    rows, row = SharedRows(path, places=64), Row(b"key", 7)
    with rows:
        if not releases:
            die_at(line)
        rows.claim(row)
        if releases:
            die_at(line)
            rows.release(row)
    os._exit(0)


path = Path(sys.argv[1])
mine = SharedRows(path, places=64)
with mine:
    mine.claim(Row(b"key", 5))
for releases in (False, True):
    line, status = 0, -1
    while status:
        pid = os.fork() or child(line, releases=releases)
        status = os.waitpid(pid, 0)[1]
        with mine:
            print(releases, line, mine.may_have(b"key"), [row.number for row in mine.find(b"key")])
        line += 1
