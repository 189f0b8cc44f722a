"""The master's part of the metrics: the folder that the workers write to, and the port that is scraped."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from hmacfs.config import Settings, TcpAddress
from hmacfs.server.metrics_server import MetricsServer
from hmacfs.system.shared_file import make_folder

log = logging.getLogger("hmacfs.server")

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_RETRY_SECONDS = 1.0


class MetricsEndpoint:
    """Runs ``MetricsServer`` as the settings say. workers: how many there are, and how many were started so far.

    prometheus_client decides where its values live when it is imported: the folder must be known before.
    """

    def __init__(self) -> None:
        self._server: MetricsServer | None = None
        self._served: tuple[TcpAddress, Path, tuple[str, Path]] | None = None
        self._lock = threading.Lock()
        self._to_merge: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._merging: threading.Thread | None = None

    def merge_counters(self, settings: Settings) -> None:
        """Merge the counters of workers that have ended, in a thread and whether or not anybody scrapes. Safe in a
        signal handler."""
        if settings.metrics_enabled:
            self._to_merge.put(_metrics_path(settings))

    def _merge_forever(self) -> None:
        from hmacfs.telemetry.scrape import CounterMerge

        while True:
            CounterMerge(self._to_merge.get()).fold()

    def apply(self, settings: Settings, workers: Callable[[], tuple[int, int]]) -> None:
        """Serve what these settings say at their address, and nowhere else."""
        address = settings.metrics_port
        wanted = (address, settings.runtime_dir, _space(settings)) if settings.metrics_enabled else None
        if self._merging is None and settings.metrics_enabled:
            self._merging = threading.Thread(target=self._merge_forever, daemon=True)
            self._merging.start()
        with self._lock:
            if wanted == self._served:
                return
            if self._server is not None:
                self._server.stop()
                self._server = None
            self._served = wanted
            if wanted is not None and not self._serve(settings, workers):
                log.warning("MetricsPort: cannot listen at %s yet; trying on", address)
                self._retry(settings, workers)

    def _retry(self, settings: Settings, workers: Callable[[], tuple[int, int]]) -> None:
        """After SIGUSR2 the server that is being replaced still has the port."""
        wanted = self._served

        def retry() -> None:
            with self._lock:
                if self._served is wanted and not self._serve(settings, workers):  # no reload in between
                    self._retry(settings, workers)

        timer = threading.Timer(_RETRY_SECONDS, retry)
        timer.daemon = True
        timer.start()

    def _serve(self, settings: Settings, workers: Callable[[], tuple[int, int]]) -> bool:
        """Listen and serve: whether the port was free."""
        from hmacfs.telemetry.scrape import CounterMerge, ProcessCollector, Scrapes

        address = settings.metrics_port
        counters = CounterMerge(metrics_folder(settings))
        try:
            scrapes = Scrapes(counters, ProcessCollector(*_space(settings), workers))
            self._server = MetricsServer(address.host, address.port, scrapes.render)
        except OSError as error:
            log.debug("MetricsPort: cannot listen at %s: %s", address, error.strerror)
            return False
        log.info("metrics at %s", address)
        return True

    def close_in_child(self) -> None:
        """In a worker: the port is the master's alone, so that it is free when the master is gone, and so are its
        connections, which the master could not end otherwise."""
        if self._server is not None:
            self._server.close_in_child()


def _metrics_path(settings: Settings) -> Path:
    return settings.runtime_dir / "metrics"


def _space(settings: Settings) -> tuple[str, Path]:
    """What the gauges of free space are called, and whose they are. An object store tells nobody how much room it has:
    what there is to watch is its spool."""
    if settings.store_dir is not None:
        return "hmacfs_store", settings.store_dir
    return "hmacfs_s3_spool", settings.s3_spool_dir


def metrics_folder(settings: Settings) -> Path:
    """The folder that all processes write their metrics to. It is made if need be, and prometheus_client told of it.
    Raises ``OSError``."""
    folder = _metrics_path(settings)
    make_folder(folder)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder


def drop_gauges(settings: Settings, pid: int) -> None:
    """A worker has ended: remove its gauges. Its counters stay."""
    for path in _metrics_path(settings).glob(f"gauge_*_{pid}-*.db"):
        path.unlink(missing_ok=True)
