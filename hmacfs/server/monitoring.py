"""The master's part of the metrics: the folder that the workers write to, and the port where they are asked for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hmacfs.config import Settings, TcpAddress

if TYPE_CHECKING:
    from hmacfs.telemetry.scrape import ScrapeServer

log = logging.getLogger("hmacfs.server")

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_RETRY_SECONDS = 1.0


class Monitoring:
    """``MetricsPort``, kept as the settings say. workers: how many there are, and how many were started so far.

    prometheus_client decides where its values live when it is imported: the folder must be known before.
    """

    def __init__(self) -> None:
        self._server: ScrapeServer | None = None
        self._served: tuple[TcpAddress, Path, Path] | None = None

    def apply(self, settings: Settings, workers: Callable[[], tuple[int, int]]) -> None:
        """Serve what these settings say at their address, and nowhere else."""
        address = settings.metrics_port
        wanted = (address, settings.runtime_dir, settings.store_dir) if settings.metrics_enabled else None
        if wanted == self._served:
            return
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._served = wanted
        if wanted is not None:
            self._serve(address, settings, workers)

    def _serve(self, address: TcpAddress, settings: Settings, workers: Callable[[], tuple[int, int]]) -> None:
        from hmacfs.telemetry.scrape import Folder, ScrapeServer, Vitals

        folder = Folder(metrics_folder(settings))
        try:
            self._server = ScrapeServer(address.host, address.port, folder, Vitals(settings.store_dir, workers))
        except OSError as error:
            # After SIGUSR2 the server that is being replaced still has the port.
            log.warning("MetricsPort: cannot listen at %s: %s; trying on", address, error.strerror)
            self._served = None
            retry = threading.Timer(_RETRY_SECONDS, self.apply, (settings, workers))
            retry.daemon = True
            retry.start()
            return
        log.info("metrics at %s", address)

    def disown(self) -> None:
        """In a worker: the port is the master's alone, so that it is free when the master is gone."""
        if self._server is not None:
            self._server.disown()


def metrics_folder(settings: Settings) -> Path:
    """The folder that all processes write their metrics to, made and made known if it was not."""
    folder = settings.runtime_dir / "metrics"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder


def drop_gauges(settings: Settings, pid: int) -> None:
    """A worker has ended: its gauges count no more. Its counters do."""
    for path in metrics_folder(settings).glob(f"gauge_*_{pid}-*.db"):
        path.unlink(missing_ok=True)
