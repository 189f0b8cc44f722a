"""The server, on a disk whose write-back queue is full: whatever writes bytes of files takes 0.3 s, without the
interpreter's lock, as the kernel would keep it. Its command line is the server's."""

import ctypes
import os
import sys
from typing import Any

real_write, real_splice = os.write, os.splice
store = sys.argv[sys.argv.index("-config") + 1].rsplit("/", 1)[0] + "/store"


def slow(fd: int) -> None:
    if os.path.realpath(f"/proc/self/fd/{fd}").startswith(store):
        ctypes.CDLL(None).usleep(300_000)


def write(fd: int, data: Any) -> int:
    slow(fd)
    return real_write(fd, data)


def splice(source: int, sink: int, count: int, **options: Any) -> int:
    slow(sink)
    return real_splice(source, sink, count, **options)


os.write, os.splice = write, splice  # type: ignore[assignment]

from hmacfs.cli import main

sys.exit(main())
