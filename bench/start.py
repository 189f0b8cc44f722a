"""How long a server takes from its start to its first answer."""

from __future__ import annotations

import socket
import time

from bench.contenders import Contender
from bench.outcome import LoadFailed

_HEAD = b"GET /upload/none HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
_PAUSE_SECONDS = 0.002
_TIMEOUT_SECONDS = 30.0


def seconds_to_answer(contender: Contender) -> float:
    """From the moment before its processes are started until an answer begins. It must have run before, so that its
    program is built and its bytecode cached.

    Raises ``LoadFailed`` and what a launch can raise.
    """
    begin = time.monotonic()
    contender.launch()
    while not (answer := _ask(contender.port)):
        if time.monotonic() > begin + _TIMEOUT_SECONDS:
            raise LoadFailed(f"{contender.name} does not answer")
        time.sleep(_PAUSE_SECONDS)
    lasted = time.monotonic() - begin
    if not answer.startswith(b"HTTP/1.1 404"):
        raise LoadFailed(f"{contender.name} answered {answer[:40]!r}")
    return lasted


def _ask(port: int) -> bytes:
    """The beginning of an answer; empty while there is none. A server that tries its port first resets what waits."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            connection.sendall(_HEAD)
            return connection.recv(4096)
    except ConnectionError:
        return b""
