"""A private JuiceFS with its gateway: an engine that ignores conditions, over a folder and SQLite."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.servers import Daemon, require_binary
from tests.servers.object_store import ObjectStoreServer


class JuiceFS(ObjectStoreServer):
    """Its names are those of a file system: a file has none below it."""

    heeds_new = heeds_complete = heeds_delete = False
    checks_parts = is_flat = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._binary = require_binary("juicefs")

    def _start(self) -> None:
        metadata = f"sqlite3://{self.folder}/meta.db"
        if not (self.folder / "meta.db").exists():
            command = [
                self._binary,
                "format",
                "--storage",
                "file",
                "--bucket",
                f"{self.folder}/blobs/",
                metadata,
                "jfs",
            ]
            subprocess.run(command, cwd=self.folder, capture_output=True, check=True)
        command = [self._binary, "gateway", "--multi-buckets", "--keep-etag", "--object-meta", "--no-usage-report"]
        command += ["--backup-meta", "0", "--cache-dir", f"{self.folder}/cache", metadata, f"127.0.0.1:{self.port}"]
        keys = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key}
        self.daemons = [Daemon(command, folder=self.folder, env={**os.environ, **keys})]
