"""A number for each process of the machine, and the sum of those of the others."""

from __future__ import annotations

import struct
from pathlib import Path

from hmacfs.system.shared_table import SharedTable, log

SLOTS = 4096
SLOT = struct.Struct("=qqq")  # process: id and start; number
_NUMBER_AT = 16


class SharedSums(SharedTable):
    """Numbers of processes that have ended do not count, and their slots are taken by others. It may be that there is
    no slot for this process: then others do not see its number."""

    MAGIC = b"hmacfs:s"
    VERSION = 1

    def __init__(self, path: Path) -> None:
        self._position: int | None = None
        self._number = 0
        super().__init__(path, SLOTS * SLOT.size)

    def _claim(self) -> None:
        positions = range(0, SLOTS * SLOT.size, SLOT.size)
        alive = {self._process}
        own = (at for at in positions if self._process_at(at) == self._process or self._is_free(at, alive))
        self._position = next(own, None)
        if self._position is None:
            log.warning("%s is full: what this process reserves is not seen by others", self._path)
        self.announce(self._number)

    def announce(self, number: int) -> None:
        """This process's number from now on. Needs no lock."""
        self._number = number
        if self._position is not None:
            SLOT.pack_into(self._content, self._position, *self._process, number)

    def of_others(self) -> int:
        """The sum of all other processes' numbers."""
        total = 0
        for position in range(0, SLOTS * SLOT.size, SLOT.size):
            process = self._process_at(position)
            if process.pid == 0:  # each process takes the first slot that is free: none was ever used after this one
                break
            (number,) = struct.unpack_from("=q", self._content, position + _NUMBER_AT)
            if number > 0 < process.pid and process != self._process and process.is_alive:
                total += number
        return total
