"""What a process does now and then: looking for expired uploads, one process at a time; looking whether what it keeps
open is still there."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hmacfs.errors import HmacfsError, NotAllowed, SessionStoreUnavailable, StoreMissing
from hmacfs.system.ownership import explain
from hmacfs.system.shared_file import SharedFile
from hmacfs.uploads.progress import SweepResult

log = logging.getLogger("hmacfs.housekeeping")


#: Seconds between two looks whether what is open is still there.
LOOK_SECONDS = 1.0


class Watch:
    """Calls each of ``looks`` once a second, in their order. Each makes again, and says so in the log, what a purge or
    a mount took away; it raises ``StoreMissing`` if nothing may be made, which ends the round."""

    def __init__(self, looks: Sequence[Callable[[], None]]) -> None:
        self._looks = looks
        self._failure = ""

    def run_forever(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """One round. Whatever fails is tried again in the next one, and logged once."""
        failure = ""
        for look in self._looks:
            try:
                look()
            except StoreMissing:
                return
            except (OSError, HmacfsError) as error:
                failure = _told(error)
            except Exception:
                log.exception("looking after what is open failed")
        if failure and failure != self._failure:
            log.warning("what was removed cannot be made again yet: %s", failure)
        self._failure = failure


def _told(error: BaseException) -> str:
    """In a line for the operator, with what was behind it. A path below an open folder is no path here."""
    if isinstance(error, OSError):
        told = os.fsdecode(error.filename or "")
        return explain(Path(told), error) if os.path.isabs(told) else error.strerror or type(error).__name__
    return f"{error} ({_told(error.__cause__)})" if error.__cause__ else str(error)


class Sweeper:
    """Calls ``sweep`` under a lock that all processes sharing the store's folder share."""

    def __init__(self, sweep: Callable[[], SweepResult], lock: Path, interval: float) -> None:
        self._sweep = sweep
        self._lock = lock
        self._interval = interval

    def run_once(self) -> SweepResult | None:
        """What was swept; ``None`` if another process is at it. Raises ``SessionStoreUnavailable``, ``NotAllowed`` if
        rights are missing."""
        try:
            lock = SharedFile(self._lock)
        except PermissionError as error:
            raise NotAllowed(explain(self._lock, error)) from None
        with lock:
            try:
                fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return self._sweep()

    def run_while(self, is_running: Callable[[], bool]) -> None:
        """Sweep every interval, give or take a tenth, so that workers started together do not meet each time. A process
        that only finishes its transfers begins no more sweeps: it may have old settings."""
        while True:
            time.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - nothing depends on its being secret
            if not is_running():
                return
            try:
                swept = self.run_once()
            except StoreMissing:
                log.info("expired uploads are not looked for: the store is not there")
            except SessionStoreUnavailable:
                log.info("expired uploads are not looked for: no session store can be reached")
            except NotAllowed as error:
                log.error("expired uploads are not removed: %s", error)
            except Exception:
                log.exception("looking for expired uploads failed")
            else:
                if swept is not None and (swept.sessions or swept.orphans):
                    log.info("removed %d expired uploads and %d orphans", swept.sessions, swept.orphans)
