"""Windows that all processes of a machine count in: a table in a file that they map.

A hash table of fixed size with linear probing: a key is kept in one of the ``PROBES`` places from the one that its hash
names on; a place whose window has ended is free. If none is, the key with the fewest requests is evicted, so that a
client over its limit cannot free itself by a flood of other keys.

A file lock is held around each operation. The kernel releases it when a process crashes; the unfinished operation costs
at most the count of its one key.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hmacfs.rates.window import Window
from hmacfs.system.shared_file import SharedFile, open_table, put_in_place

log = logging.getLogger("hmacfs.rates")

#: Together 2 MiB.
PLACES = 65536
PROBES = 16

_MAGIC = b"hmacfs:r"
_VERSION = 1
_HEADER = struct.Struct("=8sIIB15x16s16x")  # magic, version, places, flag, salt of the hashes
_FLAG_AT = 16
_RECORD = struct.Struct("=dQ16s")  # end of the window, count, hash of the key
_WINDOW = struct.Struct("=dQ")
_HASH_AT = _WINDOW.size

#: A window can end later than its period from now if the clock was set back. A little of that is what clocks do.
_CLOCK_SLACK = 1.0


class WindowTable:
    """Counts exactly over all processes (and threads) that opened ``path``; each process opens it for itself, after its
    fork. A file that is not such a table (cut short, overwritten, of another version) is replaced.

    clock: Unix time in seconds. Raises ``OSError`` if there can be no such file.
    """

    def __init__(self, path: Path, *, places: int = PLACES, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._places = places
        self._clock = clock
        self._open()

    def _open(self) -> None:
        size = _file_size(self._places)
        header = _HEADER.pack(_MAGIC, _VERSION, self._places, 0, secrets.token_bytes(16))
        file = open_table(self._path, header, size, fixed=_FLAG_AT)
        mapped = mmap.mmap(file.fd, size)
        self._lock, self._map = _Lock(file), mapped
        self._salt = _HEADER.unpack_from(mapped)[4]

    def repair(self) -> None:
        """If the file was removed, put a copy of it there; count from now on in what is there, as the other
        processes do. Raises ``OSError``."""
        if self._lock.file.is_current():
            return
        with contextlib.suppress(FileExistsError):
            put_in_place(self._path, self._map[:], os.link)
        self._open()
        log.warning("%s was removed: made again", self._path)

    def hit(self, key: str, period: float, amount: int = 1) -> Window:
        """Count ``amount`` requests; the first opens a window of ``period`` seconds."""
        digest = self._hash(key)
        with self._lock:
            now = self._clock()
            at = self._find(digest)
            if at is not None:
                ends, count = _WINDOW.unpack_from(self._map, at)
                if now < ends <= now + period + _CLOCK_SLACK:
                    _WINDOW.pack_into(self._map, at, ends, count + amount)
                    return Window(count + amount, ends)
            else:
                at = self._room(digest, now)
            _RECORD.pack_into(self._map, at, now + period, amount, digest)
            return Window(amount, now + period)

    def get(self, key: str) -> Window:
        """The key's window; one without requests that ends now if there is none."""
        digest = self._hash(key)
        with self._lock:
            now = self._clock()
            at = self._find(digest)
            if at is not None:
                ends, count = _WINDOW.unpack_from(self._map, at)
                if now < ends:
                    return Window(count, ends)
            return Window(0, now)

    def merge(self, key: str, known: Window) -> None:
        """Take over the end of a window that others count in, too, and their count where it is higher."""
        digest = self._hash(key)
        with self._lock:
            at = self._find(digest)
            if at is not None:
                count = _WINDOW.unpack_from(self._map, at)[1]
                _WINDOW.pack_into(self._map, at, known.ends, max(count, known.hits))

    def clear(self, key: str) -> None:
        """Forget a key."""
        digest = self._hash(key)
        with self._lock:
            at = self._find(digest)
            if at is not None:
                _WINDOW.pack_into(self._map, at, 0.0, 0)

    def reset(self) -> int:
        """Forget all keys. How many had a window that has not ended."""
        with self._lock:
            now = self._clock()
            records = _RECORD.iter_unpack(self._map[_HEADER.size :])
            running = sum(1 for ends, _, _ in records if now < ends)
            self._map[_HEADER.size :] = bytes(len(self._map) - _HEADER.size)
        return running

    def exchange_flag(self, flag: int) -> int:
        """Set the number (0 to 255) that the processes share besides; what it was. It is 0 in a new table."""
        with self._lock:
            before: int = self._map[_FLAG_AT]
            self._map[_FLAG_AT] = flag
        return before

    def close(self) -> None:
        self._map.close()

    def _hash(self, key: str) -> bytes:
        # Keyed with the table's own secret, so that nobody can choose keys that collide.
        return hashlib.blake2b(key.encode(), digest_size=16, key=self._salt).digest()

    def _first(self, digest: bytes) -> int:
        return _HEADER.size + int.from_bytes(digest[:4]) % self._places * _RECORD.size

    def _find(self, digest: bytes) -> int | None:
        """Where the key's record begins."""
        first = self._first(digest)
        records = self._map[first : first + PROBES * _RECORD.size]
        at = records.find(digest)
        while at >= 0:
            if at % _RECORD.size == _HASH_AT:
                return first + at - _HASH_AT
            at = records.find(digest, at + 1)
        return None

    def _room(self, digest: bytes, now: float) -> int:
        """Where a record of a new key can be written: a free place, or that of the evicted key."""
        first = self._first(digest)
        best, least = first, (float("inf"), float("inf"))
        for at in range(first, first + PROBES * _RECORD.size, _RECORD.size):
            ends, count = _WINDOW.unpack_from(self._map, at)
            if not now < ends:
                return at
            if (count, ends) < least:
                best, least = at, (count, ends)
        return best


class _Lock:
    """Excludes other threads and, by the file, other processes."""

    def __init__(self, file: SharedFile) -> None:
        self.file = file
        self._threads = threading.Lock()

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            fcntl.flock(self.file.fd, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self.file.fd, fcntl.LOCK_UN)
        self._threads.release()


def _file_size(places: int) -> int:
    """The last hash has ``PROBES`` places too, so that no search wraps around."""
    return _HEADER.size + (places + PROBES - 1) * _RECORD.size
