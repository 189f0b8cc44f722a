"""What ``S3ConditionalWrites = "auto"`` has found: remembered for all workers of a server, and by the bucket for all
servers."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hmacfs.errors import StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import Bucket
from hmacfs.stores.s3.probe import Verdict, trial_folder, try_conditional_writes
from hmacfs.system.shared_file import SharedFile

log = logging.getLogger("hmacfs.stores")

#: For how long a worker believes that no other server has found otherwise.
_LOOK_SECONDS = 60.0
#: For how long it waits for what another worker finds. If it takes longer, the engine does not answer well: the
#: rivals of a trial took SeaweedFS 9 s on a busy machine, and 20 s and more below a load.
PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.02
_TEXTS = {
    Verdict.RACING: "takes more than one of the conditional writes that come at once",
    Verdict.IGNORED: "ignores the conditions of writes",
}


class ExclusiveWrites:
    """Whether the engine's conditional PUT is exclusive, tried when somebody first wants to know.

    That is in a worker, not at the start: an engine that is away keeps no server from starting. One worker tries, and
    the others of this server take its word (``remembered``, a file, under the name ``server``): a restart tries again,
    since the engine may be another one by then. What one server finds to be false it notes in the bucket, and all
    believe it: of two that work on one bucket in different ways, both could publish one name.

    reserved: what the keys of our own begin with, with a slash at its end.
    """

    def __init__(
        self,
        bucket: Bucket,
        reserved: str,
        *,
        remembered: Path,
        server: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._bucket = bucket
        self._folder = trial_folder(reserved)
        self._note = f"{reserved}conditional-writes-fail"
        self._remembered = remembered
        self._server = server
        self._clock = clock
        self._sleep = sleep or time.sleep  # asked for here: in a gevent worker it is cooperative only after the fork
        self._trying = threading.Lock()
        self._is_exclusive = False
        #: When that was found out; never, or for good.
        self._looked = -math.inf
        self._failures = 0

    def __call__(self) -> bool:
        """Raises ``StoreUnavailable``, ``StorageFailed`` while nobody can tell."""
        if not self._is_known():
            failures = self._failures
            with self._trying:
                if not self._is_known():
                    if self._failures != failures:  # that of the one who was waited for is everybody's
                        raise StoreUnavailable(where=self._note)
                    self._look()
        return self._is_exclusive

    def _look(self) -> None:
        try:
            self._is_exclusive = self._find_out()
        except BaseException:
            self._failures += 1
            raise
        self._looked = self._clock() if self._is_exclusive else math.inf

    def _is_known(self) -> bool:
        return self._clock() - self._looked < _LOOK_SECONDS

    def _find_out(self) -> bool:
        if self._bucket.head(self._note) is not None:
            log.warning("the object store: a server has noted that its conditional writes fail, as %s", self._note)
            return False
        return self._is_exclusive or self._verdict() is Verdict.EXCLUSIVE

    def _verdict(self) -> Verdict:
        """Of this server: what one of its workers has found, or finds now while the others wait."""
        try:
            with SharedFile(self._remembered) as file:
                self._wait_for_lock(file.fd)
                verdict = self._read(file.fd)
                if verdict is None:
                    verdict = self._try()
                    self._write(file.fd, verdict)
                return verdict
        except OSError as error:
            raise StorageFailed(where=str(self._remembered)) from error

    def _wait_for_lock(self, fd: int) -> None:
        deadline = self._clock() + PATIENCE_SECONDS
        while not _is_locked(fd):
            if self._clock() > deadline:
                raise StoreUnavailable(where=self._note)
            self._sleep(_POLL_SECONDS)

    def _try(self) -> Verdict:
        verdict = try_conditional_writes(self._bucket, self._folder)
        if verdict is Verdict.EXCLUSIVE:
            log.info("the object store keeps to conditional writes")
        else:
            self._bucket.put(self._note, verdict.encode())
            log.warning("the object store %s: claims in the session store decide instead", _TEXTS[verdict])
        return verdict

    def _read(self, fd: int) -> Verdict | None:
        try:
            record = json.loads(os.pread(fd, 4096, 0))
            return Verdict(record["verdict"]) if record["server"] == self._server else None
        except (ValueError, KeyError, TypeError):
            return None

    def _write(self, fd: int, verdict: Verdict) -> None:
        content = json.dumps({"server": self._server, "verdict": verdict}).encode()
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)


def _is_locked(fd: int) -> bool:
    """Whether the lock on the file is this descriptor's now. It is asked for again and again, since a wait for it would
    stop all greenlets."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
