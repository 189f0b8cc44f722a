"""Looking for expired uploads now and then, one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from hmacfs.descriptors import close
from hmacfs.errors import NotAllowed, SessionStoreUnavailable
from hmacfs.ownership import explain, open_file
from hmacfs.uploads.progress import Swept

log = logging.getLogger("hmacfs.housekeeping")


class Sweeper:
    """Calls ``sweep`` under a lock that all processes sharing the store's folder share."""

    def __init__(self, sweep: Callable[[], Swept], lock: Path, interval: float) -> None:
        self._sweep = sweep
        self._lock = lock
        self._interval = interval
        self._is_stopped = False

    def run_once(self) -> Swept | None:
        """What was swept; ``None`` if another process is at it. Raises ``SessionStoreUnavailable``, ``NotAllowed`` if
        rights are missing."""
        try:
            fd = open_file(self._lock, os.O_RDWR)
        except PermissionError as error:
            raise NotAllowed(explain(self._lock, error)) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._sweep()
        except BlockingIOError:
            return None
        finally:
            close(fd)

    def stop(self) -> None:
        """Begin no more sweeps: a process that only finishes its transfers may be one of old settings."""
        self._is_stopped = True

    def run_forever(self) -> None:
        """Sweep every interval, give or take a tenth, so that workers started together do not meet each time."""
        while True:
            time.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - nothing depends on its being secret
            if self._is_stopped:
                return
            try:
                swept = self.run_once()
            except SessionStoreUnavailable:
                log.info("expired uploads are not looked for: no session store can be reached")
            except NotAllowed as error:
                log.error("expired uploads are not removed: %s", error)
            except Exception:
                log.exception("looking for expired uploads failed")
            else:
                if swept is not None and (swept.sessions or swept.orphans):
                    log.info("removed %d expired uploads and %d orphans", swept.sessions, swept.orphans)
