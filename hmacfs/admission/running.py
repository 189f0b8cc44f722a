"""One running upload for a name, over all processes of the machine.

An upload is running from its checks until its file is published or given up, unless its whole body has arrived by the
time of these checks: that one is over before another could begin, or waits for nothing but the disk, and claims
nothing; of two such the one that publishes first has the name, since the link is exclusive. A second upload of the same
name is refused; but if the first has received no byte for ``SILENT_SECONDS``, its client has most likely lost its
network and is sending again: the newcomer requests its end and takes over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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


class Incoming(Protocol):
    """A body. ``waiting_since``: the monotonic time since when its client is waited for, 0.0 while it is not.
    ``interrupt`` ends it before its time."""

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

    def claim(self, name: StoredName, body: Incoming) -> RunningUpload:
        """The right to receive ``body`` as ``name``, as a context. Entering it may take ``TAKEOVER_SECONDS``; it raises
        ``UploadRunning``."""
        return RunningUpload(self, name.path.encode(), body)

    def wait_until_free(self, name: StoredName) -> None:
        """For a body that has arrived: no other upload of the name is running when this returns, which may take
        ``TAKEOVER_SECONDS``. Raises ``UploadRunning``."""
        key = name.path.encode()
        if self._rows.may_have(key):
            self._wait(Row(key), only_look=True)

    def begin(self, upload: RunningUpload) -> None:
        """For ``RunningUpload``, when its context is entered; waits and raises as ``claim`` says."""
        row = Row(upload.key)
        self._wait(row, only_look=False)
        upload.row = row
        self._running.add(upload)

    def _wait(self, row: Row, *, only_look: bool) -> None:
        ends = self._clock() + TAKEOVER_SECONDS
        while not self._try(row, only_look=only_look):
            if self._clock() >= ends:
                raise UploadRunning
            time.sleep(_POLL_SECONDS)  # cooperative in a gevent worker

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
