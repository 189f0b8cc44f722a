"""Tasks that a worker repeats in the background: repairing what it keeps open, and sweeping, one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hmacfs.errors import HmacfsError, NotAllowed, SessionStoreUnavailable, StorageFailed, StoreUnavailable
from hmacfs.system.ownership import explain
from hmacfs.system.shared_file import SharedFile
from hmacfs.uploads.progress import SweepResult

log = logging.getLogger("hmacfs.background")

#: Seconds between two rounds of repairs.
REPAIR_SECONDS = 1.0


class RepairLoop:
    """Calls each of ``repairs`` once a second, in their order. Each finds out whether a purge or a mount took away what
    it keeps open, makes that again, and says so in the log. It raises ``OSError`` or ``HmacfsError`` if it cannot do
    that now; ``StoreUnavailable`` if nothing may be made, since the store's disk is away, which ends the round."""

    def __init__(self, repairs: Sequence[Callable[[], None]]) -> None:
        self._repairs = repairs
        self._failure = ""

    def run_forever(self) -> None:
        while True:
            time.sleep(REPAIR_SECONDS)
            self.run_once()

    def run_once(self) -> None:
        """One round. What fails is tried again in the next one, and logged once."""
        failure = ""
        for repair in self._repairs:
            try:
                repair()
            except StoreUnavailable:
                return
            except (OSError, HmacfsError) as error:
                failure = _sentence(error)
            except Exception:
                log.exception("a repair failed")
        if failure and failure != self._failure:
            log.warning("what was removed cannot be made again yet: %s", failure)
        self._failure = failure


def _tell(swept: SweepResult) -> None:
    if swept.sessions or swept.orphans:
        log.info("removed %d expired uploads and %d orphans", swept.sessions, swept.orphans)
    if swept.failed:
        log.error("%d expired uploads cannot be removed, the first for this: %s", swept.failed, swept.failure)


def _sentence(error: BaseException) -> str:
    """The error for the operator, with its cause. A relative path is one below an open folder, and says nothing."""
    if isinstance(error, OSError):
        path = os.fsdecode(error.filename or "")
        return explain(Path(path), error) if os.path.isabs(path) else error.strerror or type(error).__name__
    return f"{error} ({_sentence(error.__cause__)})" if error.__cause__ else str(error)


class Sweeper:
    """Removes expired uploads now and then, and on demand.

    sweep: does it, and may run in one process at a time. lock: the file whose lock (flock) says so, for all processes
    with the same ``StateDir``. interval: seconds between two sweeps of this process.
    """

    def __init__(self, sweep: Callable[[], SweepResult], lock: Path, interval: float) -> None:
        self._sweep = sweep
        self._lock = lock
        self._interval = interval

    def run_once(self) -> SweepResult | None:
        """What was swept; ``None`` if another process is sweeping. Raises ``NotAllowed`` if the lock cannot be opened,
        and what ``sweep`` raises: ``SessionStoreUnavailable``, ``StoreUnavailable``."""
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
            except StoreUnavailable:
                log.info("expired uploads are not looked for: the store is not there")
            except SessionStoreUnavailable:
                log.info("expired uploads are not looked for: no session store can be reached")
            except NotAllowed as error:
                log.error("expired uploads are not removed: %s", error)
            except StorageFailed as error:
                log.error("expired uploads are not removed: %s", error.for_log())
            except Exception:
                log.exception("looking for expired uploads failed")
            else:
                if swept is not None:
                    _tell(swept)
