"""A loopback port that leads to an object store, and fails as a test wants it to: each operation apart."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from tests.servers import free_port

_PIECE = 256 * 1024
_RESET = struct.pack("ii", 1, 0)
#: Headers that are of one connection.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Fault(NamedTuple):
    """What happens to a request. Of several, the first that applies; each is a kind of failure of its own.

    reaches: whether the engine gets it. hangs: no answer ever comes. status, code: an answer of that kind instead of the
    engine's. passed: so many bytes of the answer's body pass before the connection is reset; ``None`` for nothing of the
    answer.
    """

    reaches: bool = True
    hangs: bool = False
    status: int = 0
    code: str = ""
    passed: int | None = None


#: The engine has carried it out, and nobody hears of it.
LOST_ANSWER = Fault()
#: The connection is reset before the engine hears of it.
RESET = Fault(reaches=False)
#: Nothing comes back. The engine has carried it out, or never hears of it.
HUNG_AFTER, HUNG_BEFORE = Fault(hangs=True), Fault(reaches=False, hangs=True)
SLOW_DOWN = Fault(reaches=False, status=503, code="SlowDown")
#: An error that is none: the engine has carried it out.
STORED_500 = Fault(status=500, code="InternalError")


def operation_of(method: str, target: str) -> str:
    """Its name in ``Bucket``; the bucket is in the path."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.path.lstrip("/").partition("/")[2]:
        return "uploads" if "uploads" in query else "list"
    if "uploadId" in query:
        return {"PUT": "put_part", "GET": "parts", "DELETE": "abort"}.get(method, "complete")
    return "begin_multipart" if method == "POST" else method.lower()


class FaultyEngine:
    """Forwards to the engine at the loopback port ``target``. As a context it runs.

    delay: seconds by which each answer is late. ``calls`` counts the requests by operation, ``failed`` those that a
    fault befell.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.target = target
        self.delay = 0.0
        self.calls: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._server: _Server | None = None
        self._sockets: set[socket.socket] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, operation: str, *faults: Fault) -> None:
        """The next requests of that operation fail, each in its way; after that they pass."""
        with self._lock:
            self._faults[operation] += faults

    def fail_always(self, operation: str, fault: Fault | None) -> None:
        """All of them, until it is called with ``None``."""
        with self._lock:
            if fault is None:
                self._always.pop(operation, None)
            else:
                self._always[operation] = fault

    def forgive(self) -> None:
        """From now on nothing fails."""
        with self._lock:
            self._faults.clear()
            self._always.clear()

    def fate(self, operation: str) -> Fault | None:
        """Of the request that is here now."""
        with self._lock:
            self.calls[operation] += 1
            faults = self._faults[operation]
            fault = faults.popleft() if faults else self._always.get(operation)
            self.failed[operation] += fault is not None
            return fault

    def hang(self) -> None:
        """Until this proxy stops."""
        self._is_over.wait()

    def refuse(self) -> None:
        """From now on connections are refused, and those that there are end."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            reset(sock)

    def accept(self) -> None:
        """Connections are accepted again."""
        if self._server is None:
            self._server = _Server(self)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.add(sock)

    def remove(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(sock)

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.refuse()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, engine: FaultyEngine) -> None:
        self.engine = engine
        super().__init__(("127.0.0.1", engine.port), _Handler)

    def handle_error(self, *_: object) -> None:
        """A connection that broke is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.engine.add(self.connection)

    def finish(self) -> None:
        self.server.engine.remove(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def _forward(self) -> None:
        engine = self.server.engine
        fault = engine.fate(operation_of(self.command, self.path))
        left = int(self.headers.get("Content-Length") or 0)
        if fault is not None and not fault.reaches:
            self._skip(left)
            self._fail(fault)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", engine.target, timeout=120)
        try:
            answer = self._ask(upstream, left)
            if engine.delay:
                time.sleep(engine.delay)
            if fault is None:
                self._pass(answer)
            elif fault.passed is not None:
                self._pass(answer, fault.passed)
            else:
                answer.read()
                self._fail(fault)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - names of http.server

    def _ask(self, upstream: http.client.HTTPConnection, left: int) -> http.client.HTTPResponse:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders()
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            if not piece:
                raise ConnectionResetError
            upstream.send(piece)
            left -= len(piece)
        return upstream.getresponse()

    def _pass(self, answer: http.client.HTTPResponse, limit: int | None = None) -> None:
        """limit: so many bytes of the body pass, and then the connection is reset."""
        length = answer.headers.get("Content-Length")
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if length is None and answer.status not in (204, 304):
            body = answer.read()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        while piece := answer.read(_PIECE if limit is None else min(_PIECE, limit)):
            self.wfile.write(piece)
            limit = None if limit is None else limit - len(piece)
        if limit is not None:
            reset(self.connection)
            self.close_connection = True

    def _skip(self, left: int) -> None:
        while left and (piece := self.rfile.read(min(left, _PIECE))):
            left -= len(piece)

    def _fail(self, fault: Fault) -> None:
        if fault.hangs:
            self.server.engine.hang()
        if not fault.status or fault.hangs:
            reset(self.connection)
            self.close_connection = True
            return
        body = f"<Error><Code>{fault.code}</Code><Message>As the test wants it.</Message></Error>".encode()
        self.send_response(fault.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def reset(sock: socket.socket) -> None:
    """Break a connection off, also for a thread that waits for it. It is reset once it is closed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.shutdown(socket.SHUT_RDWR)
