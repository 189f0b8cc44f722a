"""An HTTP client that lets a test decide about every byte."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, cast

from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.machine import OwnClock


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Kept(io.RawIOBase):
    """A file that outlives the responses that read from it."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._file.readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._file.readline(-1 if size is None else size)


class Client:
    """One connection, to a server or to a loopback port. ``send`` puts bytes on it, ``answer`` reads the next response.

    source: the address to come from; the loopback network has many.
    """

    def __init__(self, server: HmacFileServer | int, timeout: float = 45.0, *, source: str = "127.0.0.1") -> None:
        if isinstance(server, int):
            self.sock = socket.create_connection(("127.0.0.1", server), timeout, (source, 0))
        elif server.settings.get("UnixSocket"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(str(server.settings["ListenPort"]))
        else:
            self.sock = socket.create_connection(("127.0.0.1", server.port), timeout, (source, 0))

        # One buffer for all answers: a response of http.client makes one of its own and loses what it read ahead.
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def secure(self, context: ssl.SSLContext) -> None:
        """Go on over TLS."""
        self._file.close()
        self.sock = context.wrap_socket(self.sock)
        self._file = self.sock.makefile("rb")

    def reset(self) -> None:
        """Break the connection off, as a peer that dies does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, method: str, target: str, **headers: object) -> None:
        """Send a request's head; ``content_length=5`` becomes ``Content-Length: 5``."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items() if value is not None]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, method: str = "GET") -> Answer:
        response = http.client.HTTPResponse(self.sock, method=method)
        response.fp.close()
        response.fp = cast("io.BufferedReader", _Kept(self._file))
        response.begin()
        body = response.read()
        return Answer(response.status, response.headers, body)

    def informational(self) -> bytes:
        """The next head, read byte by byte, so that nothing after it is lost."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self._file.read(1)
            assert byte, data
            data += byte
        return data

    def read_into(self, buffer: bytearray) -> int:
        """Some bytes of a body, after a head that ``informational`` read."""
        return self._file.readinto1(buffer)

    def is_closed(self, within: float = 10.0) -> bool:
        """Whether the server ends the connection, sending nothing more."""
        self.sock.settimeout(within)
        try:
            return self._file.read(1) == b""
        except (ConnectionResetError, ssl.SSLError):
            return True
        except TimeoutError:
            return False

    def stays_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(before)
        return False


def request(server: HmacFileServer | int, method: str, target: str, body: bytes = b"", **headers: object) -> Answer:
    """One request on a connection of its own."""
    with Client(server) as client:
        if body or method == "PUT":
            headers.setdefault("content_length", len(body))
        client.head(method, target, **headers)
        client.send(body)
        return client.answer(method)


def put(server: HmacFileServer, name: str, body: bytes, content_type: str | None = None) -> Answer:
    """A correctly signed upload."""
    return request(server, "PUT", server.sign_v(name, len(body)), body, content_type=content_type)


def get(server: HmacFileServer, name: str, **headers: str) -> Answer:
    return request(server, "GET", server.path(name), b"", **headers)


@contextmanager
def latencies(server: HmacFileServer) -> Iterator[list[float]]:
    """Measures small requests, one after the other, for as long as the context lasts; in seconds, without what tests and
    servers had to wait for a processor."""
    found: list[float] = []
    finished = threading.Event()

    def ask() -> None:
        with Client(server, timeout=60) as client, OwnClock() as clock:
            while not finished.is_set():
                before = clock()
                client.head("GET", "/healthz")
                assert client.answer().status == 200
                found.append(max(0.0, clock() - before))
                time.sleep(0.005)

    asker = threading.Thread(target=ask)
    asker.start()
    wait_until(lambda: len(found) > 3 or not asker.is_alive(), what="the first answers")
    found.clear()
    try:
        yield found
    finally:
        finished.set()
        asker.join()
