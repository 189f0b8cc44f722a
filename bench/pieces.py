"""Uploads in pieces: what a session costs, in each of the stores that can remember it."""

from __future__ import annotations

import os
import urllib.request
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from bench.contenders import SECRET, Contender, Hmacfs
from bench.curl import curl
from bench.names import names, signed_path
from bench.outcome import LoadFailed, Outcome
from bench.stores import take_out, warm_memory
from tests.servers.hmacfs import fallback
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

_WRITE_OUT = "%{http_code} %{size_upload} %{size_download} %{time_total}\n"
#: No tus client waits for "100 Continue", as curl does with large pieces.
_TUS = ("-H", "Tus-Resumable: 1.0.0", "-H", "Content-Type: application/offset+octet-stream", "-H", "Expect:")


class SqliteSessions(Hmacfs):
    """This project's server with its embedded store of sessions."""

    name = "sqlite"


class _Backend(Protocol):
    def start(self) -> object: ...

    def kill(self) -> None: ...


class _SessionsElsewhere(Hmacfs):
    """This project's server with its sessions in a database of its own."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._backend: _Backend | None = None

    @abstractmethod
    def open_backend(self) -> tuple[_Backend, dict[str, object]]:
        """The database, and the settings that lead to it."""

    def launch(self) -> None:
        self._backend, settings = self.open_backend()
        self._backend.start()
        self.run_server(ListenPort=f"127.0.0.1:{self.port}", **settings)

    def stop(self) -> None:
        super().stop()
        if self._backend is not None:
            self._backend.kill()


class RedisSessions(_SessionsElsewhere):
    name = "redis"

    def open_backend(self) -> tuple[_Backend, dict[str, object]]:
        redis = RedisServer(self.folder / "redis")
        return redis, {"RedisAddr": redis.address}


class PostgresSessions(_SessionsElsewhere):
    name = "postgres"

    def open_backend(self) -> tuple[_Backend, dict[str, object]]:
        database = PostgresServer(self.folder / "postgres")
        return database, fallback(database)


class MysqlSessions(_SessionsElsewhere):
    name = "mysql"

    def open_backend(self) -> tuple[_Backend, dict[str, object]]:
        database = MariaDBServer(self.folder / "mariadb")
        return database, fallback(database)


class RedisAndPostgresSessions(_SessionsElsewhere):
    """Both, so that losing either loses no session."""

    name = "redis+postgres"

    def open_backend(self) -> tuple[_Backend, dict[str, object]]:
        redis, database = RedisServer(self.folder / "redis"), PostgresServer(self.folder / "postgres")
        return _Both(redis, database), {"RedisAddr": redis.address, **fallback(database)}


class _Both:
    def __init__(self, *backends: _Backend) -> None:
        self._backends = backends

    def start(self) -> None:
        for backend in self._backends:
            backend.start()

    def kill(self) -> None:
        for backend in self._backends:
            backend.kill()


STORES: tuple[type[Contender], ...] = (
    *(SqliteSessions, RedisSessions, PostgresSessions, MysqlSessions),
    RedisAndPostgresSessions,
)


class _OneCurl:
    """One curl on one connection that sends ``pieces``, the parts of ``source``, one after the other."""

    filename = "video.mp4"

    def __init__(self, source: Path, pieces: Sequence[Path]) -> None:
        self._source = source
        self._pieces = pieces
        self._name = next(names(1, filename=self.filename))

    def prepare(self, contender: Contender) -> None:
        take_out(contender.store, [self._name], self._source)
        warm_memory(self._source.stat().st_size)

    def _send(self, arguments: Sequence[Sequence[str]], statuses: Sequence[int]) -> Outcome:
        """Each list of arguments is a request of its own, and should be answered with its status."""
        command: list[str] = []
        for request in arguments:
            command += [*(["--next", "--silent", "--write-out", _WRITE_OUT] if command else []), *request]
        transfers, wall = curl(command)
        if [transfer.status for transfer in transfers] != list(statuses):
            raise LoadFailed(f"the pieces were answered with {[transfer.status for transfer in transfers]}")
        return Outcome(wall, len(transfers), sum(transfer.sent for transfer in transfers))

    def verify(self, contender: Contender, _outcome: Outcome) -> None:
        stored = take_out(contender.store, [self._name], self._source)
        if stored.complete != 1:
            raise LoadFailed("the pieces are not stored as the file that they are of")


class RangePieces(_OneCurl):
    """By Content-Range on the slot URL."""

    def run(self, contender: Contender, _seconds: int) -> Outcome:
        size = self._source.stat().st_size
        url = f"{contender.url}{signed_path(SECRET, self._name, size)}"
        requests, offset = [], 0
        for piece in self._pieces:
            last = offset + piece.stat().st_size - 1
            content_range = f"Content-Range: bytes {offset}-{last}/{size}"
            requests.append(["--output", os.devnull, "-H", content_range, "--upload-file", str(piece), url])
            offset = last + 1
        return self._send(requests, [202] * (len(requests) - 1) + [201])


class TusPieces(_OneCurl):
    """By tus."""

    filename = "film.mp4"

    def run(self, contender: Contender, _seconds: int) -> Outcome:
        url, requests, offset = self._create(contender), [], 0
        for piece in self._pieces:
            head = ["--output", os.devnull, "-X", "PATCH", *_TUS, "-H", f"Upload-Offset: {offset}"]
            requests.append([*head, "--upload-file", str(piece), url])
            offset += piece.stat().st_size
        return self._send(requests, [204] * len(requests))

    def _create(self, contender: Contender) -> str:
        size = self._source.stat().st_size
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size)}
        slot = f"{contender.url}{signed_path(SECRET, self._name, size)}"
        request = urllib.request.Request(slot, method="POST", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return f"{contender.url}{answer.headers['Location']}"


class WholeFiles(_OneCurl):
    """The same bytes without a session: each of the pieces as a file of its own."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        super().__init__(pieces[0], pieces)
        self._names = list(names(len(pieces), filename="picture.png"))

    def prepare(self, contender: Contender) -> None:
        self._take_out(contender)
        warm_memory(sum(piece.stat().st_size for piece in self._pieces))

    def run(self, contender: Contender, _seconds: int) -> Outcome:
        requests = []
        for name, piece in zip(self._names, self._pieces, strict=True):
            url = f"{contender.url}{signed_path(SECRET, name, piece.stat().st_size)}"
            requests.append(["--output", os.devnull, "--upload-file", str(piece), url])
        return self._send(requests, [201] * len(requests))

    def verify(self, contender: Contender, outcome: Outcome) -> None:
        if self._take_out(contender) != outcome.answered:
            raise LoadFailed("not all that was answered with success is stored")

    def _take_out(self, contender: Contender) -> int:
        pairs = zip(self._names, self._pieces, strict=True)
        return sum(take_out(contender.store, [name], piece).complete for name, piece in pairs)


def split(source: Path, size: int) -> list[Path]:
    """The parts of a file, of ``size`` bytes each, as files beside it."""
    parts: list[Path] = []
    with source.open("rb") as file:
        while data := file.read(size):
            part = source.with_name(f"{source.name}.{size}.{len(parts)}")
            part.write_bytes(data)
            parts.append(part)
    return parts
