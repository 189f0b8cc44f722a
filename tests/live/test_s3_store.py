"""The store over real engines: it keeps the contract of every store, whatever each of them heeds."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmacfs.errors import NameTaken
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.claims import CLAIM_SECONDS
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.spool import Spool
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.stores.s3.unfinished import UnfinishedObject
from hmacfs.uploads.files import NO_METADATA, FileMetadata
from tests.contracts.file_stores import KEY, NAME, FileStoreContract, Length, append, begin, leased
from tests.fakes import MemoryEntries
from tests.servers.engines import ENGINES
from tests.servers.object_store import ObjectStoreServer
from tests.stores.backends import Backend, content, put
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.local import file_calls


class _Dying:
    """A process's access to a bucket that dies after a call that satisfies ``is_over``."""

    def __init__(self, bucket: S3Bucket, is_over: Callable[[], bool]) -> None:
        self._bucket = bucket
        self._is_over = is_over

    def __getattr__(self, name: str) -> object:
        method = getattr(self._bucket, name)

        def call(*args: object, **kwargs: object) -> object:
            result = method(*args, **kwargs)
            if self._is_over():
                raise _Died
            return result

        return call


class _Died(BaseException):
    pass


class EngineBackend:
    """A bucket of its own in a running engine."""

    upload_class = UnfinishedObject
    can_lose_lease = True

    def __init__(self, engine: ObjectStoreServer, clock: Callable[[], float] = time.time) -> None:
        self.part_size = engine.least_part
        self.bucket = engine.client(engine.make_bucket())
        self._heeds = engine.heeds_new
        self._folder = Path(tempfile.mkdtemp(prefix="hmacfs-test-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.claims = MemoryEntries(clock)
        self._table = LeaseTable(lambda: 0.0, 1e9)
        self.on_wait: Callable[[], None] = lambda: None
        self.store = self._store(self.bucket)
        self.locker = MemoryLocker(self._table, lambda _: self.on_wait())

    def _store(self, bucket: S3Bucket) -> S3FileStore:
        publisher = Publisher(bucket, self.claims, lambda: self._heeds)
        spool = Spool(self._folder, file_calls())
        return S3FileStore(
            publisher, spool, prefix="files/", part_size=self.part_size, grace=60.0, check_exclusive=lambda: None
        )

    def dying(self, is_over: Callable[[], bool]) -> S3FileStore:
        """The store of a process that dies then."""
        return self._store(_Dying(self.bucket, is_over))  # type: ignore[arg-type]

    def holds(self, key: str, data: bytes) -> bool:
        """No engine gives parts back; their entity tags are the digests of their bytes, with each of these."""
        inventory = self.store.notes.inventory(key)
        assert inventory is not None
        size = self.part_size
        parts = [data[number * size : (number + 1) * size] for number in range(inventory.whole)]
        etags = [inventory.parts[number].etag for number in range(1, inventory.whole + 1)]
        rest = b""
        for one in inventory.chain:
            download = self.bucket.get(self.store.keys.folder_of(key) + one.name)
            assert download is not None
            rest += b"".join(download.pieces(1 << 16))
            download.close()
        same = [f'"{hashlib.md5(part).hexdigest()}"' for part in parts] == etags
        return same and inventory.length == len(data) and rest == data[inventory.whole * size :]

    def publish_and_die(self, key: str, name: StoredName) -> None:
        lease = MemoryLocker(LeaseTable(lambda: 0.0), lambda _: None).acquire(key)
        assert lease is not None
        upload = self.dying(lambda: self.store.exists(name)).partials.open(key, lease)
        with pytest.raises(_Died):
            upload.publish(name, FileMetadata("image/jpeg"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> ObjectStoreServer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ENGINES[request.param])
    return found


@pytest.fixture
def backend(engine: ObjectStoreServer) -> Iterator[Backend]:
    made = EngineBackend(engine)
    yield made
    made.bucket.close()


class TestContract(FileStoreContract):
    @pytest.mark.parametrize("before", [Length(1, 3)], ids=str)
    @pytest.mark.parametrize("again", [Length(0, 3), Length(2, 1)], ids=str)
    def test_the_last_atomic_piece_can_be_sent_again(self, backend: Backend, before: Length, again: Length) -> None:
        """Some lengths: over an engine with large parts each of them takes a second."""
        super().test_the_last_atomic_piece_can_be_sent_again(backend, before, again)


def test_an_upload_whose_claim_is_over_is_completed_by_the_next_one(juicefs: ObjectStoreServer) -> None:
    """By the parts that the engine lists, which are those that it was given."""
    now = [0.0]
    backend = EngineBackend(juicefs, lambda: now[0])
    data = bytes(range(256)) * (backend.part_size // 256) + b"rest"
    with contextlib.closing(backend.bucket):
        with begin(backend) as upload:
            append(upload, data)
        dying = backend.dying(lambda: backend.claims.read(f"claim files/{NAME.path}") is not None)
        with pytest.raises(_Died):
            dying.partials.open(KEY, leased(backend)).publish(NAME, NO_METADATA)
        assert not backend.store.exists(NAME)
        now[0] += CLAIM_SECONDS
        with pytest.raises(NameTaken):
            put(backend.store, NAME, b"another's")
        assert content(backend.store, NAME) == data
