"""The files that prometheus_client keeps this process's values in (multiprocess mode), one for each kind."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import values

from hmacfs.system import processes
from hmacfs.system.descriptors import allocate
from hmacfs.system.shared_file import SharedFile, put_in_place

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


class _Identity:
    """What prometheus_client names the files after. Once it is another object, all values move to files of its name."""

    def __str__(self) -> str:
        return str(processes.current())


class ValueFiles:
    """Keeps the values that this process makes from now on in ``folder``; without room there, in its memory, where no
    scrape finds them: serving files matters more."""

    def __init__(self, folder: Path) -> None:
        self._paths = {folder / f"{kind}_{processes.current()}.db": size for kind, size in _SIZES.items()}
        self._files: list[tuple[Path, SharedFile]] = []
        self._identity = _Identity()
        self._is_settled = True
        try:
            for path, size in self._paths.items():
                file = SharedFile(path)
                allocate(file.fd, size)
                self._files.append((path, file))
        except OSError as error:
            log.error("this process cannot be measured, %s cannot be written: %s", folder, error.strerror)
            for path in self._paths:
                with contextlib.suppress(OSError):
                    path.unlink()
            self._files = []
            values.ValueClass = values.MutexValue
        else:
            # Asked at each count: a call of a Python function would be most of what counting costs.
            values.ValueClass = values.MultiProcessValue(functools.partial(getattr, self, "_identity"))

    def repair(self, touch: Callable[[], None]) -> None:
        """Restore files that were removed. ``touch`` changes any value, which makes prometheus_client open the new
        files. Raises ``OSError``."""
        lost = [path for path, file in self._files if not file.is_current()]
        if not lost and self._is_settled:
            return
        self._is_settled = False
        self._files = [(path, _restored(path, file) if path in lost else file) for path, file in self._files]
        self._identity = _Identity()
        touch()
        self._is_settled = True
        log.warning("the files of this process's metrics were removed: made again")


def _restored(path: Path, removed: SharedFile) -> SharedFile:
    """A file at ``path`` with the content of an unlinked one."""
    content = os.pread(removed.fd, os.fstat(removed.fd).st_size, 0)
    put_in_place(path, content)  # a scrape finds all of it or nothing
    return SharedFile(path)
