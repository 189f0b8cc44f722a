"""The right to write an unfinished upload: the lock and the bytes together."""

from __future__ import annotations

import math

from hmacfs.errors import SessionUnknown, Superseded
from hmacfs.uploads.contracts.locks import Locker
from hmacfs.uploads.contracts.stores import PartialUpload, PartialUploads


class Writers:
    """Opens unfinished uploads for writing, one writer each."""

    def __init__(self, partials: PartialUploads, locker: Locker) -> None:
        self._partials = partials
        self._locker = locker

    def open(self, key: str, offset: int | None) -> PartialUpload:
        """The upload, as a context. If somebody writes it, that one is asked to let go, provided that ``offset`` is
        where the stored bytes end: a client that is wrong about that would only disturb it, and finds out without the
        lock. Without an offset it is asked in any case. Raises ``SessionUnknown``, ``WriterBusy``, ``StorageFailed``.
        """
        lease = self._locker.acquire(key) or self._locker.wait(key, lambda: self._ends_at(key, offset))
        return self._partials.open(key, lease)

    def open_to_restart(self, key: str) -> PartialUpload:
        """See ``open``: somebody who writes the upload is asked for as long as no byte comes."""
        lease = self._locker.acquire(key)
        if lease is None:
            info = self._partials.stat(key)
            offset = None if info is None else info.length
            lease = self._locker.wait(key, lambda: self._ends_at(key, offset))
        return self._partials.open(key, lease)

    def discard(self, key: str, untouched_since: float = math.inf) -> bool:
        """Remove an upload that nobody writes and that got no byte since that Unix time; whether nothing of it is
        left."""
        try:
            lease = self._locker.acquire(key)
        except SessionUnknown:
            self._partials.discard(key)
            return True
        if lease is None:
            return False
        try:
            info = self._partials.stat(key)
            if info is not None and info.touched >= untouched_since:
                return False
            lease.check()  # a process that was halted meanwhile may have lost it to one that goes on with the upload
            self._partials.discard(key)
            return True
        except Superseded:
            return False
        finally:
            lease.release()

    def _ends_at(self, key: str, offset: int | None) -> bool:
        if offset is None:
            return True
        info = self._partials.stat(key)
        return info is None or info.length == offset
