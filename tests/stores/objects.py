"""A ``FileStore`` over an object store's rules: what shows that the contract asks for nothing that only a folder has."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Self

from hmacfs.errors import NameTaken, NotFound, StorageFailed
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.uploads.contracts.stores import StoreCapabilities
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.engine import ConditionFailed, NoSuchUpload, Process, Stored
from tests.stores.unfinished_objects import UnfinishedObjects


def headers_of(metadata: FileMetadata, identity: str) -> dict[str, str]:
    known = {field: str(value) for field, value in metadata._asdict().items() if value is not None}
    return {**known, "id": identity}


def info_of(stored: Stored) -> FileInfo:
    told = stored.metadata
    stored_at, expires = (int(told[field]) if field in told else None for field in ("stored", "expires"))
    metadata = FileMetadata(told.get("content_type"), told.get("owner"), stored_at, expires, told.get("sha256"))
    return FileInfo(len(stored.data), stored.modified, stored.etag, metadata)


class ObjectStore:
    """Files as objects under their names. An object with a ``claim`` is a placeholder: to readers it is not there."""

    capabilities = StoreCapabilities(cheap_bytes=-1, keeps_metadata=True)

    def __init__(self, process: Process) -> None:
        self.process = process
        self.partials = UnfinishedObjects(self)

    def _file(self, name: StoredName) -> Stored | None:
        stored = self.process.head(name.path)
        return None if stored is None or "claim" in stored.metadata else stored

    def exists(self, name: StoredName) -> bool:
        return self._file(name) is not None

    def stat(self, name: StoredName) -> FileInfo | None:
        stored = self._file(name)
        return info_of(stored) if stored is not None else None

    def open(self, name: StoredName, wanted: ByteRange | None = WHOLE) -> ObjectSource:
        del wanted
        info = self.stat(name)
        if info is None:
            raise NotFound
        return ObjectSource(self.process, name.path, info)

    def stage(
        self, name: StoredName, length: int | None, metadata: FileMetadata, *, is_here: bool = False
    ) -> StagedObject:
        del length
        return StagedObject(self, name, metadata)

    def is_of(self, name: StoredName, identity: str) -> bool:
        stored = self.process.head(name.path)
        return stored is not None and stored.metadata.get("id") == identity

    def create(self, name: StoredName, data: bytes, metadata: FileMetadata, identity: str) -> FileInfo:
        """A file of less than a part."""
        try:
            self.process.put(name.path, data, headers_of(metadata, identity), is_new=True)
        except ConditionFailed:
            self._settle(name, identity)
        return self._published(name)

    def complete(self, name: StoredName, upload_id: str, etags: dict[int, str], identity: str) -> FileInfo:
        """A file whose parts are here: first a placeholder, since only creation is exclusive everywhere."""
        try:
            claim = self.process.put(name.path, b"", {"claim": identity}, is_new=True)
        except ConditionFailed:
            present = self.process.head(name.path)
            if present is None or present.metadata.get("claim") != identity:
                self._settle(name, identity)
                return self._published(name)
            claim = present.etag
        try:
            self.process.complete(upload_id, etags, claim)
        except (ConditionFailed, NoSuchUpload):
            self._settle(name, identity)
        return self._published(name)

    def _settle(self, name: StoredName, identity: str) -> None:
        """After a doubt: return if the name is ours."""
        present = self.process.head(name.path)
        if present is None or "claim" in present.metadata:
            raise StorageFailed(where=name.path)
        if present.metadata.get("id") != identity:
            raise NameTaken

    def _published(self, name: StoredName) -> FileInfo:
        info = self.stat(name)
        assert info is not None
        return info

    def delete(self, name: StoredName, etag: str | None = None) -> bool:
        stored = self._file(name)
        if stored is None or etag not in (None, stored.etag):
            return False
        return self.process.delete(name.path, stored.etag)

    def names(self, limit: int = 1000) -> Iterator[list[StoredName]]:
        after = ""
        while page := self.process.keys("", after, limit):
            after = page[-1]
            found = [StoredName(key) for key in page if not key.startswith(RESERVED_FOLDER + "/")]
            yield [name for name in found if self._file(name) is not None]

    def space_of(self, length: int | None, *, atomic: bool) -> int | None:
        return length

    def free_bytes(self) -> None:
        return None

    def total_bytes(self) -> int:
        return 0

    def check_writable(self) -> None:
        self.process.head("")

    def recover(self) -> int:
        return 0

    def repair(self) -> None:
        self.process.head("")


class ObjectSource:
    def __init__(self, process: Process, key: str, info: FileInfo) -> None:
        self._process = process
        self._key = key
        self.info = info

    def pieces(self, offset: int, count: int, size: int) -> Iterator[bytes]:
        data = self._process.get(self._key, offset, count)
        return (data[begin : begin + size] for begin in range(0, len(data), size))

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        self._key = ""


class StagedObject:
    """The bytes of a file, a part at a time."""

    def __init__(self, store: ObjectStore, name: StoredName, metadata: FileMetadata) -> None:
        self._store = store
        self._name = name
        self._metadata = metadata
        self._identity = secrets.token_hex(8)
        self._buffer = bytearray()
        self._upload_id = ""
        self._etags: dict[int, str] = {}
        self.room = store.process.engine.part_size

    def write(self, data: memoryview) -> None:
        self._buffer += data
        assert len(self._buffer) <= self.room

    def hand_on(self) -> int:
        process = self._store.process
        if not self._upload_id:
            self._upload_id = process.begin_parts(self._name.path, headers_of(self._metadata, self._identity))
        number = len(self._etags) + 1
        self._etags[number] = process.put_part(self._upload_id, number, bytes(self._buffer))
        self._buffer.clear()
        return self.room

    def fileno(self) -> None:
        return None

    def publish(self, later: FileMetadata | None = None) -> FileInfo:
        if not self._upload_id:
            metadata = self._metadata if later is None else self._metadata.completed_by(later)
            return self._store.create(self._name, bytes(self._buffer), metadata, self._identity)
        if self._buffer:
            self.hand_on()
        return self._store.complete(self._name, self._upload_id, self._etags, self._identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._upload_id:
            self._store.process.abort(self._upload_id)
