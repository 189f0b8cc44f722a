"""A bucket in memory, with S3's rules: no append, no truncate, no rename; what is stored cannot be changed.

Objects are created under a condition, or replaced whole; large ones come in parts of at least ``part_size`` bytes but
for the last one, and nobody sees them before they are completed. A *process* that works with it can be killed: before or
after any call, and from then on it makes none.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from hmacfs.errors import StoreUnavailable
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.stores.s3.bucket import (
    NO_ATTRIBUTES,
    Attributes,
    ConditionFailed,
    FileSection,
    InvalidPart,
    ListedObject,
    ListedUpload,
    NoSuchUpload,
    ObjectInfo,
    OutOfRange,
    Part,
    Payload,
)

F = TypeVar("F", bound=Callable[..., Any])


class Killed(BaseException):
    """The process is dead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """An object, or a part of one."""

    data: bytes
    etag: str
    modified: float
    attributes: Attributes = NO_ATTRIBUTES

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(len(self.data), self.modified, self.etag, self.attributes)


@dataclasses.dataclass(slots=True)
class Multipart:
    """What is begun under a key."""

    key: str
    attributes: Attributes
    begun: float
    parts: dict[int, Stored] = dataclasses.field(default_factory=dict)


class Engine:
    """What there is. One for all processes. heeds_conditions: or ignores them, as some do; heeds_match: of completions
    and deletions, which some ignore that heed those of creations. ``has_folders``: a condition finds "a" where there is
    "a/b", as SeaweedFS' do, and nobody can read it."""

    has_folders = False

    def __init__(
        self,
        clock: Callable[[], float],
        part_size: int,
        *,
        heeds_conditions: bool = True,
        heeds_match: bool | None = None,
    ) -> None:
        self.clock = clock
        self.part_size = part_size
        self.heeds_conditions = heeds_conditions
        self.heeds_match = heeds_conditions if heeds_match is None else heeds_match
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Multipart] = {}
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()  # each request happens at one moment, also for processes that are threads

    def tag(self, data: bytes) -> str:
        """As most engines make it: of the bytes alone."""
        return f'"{hashlib.md5(data).hexdigest()}"'


def _request(method: F) -> F:
    @functools.wraps(method)
    def call(process: MemoryBucket, *args: Any, **kwargs: Any) -> Any:
        name = "create" if kwargs.get("is_new") else method.__name__
        process.on_call(name, "before")
        payloads = [_bytes_of(one) if isinstance(one, FileSection) else one for one in args]  # as it is now

        def request() -> Any:
            with process.engine.lock:
                return method(process, *payloads, **kwargs)

        result = process.carry_out(name, args[0], request)
        process.on_call(name, "after")
        return result

    return call  # type: ignore[return-value]


