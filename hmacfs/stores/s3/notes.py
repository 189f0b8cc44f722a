"""What is noted of an unfinished upload: small objects below ``.hmacfs/partial/<upload key>/``.

``begun``                               what the file is to become
``u.<part size>.<id>``                  a multipart upload that has whole cells as parts
``c.<start>.<length>.<era>.<unique>``   a remainder: bytes that are less than a cell
``t.<era>.<unique>``                    a tombstone: which parts and remainders were taken back; the latest one counts
``unverified``                          beside ``begun``: nobody may see the file yet, see ``visibility``
``left``                                the upload is over, and something of it may still turn up: a sweep looks again
``given-up``                            the same, and if the upload becomes a file after all, a sweep removes that

The file is cut by a fixed grid: part *n* is the cell [(n - 1) * P, n * P), so sending one again changes nothing. The
offset is where the parts that count, and the chain of remainders from there on, end. It is asked of the engine each
time. A remainder goes only once the part that contains it is stored. Each piece is of a later era than all that it
found, and of none before the time when it began: so what was given up earlier, and is carried out after it, is of an
earlier one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from hmacfs.errors import StorageFailed, StoreUnavailable
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Attributes, Bucket, ListedObject, NoSuchUpload, Part, Payload, read_all
from hmacfs.stores.s3.inventory import Inventory, Mark, Remainder, Tombstone, marks_in
from hmacfs.stores.s3.objects import Keys, attributes_of, identity_of
from hmacfs.uploads.files import FileMetadata

BEGUN, UNVERIFIED, LEFT, GIVEN_UP = "begun", "unverified", "left", "given-up"
#: How often the notes are listed until the tombstone that counts can be read.
_LISTINGS = 3
_UPLOAD_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


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


class Named(NamedTuple):
    """The ids of all multipart uploads that had notes at a time. at: in Unix seconds, by the engine's clock."""

    at: float
    upload_ids: Collection[str] = frozenset()


