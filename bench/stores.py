"""What lies in a store: counted, compared with what was sent, and removed; and a store filled with many files."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.names import names

_COMPARE_EVERY = 500
SAMPLE_BYTES = 64 * 1024
_SAMPLES = 16
_LINKS = 50_000  # ext4 allows 65,000 names of one file


class Stored(NamedTuple):
    """Files of the right size and (in samples) the right content, and others."""

    complete: int
    partial: int

    def plus(self, other: Stored) -> Stored:
        return Stored(self.complete + other.complete, self.partial + other.partial)


def put_in(store: Path, name: str, source: Path) -> None:
    """Let ``source``, of the same file system, be a stored file."""
    target = store / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def take_out(store: Path, expected: Iterable[str], source: Path, *, gap: int | None = None) -> Stored:
    """Count and remove those of the names that are there; each file should equal ``source``.

    gap: for names that were stored in their order, stop after more missing ones in a row than this.
    """
    size = source.stat().st_size
    complete = partial = missing = 0
    for index, name in enumerate(expected):
        path = os.path.join(store, name)
        try:
            good = os.stat(path).st_size == size and (index % _COMPARE_EVERY != 0 or _equal(path, source, size))
            os.unlink(path)
        except FileNotFoundError:
            missing += 1
        else:
            missing = 0
            complete += good
            partial += not good
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))
        if gap is not None and missing > gap:
            break
    return Stored(complete, partial)


def _equal(path: str, source: Path, size: int) -> bool:
    """Whether two files of one size hold the same bytes, at places spread over all of it."""
    with open(path, "rb") as one, source.open("rb") as other:
        return all(
            os.pread(one.fileno(), SAMPLE_BYTES, offset) == os.pread(other.fileno(), SAMPLE_BYTES, offset)
            for offset in sample_offsets(size)
        )


def sample_offsets(size: int) -> list[int]:
    """Where to compare ``SAMPLE_BYTES`` of two files of that size."""
    last = max(0, size - SAMPLE_BYTES)
    return sorted({last * part // (_SAMPLES - 1) for part in range(_SAMPLES)})


def fill(store: Path, count: int) -> None:
    """Give a store so many files, named as XMPP servers do: one in each folder. They share few inodes, since making a
    million would only take longer: what a lookup meets are the folders' entries."""
    everything = names(count, seed=-1)
    for first in everything:
        original = os.path.join(store, first)
        os.mkdir(os.path.dirname(original))
        with open(original, "xb"):
            pass
        for name in islice(everything, _LINKS - 1):
            path = os.path.join(store, name)
            os.mkdir(os.path.dirname(path))
            os.link(original, path)
    sync(store)


def sync(folder: Path) -> None:
    """Have everything written that the folder's file system still holds back, lest a later run pay for it."""
    subprocess.run(["sync", "--file-system", str(folder)], check=True)


def warm_memory(count: int) -> None:
    """Touch so many bytes of memory and give them back. A virtual machine's host provides memory when it is first used,
    and that takes longer than all that is measured here: it is to happen before."""
    fd = os.memfd_create("warm")
    try:
        os.posix_fallocate(fd, 0, count)
    finally:
        os.close(fd)