class MemoryBucket:
    """A process's access to the engine: a ``Bucket``. on_step: told of each call, by its name ("create" for a ``put``
    with ``is_new``) and whether it was made yet
    ("before", "after"); if it says so, the process is killed there. It may raise what the call is to raise."""

    def __init__(self, engine: Engine, on_step: Callable[[str, str], bool] = lambda _name, _when: False) -> None:
        self.engine = engine
        self.on_step = on_step
        self.is_dead = False

    def on_call(self, name: str, when: str) -> None:
        self.is_dead = self.is_dead or self.on_step(name, when)
        if self.is_dead:
            raise Killed

    def carry_out(self, name: str, key: str, request: Callable[[], Any]) -> Any:
        """For buckets whose engine is not that quick."""
        return request()

    def _check(self, key: str, etag: str) -> None:
        present = self.engine.objects.get(key)
        if etag and self.engine.heeds_match and (present is None or present.etag != etag):
            raise ConditionFailed

    def _is_folder(self, key: str) -> bool:
        return self.engine.has_folders and any(other.startswith(f"{key}/") for other in self.engine.objects)

    @_request
    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        if is_new and self.engine.heeds_conditions and (key in self.engine.objects or self._is_folder(key)):
            raise ConditionFailed
        data = _bytes_of(payload)
        stored = Stored(data, self.engine.tag(data), self.engine.clock(), attributes)
        self.engine.objects[key] = stored
        return stored.etag

    @_request
    def head(self, key: str) -> ObjectInfo | None:
        stored = self.engine.objects.get(key)
        return stored.info if stored is not None else None

    @_request
    def get(self, key: str, wanted: ByteRange = WHOLE, *, etag: str = "") -> MemoryDownload | None:
        stored = self.engine.objects.get(key)
        if stored is None:
            return None
        if etag and stored.etag != etag:  # every engine heeds this one
            raise ConditionFailed
        size = len(stored.data)
        first = max(0, size - (wanted.last or 0)) if wanted.first is None else wanted.first
        end = size if wanted.last is None or wanted.first is None else min(size, wanted.last + 1)
        if wanted != WHOLE and first >= end:
            raise OutOfRange
        return MemoryDownload(stored, first, end - first)

    @_request
    def delete(self, key: str, *, etag: str = "") -> None:
        if key in self.engine.objects:
            self._check(key, etag)
            del self.engine.objects[key]

    @_request
    def pages(self, prefix: str, *, limit: int = 1000) -> Iterator[Sequence[ListedObject]]:
        found = list(self.listed(prefix))
        return (found[begin : begin + limit] for begin in range(0, len(found), limit))

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        stored = sorted(self.engine.objects.items(), key=lambda item: item[0].encode())
        return (ListedObject(key, len(one.data), one.modified) for key, one in stored if key.startswith(prefix))

    @_request
    def begin_multipart(self, key: str, attributes: Attributes) -> str:
        upload_id = f"2~{next(self.engine.numbers)}/upload"
        self.engine.uploads[upload_id] = Multipart(key, attributes, self.engine.clock())
        return upload_id

    def _upload(self, upload_id: str) -> Multipart:
        if upload_id not in self.engine.uploads:
            raise NoSuchUpload
        return self.engine.uploads[upload_id]

    @_request
    def put_part(self, key: str, upload_id: str, number: int, payload: Payload) -> str:
        data, upload = _bytes_of(payload), self._upload(upload_id)
        assert upload.key == key
        upload.parts[number] = Stored(data, self.engine.tag(data), self.engine.clock())
        return upload.parts[number].etag

    @_request
    def parts(self, key: str, upload_id: str) -> Sequence[Part]:
        parts = self._upload(upload_id).parts
        return [Part(number, len(one.data), one.modified, one.etag) for number, one in sorted(parts.items())]

    @_request
    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], *, etag: str = "") -> str:
        upload = self._upload(upload_id)
        self._check(key, etag)
        parts = [upload.parts[number] for number in sorted(etags) if number in upload.parts]
        if [part.etag for part in parts] != [etags[number] for number in sorted(etags)]:
            raise InvalidPart
        if not parts or any(len(part.data) < self.engine.part_size for part in parts[:-1]):
            raise InvalidPart
        del self.engine.uploads[upload_id]
        data = b"".join(part.data for part in parts)
        tag = f'{self.engine.tag(data)[:-1]}-{len(parts)}"'
        self.engine.objects[key] = Stored(data, tag, self.engine.clock(), upload.attributes)
        return tag

    @_request
    def abort(self, key: str, upload_id: str) -> None:
        self.engine.uploads.pop(upload_id, None)

    @_request
    def uploads(self, key: str) -> Sequence[ListedUpload]:
        found = self.engine.uploads.items()
        return [ListedUpload(one.key, upload_id, one.begun) for upload_id, one in found if one.key == key]

    def presigned(self, key: str, *, seconds: int, overrides: Mapping[str, str]) -> str:
        parameters = {**overrides, "X-Amz-Expires": str(seconds), "X-Amz-Signature": "0"}
        return f"https://engine.example:9000/bucket/{quote(key, safe='/~')}?{urlencode(parameters, quote_via=quote)}"

    def now(self) -> float:
        return self.engine.clock()

    @_request
    def check(self, prefix: str) -> None:
        pass


class LateBucket(MemoryBucket):
    """Some requests are carried out when the test says so. is_late: told of each by its name and its key. late: those
    that wait. is_again: they are carried out at once as well; else their sender hears nothing."""

    def __init__(self, engine: Engine, is_late: Callable[[str, str], bool], *, is_again: bool) -> None:
        super().__init__(engine)
        self.late: list[Callable[[], object]] = []
        self._is_late = is_late
        self._is_again = is_again

    def carry_out(self, name: str, key: str, request: Callable[[], Any]) -> Any:
        if not self._is_late(name, key):
            return request()
        self.late.append(request)
        if self._is_again:
            return request()
        raise StoreUnavailable

    def catch_up(self) -> None:
        """Carry them out."""
        while self.late:
            self.late.pop(0)()


class MemoryDownload:
    def __init__(self, stored: Stored, first: int, count: int) -> None:
        self._data = stored.data[first : first + count]
        self.info = stored.info
        self.first, self.count = first, count

    def pieces(self, size: int) -> Iterator[bytes]:
        return (self._data[begin : begin + size] for begin in range(0, len(self._data), size))

    def close(self) -> None:
        self._data = b""


def _bytes_of(payload: Payload) -> bytes:
    if isinstance(payload, bytes):
        return payload
    data = os.pread(payload.fd, payload.length, payload.offset)
    assert len(data) == payload.length
    return data
