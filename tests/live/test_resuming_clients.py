"""Real clients, unchanged, over a network that breaks their connections, and killed now and then: started again, they
go on until the file is there, without sending again what has arrived."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toml

from tests.live.client import get, put
from tests.live.pieces import partial_files
from tests.programs import program
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
    bytes. ``keeps``: whether what arrived of a piece that broke off is not sent again."""

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
    """The README's lines for a shell; what they need besides curl is in ``PATH``. ``is_hurried``: the pauses are
    written down and cut short. ``changes`` are made in the configuration that the URL is signed with."""

    example: int
    is_hurried = True

    def __init__(self, *arguments: Any, **changes: object) -> None:
        super().__init__(*arguments)
        self._changes = changes

    def command(self) -> list[str]:
        lines = readme("sh")
        script = f"{lines[0]}\n{lines[self.example]}".replace("8000000", str(self.size))
        return [require_binary("sh"), "-c", script]

    def environment(self) -> dict[str, str]:
        require_binary("curl")
        config = self.folder / "config.toml"
        settings = {**self._server.settings, "PublicURL": f"http://127.0.0.1:{self._port}", **self._changes}
        config.write_text(toml.dumps(settings))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        if self.is_hurried:
            sleep = self.folder / "bin" / "sleep"
            sleep.parent.mkdir(exist_ok=True)
            sleep.unlink(missing_ok=True)
            sleep.symlink_to(program("hurried_sleep.sh"))
            path = f"{sleep.parent}:{path}"
        pauses = {"PAUSES": str(self.folder / "pauses"), "SLEEP": require_binary("sleep")}
        return {"HMACFS_CONFIG": str(config), "PATH": path, **pauses}

    def pauses(self) -> list[int]:
        """How long the script wanted to wait, each time."""
        path = self.folder / "pauses"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def run(self) -> tuple[int, str]:
        """The exit status, and what it printed."""
        environ = {**os.environ, **self.environment()}
        done = subprocess.run(
            self.command(), cwd=self.folder, env=environ, capture_output=True, text=True, timeout=100, check=False
        )
        return done.returncode, done.stdout + done.stderr


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


def test_the_same_file_is_uploaded_again_with_another_slot(server: HmacFileServer, tmp_path: Path) -> None:
    source = tmp_path / NAME
    source.write_bytes(os.urandom(MIB))
    for _ in range(2):
        with Proxy(server.port) as proxy:
            check(Tuspy, server, source, proxy, 400_000, kills=0)


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


# -- the README's scripts, where they cannot succeed, or not at once ------------------------------

SCRIPTS = [CurlRanges, CurlChunks]
StartServer = Callable[..., HmacFileServer]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "client" / NAME
    path.parent.mkdir()
    path.write_bytes(os.urandom(1_000_000))
    return path


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("size", [0, 400_000, 1_000_000])
def test_a_script_succeeds_once_the_file_is_stored(
    start_server: StartServer, source: Path, kind: type[_Script], size: int
) -> None:
    """And again when it is run again: that file is there."""
    server = start_server()
    source.write_bytes(source.read_bytes()[:size])
    script = kind(server, server.port, source.parent, 400_000)
    assert script.run() == (0, "")
    assert (server.store / NAME).read_bytes() == source.read_bytes()
    if size:
        assert script.run()[0] == 0
        assert (script.pauses(), server.complaints()) == ([0] if kind is CurlRanges and size > 400_000 else [], [])


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("length", [5, 1_000_001])
def test_a_script_fails_where_another_file_has_the_name(
    start_server: StartServer, source: Path, kind: type[_Script], length: int
) -> None:
    server = start_server()
    put(server, NAME, bytes(length))
    script = kind(server, server.port, source.parent, 400_000)
    status, said = script.run()
    assert (status, script.pauses()) == (1, [])
    assert "film.mp4: another file has this name" in said
    assert len((server.store / NAME).read_bytes()) == length


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_fails_where_another_file_comes_under_way(
    start_server: StartServer, source: Path, kind: type[_Script]
) -> None:
    server = start_server(MaxBytesPerSecond=500_000)
    script = kind(server, server.port, source.parent, 100_000)
    process = script.start()
    wait_until(lambda: partial_bytes(server) >= 200_000 or process.poll() is not None, what="the script's progress")
    put(server, NAME, b"another")
    assert process.wait(30) == 1
    assert "another file has this name" in (source.parent / "output.log").read_text()
    assert (server.store / NAME).read_bytes() == b"another"


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_ends_at_once_where_it_is_refused(
    start_server: StartServer, source: Path, kind: type[_Script]
) -> None:
    server = start_server(UploadMaxSize=900_000)
    for changes, status, sentence in (
        ({"Secret": "another secret of 32 bytes, or so"}, 403, "The signature is missing, wrong or expired."),
        ({}, 413, "The file is larger than this server accepts."),
    ):
        script = kind(server, server.port, source.parent, 400_000, **changes)
        ended, said = script.run()
        assert (ended, script.pauses()) == (1, [])
        assert "film.mp4: refused" in said
        assert sentence in said
        assert f"status: {status}" in said
    assert server.stored() == []


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_goes_on_when_the_server_is_back(start_server: StartServer, source: Path, kind: type[_Script]) -> None:
    server = start_server(MaxBytesPerSecond=400_000)
    script = kind(server, server.port, source.parent, 100_000)
    script.is_hurried = False
    process = script.start()
    for bound in (200_000, 500_000):
        wait_until(lambda bound=bound: partial_bytes(server) >= bound, what="the script's progress")  # type: ignore[misc]
        server.daemon.kill()
        assert process.poll() is None
        server.start()
    assert process.wait(60) == 0, (source.parent / "output.log").read_text()
    assert sha256(server.store / NAME) == sha256(source)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_gives_up_where_nobody_answers(start_server: StartServer, source: Path, kind: type[_Script]) -> None:
    server = start_server()
    server.stop()
    script = kind(server, server.port, source.parent, 400_000)
    status, said = script.run()
    assert (status, script.pauses()) == (1, [0, 1, 3, 7, 15, 31, 63, 127])
    assert "film.mp4: gave up" in said


class _Busy(http.server.BaseHTTPRequestHandler):
    """Refuses with what ``answers`` says, one after the other, then stores."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[list[tuple[int, str | None]]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, pause = self.answers.pop(0) if self.answers else (201, None)
        self.send_response(status)
        if pause is not None:
            self.send_header("Retry-After", pause)
        if status == 201:
            self.send_header("Upload-Offset", "1000000")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_waits_as_long_as_it_is_told(server: HmacFileServer, source: Path, kind: type[_Script]) -> None:
    _Busy.answers = [(429, "60"), (503, "2"), (503, "Fri, 01 Jan 2100 00:00:00 GMT"), (500, None), (408, "9")]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        script = kind(server, busy.server_address[1], source.parent, 1_000_000)
        assert script.run() == (0, "")
        busy.shutdown()
    assert script.pauses() == [60, 2, 3, 7, 15]
