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
from hmacfs.stores.s3.objects import claimant_of
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.spool import Spool
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.stores.s3.unfinished import UnfinishedObject
from hmacfs.uploads.contracts.locks import Locker
from hmacfs.uploads.contracts.requests import Sink
from hmacfs.uploads.contracts.stores import FileStore, PartialUpload
from hmacfs.uploads.files import NO_METADATA, FileInfo, FileMetadata
from tests.fakes import MemoryEntries
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.local import file_calls, local_store
from tests.stores.memory_bucket import Engine, Killed, MemoryBucket

#: Small, so that a few bytes are several parts.
PART_SIZE = 16


class Backend(Protocol):
    """store, locker: of one process. on_wait: called when a writer waits for the lock. upload_class: of its unfinished
    uploads. part_size: in bytes, where that matters. can_lose_lease: whether its store works under leases that end."""

    on_wait: Callable[[], None]
    part_size: int
    can_lose_lease: bool

    @property
    def store(self) -> FileStore: ...

    @property
    def locker(self) -> Locker: ...

    @property
    def upload_class(self) -> type[PartialUpload]: ...

    def holds(self, key: str, data: bytes) -> bool:
        """Whether these are the bytes of an unfinished upload that count."""

    def publish_and_die(self, key: str, name: StoredName) -> None:
        """What a process leaves that is killed once it has made the upload visible."""


class OpenBackend(Backend, Protocol):
    """One that lies open to the test."""

    def content_of(self, key: str) -> bytes:
        """The bytes of an unfinished upload that count."""

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
    part_size = PART_SIZE
    can_lose_lease = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hmacfs-test-"))
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self.store = local_store(self.root, durable=False)
        self.store.partials = partials = _FolderPartials(self.store)
        partials.clock, partials.where = clock, self.root / ".hmacfs" / "partial"
        self.on_wait: Callable[[], None] = lambda: None
        self.locker = FileLocker(partials, patience=0.05, sleep=lambda _: self.on_wait())

    def holds(self, key: str, data: bytes) -> bool:
        return self.content_of(key) == data

    def content_of(self, key: str) -> bytes:
        return (self.root / ".hmacfs" / "partial" / key).read_bytes()

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
    """Over an engine in memory. heeds_conditions, heeds_match: see ``Engine``."""

    upload_class = UnfinishedObject
    can_lose_lease = True

    def __init__(
        self,
        clock: Callable[[], float],
        part_size: int = PART_SIZE,
        *,
        heeds_conditions: bool = True,
        heeds_match: bool | None = None,
    ) -> None:
        self.part_size = part_size
        self._clock = clock
        self._slept = 0.0
        self.engine = Engine(self._now, part_size, heeds_conditions=heeds_conditions, heeds_match=heeds_match)
        self._folder = Path(tempfile.mkdtemp(prefix="hmacfs-test-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.claims = MemoryEntries(clock)
        self.table = LeaseTable(clock, 1e9)
        self.on_wait: Callable[[], None] = lambda: None
        self.store = self.process()
        self.locker = MemoryLocker(self.table, lambda _: self.on_wait())

    def _now(self) -> float:
        """Whoever sleeps need not wait for the test's time."""
        return self._clock() + self._slept

    def _sleep(self, seconds: float) -> None:
        self._slept += seconds

    def process(self, on_step: Callable[[str, str], bool] = lambda _name, _when: False) -> S3FileStore:
        """The store of another process; on_step: see ``MemoryBucket``."""
        return self.over(MemoryBucket(self.engine, on_step))

    def over(self, bucket: MemoryBucket) -> S3FileStore:
        """The store of a process that has this access to the engine."""
        heeds = self.engine.heeds_conditions
        publisher = Publisher(bucket, self.claims, lambda: heeds, sleep=self._sleep)
        spool = Spool(self._folder, file_calls())
        return S3FileStore(
            publisher, spool, prefix="files/", part_size=self.engine.part_size, grace=60.0, check_exclusive=lambda: None
        )

    def holds(self, key: str, data: bytes) -> bool:
        return self.content_of(key) == data

    def content_of(self, key: str) -> bytes:
        inventory = self.store.notes.inventory(key)
        assert inventory is not None
        parts = b""
        if inventory.mark is not None and inventory.whole:
            stored = self.engine.uploads[inventory.mark.upload_id].parts
            parts = b"".join(stored[number].data for number in range(1, inventory.whole + 1))
        folder = self.store.keys.folder_of(key)
        return parts + b"".join(self.engine.objects[folder + one.name].data for one in inventory.chain)

    def publish_and_die(self, key: str, name: StoredName) -> None:
        target = self.store.keys.of(name)

        def is_visible(_call: str, when: str) -> bool:
            stored = self.engine.objects.get(target)
            return when == "after" and stored is not None and not claimant_of(stored.info)

        lease = MemoryLocker(LeaseTable(self.engine.clock), lambda _: None).acquire(key)
        assert lease is not None
        upload = self.process(is_visible).partials.open(key, lease)
        try:
            upload.publish(name, FileMetadata("image/jpeg"))
        except Killed:
            return
        raise AssertionError("it was not killed")

    def take_away(self, name: StoredName) -> object:
        return self.engine.objects.pop(self.store.keys.of(name))

    def put_back(self, name: StoredName, file: object) -> None:
        self.engine.objects[self.store.keys.of(name)] = file  # type: ignore[assignment]


def careless_engine(clock: Callable[[], float]) -> ObjectBackend:
    """Over an engine that ignores conditions."""
    return ObjectBackend(clock, heeds_conditions=False)


BACKENDS: dict[str, Callable[[Callable[[], float]], OpenBackend]] = {
    "folder": FolderBackend,
    "objects": lambda clock: ObjectBackend(clock),
    "careless": careless_engine,
}


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
        size = source.info.size
        return b"".join(source.pieces(0, size, max(7, size // 64)))
    finally:
        source.close()


class Collector:
    """A "hash" that keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""

    def update(self, data: memoryview, /) -> None:
        self.data += bytes(data)
