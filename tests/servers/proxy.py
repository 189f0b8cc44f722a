"""A bad network: a loopback port that leads to another one, and breaks or slows down what goes through it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from typing import Self

from tests.servers import free_port

_BLOCK = 256 * 1024
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to the loopback port ``target``.

    cuts: so many connections are broken off, one after the other: most after a random number of bytes up to
    ``longest`` from the client, some with their first answer, which is lost then. Connections after that are left
    alone, and so are those that need not so many bytes. delay: seconds by which each word of the client is late.
    ``cut`` and ``delayed`` count.
    """

    def __init__(self, target: int, *, cuts: int = 0, longest: int = 0, seed: int = 0, delay: float = 0.0) -> None:
        self.port = free_port()
        self.delay = delay
        self.cut = 0
        self.delayed = 0
        self._target = target
        self._wanted = cuts
        self._longest = longest
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._sockets: set[socket.socket] = {self._listener}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            _end(sock)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            client.close()
            return
        with self._lock:
            self._sockets |= {client, server}
        server.settimeout(None)
        bytes_left, loses_answer = self._fate()
        back = threading.Thread(target=self._forward, args=(server, client, 0 if loses_answer else None), daemon=True)
        back.start()
        self._forward(client, server, bytes_left, delayed=True)
        back.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    def _fate(self) -> tuple[int | None, bool]:
        """How many bytes of the client pass, ``None`` for all; and whether the answer is lost."""
        with self._lock:
            if self.cut >= self._wanted:
                return None, False
            if self._random.random() < 0.2:
                return None, True
            return self._random.randrange(self._longest), False

    def _forward(
        self, source: socket.socket, target: socket.socket, bytes_left: int | None, *, delayed: bool = False
    ) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        with contextlib.suppress(OSError):
            while count := source.recv_into(buffer):
                if delayed and self.delay:
                    self.delayed += 1
                    time.sleep(self.delay)
                if bytes_left is not None:
                    passed = min(count, bytes_left)
                    target.sendall(buffer[:passed])
                    bytes_left -= passed
                    if passed < count:
                        self._break(source, target)
                        return
                else:
                    target.sendall(buffer[:count])
            target.shutdown(socket.SHUT_WR)
            return
        _end(target)
        _end(source)

    def _break(self, *sockets: socket.socket) -> None:
        with self._lock:
            self.cut += 1
        for sock in sockets:
            _end(sock)


def _end(sock: socket.socket) -> None:
    """Break a connection off, also for a thread that waits for it. It is reset once it is closed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.shutdown(socket.SHUT_RDWR)
