"""Portions of a file on their way to the engine: one is sent while the next one fills."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from hmacfs.errors import TooLarge
from hmacfs.stores.s3.bucket import FileSection
from hmacfs.stores.s3.spool import Spool, SpoolFile

#: What S3 allows.
PARTS_LIMIT = 10_000
#: One fills while the other one is sent.
_FILES = 2


class PartSender:
    """Sends portions as parts of a multipart upload.

    Two files take turns and stay until ``close``. So what has been received takes up space, up to two portions, and a
    reservation may shrink by what has been received (``admission.space``).

    put: sends a part, of that number and those bytes. number: that of the next part.
    """

    def __init__(self, spool: Spool, put: Callable[[int, FileSection], None], number: int = 1) -> None:
        self._spool = spool
        self._put = put
        self.number = number
        self._current: SpoolFile | None = None
        self._files: list[SpoolFile] = []
        self._idle: list[SpoolFile] = []
        self._in_flight: gevent.Greenlet[..., BaseException | None] | None = None

    @property
    def current(self) -> SpoolFile:
        """What fills now. Raises ``NoSpace``, ``StorageFailed``."""
        if self._current is None:
            self._current = self._idle.pop() if len(self._files) == _FILES else self._new()
        return self._current

    def _new(self) -> SpoolFile:
        file = self._spool.new()
        self._files.append(file)
        return file

    def send(self) -> None:
        """Send what has filled as the next part, once the one before it is sent. Raises what went wrong with that."""
        self.wait()
        if self.number > PARTS_LIMIT:
            raise TooLarge
        file, self._current = self.current, None
        self._in_flight = gevent.spawn(self._send, file, self.number)
        self.number += 1

    def _send(self, file: SpoolFile, number: int) -> BaseException | None:
        """What went wrong, as a value: gevent prints the traceback of every error that a greenlet raises."""
        try:
            self._put(number, file.section(0, file.measure()))
            file.rewind()  # it was answered: the engine has all of it
        except BaseException as error:
            return error
        self._idle.append(file)
        return None

    def wait(self) -> None:
        """Until nothing is in flight. Raises what went wrong."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None:
            return
        try:
            failure = in_flight.get()
        except BaseException:  # it is this greenlet that was killed
            in_flight.kill()
            raise
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Give up what is in flight, and close the files."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.kill()
        for file in self._files:
            file.close()
