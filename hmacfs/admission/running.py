"""One running upload for a name, over all processes of the machine.

An upload is running from its checks until its file is published or given up, unless its whole body arrived with its
head: that one is over before another could begin. A second one of the same name is refused; but if the first has
received no byte for ``SILENT_SECONDS``, its client has most likely lost its network and is sending again: the newcomer
requests its end and takes over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from hmacfs.errors import UploadRunning
from hmacfs.protocol.names import StoredName
from hmacfs.system.shared_rows import Row, SharedRows

#: An upload that has received no byte for so long is superseded by another of its name.
SILENT_SECONDS = 5.0
#: How long a newcomer waits for that.
TAKEOVER_SECONDS = 10.0
_POLL_SECONDS = 0.05
#: How often a process looks for requests to end one of its uploads, and how often it publishes since when they are
#: silent.
_CHECK_SECONDS, _PUBLISH_SECONDS = 0.2, 1.0

_UNCLAIMED: AbstractContextManager[object] = contextlib.nullcontext()


class Incoming(Protocol):
    """A body. ``is_here``: all of it has arrived. ``waiting_since``: the monotonic time since when its client is waited
    for, 0.0 while it is not. ``interrupt`` ends it before its time."""

    @property
    def is_here(self) -> bool: ...

    @property
    def waiting_since(self) -> float: ...

    def interrupt(self) -> None: ...


class RunningUploads:
    """The running uploads of this process, in rows that all processes see: a row's time is when the last byte arrived.
    Monotonic clocks are the same in all processes of a machine."""

    def __init__(self, rows: SharedRows, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._clock = clock
        self._running: set[RunningUpload] = set()
        self._seen = 0
        self._published = 0.0

    def claim(self, name: StoredName, body: Incoming) -> AbstractContextManager[object]:
        """The right to receive ``body`` as ``name``, as a context. Entering it may take ``TAKEOVER_SECONDS``; it raises
        ``UploadRunning``."""
        key = name.path.encode()
        if body.is_here and not self._rows.may_have(key):
            return _UNCLAIMED
        return RunningUpload(self, key, body)

    def begin(self, upload: RunningUpload) -> None:
        """For ``RunningUpload``, when its context is entered; waits and raises as ``claim`` says."""
        is_here = upload.body.is_here
        row = Row(upload.key)
        ends = self._clock() + TAKEOVER_SECONDS
        while not self._try(row, only_look=is_here):
            if self._clock() >= ends:
                raise UploadRunning
            time.sleep(_POLL_SECONDS)  # cooperative in a gevent worker
        if not is_here:
            upload.row = row
            self._running.add(upload)

    def _try(self, row: Row, *, only_look: bool) -> bool:
        """Whether no other upload of the name is running; then ``row`` is claimed, unless this is to ``only_look``.
        Raises ``UploadRunning`` if it is not silent."""
        with self._rows:
            now = self._clock()
            others = self._rows.find(row.key)
            for other in others:
                if now - other.time < SILENT_SECONDS:
                    raise UploadRunning
                self._rows.request(other)
            if not others and not only_look:
                row.time = now
                self._rows.claim(row)
        return not others

    def end(self, upload: RunningUpload, row: Row) -> None:
        """For ``RunningUpload``, at the end of its context: another upload of the name may begin."""
        self._running.discard(upload)
        with self._rows:
            self._rows.release(row)

    def check_requests(self) -> None:
        """Publish since when this process's uploads are silent, and end the silent ones whose end is requested."""
        now, requests = self._clock(), self._rows.requests
        if requests == self._seen and now - self._published < _PUBLISH_SECONDS:
            return
        for upload in self._running:
            row = upload.row
            assert row is not None
            row.time = upload.body.waiting_since or now
            self._rows.write(row)
            if self._rows.request_of(row) > self._seen and now - row.time >= SILENT_SECONDS:
                upload.body.interrupt()
        self._seen, self._published = requests, now

    def check_forever(self) -> None:
        """``check_requests`` some times a second."""
        while True:
            time.sleep(_CHECK_SECONDS)
            self.check_requests()


class RunningUpload:
    """An upload for as long as its context lasts."""

    __slots__ = ("_uploads", "body", "key", "row")

    def __init__(self, uploads: RunningUploads, key: bytes, body: Incoming) -> None:
        self._uploads = uploads
        self.key = key
        self.body = body
        self.row: Row | None = None

    def __enter__(self) -> None:
        self._uploads.begin(self)

    def __exit__(self, *_: object) -> None:
        if self.row is not None:
            self._uploads.end(self, self.row)
