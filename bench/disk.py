"""What the disk itself allows: synced creations of small files, and synced writing of a large one.

python -m bench.disk FOLDER
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

THREADS = (1, 2, 4, 8, 16, 32)

_SMALL_BYTES = 1024
_BLOCK_BYTES = 1024 * 1024
#: Threads need a moment to start; all begin to count at once.
_START_SECONDS = 0.1


class Rate(NamedTuple):
    """Files per second, with so many threads at work."""

    threads: int
    per_second: float


def synced_creations(folder: Path, threads: int, seconds: float, *, own_folders: bool = False) -> Rate:
    """Create files of 1 KiB, each synced together with its folder, and remove them. (All that takes time is done by the
    kernel, where threads don't wait for Python's lock.)

    own_folders: each file in a new folder, as XMPP servers name them; then the folder above is synced too.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    start = time.monotonic() + _START_SECONDS
    jobs = [(place / str(number), start, start + seconds, own_folders) for number in range(threads)]
    try:
        with ThreadPoolExecutor(threads) as pool:
            count = sum(pool.map(lambda job: _create_until(*job), jobs))
        took = time.monotonic() - start  # each has ended what it began, however long that took
    finally:
        shutil.rmtree(place)
    return Rate(threads, count / took)


def best(rates: Sequence[Rate]) -> Rate:
    return max(rates, key=lambda rate: rate.per_second)


def _create_until(folder: Path, start: float, end: float, own_folders: bool) -> int:
    folder.mkdir()
    data = os.urandom(_SMALL_BYTES)
    time.sleep(max(0.0, start - time.monotonic()))
    count = 0
    while not count or time.monotonic() < end:
        parent = folder
        if own_folders:
            parent = folder / str(count)
            parent.mkdir()
        _create(parent / f"{count}.bin", data)
        _sync_folder(parent)
        if own_folders:
            _sync_folder(folder)
        count += 1
    return count


def _create(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def synced_write(folder: Path, size: int) -> float:
    """Seconds for writing a file of ``size`` bytes and syncing it; it is removed."""
    block = os.urandom(_BLOCK_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        before = time.monotonic()
        for _ in range(size // _BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return time.monotonic() - before


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.disk", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of threads")
    arguments = parser.parse_args()
    for own_folders in (False, True):
        print("each in a folder of its own:" if own_folders else "files of 1 KiB per second, synced:")
        for threads in THREADS:
            rate = synced_creations(arguments.folder, threads, arguments.seconds, own_folders=own_folders)
            print(f"  {threads:2d} threads {rate.per_second:8.0f}")
    print(f"1 GiB, synced: {2**30 / 1e9 / synced_write(arguments.folder, 2**30):.2f} GB/s")


if __name__ == "__main__":
    main()
