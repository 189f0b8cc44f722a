"""Several servers that share a bucket and the store of their sessions, as machines behind a balancer do."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer, ObjectStore, in_bucket
from tests.servers.object_store import ObjectStoreServer

#: The servers' own notes that stay: whether conditional writes fail or hold.
KEPT = (".hmacfs/conditional-writes-fail", ".hmacfs/conditional-writes-hold")


@contextlib.contextmanager
def sharing(folder: Path, engine: ObjectStore, bucket: str, **settings: object) -> Iterator[list[HmacFileServer]]:
    """Two of them, which run."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(machine(folder / f"machine-{number}", engine, bucket, **settings)) for number in (1, 2)
        ]


def machine(folder: Path, engine: ObjectStore, bucket: str, **settings: object) -> HmacFileServer:
    """Not started yet."""
    return HmacFileServer(folder / "server", **(in_bucket(engine, bucket, folder) | settings))


def leftovers(engine: ObjectStoreServer, bucket: str, names: Collection[str]) -> list[str]:
    """What is in the bucket besides files of these names: objects, and multipart uploads of the names."""
    with contextlib.closing(engine.client(bucket)) as client:
        found = [one.key for page in client.pages("") for one in page if one.key not in (*names, *KEPT)]
        return found + [f"{one.key}: {one.upload_id}" for name in names for one in client.uploads(name)]


def wait_for_sweep(server: HmacFileServer, engine: ObjectStoreServer, bucket: str, names: Collection[str]) -> None:
    """Sweep until nothing is left but these files, which is so once all else is older than ``SessionTTL``."""

    def is_swept() -> bool:
        server.sweep()
        return leftovers(engine, bucket, names) == []

    try:
        wait_until(is_swept, timeout=60)
    except TimeoutError:
        raise AssertionError(f"left after the sweep: {leftovers(engine, bucket, names)}") from None
