"""Clients that take their time: each reads, or writes, a little now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from bench.idle import allow_descriptors
from bench.outcome import LoadFailed

#: Four KiB a second: above ``MinBytesPerSecond``.
_STEP_BYTES = 2048
_PAUSE_SECONDS = 0.5
_SPARE_DESCRIPTORS = 100
_TIMEOUT_SECONDS = 10


@contextlib.contextmanager
def slow_clients(port: int, downloads: Sequence[str], uploads: Sequence[str], size: int) -> Iterator[None]:
    """Keep a connection for each of these paths, of files of ``size`` bytes, in the midst of its transfer.

    Raises ``LoadFailed`` if one of them does not live to the end.
    """
    allow_descriptors(len(downloads) + len(uploads) + _SPARE_DESCRIPTORS)
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(_begun(port, f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")) for path in downloads
        ]
        head = f"HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n"
        writers = [stack.enter_context(_begun(port, f"PUT {path} {head}")) for path in uploads]
        end, broken = threading.Event(), list[str]()
        thread = threading.Thread(target=_dawdle, args=(readers, writers, end, broken))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
    if broken:
        raise LoadFailed(f"{len(broken)} steps of slow transfers failed: {broken[0]}")


def _begun(port: int, head: str) -> socket.socket:
    """A connection with a request on it. Little is under way to the client, as over a thin line."""
    connection = socket.socket()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STEP_BYTES)
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(("127.0.0.1", port))
        connection.sendall(head.encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _dawdle(
    readers: Sequence[socket.socket], writers: Sequence[socket.socket], end: threading.Event, broken: list[str]
) -> None:
    """A last step comes after the end. broken: gets what went wrong, once for each step of each connection."""
    piece = bytes(_STEP_BYTES)
    is_over = False
    while not is_over:
        is_over = end.wait(_PAUSE_SECONDS)
        for reader in readers:
            try:
                if not reader.recv(_STEP_BYTES):
                    broken.append("a download ended")
            except OSError as error:
                broken.append(f"a download: {error}")
        for writer in writers:
            try:
                writer.sendall(piece)
            except OSError as error:
                broken.append(f"an upload: {error}")
