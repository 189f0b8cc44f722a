"""Names of files as XMPP servers make them, and the signed paths to upload them by."""

from __future__ import annotations

import hmac
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

PREFIX = "/upload/"


def names(count: int, *, seed: int = 0, filename: str = "photo.jpg") -> Iterator[str]:
    """``<uuid>/<filename>``: as many, all different, the same ones for the same seed."""
    random_bits = random.Random(seed).getrandbits
    for _ in range(count):
        digits = f"{random_bits(128):032x}"
        yield f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}/{filename}"


def signed_path(secret: str, name: str, size: int) -> str:
    """The URL path and query that upload a file of that name and size (scheme v: HMAC-SHA256 over both).

    For names that need no escaping.
    """
    mac = hmac.digest(secret.encode(), f"{name} {size}".encode(), "sha256").hex()
    return f"{PREFIX}{name}?v={mac}"


class UploadList:
    """Signed paths for uploads of ``size`` bytes, in the files ``<base>.<n>``, one for each thread of the load program.

    A thread takes its paths in their order, so that the names that get stored are the first ones of ``by_thread``.
    """

    def __init__(self, base: Path, secret: str, size: int, *, threads: int, count: int) -> None:
        self.base = base
        self.size = size
        everything = list(names(count))
        self.by_thread: list[Sequence[str]] = [everything[thread::threads] for thread in range(threads)]
        for thread, mine in enumerate(self.by_thread):
            lines = "".join(f"{signed_path(secret, name, size)}\n" for name in mine)
            base.with_name(f"{base.name}.{thread}").write_text(lines)
