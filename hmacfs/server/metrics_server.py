"""The port where metrics are asked for: a small HTTP server in one thread of the master.

Its clients, all together, cost no more than ``CONNECTIONS`` descriptors, one thread, and the time of ``render``. A
further connection evicts the one that has been waiting longest for its request, so that silent clients keep no scrape
out.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

from hmacfs.protocol.http1.heads import BadRequestHead, RequestHead, parse_head
from hmacfs.protocol.http1.responses import closing_response

log = logging.getLogger("hmacfs.server")

#: Open at most.
CONNECTIONS = 32
#: For a connection, from its beginning to its end: a scrape of Prometheus takes 10 s at most by default.
CONNECTION_SECONDS = 15.0
#: For its request.
REQUEST_SECONDS = 5.0
_PIECE = 16 * 1024
#: No descriptors are left: pause before the next attempt to accept.
_EXHAUSTED_SECONDS = 0.1

#: Held while a connection is made or closed, and over each fork of this process: the child finds all that it has to
#: close in ``MetricsServer._open``.
_forking = threading.Lock()
os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forking.release)


#: From the values of Accept and Accept-Encoding to the response's headers and content.
Render = Callable[[str, str], tuple[list[tuple[str, str]], bytes]]


class _Connection:
    """One client: a request in, a response out, the end. ``deadline``, for its request, and ``ends`` are times of
    ``time.monotonic``."""

    def __init__(self, sock: socket.socket, deadline: float, ends: float) -> None:
        self.sock = sock
        self.received = b""
        self.answer: memoryview | None = None
        self.deadline = deadline
        self._ends = ends

    def start(self, answer: bytes) -> None:
        self.answer = memoryview(answer)
        self.deadline = self._ends

    @property
    def awaited(self) -> int:
        """The event to wait for: its request, room for its response, or, when that is sent, its end."""
        return selectors.EVENT_WRITE if self.answer else selectors.EVENT_READ

    def receive(self) -> bool:
        """Whether the client is still there. Bytes after its request are discarded."""
        data = self.sock.recv(_PIECE)
        if self.answer is None:
            self.received += data
        return bool(data)

    def send(self) -> None:
        """Send as much as possible without waiting. The client closes first: a close with unread data would be a reset,
        which overtakes the response."""
        assert self.answer is not None
        self.answer = self.answer[self.sock.send(self.answer) :]
        if not self.answer:
            self.sock.shutdown(socket.SHUT_WR)


class MetricsServer:
    """Listens at ``host`` (empty: all addresses) and ``port`` at once. Raises ``OSError`` if it cannot."""

    def __init__(
        self,
        host: str,
        port: int,
        render: Render,
        *,
        request_seconds: float = REQUEST_SECONDS,
        connection_seconds: float = CONNECTION_SECONDS,
    ) -> None:
        self._render = render
        self._request_seconds = request_seconds
        self._connection_seconds = connection_seconds
        self._listeners = _listen(host, port)
        self._wakes, self._waker = socket.socketpair()
        self._open: set[_Connection] = set()
        self._selector = selectors.PollSelector()  # no descriptor, which a fork would share
        self._stopped = False
        for listener in (*self._listeners, self._wakes):
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, in the process that serves."""
        self._stopped = True
        self._waker.send(b"\0")
        self._thread.join()
        self.close_in_child()

    def close_in_child(self) -> None:
        """Close everything, with no shutdown of connections: in a forked process they and the port are the parent's."""
        for sock in (*self._listeners, self._wakes, self._waker, *(each.sock for each in self._open)):
            sock.close()
        self._open.clear()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._poll()
            except Exception:
                log.exception("unexpected error")
                time.sleep(_EXHAUSTED_SECONDS)

    def _poll(self) -> None:
        now = time.monotonic()
        first = min((each.deadline for each in self._open), default=now + self._connection_seconds)
        for key, _ in self._selector.select(max(0.0, first - now)):
            if self._stopped:
                return
            if isinstance(key.data, _Connection):
                self._advance(key.data)
            elif key.fileobj is not self._wakes:
                self._accept(key.fileobj)  # type: ignore[arg-type]  # a listener
        now = time.monotonic()
        for late in [each for each in self._open if each.deadline <= now]:
            self._close(late)

    def _accept(self, listener: socket.socket) -> None:
        try:
            with _forking:
                sock, _ = listener.accept()
                now = time.monotonic()
                connection = _Connection(sock, now + self._request_seconds, now + self._connection_seconds)
                self._open.add(connection)
        except OSError as error:  # the first of them is gone again, or
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_EXHAUSTED_SECONDS)
            return
        sock.setblocking(False)
        self._selector.register(sock, connection.awaited, connection)
        if len(self._open) > CONNECTIONS:
            # Requests first, then answers: both are in the order of their deadlines among themselves.
            self._close(min(self._open, key=lambda each: (each.answer is not None, each.deadline)))

    def _close(self, connection: _Connection) -> None:
        if connection in self._open:
            self._selector.unregister(connection.sock)
            with _forking:
                self._open.discard(connection)
                connection.sock.close()

    def _advance(self, connection: _Connection) -> None:
        if connection not in self._open:  # closed in this round
            return
        try:
            if connection.answer:
                connection.send()
            elif not connection.receive():
                self._close(connection)
                return
            elif connection.answer is None and (answer := self._answer(connection.received)) is not None:
                connection.start(answer)
                connection.send()
        except BlockingIOError:
            pass
        except OSError:  # the client is gone
            self._close(connection)
            return
        self._selector.modify(connection.sock, connection.awaited, connection)

    def _answer(self, received: bytes) -> bytes | None:
        """The whole response to the request that these bytes begin with; ``None`` if that is not complete."""
        try:
            head = parse_head(received)
        except BadRequestHead as error:
            return closing_response(error.status, [("Content-Type", "text/plain")], f"{error}\n".encode(), time.time())
        return None if head is None else self._answer_to(head)

    def _answer_to(self, head: RequestHead) -> bytes:
        method, now = head.environ["REQUEST_METHOD"], time.time()
        if method not in ("GET", "HEAD"):
            return closing_response(HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", "GET, HEAD")], b"", now)
        if head.environ["PATH_INFO"] not in ("/", "/metrics"):
            return closing_response(
                HTTPStatus.NOT_FOUND, [("Content-Type", "text/plain")], b"Metrics are at /metrics.\n", now
            )
        headers, content = self._render(
            head.environ.get("HTTP_ACCEPT", ""), head.environ.get("HTTP_ACCEPT_ENCODING", "")
        )
        return closing_response(HTTPStatus.OK, headers, content, now, is_head=method == "HEAD")


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets at all addresses that the host has, or none. Raises ``OSError``."""
    if not host:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return [socket.create_server(("", port), family=family, dualstack_ipv6=dual)]
    listeners: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            listeners.append(socket.create_server(address, family=family))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _addresses(host: str, port: int) -> Iterator[tuple[socket.AddressFamily, tuple[str, int]]]:
    seen = set()
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        if address not in seen:
            seen.add(address)
            yield family, address  # type: ignore[misc]  # of IPv6 four values
