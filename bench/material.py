"""The files that are sent."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK_BYTES = 1024 * 1024


def random_file(folder: Path, size: int) -> Path:
    """A file of ``size`` bytes, made if it is not there yet: one random block again and again, since gigabytes of
    randomness take their time, but each with its number, so that no two are equal."""
    path = folder / f"{size}.bin"
    if not path.exists():
        block = os.urandom(min(size, _BLOCK_BYTES))
        with path.open("wb") as file:
            for number in range(size // len(block)):
                file.write(number.to_bytes(8, "big") + block[8:])
    return path


def sparse_file(folder: Path, size: int) -> Path:
    """A file of zeros that needs no memory."""
    path = folder / f"{size}.zeros"
    with path.open("wb") as file:
        file.truncate(size)
    return path
