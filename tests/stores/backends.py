"""The stores that the contract suite and the use cases' tests run over, each with its locker and what a test may do
behind their backs."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.locker import FileLocker
from hmacfs.stores.local.partial import LocalPartialUpload, LocalPartialUploads
from hmacfs.uploads.contracts.locks import Locker
from hmacfs.uploads.contracts.requests import Sink
from hmacfs.uploads.contracts.stores import FileStore, PartialUpload
from hmacfs.uploads.files import NO_METADATA, FileInfo, FileMetadata
from tests.stores.engine import Engine, Killed, Process
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.local import local_store
from tests.stores.objects import ObjectStore
from tests.stores.unfinished_objects import UnfinishedObject

#: Small, so that a few bytes are several parts.
PART_SIZE = 16


class Backend(Protocol):
    """store, locker: of one process. on_wait: called when a writer waits for the lock. upload_class: of its unfinished
    uploads."""

    on_wait: Callable[[], None]

    @property
    def store(self) -> FileStore: ...

    @property
    def locker(self) -> Locker: ...

    @property
    def upload_class(self) -> type[PartialUpload]: ...

    def publish_and_die(self, key: str, name: StoredName) -> None:
        """What a process leaves that is killed once it has made the upload visible."""

    def take_away(self, name: StoredName) -> object:
        """Remove a file so that ``put_back`` makes it the same file again."""

    def put_back(self, name: StoredName, file: object) -> None: ...


class _FolderPartials(LocalPartialUploads):
    """Its files have the test's time, and not the kernel's."""

    clock: Callable[[], float]
    where: Path

    def create(self, key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        super().create(key, name, length, metadata)
        os.utime(self.where / key, (self.clock(), self.clock()))


class FolderBackend:
    upload_class = LocalPartialUpload

    def __init__(self, clock: Callable[[], float]) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hmacfs-test-"))
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self.store = local_store(self.root, durable=False)
        self.store.partials = partials = _FolderPartials(self.store)
        partials.clock, partials.where = clock, self.root / ".hmacfs" / "partial"
        self.on_wait: Callable[[], None] = lambda: None
        self.locker = FileLocker(partials, patience=0.05, sleep=lambda _: self.on_wait())

    def publish_and_die(self, key: str, name: StoredName) -> None:
        target = self.root / name.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.root / ".hmacfs" / "partial" / key, target)

    def take_away(self, name: StoredName) -> object:
        return (self.root / name.path).rename(self.root / ".hmacfs" / "away")

    def put_back(self, name: StoredName, file: object) -> None:
        (self.root / name.path).unlink()
        (self.root / ".hmacfs" / "away").rename(self.root / name.path)


class ObjectBackend:
    upload_class = UnfinishedObject

    def __init__(self, clock: Callable[[], float], part_size: int = PART_SIZE) -> None:
        self.engine = Engine(clock, part_size)
        self.table = LeaseTable(clock, 1e9)
        self.on_wait: Callable[[], None] = lambda: None
        self.store = ObjectStore(Process(self.engine))
        self.locker = MemoryLocker(self.table, lambda _: self.on_wait())

    def process(self, kill_at: Callable[[str, str], bool]) -> ObjectStore:
        """Another process's store, which may be killed."""
        return ObjectStore(Process(self.engine, kill_at))

    def publish_and_die(self, key: str, name: StoredName) -> None:
        def is_visible(_call: str, when: str) -> bool:
            stored = self.engine.objects.get(name.path)
            return when == "after" and stored is not None and "claim" not in stored.metadata

        lease = MemoryLocker(LeaseTable(self.engine.clock), lambda _: None).acquire(key)
        assert lease is not None
        upload = self.process(is_visible).partials.open(key, lease)
        try:
            upload.publish(name, FileMetadata("image/jpeg"))
        except Killed:
            return
        raise AssertionError("it was not killed")

    def take_away(self, name: StoredName) -> object:
        return self.engine.objects.pop(name.path)

    def put_back(self, name: StoredName, file: object) -> None:
        self.engine.objects[name.path] = file  # type: ignore[assignment]


BACKENDS: dict[str, Callable[[Callable[[], float]], Backend]] = {"folder": FolderBackend, "objects": ObjectBackend}


def put(store: FileStore, name: StoredName, data: bytes, metadata: FileMetadata = NO_METADATA) -> FileInfo:
    """Store a whole file, in portions as its sink wants them."""
    with store.stage(name, len(data), metadata) as staged:
        write(staged, data)
        return staged.publish()


def write(sink: Sink, data: bytes) -> None:
    """As a receiver does."""
    room = sink.room
    while data:
        portion, data = data[:room], data[room:]
        sink.write(memoryview(portion))
        room -= len(portion)
        if not room:
            room = sink.hand_on()


def content(store: FileStore, name: StoredName) -> bytes:
    """Of a stored file."""
    source = store.open(name)
    try:
        return b"".join(source.pieces(0, source.info.size, 7))
    finally:
        source.close()


class Collector:
    """A "hash" that keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""

    def update(self, data: memoryview, /) -> None:
        self.data += bytes(data)
