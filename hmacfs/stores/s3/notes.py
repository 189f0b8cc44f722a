"""What is noted of an unfinished upload: small objects below ``.hmacfs/partial/<key>/``.

``begun``                  what the file is to become
``u.<part size>.<id>``     the multipart upload that has its whole cells as parts
``c.<start>.<length>``     a remainder: bytes that are less than a cell
``void``                   parts of a piece that was taken back, which do not count
``unverified``             the file is visible, and its digest not judged yet

The file is cut by a fixed grid: part *n* is the cell [(n - 1) * P, n * P), so sending one again changes nothing. The
offset is where the parts that count, and the chain of remainders from there on, end. It is asked of the engine each
time. A remainder goes only once the part that contains it is stored.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from hmacfs.errors import StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Attributes, Bucket, ListedObject, NoSuchUpload, Part, Payload
from hmacfs.stores.s3.objects import Keys, attributes_of
from hmacfs.uploads.files import FileMetadata

_BEGUN, _VOID, _UNVERIFIED = "begun", "void", "unverified"
_UPLOAD = re.compile(r"u\.([0-9]{1,16})\.(.+)")
_REMAINDER = re.compile(r"c\.([0-9]{1,16})\.([0-9]{1,16})")
_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Begun(NamedTuple):
    """What an upload is to become. identity: see ``objects``. part_size: P."""

    path: str
    identity: str
    part_size: int
    metadata: FileMetadata

    @classmethod
    def from_json(cls, text: bytes) -> Begun:
        """Raises ``ValueError``, ``KeyError``, ``TypeError``."""
        told = json.loads(text)
        return cls(told["path"], told["id"], told["part_size"], FileMetadata(**told["metadata"]))

    def to_json(self) -> bytes:
        told = {"path": self.path, "id": self.identity, "part_size": self.part_size}
        return json.dumps({**told, "metadata": self.metadata._asdict()}).encode()

    @property
    def name(self) -> StoredName:
        return StoredName.from_text(self.path)

    def attributes(self) -> Attributes:
        """Of the object to be."""
        return attributes_of(self.name, self.metadata, self.identity)


class Mark(NamedTuple):
    """The note of a multipart upload."""

    upload_id: str
    part_size: int

    @property
    def name(self) -> str:
        return f"u.{self.part_size}.{quote(self.upload_id, safe='')}"


class Remainder(NamedTuple):
    start: int
    length: int

    @property
    def name(self) -> str:
        return f"c.{self.start}.{self.length}"


@dataclasses.dataclass(slots=True)
class State:
    """What there is of an upload.

    mark: of the multipart upload that counts, ``None`` before the first whole cell; others: of multipart uploads that
    do not, since two holders of the lease began one. void: entity tags, by number, of parts that do not count. whole:
    how many parts do. chain: the remainders after them, in their order. touched: Unix seconds.
    """

    mark: Mark | None = None
    others: list[Mark] = dataclasses.field(default_factory=list)
    parts: dict[int, Part] = dataclasses.field(default_factory=dict)
    void: dict[int, str] = dataclasses.field(default_factory=dict)
    remainders: set[Remainder] = dataclasses.field(default_factory=set)
    is_unverified: bool = False
    touched: float = 0.0
    whole: int = 0
    chain: list[Remainder] = dataclasses.field(default_factory=list)
    length: int = 0

    def count(self) -> None:
        """Find ``whole``, ``chain`` and ``length`` by the rest."""
        self.whole, end = self._whole(self.parts), 0
        if self.mark is not None:
            end = self.whole * self.mark.part_size
        longest: dict[int, Remainder] = {}
        for one in self.remainders:
            if one.start not in longest or one.length > longest[one.start].length:
                longest[one.start] = one
        self.chain = []
        while one := longest.get(end):  # type: ignore[assignment]
            self.chain.append(one)
            end += one.length
        self.length = end

    def _whole(self, parts: Mapping[int, Part]) -> int:
        whole, size = 0, self.mark.part_size if self.mark is not None else 0
        while (part := parts.get(whole + 1)) and part.size == size and part.etag != self.void.get(whole + 1):
            whole += 1
        return whole

    def choose(self, found: Mapping[Mark, dict[int, Part]]) -> None:
        """Of several multipart uploads, the one that got furthest counts: it has all that was acknowledged."""
        for mark in sorted(found):
            current = State(mark=mark, void=self.void, parts=found[mark])
            if self.mark is None or current._whole(found[mark]) > self._whole(self.parts):
                self.mark, self.parts = mark, found[mark]
        self.others = [mark for mark in sorted(found) if mark != self.mark]


class Notes:
    """Reads and writes them. Methods raise what ``Bucket``'s do."""

    def __init__(self, bucket: Bucket, keys: Keys) -> None:
        self.bucket = bucket
        self.keys = keys

    # -- writing --------------------------------------------------------------------------------------

    def create(self, key: str, begun: Begun) -> None:
        self.put(key, _BEGUN, begun.to_json())

    def begin(self, key: str, begun: Begun) -> str:
        """Of a whole upload: note it, and begin its multipart upload; the id of that."""
        self.create(key, begun)
        return self.begin_multipart(key, begun).upload_id

    def begin_multipart(self, key: str, begun: Begun) -> Mark:
        """The note comes after, since it has the id. A process that dies between leaves a multipart upload of that path
        which no note names."""
        upload_id = self.bucket.begin_multipart(self.keys.of(begun.name), begun.attributes())
        mark = Mark(upload_id, begun.part_size)
        self.put(key, mark.name, b"")
        return mark

    def put(self, key: str, name: str, payload: Payload) -> None:
        self.bucket.put(self.keys.of_upload(key) + name, payload)

    def put_void(self, key: str, void: Mapping[int, str]) -> None:
        self.put(key, _VOID, json.dumps(void).encode())

    def put_unverified(self, key: str) -> None:
        self.put(key, _UNVERIFIED, b"")

    def remove(self, key: str, name: str) -> None:
        self.bucket.delete(self.keys.of_upload(key) + name)

    def remove_unverified(self, key: str) -> None:
        self.remove(key, _UNVERIFIED)

    def forget(self, key: str) -> None:
        """Remove all notes: the upload has become a file, or nothing is left of it. ``begun`` goes last, since by it a
        sweep finds the rest."""
        names = [name for name, _ in self._listed(key)]
        for name in sorted(names, key=lambda name: name == _BEGUN):
            self.remove(key, name)

    # -- reading --------------------------------------------------------------------------------------

    def begun(self, key: str) -> Begun | None:
        text = self._read(key, _BEGUN)
        try:
            return None if text is None else Begun.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageFailed(where=self.keys.of_upload(key) + _BEGUN) from error

    def state(self, key: str) -> State | None:
        """``None`` if there is no such upload."""
        if not is_key(key):
            return None
        found = dict(self._listed(key))
        if _BEGUN not in found:
            return None
        state = State(is_unverified=_UNVERIFIED in found)
        if _VOID in found:
            told = json.loads(self._read(key, _VOID) or b"{}")
            state.void = {int(number): etag for number, etag in told.items()}
        state.remainders = {
            Remainder(int(match[1]), int(match[2])) for name in found if (match := _REMAINDER.fullmatch(name))
        }
        marks = marks_in(found)
        if marks:
            begun = self.begun(key)
            path = "" if begun is None else begun.path
            state.choose({mark: self._parts(path, mark) for mark in marks})
        state.count()
        times = [one.modified for one in found.values()]
        state.touched = max([*times, *(part.modified for part in state.parts.values())])
        return state

    def marks(self, key: str) -> list[Mark]:
        """Of all its multipart uploads."""
        return marks_in(dict(self._listed(key)))

    def _parts(self, path: str, mark: Mark) -> dict[int, Part]:
        try:
            return {part.number: part for part in self.bucket.parts(self.keys.prefix + path, mark.upload_id)}
        except NoSuchUpload:  # it has been completed, or aborted
            return {}

    def _read(self, key: str, name: str) -> bytes | None:
        download = self.bucket.get(self.keys.of_upload(key) + name)
        if download is None:
            return None
        try:
            return b"".join(download.pieces(1 << 16))
        finally:
            download.close()

    def _listed(self, key: str) -> Iterator[tuple[str, ListedObject]]:
        folder = self.keys.of_upload(key)
        return ((one.key.removeprefix(folder), one) for one in self.listed(folder))

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """All objects whose keys begin with that."""
        for page in self.bucket.pages(prefix):
            yield from page

    def all_marks(self) -> Iterator[str]:
        """The ids of all multipart uploads that any note names."""
        for one in self.listed(self.keys.partial):
            match = _UPLOAD.fullmatch(one.key.removeprefix(self.keys.partial).partition("/")[2])
            if match:
                yield unquote(match[2])

    def newest(self) -> dict[str, tuple[float, bool]]:
        """By the keys of all uploads that there are notes of: when the newest of them was written, and whether they
        name a multipart upload."""
        found: dict[str, tuple[float, bool]] = {}
        for one in self.listed(self.keys.partial):
            key, _, name = one.key.removeprefix(self.keys.partial).partition("/")
            modified, has_mark = found.get(key, (0.0, False))
            found[key] = max(modified, one.modified), has_mark or bool(_UPLOAD.fullmatch(name))
        return found


def marks_in(names: Mapping[str, object]) -> list[Mark]:
    """Those that are names of marks."""
    return [Mark(unquote(match[2]), int(match[1])) for name in names if (match := _UPLOAD.fullmatch(name))]


def is_key(text: str) -> bool:
    """Whether it can be the key of an upload: what is none is unknown."""
    return _KEY.fullmatch(text) is not None
