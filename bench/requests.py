"""The requests that are counted, as bytes. Imports nothing of gevent, so that a client of any kind can make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

SECRET = "a secret of the call counter, long enough"


class Kind(NamedTuple):
    """name: for people; status: what is answered; of: the request's bytes, for the number of a file."""

    name: str
    status: int
    of: Callable[[int], bytes]


def put(number: int, size: int) -> bytes:
    """An upload of about so many bytes to the file of that number."""
    from hmacfs.protocol.keyring import Keyring, sign_v

    path = f"{number:06}-{size}/a.bin"
    length = size - number % 16  # no two users' files are as long
    target = f"/upload/{path}?v={sign_v(Keyring([SECRET.encode()]), path, length)}"
    return f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + b"x" * length


def get(number: int, size: int) -> bytes:
    """Its download."""
    return f"GET /upload/{number:06}-{size}/a.bin HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def kinds() -> Iterator[Kind]:
    """Each kind. Downloads are of one file, as those of ``bench.wrk``, but for the last kind: of the uploads' files."""
    for size, text in ((1024, "1 KiB"), (16 * 1024, "16 KiB")):
        yield Kind(f"PUT {text}", 201, partial(put, size=size))
        yield Kind(f"GET {text}", 200, lambda _, size=size: get(0, size))  # type: ignore[misc]
    yield Kind("GET 16 KiB, each another", 200, partial(get, size=16 * 1024))
