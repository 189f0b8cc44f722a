"""A server that answers what a test has written down, to see what the client of object stores sends and makes of it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

from hmacfs.config.values import Secret
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.observer import CallObserver
from hmacfs.stores.s3.options import S3Options
from hmacfs.system.threads import FileCalls, ThreadOffload

ACCESS_KEY, SECRET_KEY = "the-access-key", "the-secret-key-that-nobody-sees"


#: Bytes, over six seconds.
_DRIBBLED = 300


class Received(NamedTuple):
    """A request. connection: the number of its connection, from 1."""

    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Step(NamedTuple):
    """What a request meets. answer: its bytes; empty for none. then: "keep" the connection, "close" it, "hang" with it,
    "dribble" for some seconds. on_head: before the body is read."""

    answer: bytes = b""
    then: str = "keep"
    on_head: bool = False


LOST = Step(then="close")
HUNG = Step(then="hang")


def answer(status: int = 200, body: bytes | str = b"", **headers: str) -> Step:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(data)}", "Date: Tue, 01 Dec 2026 00:00:00 GMT"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return Step("\r\n".join([*lines, "", ""]).encode() + data)


def error(status: int, code: str, more: str = "") -> Step:
    return answer(status, f"<Error><Code>{code}</Code><Message>Words of it.</Message>{more}</Error>")


class Script:
    """As a context: a server that answers each request by the next step, and then by 200. ``received`` has the requests
    that were read to their end, or of which the head was answered."""

    def __init__(self, *steps: Step, tls: ssl.SSLContext | None = None, read_delay: float = 0.0) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.read_delay = read_delay
        self._steps = deque(steps)
        self._tls = tls
        self._is_over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port = int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"http{'' if self._tls is None else 's'}://127.0.0.1:{self.port}"

    def then(self, *steps: Step) -> None:
        self._steps += steps

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, act: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=act, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._start(self._serve, client, self.connections)

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            client.settimeout(0.02)
            sock = self._tls.wrap_socket(client, server_side=True) if self._tls is not None else client
            with sock:
                while self._answer(sock, number):
                    pass

    def _answer(self, sock: socket.socket, number: int) -> bool:
        """Whether the connection goes on."""
        data = self._read_until(sock, lambda data: b"\r\n\r\n" in data)
        if data is None:
            return False
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        step = self._steps.popleft() if self._steps else answer(ETag='"tag"')
        length = int(headers.get("content-length", "0"))
        if not step.on_head:
            rest = self._read_until(sock, lambda more: len(body) + len(more) >= length)
            if rest is None:
                return False
            body += rest
        self.received.append(Received(number, method, target, headers, bytes(body)))
        if step.answer:
            sock.settimeout(5)
            sock.sendall(step.answer)
            sock.settimeout(0.02)
        if step.then == "hang":
            self._is_over.wait()
        if step.then == "dribble":
            for _ in range(_DRIBBLED):
                sock.sendall(b"a")
                self._is_over.wait(0.02)
        return step.then == "keep"

    def _read_until(self, sock: socket.socket, is_enough: Callable[[bytearray], bool]) -> bytearray | None:
        """``None`` at the end of the connection, or of this server."""
        data = bytearray()
        while not is_enough(data):
            time.sleep(self.read_delay)
            try:
                more = sock.recv(64 * 1024)
            except TimeoutError:
                if self._is_over.is_set():
                    return None
                continue
            if not more:
                return None
            data += more
        return data


def client_of(endpoint: str, observer: CallObserver | None = None, **changes: Any) -> S3Bucket:
    usual = {"access_key": ACCESS_KEY, "secret_key": Secret(SECRET_KEY), "timeout": 5.0, "retry_delay": 0.01}
    options = S3Options(**{"endpoint": endpoint, "bucket": "bucket", "max_retries": 2, **usual, **changes})
    return S3Bucket(options, FileCalls(ThreadOffload(1)), observer)
