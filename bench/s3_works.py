"""What is measured of the server with its files in an object store: ``--s3``.

The engine is one SeaweedFS on the same file system as the folders. What it uses of the processor is counted for nobody,
but all share the processors with it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.contenders import Contender, DurableHmacfs, Hmacfs
from bench.fleet import Fleet
from bench.loads import CurlDownload, CurlUpload, Load, WrkDownload, WrkUpload
from bench.material import random_file
from bench.measure import MIB, measure
from bench.metrics import Sample
from bench.object_store import Engine, in_engine
from bench.s3_clients import boto_large, boto_small, rclone_copy
from bench.works import Entry, Work

_BIG = ("gb_per_s", "cpu_per_gb", "peak_mib")
_SMALL = ("per_s", "cpu_ms", "p50_ms", "p99_ms", "peak_mib")
_CONNECTIONS = 8

FOLDER, UNSYNCED = "folder", "folder, no fsync"


class S3Workshop:
    """Makes the works. place: a folder for the stores of the servers; longest: seconds of the longest run."""

    def __init__(self, fleet: Fleet, engine: Engine, place: Path, *, longest: int) -> None:
        self._fleet = fleet
        self._engine = engine
        self._place = place
        self._longest = longest
        self._material = place / "material"
        self._material.mkdir()
        self._kinds: dict[str, type[Contender]] = {
            "s3": in_engine(engine),
            FOLDER: DurableHmacfs,
            UNSYNCED: Hmacfs,
        }

    def works(self) -> list[Work]:
        small, large, huge = (random_file(self._material, size) for size in (1024, 128 * MIB, 1024 * MIB))
        picture = random_file(self._material, 16 * 1024)
        upload = WrkUpload(small, self._material, connections=_CONNECTIONS, longest=self._longest)
        others = Entry("boto3", partial(boto_small, self._engine, small, _CONNECTIONS))
        download = WrkDownload(picture, self._material, connections=_CONNECTIONS)
        return [
            Work(
                "s3-put-1k",
                f"PUT 1 KiB, {_CONNECTIONS} connections",
                _SMALL,
                FOLDER,
                (*self._entries(upload), others),
            ),
            self._large("s3-put-128m", "PUT 128 MiB, one stream", large, folders=True),
            self._large("s3-put-1g", "PUT 1 GiB, one stream", huge, folders=False),
            Work(
                "s3-put-8x128m",
                "PUT 128 MiB, 8 streams at once",
                _BIG,
                FOLDER,
                self._entries(CurlUpload(large, streams=8)),
            ),
            Work("s3-get-128m", "GET 128 MiB, one stream", _BIG, FOLDER, self._entries(CurlDownload(large))[:2]),
            Work(
                "s3-get-16k",
                f"GET 16 KiB, one file, {_CONNECTIONS} connections",
                _SMALL,
                FOLDER,
                self._entries(download)[:2],
            ),
        ]

    def _large(self, name: str, title: str, source: Path, *, folders: bool) -> Work:
        mine = self._entries(CurlUpload(source))
        others = (
            Entry("rclone", lambda _seconds: rclone_copy(self._engine, source)),
            Entry("boto3", lambda _seconds: boto_large(self._engine, source)),
        )
        entries = (*(mine if folders else mine[:1]), *others)
        return Work(name, title, _BIG, "rclone", entries, rounds=1000 if folders else 2)

    def _entries(self, load: Load) -> tuple[Entry, ...]:
        return tuple(Entry(name, partial(self._measure, kind, load)) for name, kind in self._kinds.items())

    def _measure(self, kind: type[Contender], load: Load, seconds: int) -> Sample:
        try:
            return measure(self._fleet.get(kind, self._place), load, seconds)
        finally:
            self._engine.vacuum()
