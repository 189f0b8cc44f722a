"""Numbers under keys, in a file that all processes of the machine map: open addressing, one row per process and key.

A key lives in one of ``WINDOW`` places from the one on that its hash names. Each row belongs to the process that
claimed it, which alone changes its numbers; rows of processes that ended do not count. The table's lock is held while
rows are claimed, released or compared.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hmacfs.system import processes
from hmacfs.system.shared_table import SharedTable, log

#: Together 2 MiB. With half as many rows in use, a window of this size is never full.
PLACES = 32768
WINDOW = 128

_REQUESTS = struct.Struct("=Q")  # the number of requests so far, at the beginning
_ROW = struct.Struct("=16sqqqdQ")  # hash of the key; process: id and start; number; time; request
#: A row's hash begins with so many bytes of the key's checksum.
_CRC = 4
_PROCESS_AT = 16
_VALUES = struct.Struct("=qd")
_VALUES_AT = 32
_REQUEST_AT = 48
#: How many rows there are of each hash's first 16 bits: most keys have none, which one look tells without a lock.
_COUNTS_AT = 64
_COUNTS = 65536
_ROWS_AT = _COUNTS_AT + _COUNTS
#: A window is mostly zeros, in which ``bytes.find`` takes ten times as long for a needle with a byte that equals zero
#: in its last six bits.
_UNLIKE_ZERO = bytes(byte if byte & 63 else byte + 1 for byte in range(256))
_MANY = 255  # as much as a count holds: it stays


class Found(NamedTuple):
    """A row of a process that lives. ``position`` is for ``SharedRows.request``, under the lock under which it was
    found."""

    position: int
    number: int
    time: float


class Row:
    """This process's row for a key; ``position`` is ``None`` while it has none."""

    __slots__ = ("key", "number", "position", "time")

    def __init__(self, key: bytes, number: int = 0, time: float = 0.0) -> None:
        self.key = key
        self.number = number
        self.time = time
        self.position: int | None = None


class SharedRows(SharedTable):
    """The table. Its methods are to be called in its context, but for ``may_have``, ``write``, ``requests`` and
    ``request_of``."""

    MAGIC = b"hmacfs:u"
    VERSION = 2

    def __init__(self, path: Path, *, places: int = PLACES) -> None:
        self._places = places
        self._own: set[Row] = set()
        super().__init__(path, _ROWS_AT + (places + WINDOW - 1) * _ROW.size)

    def _claim(self) -> None:
        if bytes(self._content[_COUNTS_AT:_ROWS_AT]).strip(b"\0"):
            self._remove_dead()
        for row in self._own:
            row.position = None
            self._place(row)

    def may_have(self, key: bytes) -> bool:
        """False if no process has a row for this key. True says little. Needs no lock and costs next to nothing."""
        return self._content[_COUNTS_AT + (zlib.crc32(key) >> 16)] != 0

    def find(self, key: bytes) -> list[Found]:
        """The rows of all processes that live, this one's among them."""
        found: list[Found] = []
        alive = {self._process}
        for position in self._positions(self._hash(key)) if self.may_have(key) else ():
            if self._is_free(position + _PROCESS_AT, alive):
                self._clear(position)
            else:
                found.append(Found(position, *_VALUES.unpack_from(self._content, position + _VALUES_AT)))
        return found

    def claim(self, row: Row) -> None:
        """Have a row. It may be that there is no place for it: then others do not see it."""
        self._own.add(row)
        self._place(row)
        if row.position is None:
            log.warning("%s is full: not all running uploads and their clients are told apart", self._path)

    def write(self, row: Row) -> None:
        """Publish the row's number and time. Needs no lock."""
        if row.position is not None:
            _VALUES.pack_into(self._content, row.position + _VALUES_AT, row.number, row.time)

    def release(self, row: Row) -> None:
        """Give the row up."""
        self._own.discard(row)
        if row.position is not None:
            self._clear(row.position)
            row.position = None

    def request(self, found: Found) -> None:
        """Ask the row's process for something: what, is agreed elsewhere."""
        number = self.requests + 1
        _REQUESTS.pack_into(self._content, 0, number)
        _REQUESTS.pack_into(self._content, found.position + _REQUEST_AT, number)

    @property
    def requests(self) -> int:
        """The number of requests that were ever made. Needs no lock."""
        number: int = _REQUESTS.unpack_from(self._content)[0]
        return number

    def request_of(self, row: Row) -> int:
        """The number of the last request to this row; 0 if there was none. Needs no lock."""
        if row.position is None:
            return 0
        number: int = _REQUESTS.unpack_from(self._content, row.position + _REQUEST_AT)[0]
        return number

    def _hash(self, key: bytes) -> bytes:
        keyed = hashlib.blake2b(key, digest_size=12, key=self._salt).digest()
        return zlib.crc32(key).to_bytes(_CRC) + keyed.translate(_UNLIKE_ZERO)

    def _first(self, digest: bytes) -> int:
        return _ROWS_AT + int.from_bytes(digest[_CRC : _CRC + 4]) % self._places * _ROW.size

    def _positions(self, digest: bytes) -> Iterator[int]:
        first = self._first(digest)
        window = bytes(self._content[first : first + WINDOW * _ROW.size])
        keyed = digest[_CRC:]
        at = window.find(keyed)
        while at >= 0:
            if at % _ROW.size == _CRC:
                yield first + at - _CRC
            at = window.find(keyed, at + 1)

    def _place(self, row: Row) -> None:
        digest = self._hash(row.key)
        position = self._room(self._first(digest))
        if position is None:
            return
        # First the count, and last when a row is cleared: a process that is killed in between leaves one that is too
        # high, which costs others a look. One that is too low would hide a row.
        at = _COUNTS_AT + int.from_bytes(digest[:2])
        self._content[at] = min(_MANY, self._content[at] + 1)
        _ROW.pack_into(self._content, position, digest, *self._process, row.number, row.time, 0)
        row.position = position

    def _room(self, first: int) -> int | None:
        """A free place of the window; one of a dead process if need be."""
        window = range(first, first + WINDOW * _ROW.size, _ROW.size)
        for position in window:
            if not self._process_at(position + _PROCESS_AT).pid:
                return position
        return next((position for position in window if self._clear_dead(position, {self._process})), None)

    def _clear_dead(self, position: int, alive: set[processes.Process]) -> bool:
        """Free a row's place if its process has ended; whether that was so. alive: see ``_is_free``."""
        is_dead = self._process_at(position + _PROCESS_AT).pid > 0 and self._is_free(position + _PROCESS_AT, alive)
        if is_dead:
            self._clear(position)
        return is_dead

    def _remove_dead(self) -> None:
        alive = {self._process}
        for position in range(_ROWS_AT, self._size, _ROW.size):
            self._clear_dead(position, alive)

    def _clear(self, position: int) -> None:
        at = _COUNTS_AT + int.from_bytes(self._content[position : position + 2])
        self._content[position : position + _ROW.size] = bytes(_ROW.size)
        if 0 < self._content[at] < _MANY:
            self._content[at] -= 1
