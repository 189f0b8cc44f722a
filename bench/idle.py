"""Connections that stay open and say nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

from bench.outcome import LoadFailed

_SPARE_DESCRIPTORS = 100


@contextlib.contextmanager
def idle_connections(port: int, path: str, count: int) -> Iterator[None]:
    """Keep so many connections open, on each of which one download of ``path`` has been answered.

    Raises ``LoadFailed`` if that is not possible or one of them does not live to the end.
    """
    allow_descriptors(count + _SPARE_DESCRIPTORS)
    head = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            connection.sendall(head)
            connections.append(connection)
        answered = sum(connection.recv(65536).startswith(b"HTTP/1.1 200") for connection in connections)
        yield
        alive = sum(map(_is_open, connections))
    if answered != count or alive != count:
        raise LoadFailed(f"of {count} connections {answered} were answered and {alive} stayed open")


def allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise LoadFailed(f"{count} open files are more than the limit of {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _is_open(connection: socket.socket) -> bool:
    """Whether the peer has not closed it; bytes of the answer may still be there."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