class Notes:
    """Reads and writes them, and takes stock of an upload by them. Methods raise what ``Bucket``'s do."""

    def __init__(self, bucket: Bucket, keys: Keys) -> None:
        self.bucket = bucket
        self.keys = keys

    # -- writing --------------------------------------------------------------------------------------

    def create(self, upload_key: str, begun: Begun) -> None:
        self.put(upload_key, BEGUN, begun.to_json())

    def begin(self, upload_key: str, begun: Begun) -> Mark:
        """Of a whole upload: note it, and begin its multipart upload."""
        self.create(upload_key, begun)
        return self.begin_multipart(upload_key, begun, begun.attributes())

    def begin_multipart(self, upload_key: str, begun: Begun, attributes: Attributes) -> Mark:
        """The note comes after, since it has the id; it says again what is begun, so that it is enough to abort that. A
        process that dies between leaves a multipart upload of that path which no note names."""
        upload_id = self.bucket.begin_multipart(self.keys.of(begun.name), attributes)
        mark = Mark(upload_id, begun.part_size)
        self.put(upload_key, mark.name, begun.to_json())
        return mark

    def put(self, upload_key: str, name: str, payload: Payload) -> None:
        self.bucket.put(self.keys.folder_of(upload_key) + name, payload)

    def put_tombstone(self, upload_key: str, tombstone: Tombstone) -> None:
        self.put(upload_key, tombstone.name(), tombstone.to_json())

    def put_unverified(self, upload_key: str) -> None:
        self.put(upload_key, UNVERIFIED, b"")

    def remove(self, upload_key: str, name: str) -> None:
        self.bucket.delete(self.keys.folder_of(upload_key) + name)

    def remove_begun(self, upload_key: str) -> None:
        """From then on there is no such upload."""
        self.remove(upload_key, BEGUN)

    # -- reading --------------------------------------------------------------------------------------

    def has_begun(self, upload_key: str) -> bool:
        """Whether there is such an upload."""
        return is_upload_key(upload_key) and self.bucket.head(self.keys.folder_of(upload_key) + BEGUN) is not None

    def begun(self, upload_key: str) -> Begun | None:
        return self.read_begun(upload_key, BEGUN)

    def read_begun(self, upload_key: str, name: str) -> Begun | None:
        """What the note of that name says is begun; ``None`` if it is not there."""
        text = self._read(upload_key, name)
        try:
            return None if text is None else Begun.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageFailed(where=self.keys.folder_of(upload_key) + name) from error

    def find(self, upload_key: str) -> tuple[Begun, Inventory] | None:
        """``None`` if there is no such upload."""
        begun = self.begun(upload_key) if is_upload_key(upload_key) else None
        inventory = self.inventory(upload_key, begun) if begun is not None else None
        return None if begun is None or inventory is None else (begun, inventory)

    def inventory(self, upload_key: str, begun: Begun | None = None) -> Inventory | None:
        """``None`` if there is no such upload. begun: if that is known."""
        if not is_upload_key(upload_key):
            return None
        found, tombstone, outdated = self._found(upload_key)
        if BEGUN not in found:
            return None
        inventory = Inventory(tombstone=tombstone, outdated=outdated, is_unverified=UNVERIFIED in found)
        remainders = (Remainder.from_name(name, listed.modified) for name, listed in found.items())
        inventory.remainders = {one for one in remainders if one is not None}
        inventory.era = max([inventory.tombstone.era, *(one.era for one in inventory.remainders)])
        inventory.touched = max(one.modified for one in found.values())
        marks = marks_in(found)
        if marks:
            begun = begun or self.begun(upload_key)
            if begun is None:  # its notes are being removed
                return None
            self._list_parts(inventory, begun, marks)
        else:
            inventory.count()
        return inventory

    def _found(self, upload_key: str) -> tuple[dict[str, ListedObject], Tombstone, set[str]]:
        """All notes by their names, the tombstone that counts, and the names of earlier ones. Raises
        ``StoreUnavailable`` if the engine lists one again and again that it does not have."""
        for _ in range(_LISTINGS):
            found = dict(self._listed(upload_key))
            eras = {name: era for name in found if (era := Tombstone.era_of(name)) is not None}
            if not eras or BEGUN not in found:
                return found, Tombstone(), set()
            # of two of one era, the one that came first: another holder may have seen that
            latest = min(eras, key=lambda name: (-eras[name], found[name].modified, name))
            tombstone = self._read_tombstone(upload_key, latest, eras[latest])
            if tombstone is not None:  # else there is a later one since the listing, or the upload is over
                return found, tombstone, {*eras} - {latest}
        raise StoreUnavailable(where=self.keys.folder_of(upload_key))

    def _read_tombstone(self, upload_key: str, name: str, era: int) -> Tombstone | None:
        text = self._read(upload_key, name)
        try:
            return None if text is None else Tombstone.from_json(era, text)
        except (ValueError, KeyError) as error:
            raise StorageFailed(where=self.keys.folder_of(upload_key) + name) from error

    def _list_parts(self, inventory: Inventory, begun: Begun, marks: Collection[Mark]) -> None:
        key = self.keys.of(begun.name)
        inventory.listed = {mark: self.parts(key, mark.upload_id) for mark in marks}
        inventory.count()
        inventory.touched = max([inventory.touched, *(part.modified for part in inventory.parts.values())])
        if None in inventory.listed.values():
            self._look_for_file(key, begun, inventory)

    def _look_for_file(self, key: str, begun: Begun, inventory: Inventory) -> None:
        """A process that completed the upload may have died before it could remove the notes: all bytes are in the
        file."""
        stored = self.bucket.head(key)
        if stored is not None and identity_of(stored) == begun.identity:
            inventory.file, inventory.length = stored, stored.size

    def parts(self, key: str, upload_id: str) -> dict[int, Part] | None:
        """Of a multipart upload, by number; ``None`` if it has been completed, or aborted."""
        try:
            return {part.number: part for part in self.bucket.parts(key, upload_id)}
        except NoSuchUpload:
            return None

    def _read(self, upload_key: str, name: str) -> bytes | None:
        download = self.bucket.get(self.keys.folder_of(upload_key) + name)
        return None if download is None else b"".join(read_all(download))

    def names(self, upload_key: str) -> list[str]:
        """Of all notes of an upload."""
        return [name for name, _ in self._listed(upload_key)]

    def _listed(self, upload_key: str) -> Iterator[tuple[str, ListedObject]]:
        folder = self.keys.folder_of(upload_key)
        return ((one.key.removeprefix(folder), one) for one in self.listed(folder))

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """All objects whose keys begin with that."""
        for page in self.bucket.pages(prefix):
            yield from page

    def unverified(self) -> Iterator[str]:
        """The keys of all files that nobody may see yet, or that are about to be there."""
        for one in self.listed(self.keys.partial):
            upload_key, _, name = one.key.removeprefix(self.keys.partial).partition("/")
            begun = self.begun(upload_key) if name == UNVERIFIED else None
            if begun is not None:
                yield self.keys.of(begun.name)

    def survey(self) -> tuple[dict[str, float], Named]:
        """By the upload keys of all that there are notes of, when the newest of them was written; and what they name.
        One listing."""
        at = self.bucket.now()
        newest: dict[str, float] = {}
        named: set[str] = set()
        for one in self.listed(self.keys.partial):
            upload_key, _, name = one.key.removeprefix(self.keys.partial).partition("/")
            newest[upload_key] = max(newest.get(upload_key, 0.0), one.modified)
            mark = Mark.from_name(name)
            if mark is not None:
                named.add(mark.upload_id)
        return newest, Named(at, named)


def is_upload_key(text: str) -> bool:
    """Whether it can be one: what is none is unknown."""
    return _UPLOAD_KEY.fullmatch(text) is not None
