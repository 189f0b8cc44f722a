"""Unfinished uploads in an object store.

The file is cut by a fixed grid: part *n* is the bytes [(n - 1) * P, n * P), so sending one again changes nothing. What is
less than a part is an object of its own, the *remainder*. Below ``.hmacfs/partial/<key>/`` there are

    begun              the name and metadata of the file to be, and what tells it from others
    u.<upload id>      the multipart upload
    c.<start>.<count>  a remainder
    void               parts (number: ETag) of a piece that was taken back: they do not count

The offset is where the parts that count, and the chain of remainders from there on, end. A remainder goes only when the
next piece begins: until then the piece that made it part of a part may be taken back.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import TYPE_CHECKING, Self

from hmacfs.errors import SessionUnknown
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.requests import ENDLESS, Hash
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.engine import NoSuchUpload, Stored

if TYPE_CHECKING:
    from tests.stores.objects import ObjectStore

_FOLDER = f"{RESERVED_FOLDER}/partial/"


@dataclasses.dataclass(slots=True)
class _State:
    """What there is of an upload. whole: how many parts count. chain: the remainders after them, in their order."""

    begun: Stored
    upload_id: str
    parts: dict[int, Stored]
    void: dict[int, str]
    whole: int
    remainders: dict[int, int]
    chain: list[tuple[int, int]]
    length: int
    touched: float

    @property
    def identity(self) -> str:
        return str(json.loads(self.begun.data)["id"])


class UnfinishedObjects:
    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.process = store.process

    def create(self, key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        begun = {"name": name.path, "id": secrets.token_hex(8), "metadata": metadata}
        self.process.put(f"{_FOLDER}{key}/begun", json.dumps(begun).encode(), is_new=True)

    def stat(self, key: str) -> PartialInfo | None:
        state = self.state(key)
        return PartialInfo(state.length, state.touched) if state is not None else None

    def state(self, key: str) -> _State | None:
        folder = f"{_FOLDER}{key}/"
        found = {name.removeprefix(folder): name for name in self.process.keys(folder)}
        begun = self.process.head(folder + "begun") if "begun" in found else None
        if begun is None:
            return None
        upload_id = next((name.removeprefix("u.") for name in found if name.startswith("u.")), "")
        try:
            parts = self.process.parts(upload_id) if upload_id else {}
        except NoSuchUpload:  # it has been completed
            parts = {}
        marker = self.process.head(folder + "void") if "void" in found else None
        void = {int(number): etag for number, etag in json.loads(marker.data).items()} if marker is not None else {}
        size, whole = self.process.engine.part_size, 0
        while (part := parts.get(whole + 1)) and len(part.data) == size and part.etag != void.get(whole + 1):
            whole += 1
        remainders: dict[int, int] = {}
        for name in found:
            if name.startswith("c."):
                start, count = map(int, name.split(".")[1:])
                remainders[start] = max(count, remainders.get(start, 0))
        chain, end = [], whole * size
        while end in remainders:
            chain.append((end, remainders[end]))
            end += remainders[end]
        heads = [self.process.head(name) for name in found.values()]
        touched = max(one.modified for one in (begun, *heads, *parts.values()) if one is not None)
        return _State(begun, upload_id, parts, void, whole, remainders, chain, end, touched)

    def open(self, key: str, lease: Lease) -> UnfinishedObject:
        try:
            state = self.state(key)
            if state is None:
                raise SessionUnknown
            lease.check()
            return UnfinishedObject(self, key, lease, state)
        except BaseException:
            lease.release()
            raise

    def discard(self, key: str) -> None:
        folder = f"{_FOLDER}{key}/"
        names = self.process.keys(folder)
        for name in names:
            if name.startswith(folder + "u."):
                self.process.abort(name.removeprefix(folder + "u."))
        # Without the first of these nothing is left of it that counts.
        for name in sorted(names, key=lambda name: not name.endswith("/begun")):
            self.process.delete(name)

    def untouched_since(self, before: float) -> list[str]:
        newest: dict[str, float] = {}
        for name in self.process.keys(_FOLDER, limit=10**6):
            stored = self.process.head(name)
            key = name.removeprefix(_FOLDER).partition("/")[0]
            info = self.stat(key)
            assert stored is not None
            newest[key] = info.touched if info is not None else max(stored.modified, newest.get(key, 0.0))
        return sorted(key for key, touched in newest.items() if touched < before)


class UnfinishedObject:
    def __init__(self, uploads: UnfinishedObjects, key: str, lease: Lease, state: _State) -> None:
        self._uploads = uploads
        self._key = key
        self._folder = f"{_FOLDER}{key}/"
        self._state = state
        self.process = uploads.process
        self.lease = lease
        self.length = state.length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lease.release()

    def _again(self) -> _State:
        state = self._uploads.state(self._key)
        if state is None:
            raise SessionUnknown
        self._state, self.length = state, state.length
        return state

    def begin(self, offset: int, *, atomic: bool) -> ObjectPiece:
        self.lease.check()
        if offset < self.length:
            self.go_back(offset)
        else:
            inside_parts = self._state.whole * self.process.engine.part_size
            for start in [start for start in self._state.remainders if start < inside_parts]:
                self._drop_remainders(start)
            self._again()
        return ObjectPiece(self, atomic=atomic)

    def go_back(self, offset: int) -> None:
        """Have nothing after ``offset`` count."""
        self.lease.check()
        state = self._again()
        size = self.process.engine.part_size
        void = {number: part.etag for number, part in state.parts.items() if number * size > offset}
        if void:
            self._mark_void({**state.void, **void})
        for start in sorted((start for start in state.remainders if start >= offset), reverse=True):
            self._drop_remainders(start)
        self._again()
        assert self.length == offset, "it goes back further than to the last atomic piece"

    def _mark_void(self, void: dict[int, str]) -> None:
        self.process.put(self._folder + "void", json.dumps(void).encode())

    def _drop_remainders(self, start: int) -> None:
        for name in self.process.keys(f"{self._folder}c.{start}."):
            self.process.delete(name)

    def put_cell(self, number: int, data: bytes) -> None:
        self.lease.check()
        upload_id = self._upload_id()
        etag = self.process.put_part(upload_id, number, data)
        if self._state.void.get(number) == etag:
            del self._state.void[number]
            self._mark_void(self._state.void)

    def _upload_id(self) -> str:
        state = self._state
        if not state.upload_id:
            begun = json.loads(state.begun.data)
            known = {key: value for key, value in zip(FileMetadata._fields, begun["metadata"], strict=True) if value}
            headers = {**{key: str(value) for key, value in known.items()}, "id": state.identity}
            state.upload_id = self.process.begin_parts(begun["name"], headers)
            self.process.put(f"{self._folder}u.{state.upload_id}", b"")
        return state.upload_id

    def put_remainder(self, start: int, data: bytes) -> None:
        self.lease.check()
        self.process.put(f"{self._folder}c.{start}.{len(data)}", data)

    def counted(self) -> None:
        """A piece is complete: see what there is."""
        self._again()

    def tail(self) -> bytes:
        """The bytes of the remainders after the last part."""
        chain = self._state.chain
        return b"".join(self.process.get(f"{self._folder}c.{start}.{count}", 0, count) for start, count in chain)

    def feed(self, digest: Hash) -> None:
        # No engine gives parts back: a store over a real one completes them as a placeholder, reads that, and publishes
        # a copy of it.
        for number in range(1, self._state.whole + 1):
            digest.update(memoryview(self._state.parts[number].data))
        digest.update(memoryview(self.tail()))

    def is_published(self, name: StoredName) -> bool:
        return self._uploads.store.is_of(name, self._state.identity)

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        self.lease.check()
        store, state = self._uploads.store, self._again()
        if self.is_published(name):
            info = store.stat(name)
            assert info is not None
        elif state.whole == 0:
            info = store.create(name, self.tail(), metadata, state.identity)
        else:
            tail = self.tail()
            if tail:
                self.put_cell(state.whole + 1, tail)
            parts = self.process.parts(state.upload_id)
            last = state.whole + bool(tail)
            etags = {number: part.etag for number, part in parts.items() if number <= last}
            info = store.complete(name, state.upload_id, etags, state.identity)
        self.discard()
        return info

    def discard(self) -> None:
        self.lease.check()
        self._uploads.discard(self._key)


class ObjectPiece:
    """An atomic piece is spooled whole: nothing goes out before its end. Of any other each full cell does."""

    def __init__(self, upload: UnfinishedObject, *, atomic: bool) -> None:
        self._upload = upload
        self._begin = upload.length
        self._size = upload.process.engine.part_size
        self._is_atomic = atomic
        self._is_taken_back = False
        self._at = self._begin - len(tail) if (tail := upload.tail()) else self._begin
        self._cell = bytearray(tail)
        self.room = ENDLESS if atomic else self._size - len(self._cell)

    def write(self, data: memoryview) -> None:
        self._cell += data

    def hand_on(self) -> int:
        assert len(self._cell) == self._size
        self._put_cells()
        return self._size

    def fileno(self) -> None:
        return None

    def _put_cells(self) -> None:
        while len(self._cell) >= self._size:
            self._upload.put_cell(self._at // self._size + 1, bytes(self._cell[: self._size]))
            del self._cell[: self._size]
            self._at += self._size

    def _put_rest(self) -> None:
        """After the cells: what is not in a remainder yet."""
        known = max(self._begin - self._at, 0)
        if len(self._cell) > known:
            self._upload.put_remainder(self._at + known, bytes(self._cell[known:]))

    def roll_back(self) -> None:
        self._is_taken_back = True
        self._upload.go_back(self._begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._is_taken_back or (self._is_atomic and kind is not None):
            return
        self._put_cells()
        self._put_rest()
        self._upload.counted()
