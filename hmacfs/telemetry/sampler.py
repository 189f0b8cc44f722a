"""Samples of a worker's own state, for its gauges."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hmacfs.errors import SessionStoreUnavailable
from hmacfs.system.ownership import explain
from hmacfs.system.shared_file import SharedFile
from hmacfs.telemetry.metrics import Metrics

log = logging.getLogger("hmacfs.telemetry")

#: Seconds between two samples of the event loop and the gauges.
SAMPLE_SECONDS = 0.25
#: Seconds between two counts of the upload sessions.
SESSION_COUNT_SECONDS = 10.0


class Sampler:
    """Two endless loops for greenlets: ``sample_forever`` and ``count_sessions``.

    uploads: how many are in progress here. stores: the active session store, and for each whether it can be reached.
    rates_are_shared: whether rate limits are counted in Redis now; ``None`` where they never are.
    sessions: their number by state, raises ``SessionStoreUnavailable``. lock: the file that decides which worker counts
    them. more: each sets further gauges.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        uploads: Callable[[], int],
        stores: Callable[[], tuple[str, Mapping[str, bool]]],
        rates_are_shared: Callable[[], bool] | None,
        sessions: Callable[[], Mapping[str, int]],
        lock: Path,
        more: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._metrics = metrics
        self._uploads = uploads
        self._stores = stores
        self._rates_are_shared = rates_are_shared
        self._sessions = sessions
        self._lock = lock
        self._more = more
        self._counted: list[str] = []

    def note_turned_away(self) -> None:
        """A connection was one too many of its peer."""
        self._metrics.note_turned_away()

    def sample_forever(self, connections: Callable[[], int], tasks: int) -> None:
        """connections: how many are open, a greenlet each; tasks: how many greenlets there are besides."""
        while True:
            self.sample(connections(), tasks)
            before = time.monotonic()
            time.sleep(SAMPLE_SECONDS)
            self._metrics.observe_lag(max(0.0, time.monotonic() - before - SAMPLE_SECONDS))

    def sample(self, connections: int, tasks: int) -> None:
        """Set the gauges."""
        metrics = self._metrics
        metrics.connections.set(connections)
        metrics.greenlets.set(connections + tasks)
        metrics.uploads_in_progress.set(self._uploads())
        metrics.set_session_stores(*self._stores())
        if self._rates_are_shared is not None:
            metrics.set_rate_limit_store("redis", is_up=self._rates_are_shared())
        for set_gauges in self._more:
            set_gauges()

    def count_sessions(self) -> None:
        """Only the worker that holds the lock counts, as long as it lives and the lock file is there."""
        lock: SharedFile | None = None
        while True:
            try:
                lock = self._count_as(lock)
            except PermissionError as error:
                log.error("the upload sessions are not counted: %s", explain(self._lock, error))
                return
            except SessionStoreUnavailable:
                log.debug("the upload sessions cannot be counted now")
            except Exception:
                log.exception("counting the upload sessions failed")
            time.sleep(SESSION_COUNT_SECONDS)

    def _count_as(self, lock: SharedFile | None) -> SharedFile | None:
        """Count, if this process holds the lock or can have it now; the lock if it does."""
        try:
            if lock is not None and not lock.is_current():
                lock = None
                self._metrics.set_sessions(dict.fromkeys(self._counted, 0))  # another may count from now on
            lock = lock or _locked(self._lock)
        except PermissionError:
            raise
        except OSError as error:
            log.debug("%s cannot be locked: %s", self._lock, error.strerror)
        if lock is not None:
            counted = self._sessions()
            self._counted = list(counted)
            self._metrics.set_sessions(counted)
        return lock


def _locked(path: Path) -> SharedFile | None:
    lock = SharedFile(path)
    try:
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
