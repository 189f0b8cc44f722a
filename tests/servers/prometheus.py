"""A private Prometheus that scrapes one address every second."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Self

from tests.servers import Daemon, accepts_connections, free_port, require_binary

_CONFIG = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: hmacfs
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


class PrometheusServer:
    """Prometheus on a loopback port of its own, with its data in ``folder``."""

    def __init__(self, folder: Path, target: int) -> None:
        self.folder = folder
        self.port = free_port()
        self._target = target
        self._binary = require_binary("prometheus")
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "prometheus.yml").write_text(_CONFIG.format(port=self._target))
        command = [
            *(self._binary, f"--web.listen-address=127.0.0.1:{self.port}", "--config.file=prometheus.yml"),
            *("--storage.tsdb.path=data", "--log.level=warn"),
        ]
        self._daemon = Daemon(command, folder=self.folder)
        self._daemon.wait_until(lambda: accepts_connections(self.port), what="Prometheus's readiness")
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def query(self, expression: str) -> float | None:
        """The value of an expression with one result; ``None`` without a result."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None
