"""The files with this process's values, one for each kind, in prometheus_client's format (multiprocess mode)."""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

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

#: A file begins with the number of bytes that are in use.
_USED = struct.Struct("i4x")
#: Each value is a double, after which comes a time that is 0 here.
_CELL = struct.calcsize("d")


def file_of(counts: Mapping[str, float]) -> bytes:
    """A file's content."""
    entries = b"".join(_entry(key, value) for key, value in counts.items())
    return _USED.pack(_USED.size + len(entries)) + entries


def _entry(key: str, value: float) -> bytes:
    """Padded so that the numbers at its end are at multiples of their size."""
    text = key.encode()
    padded = text + b" " * (8 - (len(text) + 4) % 8)
    return struct.pack(f"i{len(padded)}sdd", len(text), padded, value, 0.0)


class ValueMemory:
    """The values of one kind, ``size`` bytes in a mapped file; without a ``path`` in memory of this process alone.

    ``cells``: its content as doubles. To count is to add to one of them, ``memory.cells[at] += 1.0``: a scrape sees it
    at once, and nothing is lost with a process that is killed. It needs no lock, since it calls nothing, and CPython
    changes threads at calls and backward jumps only; prometheus_client's own values do, and take several times as long
    (docs/facts.md, section 7). Look ``cells`` up at each use: a file that was restored is mapped again. Raises
    ``OSError``.
    """

    __slots__ = ("_file", "_mapped", "_path", "_places", "_used", "cells")

    cells: memoryview[float]

    def __init__(self, size: int, path: Path | None = None) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        if path is None:
            self._map(-1, size)
        else:
            self._file = SharedFile(path)
            allocate(self._file.fd, size)
            self._map(self._file.fd, size)
            self._places = {key: at // _CELL for key, _, _, at in MmapedDict.read_all_values_from_file(str(path))}
        (used,) = _USED.unpack(self._mapped[: _USED.size])
        self._use(used or _USED.size)

    def _map(self, fd: int, size: int) -> None:
        self._mapped = mmap.mmap(fd, size)
        self.cells = memoryview(self._mapped).cast("d")

    def _use(self, size: int) -> None:
        self._mapped[: _USED.size] = _USED.pack(size)
        self._used = size

    def place(self, key: str) -> int:
        """The cell of a value, which is 0 if it is new. Raises ``OSError`` if there is no room for it."""
        found = self._places.get(key)
        if found is not None:
            return found
        entry = _entry(key, 0.0)
        end = self._used + len(entry)
        if end > len(self._mapped):
            raise OSError(errno.ENOSPC, "no room for another label")
        self._mapped[self._used : end] = entry
        self._use(end)  # after the entry, of which a scrape sees all or nothing
        at = self._places[key] = end // _CELL - 2
        return at

    def repair(self) -> bool:
        """Make the file again if it was removed, with what was counted meanwhile; whether that was so."""
        if self._path is None or self._file.is_current():
            return False
        put_in_place(self._path, self._mapped[:])  # a scrape finds all of it or nothing
        self._file = SharedFile(self._path)
        self._map(self._file.fd, len(self._mapped))
        return True


class Value:
    """What prometheus_client's metrics ask of each of their values. ``at``: its cell in ``memory``."""

    __slots__ = ("_memory", "at")

    def __init__(self, memory: ValueMemory, at: int) -> None:
        self._memory = memory
        self.at = at

    def inc(self, amount: float) -> None:
        self._memory.cells[self.at] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        del timestamp  # for modes that no gauge here has
        self._memory.cells[self.at] = value

    def get(self) -> float:
        value: float = self._memory.cells[self.at]
        return value

    def get_exemplar(self) -> None:
        """There are none."""


class ValueFiles:
    """Keeps the values that this process makes from now on in ``folder``; without room there, in its memory, where no
    scrape finds them: serving files matters more. One per process, made after the fork."""

    def __init__(self, folder: Path) -> None:
        paths = {kind: folder / f"{kind}_{processes.current()}.db" for kind in _SIZES}
        try:
            self._memories = {kind: ValueMemory(size, paths[kind]) for kind, size in _SIZES.items()}
        except OSError as error:
            log.error("this process cannot be measured, %s cannot be written: %s", folder, error.strerror)
            for path in paths.values():
                with contextlib.suppress(OSError):
                    path.unlink()
            self._memories = {kind: ValueMemory(size) for kind, size in _SIZES.items()}
        values.ValueClass = self._value

    @property
    def counters(self) -> ValueMemory:
        return self._memories["counter"]

    @property
    def histograms(self) -> ValueMemory:
        return self._memories["histogram"]

    def _value(
        self,
        kind: str,
        metric: str,
        name: str,
        label_names: Sequence[str],
        label_values: Sequence[str],
        text: str,
        multiprocess_mode: str = "",
    ) -> Value:
        """Called by prometheus_client for each value of its metrics."""
        memory = self._memories[f"{kind}_{multiprocess_mode}" if multiprocess_mode else kind]
        return Value(memory, memory.place(mmap_key(metric, name, list(label_names), list(label_values), text)))

    def repair(self) -> None:
        """Make files that were removed again. Raises ``OSError``."""
        made = [memory for memory in self._memories.values() if memory.repair()]
        if made:
            log.warning("the files of this process's metrics were removed: made again")
