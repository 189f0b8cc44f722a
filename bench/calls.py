"""How many of this project's own calls a small request makes, and how often it passes from one package to another.

Counted in process with ``sys.setprofile``, over the real connection loop on a socket pair: python -m bench.calls
"""

from __future__ import annotations

import collections
import os
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

# First: it patches the modules that all others import.
from bench import in_process  # isort: skip

import gevent

import hmacfs
from bench.requests import SECRET, kinds

PACKAGE = str(Path(hmacfs.__file__).parent) + os.sep
WARM_UP = 50


class Counter:
    """Counts calls of functions below the package: by function, and changes of package along the way."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.changes = 0
        self._package = ""

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(PACKAGE):
            return
        where = path.removeprefix(PACKAGE).removesuffix(".py")
        self.calls[f"{where.replace(os.sep, '.')}:{frame.f_code.co_qualname}"] += 1
        package = where.partition(os.sep)[0]
        self.changes += package != self._package
        self._package = package


class Client:
    """One connection to the application in this process."""

    def __init__(self, application: Any) -> None:
        mine, theirs = socket.socketpair()
        gevent.spawn(in_process.connection(application, theirs).serve)
        self._socket = mine

    def ask(self, data: bytes) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer, whose body is read to its end."""
        self._socket.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        left = int(headers.get("content-length", "0")) - len(body)
        while left > 0:
            left -= len(self._socket.recv(65536))
        return int(first.split()[1]), headers

    def patch(self, number: int) -> tuple[bytes, bytes]:
        """The requests that begin a tus upload of two pieces, and send the first of them."""
        from hmacfs.protocol.keyring import Keyring, sign_v

        path, piece = f"tus/{number:06}/a.bin", b"x" * 1024
        target = f"/upload/{path}?v={sign_v(Keyring([SECRET.encode()]), path, 2 * len(piece))}"
        tus = "HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
        status, headers = self.ask(
            f"POST {target} {tus}Upload-Length: {2 * len(piece)}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert status == 201, status
        location = "/" + headers["location"].split("://")[-1].partition("/")[2]
        head = (
            f"PATCH {location} {tus}Upload-Offset: %d\r\n"
            f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(piece)}\r\n\r\n"
        )
        return (head % 0).encode() + piece, (head % len(piece)).encode() + piece


def counted(client: Client, data: bytes, expected: int) -> Counter:
    counter = Counter()
    sys.setprofile(counter)
    try:
        status, _ = client.ask(data)
    finally:
        sys.setprofile(None)
    assert status == expected, status
    return counter


def report(name: str, counter: Counter, *, details: bool) -> None:
    print(f"{name}: {counter.calls.total()} calls, {counter.changes} changes of package")
    for function, count in sorted(counter.calls.items()) if details else ():
        print(f"    {count:3} {function}")


def main() -> None:
    details = "--details" in sys.argv[1:]
    with in_process.application() as application:
        client = Client(application)
        wanted = list(kinds())
        for number in range(WARM_UP):
            for kind in wanted:
                client.ask(kind.of(number))
            for piece in client.patch(number):
                client.ask(piece)
        for kind in wanted:
            report(kind.name, counted(client, kind.of(WARM_UP), kind.status), details=details)
        first, last = client.patch(WARM_UP)
        report("PATCH 1 KiB, not the last", counted(client, first, 204), details=details)
        report("PATCH 1 KiB, the last", counted(client, last, 204), details=details)
    sys.stdout.flush()
    os._exit(0)  # the application's threads and tasks know no end


if __name__ == "__main__":
    main()
