"""A private Redis."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Self

import redis

from tests.servers import Daemon, free_port, freeze, require_binary


class RedisServer:
    """Redis on a loopback port of its own, which it keeps over restarts. ``options`` are of its command line.

    It saves nothing by itself: after ``kill`` it starts empty, or from what ``client().save()`` has written.
    """

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._options = [*options, *(["--requirepass", password] if password else [])]
        self._binary = require_binary("redis-server")
        self._daemon: Daemon | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def pid(self) -> int:
        assert self._daemon is not None, "not started"
        return self._daemon.pid

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password or None, decode_responses=True, protocol=2)

    def start(self, *more_options: str) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--unixsocket", str(self.socket), *self._options]
        self._daemon = Daemon([*command, *more_options], folder=self.folder)
        self._daemon.wait_until(self.answers, what="Redis's readiness")
        return self

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        if self._daemon is not None:
            self._daemon.kill()

    def pause(self) -> None:
        """From now on connections are accepted by the kernel and nobody answers."""
        freeze(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
