"""Copying a file that cannot be linked, within the kernel where it can."""

from __future__ import annotations

import os
from collections.abc import Callable

#: Copied by one call in a thread: long enough to cost little, short enough that a stop is noticed in between.
PORTION_BYTES = 32 * 1024**2
_BUFFER_BYTES = 1024**2


def copy_file(source: int, target: int, run: Callable[[Callable[[int, int, int], int], int, int, int], int]) -> None:
    """Copy all of a file into an empty one. ``run`` makes the calls that block. Raises ``OSError``."""
    copied = 0
    while True:
        count = run(_copy_portion, source, target, copied)
        if not count:
            return
        copied += count


def _copy_portion(source: int, target: int, offset: int) -> int:
    """Copy from that offset on; the number of bytes, 0 at the end of the file."""
    try:
        # On file systems that share blocks (btrfs, XFS) this takes no time and no space.
        return os.copy_file_range(source, target, PORTION_BYTES, offset, offset)
    except (OSError, AttributeError):  # EXDEV, EINVAL, EOPNOTSUPP: these two file systems cannot
        pass
    copied = 0
    while copied < PORTION_BYTES:
        data = os.pread(source, _BUFFER_BYTES, offset + copied)
        if not data:
            break
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, offset + copied)
            copied += written
            view = view[written:]
    return copied
