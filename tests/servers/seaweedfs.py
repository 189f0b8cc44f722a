"""A private SeaweedFS: all of it in one process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.servers import Daemon, accepts_connections, free_port, require_binary
from tests.servers.object_store import ObjectStoreServer

#: So much higher are the ports of its parts for one another.
_GRPC = 10_000
#: From here on the kernel gives ports to clients, by default.
_CLIENTS = 32_768


def free_port_pair() -> int:
    """A free port of which the one for its neighbours is free as well."""
    while True:
        port = free_port()
        if port + _GRPC < _CLIENTS and not accepts_connections(port + _GRPC):
            return port


class SeaweedFS(ObjectStoreServer):
    """It replaces objects atomically under a condition, but for ``CompleteMultipartUpload``, which races."""

    replaces_parts = is_ordered = has_backslash = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._binary = require_binary("weed")
        self.port = free_port_pair()
        self.master_port, self._volume, self._filer = free_port_pair(), free_port_pair(), free_port_pair()

    def _start(self) -> None:
        key = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identities = [{"name": "test", "credentials": [key], "actions": ["Admin"]}]
        configuration = self.folder / "s3.json"
        configuration.write_text(json.dumps({"identities": identities}))
        command = [self._binary, "-logtostderr=true", "server", f"-dir={self.folder}"]
        command += [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={self.master_port}",
            "-master.telemetry=false",
        ]
        command += ["-master.volumeSizeLimitMB=512", "-master.electionTimeout=1s"]
        # Each bucket takes seven.
        command += [f"-volume.port={self._volume}", "-volume.max=5000", "-volume.preStopSeconds=0"]
        command += ["-filer", f"-filer.port={self._filer}", f"-filer.localSocket={self.folder}/f.sock"]
        command += ["-s3", f"-s3.port={self.port}", f"-s3.config={configuration}"]
        command += [f"-s3.localSocket={self.folder}/s3.sock", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        self.daemons = [Daemon([*command, "-s3.autoCreateBucket=false"], folder=self.folder)]
