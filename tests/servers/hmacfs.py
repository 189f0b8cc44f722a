"""This project's server, as a user runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote

import psutil
import toml

from hmacfs.protocol.keyring import Keyring, sign_v, sign_v2, sign_v3
from tests.servers import Daemon, answers_200, descriptor_limit, free_port
from tests.servers.stored_files import BucketFiles, FolderFiles, StoredFiles

SECRET = "a secret for tests, of 32 bytes.."
FAR_FUTURE = 4_000_000_000


class Database(Protocol):
    """``type`` and ``host`` are as the settings have them."""

    type: str

    @property
    def host(self) -> str: ...


def fallback(database: Database) -> dict[str, object]:
    """The settings with which a server keeps its sessions in a private database of the tests."""
    settings = {"FallbackEnabled": True, "FallbackDBType": database.type, "FallbackDBHost": database.host}
    return settings | dict.fromkeys(("FallbackDBUser", "FallbackDBPassword", "FallbackDBName"), "hmacfs")


class ObjectStore(Protocol):
    """An engine of the tests."""

    access_key: str
    secret_key: str

    @property
    def endpoint(self) -> str: ...


def in_bucket(engine: ObjectStore, bucket: str, folder: Path) -> dict[str, object]:
    """The settings with which a server keeps its files in a bucket, and the rest below that folder."""
    return {
        "StoreDir": None,
        "Storage": "s3",
        "S3Endpoint": engine.endpoint,
        "S3Bucket": bucket,
        "S3AccessKey": engine.access_key,
        "S3SecretKey": engine.secret_key,
        "StateDir": str(folder / "state"),
        "RuntimeDir": str(folder / "run"),
    }


class HmacFileServer:
    """``settings`` are keys of the TOML file; ``None`` leaves a key out. Started by ``start`` or as a context."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.store = folder / "store"
        self.settings: dict[str, object] = {
            "ListenPort": f"127.0.0.1:{self.port}",
            "Secret": SECRET,
            "StoreDir": str(self.store),
            "Workers": 1,
            "MetricsEnabled": False,
            "MinFreeSpace": 0,
            "AuthFailureRateLimit": "",
        }
        connections = (descriptor_limit() - 256) // 2
        if connections < 8192:  # the default, for which the server would warn
            self.settings["MaxConnections"] = connections
        self.ready_path = str(settings.pop("ReadyPath", "/readyz"))  # what answers 200 once it serves
        self.settings.update(settings)
        self.prefix = f"/{self.settings.get('UploadSubDir', 'upload')}/"
        self.keyring = Keyring([str(self.settings["Secret"]).encode()])
        self.config = folder / "config.toml"
        self.command = [sys.executable, "-W", "error", "-m", "hmacfs", "-config", str(self.config)]
        #: Descriptors that it inherits.
        self.pass_fds: Sequence[int] = ()
        self._daemon: Daemon | None = None
        self._files: StoredFiles | None = None

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "not started"
        return self._daemon

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def write_config(self) -> None:
        self.config.write_text(toml.dumps({key: value for key, value in self.settings.items() if value is not None}))

    def start(self, **env: str) -> HmacFileServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config()
        self._daemon = Daemon(self.command, folder=self.folder, env={**os.environ, **env}, pass_fds=self.pass_fds)
        self.wait_until_ready()
        self.daemon.wait_until(self._is_complete, what="all workers")
        return self

    def wait_until_ready(self) -> None:
        self.daemon.wait_until(self.is_ready, what="the server's readiness")

    def _is_complete(self) -> bool:
        """Whether all workers have been forked. The first one may serve before."""
        wanted = self.settings["Workers"]
        return not isinstance(wanted, int) or len(self.workers()) >= wanted

    def is_ready(self) -> bool:
        if self.settings.get("UnixSocket"):
            return Path(str(self.settings["ListenPort"])).exists() and len(self.workers()) > 0
        return answers_200(f"{self.url}{self.ready_path}", timeout=2)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 30.0) -> int:
        """The exit status."""
        return self.daemon.stop(number, timeout=timeout)

    def end(self) -> None:
        """What closes a test that is done with it: at once, but for a server whose coverage is measured. That is stopped,
        since a process that is killed does not say which lines it ran."""
        if self._files is not None:
            self._files.close()
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(signal.SIGQUIT, timeout=5.0)
        self.daemon.kill()

    def sweep(self) -> str:
        """Run ``hmacfs sweep`` beside it: what that prints."""
        run = [sys.executable, "-W", "error", "-m", "hmacfs", "sweep", "-config", str(self.config)]
        return subprocess.run(run, check=True, capture_output=True, text=True, cwd=self.folder).stdout

    def log(self) -> str:
        return self.daemon.log()

    def complaints(self) -> list[str]:
        """Lines of the log that should not be there after a run without mistakes."""
        return [line for line in self.log().splitlines() if " INFO [" not in line and " DEBUG [" not in line]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def path(self, name: str) -> str:
        """The escaped URL path of a stored name."""
        return self.prefix + quote(name)

    def sign_v(self, name: str, size: int) -> str:
        """The path and query of an upload."""
        return f"{self.path(name)}?v={sign_v(self.keyring, name, size)}"

    def sign_v2(self, name: str, size: int, content_type: str) -> str:
        return f"{self.path(name)}?v2={sign_v2(self.keyring, name, size, content_type)}"

    def sign_v3(self, method: str, name: str, expires: int = FAR_FUTURE) -> str:
        mac = sign_v3(self.keyring, method, expires, self.prefix + name)
        return f"{self.path(name)}?v3={mac}&expires={expires}"

    @property
    def files(self) -> StoredFiles:
        """Its store, asked beside it."""
        if self._files is None:
            self._files = (
                BucketFiles(self.settings) if self.settings.get("Storage") == "s3" else FolderFiles(self.store)
            )
        return self._files

    def content(self, name: str) -> bytes:
        """Of a stored file."""
        return self.files.content(name)

    def stored(self) -> list[str]:
        """The names of all stored files."""
        return self.files.names()

    def leftovers(self) -> list[str]:
        """What a failed upload should not have left."""
        return self.files.leftovers()
