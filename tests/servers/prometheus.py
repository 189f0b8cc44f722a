"""A private Prometheus that scrapes one address every second, or as a configuration says."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.servers import Daemon, answers_200, free_port, require_binary

_CONFIG = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: hmacfs
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


class PrometheusServer:
    """Prometheus on a loopback port of its own, with its data in ``folder``. config: instead of scraping ``target``."""

    def __init__(self, folder: Path, target: int, *, config: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._config = config or _CONFIG.format(port=target)
        self._binary = require_binary("prometheus")
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "prometheus.yml").write_text(self._config)
        command = [
            *(self._binary, f"--web.listen-address=127.0.0.1:{self.port}", "--config.file=prometheus.yml"),
            *("--storage.tsdb.path=data", "--log.level=warn"),
        ]
        self._daemon = Daemon(command, folder=self.folder)
        self._daemon.wait_until(self._is_ready, what="Prometheus's readiness")
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def _is_ready(self) -> bool:
        """It listens, and answers everything with 503, before it has read its data."""
        return answers_200(f"http://127.0.0.1:{self.port}/-/ready", timeout=5)

    def query(self, expression: str) -> float | None:
        """The value of an expression with one result; ``None`` without a result."""
        found = self.ask("query", query=expression)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def ask(self, name: str, **parameters: str) -> Any:
        """The data of an answer of its API. An expression that it does not understand is an ``HTTPError``."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{name}?{query}", timeout=5) as answer:
            return json.load(answer)["data"]
