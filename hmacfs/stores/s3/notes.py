"""What is noted of an unfinished upload: small objects below ``.hmacfs/partial/<key>/``.

``begun``                  what the file is to become
``u.<part size>.<id>``     the multipart upload that has its whole cells as parts
``c.<start>.<length>``     a remainder: bytes that are less than a cell
``void``                   parts of a piece that was taken back, which do not count
``unverified``             the file must not be seen, since its digest is not judged yet: see ``visibility``
``left``                   the upload is over, and something of it may still turn up in the bucket: a sweep looks again

The file is cut by a fixed grid: part *n* is the cell [(n - 1) * P, n * P), so sending one again changes nothing. The
offset is where the parts that count, and the chain of remainders from there on, end. It is asked of the engine each
time. A remainder goes only once the part that contains it is stored.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from hmacfs.errors import StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Attributes, Bucket, ListedObject, NoSuchUpload, Part, Payload, read_all
from hmacfs.stores.s3.objects import Keys, attributes_of, identity_of
from hmacfs.uploads.files import FileMetadata

_BEGUN, _VOID, UNVERIFIED, _LEFT = "begun", "void", "unverified", "left"
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
    do not, since two holders of the lease began one, or that are gone. void: entity tags, by number, of parts that do
    not count. whole: how many parts do. chain: the remainders after them, in their order. touched: Unix seconds.
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

    @property
    def marks(self) -> list[Mark]:
        return self.others if self.mark is None else [self.mark, *self.others]

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

    def choose(self, found: Mapping[Mark, dict[int, Part] | None]) -> None:
        """Of several multipart uploads, the one that got furthest counts: it has all that was acknowledged. ``None``:
        it is gone."""
        for mark, parts in sorted(found.items()):
            if parts is None:
                continue
            current = State(mark=mark, void=self.void, parts=parts)
            if self.mark is None or current._whole(parts) > self._whole(self.parts):
                self.mark, self.parts = mark, parts
        self.others = [mark for mark in sorted(found) if mark != self.mark]


class Notes:
    """Reads and writes them. Methods raise what ``Bucket``'s do."""

    def __init__(self, bucket: Bucket, keys: Keys) -> None:
        self.bucket = bucket
        self.keys = keys

    # -- writing --------------------------------------------------------------------------------------

    def create(self, key: str, begun: Begun) -> None:
        self.put(key, _BEGUN, begun.to_json())

    def begin(self, key: str, begun: Begun) -> Mark:
        """Of a whole upload: note it, and begin its multipart upload."""
        self.create(key, begun)
        return self.begin_multipart(key, begun, begun.attributes())

    def begin_multipart(self, key: str, begun: Begun, attributes: Attributes) -> Mark:
        """The note comes after, since it has the id; it says again what is begun, so that it is enough to abort that. A
        process that dies between leaves a multipart upload of that path which no note names."""
        upload_id = self.bucket.begin_multipart(self.keys.of(begun.name), attributes)
        mark = Mark(upload_id, begun.part_size)
        self.put(key, mark.name, begun.to_json())
        return mark

    def put(self, key: str, name: str, payload: Payload) -> None:
        self.bucket.put(self.keys.of_upload(key) + name, payload)

    def put_void(self, key: str, void: Mapping[int, str]) -> None:
        self.put(key, _VOID, json.dumps(void).encode())

    def put_unverified(self, key: str) -> None:
        self.put(key, UNVERIFIED, b"")

    def remove(self, key: str, name: str) -> None:
        self.bucket.delete(self.keys.of_upload(key) + name)

    def remove_unverified(self, key: str) -> None:
        self.remove(key, UNVERIFIED)

    def put_left(self, key: str, begun: Begun) -> None:
        self.put(key, _LEFT, begun.to_json())

    def forget(self, key: str, ended: Collection[Mark] = (), *, but_left: bool = False) -> None:
        """Remove all notes: the upload has become a file, or nothing is left of it. ``begun`` goes first, since without
        it there is no upload any more: with it, the loss of any other would look as if its offset went back.

        ended: multipart uploads that are gone. Others are aborted: a process that has lost its lease without
        noticing may begin one. but_left: not the note by which a sweep finds what may turn up."""
        names = [name for name, _ in self._listed(key) if not (but_left and name == _LEFT)]
        for name in sorted(names, key=lambda name: name != _BEGUN):
            for mark in marks_in({name: None}):
                if mark not in ended and (begun := self._read_begun(key, name)) is not None:
                    self.bucket.abort(self.keys.prefix + begun.path, mark.upload_id)
            self.remove(key, name)

    # -- reading --------------------------------------------------------------------------------------

    def begun(self, key: str) -> Begun | None:
        return self._read_begun(key, _BEGUN)

    def left(self, key: str) -> Begun | None:
        """What an upload that is over was to become."""
        return self._read_begun(key, _LEFT)

    def _read_begun(self, key: str, name: str) -> Begun | None:
        text = self._read(key, name)
        try:
            return None if text is None else Begun.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageFailed(where=self.keys.of_upload(key) + name) from error

    def state(self, key: str) -> State | None:
        """``None`` if there is no such upload."""
        if not is_key(key):
            return None
        found = dict(self._listed(key))
        if _BEGUN not in found:
            return None
        state = State(is_unverified=UNVERIFIED in found)
        if _VOID in found:
            told = json.loads(self._read(key, _VOID) or b"{}")
            state.void = {int(number): etag for number, etag in told.items()}
        state.remainders = {
            Remainder(int(match[1]), int(match[2])) for name in found if (match := _REMAINDER.fullmatch(name))
        }
        marks = marks_in(found)
        if marks:
            begun = self.begun(key)
            if begun is None:  # its notes are being removed
                return None
            parts = {mark: self._parts(begun.path, mark) for mark in marks}
            state.choose(parts)
            state.count()
            if None in parts.values():
                self._look_for_file(begun, state)
        else:
            state.count()
        times = [one.modified for one in found.values()]
        state.touched = max([*times, *(part.modified for part in state.parts.values())])
        return state

    def _look_for_file(self, begun: Begun, state: State) -> None:
        """A process that completed the upload may have died before it could remove the notes: all bytes are in the
        file."""
        stored = self.bucket.head(self.keys.prefix + begun.path)
        if stored is not None and identity_of(stored) == begun.identity:
            state.length = stored.size

    def _parts(self, path: str, mark: Mark) -> dict[int, Part] | None:
        """``None`` if it has been completed, or aborted."""
        try:
            return {part.number: part for part in self.bucket.parts(self.keys.prefix + path, mark.upload_id)}
        except NoSuchUpload:
            return None

    def _read(self, key: str, name: str) -> bytes | None:
        download = self.bucket.get(self.keys.of_upload(key) + name)
        return None if download is None else b"".join(read_all(download))

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
