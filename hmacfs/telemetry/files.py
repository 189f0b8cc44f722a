"""The files that prometheus_client keeps this process's values in (multiprocess mode), one for each kind."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from prometheus_client import values

from hmacfs import processes
from hmacfs.descriptors import allocate
from hmacfs.ownership import open_file

log = logging.getLogger("hmacfs.telemetry")

#: Each kind of value that ``Metrics`` has, with room for all its labels. prometheus_client's own files are sparse: a
#: disk that is full when their blocks are needed kills the process that writes to its memory.
_SIZES = {
    "counter": 256 * 1024,
    "histogram": 64 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemax": 64 * 1024,
    "gauge_livemin": 64 * 1024,
}


def use(folder: Path) -> None:
    """Have the values that this process makes from now on kept in ``folder``; where there is no room for them, in its
    memory, where no scrape finds them: serving files matters more."""
    name = str(processes.current())
    paths = [folder / f"{kind}_{name}.db" for kind in _SIZES]
    try:
        for path, size in zip(paths, _SIZES.values(), strict=True):
            _allocate(path, size)
    except OSError as error:
        log.error("this process cannot be measured, %s cannot be written: %s", folder, error.strerror)
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()
        values.ValueClass = values.MutexValue
    else:
        values.ValueClass = values.MultiProcessValue(lambda: name)


def _allocate(path: Path, size: int) -> None:
    fd = open_file(path, os.O_RDWR)
    try:
        allocate(fd, size)
    finally:
        os.close(fd)
