"""A private object store (SeaweedFS), and this server with its files in it."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from bench.contenders import PROBE, DurableHmacfs
from bench.outcome import LoadFailed
from bench.stores import SAMPLE_BYTES, Stored, sample_offsets
from tests.servers.hmacfs import in_bucket
from tests.servers.seaweedfs import SeaweedFS

BUCKET = "files"
#: What one request can delete.
_DELETED_AT_ONCE = 1000
_COMPARE_EVERY = 500


class Engine:
    """SeaweedFS with one bucket, in a folder; as a context it runs."""

    def __init__(self, folder: Path) -> None:
        self.server = SeaweedFS(folder)

    def __enter__(self) -> Self:
        self.server.start()
        self.server.make_bucket(BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()

    @property
    def environment(self) -> Mapping[str, str]:
        """How AWS's tools, and those that look where they do, are told of the keys."""
        return {"AWS_ACCESS_KEY_ID": self.server.access_key, "AWS_SECRET_ACCESS_KEY": self.server.secret_key}

    @cached_property
    def client(self) -> Any:
        """boto3's."""
        from bench.boto import client_of

        return client_of(self.server.endpoint, self.server.access_key, self.server.secret_key)

    def put(self, key: str, source: Path) -> None:
        with source.open("rb") as body:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def sizes(self) -> dict[str, int]:
        """Of all objects, by their keys."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def equals(self, key: str, source: Path) -> bool:
        """Whether an object has the size of a file, and the same bytes at places spread over all of it."""
        size = source.stat().st_size
        if self.client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] != size:
            return False
        with source.open("rb") as file:
            for offset in sample_offsets(size):
                wanted = os.pread(file.fileno(), SAMPLE_BYTES, offset)
                span = f"bytes={offset}-{offset + len(wanted) - 1}"
                if self.client.get_object(Bucket=BUCKET, Key=key, Range=span)["Body"].read() != wanted:
                    return False
        return True

    def remove(self, keys: Iterable[str]) -> None:
        """Delete them, and have the engine give their space back: it would do so some time."""
        left = list(keys)
        while left:
            some, left = left[:_DELETED_AT_ONCE], left[_DELETED_AT_ONCE:]
            said = self.client.delete_objects(
                Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
            )
            if said.get("Errors"):
                raise LoadFailed(f"the engine does not delete: {said['Errors'][0]}")

    def vacuum(self) -> None:
        url = f"http://127.0.0.1:{self.server.master_port}/vol/vacuum?garbageThreshold=0.001"
        with urllib.request.urlopen(url, timeout=120) as answer:
            answer.read()

    def take_out(self, expected: Iterable[str], source: Path, gap: int | None) -> Stored:
        """As ``stores.take_out``."""
        stored, size = self.sizes(), source.stat().st_size
        found: list[str] = []
        complete = missing = 0
        for index, name in enumerate(expected):
            if name not in stored:
                missing += 1
                if gap is not None and missing > gap:
                    break
                continue
            missing = 0
            complete += stored[name] == size and (index % _COMPARE_EVERY != 0 or self.equals(name, source))
            found.append(name)
        self.remove(found)
        return Stored(complete, len(found) - complete)


class S3Hmacfs(DurableHmacfs):
    """This project's server as it is shipped, with its files in an object store."""

    name = "s3"
    engine: ClassVar[Engine]

    def launch(self) -> None:
        settings = in_bucket(self.engine.server, BUCKET, self.folder / "hmacfs")
        self.run_server(ListenPort=f"127.0.0.1:{self.port}", **settings)

    def put_in(self, name: str, source: Path) -> None:
        self.engine.put(name, source)

    def take_out(self, expected: Iterable[str], source: Path, *, gap: int | None = None) -> Stored:
        return self.engine.take_out(expected, source, gap)

    def _has_probe(self) -> bool:
        return PROBE in self.engine.sizes()

    def _remove_probe(self) -> None:
        self.engine.remove([PROBE])


def in_engine(engine: Engine) -> type[S3Hmacfs]:
    """That server, with its files in this engine."""
    return cast("type[S3Hmacfs]", type("InEngine", (S3Hmacfs,), {"engine": engine}))
