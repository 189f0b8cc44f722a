"""The guard over free space: an upload that cannot fit is refused before its body is sent.

What running uploads have yet to write counts as used, over all workers: each announces its sum in a small table that
they share.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hmacfs import processes
from hmacfs.descriptors import allocate
from hmacfs.errors import NoSpace, StorageFailed
from hmacfs.shared_file import SharedFile

log = logging.getLogger("hmacfs.storage")

#: A measurement that left plenty is good for so long; near the limit each upload measures anew.
FRESH_SECONDS = 0.5
#: Plenty: more than could be written meanwhile.
PLENTY_BYTES = 8 * 1024**3
#: What a file system that does not tell its size is taken to have.
UNKNOWN_BYTES = 2**62
#: How often a worker announces how far its uploads are.
ANNOUNCE_SECONDS = 1.0


class Counted(Protocol):
    """A body that knows how many bytes of it were received."""

    @property
    def received(self) -> int: ...


class SharedSums:
    """A number for each process, in a file that all processes of this machine map. Those of dead ones do not count.

    Raises ``StorageFailed`` if there are more processes than places.
    """

    PLACES = 4096
    ENTRY = struct.Struct("=qqq")  # process: id and start; number
    NUMBER = struct.Struct("=q")

    def __init__(self, path: Path) -> None:
        self._process = processes.current()
        self._path = path
        self._open()

    def _open(self) -> None:
        size = self.PLACES * self.ENTRY.size
        file = SharedFile(self._path)
        with _locked(file):
            used = os.fstat(file.fd).st_size
            if used != size:
                os.ftruncate(file.fd, min(size, used))
                allocate(file.fd, size)
            mapped = mmap.mmap(file.fd, size)
            self._file, self._map, self._position = file, mapped, self._claim(mapped)

    def look(self) -> None:
        """If the file was removed, share another with the processes that look as well. Raises ``OSError``,
        ``StorageFailed``."""
        if self._file.is_current():
            return
        (number,) = self.NUMBER.unpack_from(self._map, self._position + self.ENTRY.size - self.NUMBER.size)
        self._open()
        self.announce(number)
        log.warning("%s was removed: made again", self._path)

    def _claim(self, mapped: mmap.mmap) -> int:
        for position in range(0, len(mapped), self.ENTRY.size):
            pid, started, _ = self.ENTRY.unpack_from(mapped, position)
            process = processes.Process(pid, started)
            if pid <= 0 or process == self._process or not process.is_alive:
                self.ENTRY.pack_into(mapped, position, *self._process, 0)
                return position
        raise StorageFailed

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other processes from announcing under a lock too. Nothing in this context may yield to others."""
        return _locked(self._file)

    def announce(self, number: int) -> None:
        """This process's number from now on."""
        self.ENTRY.pack_into(self._map, self._position, *self._process, number)

    def of_others(self) -> int:
        """The sum of all other processes' numbers."""
        return sum(
            number
            for pid, started, number in self.ENTRY.iter_unpack(self._map[:])
            if number > 0 < pid and (process := processes.Process(pid, started)) != self._process and process.is_alive
        )


@contextlib.contextmanager
def _locked(file: SharedFile) -> Iterator[None]:
    fcntl.flock(file.fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file.fd, fcntl.LOCK_UN)


class SpaceGuard:
    """Reserves space for uploads; knows of all that this process is receiving.

    free_bytes: what the store may still take, ``None`` if nobody knows: then all fits. least_free: what must stay free,
    as a function, since it may be a share of the file system's size.
    """

    def __init__(
        self,
        free_bytes: Callable[[], int | None],
        least_free: Callable[[], int],
        shared: SharedSums,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free_bytes = free_bytes
        self._least_free = least_free
        self._shared = shared
        self._clock = clock
        self._running: set[Reservation] = set()
        self._reserved = 0
        self._spare = 0
        self._measured = float("-inf")

    def reserve(self, count: int, body: Counted | None = None) -> Reservation:
        """Set ``count`` bytes aside as a context; with a body, those that it has not received yet. Entering it raises
        ``NoSpace`` if less than the minimum would stay free."""
        return Reservation(self, count, body)

    @property
    def uploads(self) -> int:
        """How many uploads are in progress in this process."""
        return len(self._running)

    def add(self, reservation: Reservation) -> None:
        is_fresh = self._clock() - self._measured <= FRESH_SECONDS
        if is_fresh and self._spare - self._reserved - reservation.count >= PLENTY_BYTES:
            self._admit(reservation)
            return
        with self._shared.lock():
            if self._measure() < reservation.count:
                raise NoSpace
            self._admit(reservation)

    def room(self) -> int:
        """Bytes that may be written now without going below the minimum."""
        with self._shared.lock():
            return max(0, self._measure())

    def check(self) -> None:
        """Raises ``NoSpace``, with a sentence for operators, while less is free than must stay so."""
        free, least = self._free_bytes(), self._least_free()
        if free is not None and free < least:
            raise NoSpace(f"{_in_words(free, least)}: uploads are refused.")

    def describe(self) -> str:
        """How much is free, as far as it is known, and how much must stay so."""
        return _in_words(self._free_bytes(), self._least_free())

    def _measure(self) -> int:
        free = self._free_bytes()
        self._spare = UNKNOWN_BYTES if free is None else free - self._least_free() - self._shared.of_others()
        self._measured = self._clock()
        return self._spare - sum(running.left for running in self._running)

    def _admit(self, reservation: Reservation) -> None:
        self._running.add(reservation)
        self._reserved += reservation.count
        self._shared.announce(self._reserved)

    def remove(self, reservation: Reservation) -> None:
        self._running.discard(reservation)
        self._reserved -= reservation.count
        self._shared.announce(self._reserved)

    def announce_forever(self) -> None:
        """Tell the other workers now and then how much of what was reserved is used by now."""
        while True:
            time.sleep(ANNOUNCE_SECONDS)
            if self._running:
                self._shared.announce(sum(running.left for running in self._running))


class Reservation:
    """Bytes that are set aside for as long as the context lasts."""

    __slots__ = ("_body", "_guard", "count")

    def __init__(self, guard: SpaceGuard, count: int, body: Counted | None) -> None:
        self._guard = guard
        self._body = body
        self.count = count

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.count - self._body.received) if self._body is not None else self.count

    def __enter__(self) -> None:
        self._guard.add(self)

    def __exit__(self, *_: object) -> None:
        self._guard.remove(self)


def _in_words(free: int | None, least: int) -> str:
    if free is None:
        return "the file system has no room, and does not tell how much it has"
    return f"{free} bytes are free, {least} must stay free (MinFreeSpace)"
