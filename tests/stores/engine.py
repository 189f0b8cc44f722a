"""An object store in memory, with S3's rules: no append, no truncate, no rename; what is stored cannot be changed.

Objects are created under a condition, or replaced whole; large ones come in parts of at least ``part_size`` bytes but
for the last one, and nobody sees them before they are completed. A *process* that works with it can be killed: before or
after any call, and from then on it makes none.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Killed(BaseException):
    """The process is dead."""


class ConditionFailed(Exception):
    """412: the condition of a request does not hold."""


class NoSuchUpload(Exception):
    """404: the multipart upload was completed or aborted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """An object, or a part of one."""

    data: bytes
    etag: str
    modified: float
    metadata: dict[str, str]


@dataclasses.dataclass(slots=True)
class Multipart:
    """What is begun under a key."""

    key: str
    metadata: dict[str, str]
    parts: dict[int, Stored] = dataclasses.field(default_factory=dict)


class Engine:
    """What there is. One for all processes."""

    def __init__(self, clock: Callable[[], float], part_size: int) -> None:
        self.clock = clock
        self.part_size = part_size
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Multipart] = {}
        self.numbers = itertools.count(1)


def _request(method: F) -> F:
    @functools.wraps(method)
    def call(process: Process, *args: Any, **kwargs: Any) -> Any:
        process.on_call(method.__name__, "before")
        result = method(process, *args, **kwargs)
        process.on_call(method.__name__, "after")
        return result

    return call  # type: ignore[return-value]


class Process:
    """A process's access to the engine. kill_at: told of each call, by its name and whether it was made yet; if it says
    so, the process is killed there."""

    def __init__(self, engine: Engine, kill_at: Callable[[str, str], bool] = lambda _name, _when: False) -> None:
        self.engine = engine
        self.kill_at = kill_at
        self.is_dead = False

    def on_call(self, name: str, when: str) -> None:
        self.is_dead = self.is_dead or self.kill_at(name, when)
        if self.is_dead:
            raise Killed

    @_request
    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None, *, is_new: bool = False) -> str:
        """The new object's ETag. is_new: ``If-None-Match: *``."""
        if is_new and key in self.engine.objects:
            raise ConditionFailed
        etag = f'"{next(self.engine.numbers)}"'
        self.engine.objects[key] = Stored(bytes(data), etag, self.engine.clock(), dict(metadata or {}))
        return etag

    @_request
    def head(self, key: str) -> Stored | None:
        return self.engine.objects.get(key)

    @_request
    def get(self, key: str, first: int, count: int) -> bytes:
        return self.engine.objects[key].data[first : first + count]

    @_request
    def delete(self, key: str, etag: str | None = None) -> bool:
        """etag: ``If-Match``."""
        stored = self.engine.objects.get(key)
        if stored is None or etag not in (None, stored.etag):
            return False
        del self.engine.objects[key]
        return True

    @_request
    def keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        found = (key for key in sorted(self.engine.objects) if key.startswith(prefix) and key > after)
        return list(itertools.islice(found, limit))

    @_request
    def begin_parts(self, key: str, metadata: dict[str, str]) -> str:
        upload_id = f"upload-{next(self.engine.numbers)}"
        self.engine.uploads[upload_id] = Multipart(key, dict(metadata))
        return upload_id

    def _upload(self, upload_id: str) -> Multipart:
        if upload_id not in self.engine.uploads:
            raise NoSuchUpload
        return self.engine.uploads[upload_id]

    @_request
    def put_part(self, upload_id: str, number: int, data: bytes) -> str:
        """The part's ETag: the digest of its bytes. A part of that number that was there before is replaced."""
        etag = hashlib.md5(data).hexdigest()
        self._upload(upload_id).parts[number] = Stored(bytes(data), etag, self.engine.clock(), {})
        return etag

    @_request
    def parts(self, upload_id: str) -> dict[int, Stored]:
        return dict(self._upload(upload_id).parts)

    @_request
    def complete(self, upload_id: str, etags: dict[int, str], claim: str) -> str:
        """Make the parts the object, in place of the one with the ETag ``claim``; the new ETag."""
        upload = self._upload(upload_id)
        present = self.engine.objects.get(upload.key)
        if present is None or present.etag != claim:
            raise ConditionFailed
        parts = [upload.parts[number] for number in sorted(etags)]
        assert [part.etag for part in parts] == [etags[number] for number in sorted(etags)], "InvalidPart"
        assert all(len(part.data) >= self.engine.part_size for part in parts[:-1]), "EntityTooSmall"
        del self.engine.uploads[upload_id]
        etag = f'"{next(self.engine.numbers)}-{len(parts)}"'
        data = b"".join(part.data for part in parts)
        self.engine.objects[upload.key] = Stored(data, etag, self.engine.clock(), upload.metadata)
        return etag

    @_request
    def abort(self, upload_id: str) -> None:
        self.engine.uploads.pop(upload_id, None)
