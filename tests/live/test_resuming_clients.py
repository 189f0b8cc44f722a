"""Real clients, unchanged, over a network that breaks their connections, and killed now and then: started again, they
go on until the file is there, without sending anew what has arrived."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import toml

from tests.live.client import get
from tests.live.pieces import partial_files
from tests.servers import require, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.proxy import Proxy

ROOT = Path(__file__).parents[2]
NAME = "film.mp4"
MIB = 1024 * 1024
WORKERS = 3
#: Bytes a second of each upload: slow enough for a client to be killed in its middle.
RATE = 60 * MIB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    folder = tmp_path_factory.mktemp("server")
    with HmacFileServer(folder, Workers=WORKERS, MaxBytesPerSecond=RATE) as running:
        yield running
        assert running.stop() == 0
        assert running.complaints() == []
        assert running.leftovers() == []


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MiB that are alike nowhere."""
    path = tmp_path_factory.mktemp("film") / NAME
    with path.open("wb") as file:
        for _ in range(25):
            file.write(os.urandom(8 * MIB))
    return path


def readme(language: str) -> list[str]:
    """The examples of the README's section about pieces."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("### Uploads in pieces")[2].partition("\n### ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class RealClient(ABC):
    """A program that uploads ``film.mp4`` from a folder of its own to the slot behind a proxy, in pieces of ``size``
    bytes. ``keeps``: whether what arrived of a piece that broke off is not sent anew."""

    keeps = True

    def __init__(self, server: HmacFileServer, port: int, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._server = server
        self._port = port

    @property
    def slot(self) -> str:
        size = (self.folder / NAME).stat().st_size
        return f"http://127.0.0.1:{self._port}{self._server.sign_v(NAME, size)}"

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **self.environment()}
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                self.command(), cwd=self.folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )


class _Script(RealClient):
    """The README's lines for a shell; what they need besides curl is in ``PATH``."""

    example: int

    def command(self) -> list[str]:
        lines = readme("sh")
        script = f"set -e\n{lines[0]}\n{lines[self.example]}".replace("8000000", str(self.size))
        return [require_binary("bash"), "-c", script.replace("sleep 1", "sleep 0.1")]

    def environment(self) -> dict[str, str]:
        require_binary("curl")
        config = self.folder / "config.toml"
        config.write_text(toml.dumps({**self._server.settings, "PublicURL": f"http://127.0.0.1:{self._port}"}))
        return {"HMACFS_CONFIG": str(config), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


class CurlRanges(_Script):
    example = 1


class CurlChunks(_Script):
    example = 2
    keeps = False


class Tuspy(RealClient):
    def command(self) -> list[str]:
        (script,) = readme("python")
        script = script.replace("8000000", str(self.size)).replace("retry_delay=1", "retry_delay=0.1")
        return [sys.executable, "-c", script, self.slot]


class TuspyWithChecksums(Tuspy):
    keeps = False

    def command(self) -> list[str]:
        *head, script, slot = super().command()
        return [*head, script.replace("store_url=", "upload_checksum=True, store_url="), slot]


class TusJs(RealClient):
    options: ClassVar[dict[str, object]] = {}

    def command(self) -> list[str]:
        script = [str(ROOT / "tests/live/js/upload.cjs"), NAME, self.slot, "uploads.json", str(self.size)]
        return [require_binary("node"), *script, json.dumps(self.options)]

    def environment(self) -> dict[str, str]:
        modules = ROOT / "build/js/node_modules"
        require(modules if (modules / "tus-js-client").exists() else None, "tus-js-client")
        return {"NODE_PATH": str(modules)}


class TusJsInAnotherWay(TusJs):
    """The first piece with the creation, and only POST, as for old proxies."""

    options: ClassVar[dict[str, object]] = {"uploadDataDuringCreation": True, "overridePatchMethod": True}


def partial_bytes(server: HmacFileServer) -> int:
    """What the server has of unfinished uploads."""
    found = 0
    for path in partial_files(server):
        with contextlib.suppress(FileNotFoundError):  # it was completed this moment
            found = max(found, path.stat().st_size)
    return found


def run(client: RealClient, server: HmacFileServer, kill_at: list[int]) -> tuple[int, int]:
    """Start the client until it succeeds. It is killed when the server has so many bytes, one kill after the other; the
    counts of kills and of starts."""
    kills = starts = 0
    while True:
        process = client.start()
        starts += 1
        assert starts < 100, (client.folder / "output.log").read_text(errors="replace")[-2000:]

        def is_time(process: subprocess.Popen[bytes] = process) -> bool:
            return process.poll() is not None or bool(kill_at and partial_bytes(server) >= kill_at[0])

        try:
            wait_until(is_time, timeout=100, what="the client's end")
            if process.poll() is None:
                kills += 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status == 0:
            return kills, starts
        while kill_at and partial_bytes(server) >= kill_at[0]:
            kill_at.pop(0)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(kind: type[RealClient], server: HmacFileServer, source: Path, proxy: Proxy, size: int, kills: int) -> None:
    """Upload ``source`` while connections are cut and the client is killed, and compare what is stored."""
    length = source.stat().st_size
    before = len(server.log())
    chance = random.Random(length)
    kill_at = sorted(chance.randrange(length // 10, length * 8 // 10) for _ in range(kills))
    killed, starts = run(kind(server, proxy.port, source.parent, size), server, kill_at)
    stored = server.store / NAME
    lines = [line for line in server.log()[before:].splitlines() if " status=" in line]
    received = sum(int(count) for count in re.findall(r" received=(\d+) ", "\n".join(lines)))
    print(f"{kind.__name__}, {length} bytes: {proxy.cut} connections cut, {killed} kills, {starts} starts, ", end="")
    print(f"{len(lines)} requests, {received - length} bytes sent again")
    assert sha256(stored) == sha256(source)
    assert get(server, NAME).headers["Content-Length"] == str(length)
    assert server.stored() == [NAME]
    # A creation whose answer is lost is made again; otherwise there is one upload, and it never starts over.
    assert received <= length + (0 if kind.keeps else (proxy.cut + killed) * size)
    stored.unlink()


LARGE = [CurlRanges, CurlChunks, Tuspy, TusJs]
SMALL = [*LARGE, TuspyWithChecksums]


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
def test_a_network_that_breaks_all_the_time(server: HmacFileServer, tmp_path: Path, kind: type[RealClient]) -> None:
    source = tmp_path / NAME
    source.write_bytes(os.urandom(4 * MIB))
    with Proxy(server.port, cuts=15, longest=500_000, seed=4) as proxy:
        check(kind, server, source, proxy, 400_000, kills=0)
    assert proxy.cut == 15


@pytest.mark.parametrize("kind", LARGE, ids=lambda kind: kind.__name__)
def test_a_large_file_over_a_bad_network_from_a_client_that_dies(
    server: HmacFileServer, film: Path, tmp_path: Path, kind: type[RealClient]
) -> None:
    source = tmp_path / NAME
    source.hardlink_to(film)
    with Proxy(server.port, cuts=8, longest=16 * MIB, seed=5) as proxy:
        check(kind, server, source, proxy, 8_000_000, kills=3)
    assert proxy.cut == 8
    shutil.rmtree(tmp_path)


def test_a_client_that_can_only_post(server: HmacFileServer, tmp_path: Path) -> None:
    source = tmp_path / NAME
    source.write_bytes(os.urandom(4 * MIB))
    with Proxy(server.port) as proxy:
        check(TusJsInAnotherWay, server, source, proxy, 400_000, kills=0)
    assert " method=POST path=/upload/.hmacfs/tus/" in server.log()
