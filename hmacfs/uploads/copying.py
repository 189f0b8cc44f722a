"""Copying the files of one store into another, one by one. Pure: it knows what stores promise, and nothing else.

Each file is published as an upload is: exclusively and atomically. So nothing is ever replaced, a copy that is killed
leaves no part of a file, and it is resumed by doing it again: what is there already is told by its size, and by its
digest where both stores have one.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hmacfs.errors import DigestMismatch, IncompleteBody, NameTaken, NotFound
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import Hash, Sink
from hmacfs.uploads.contracts.stores import FileReader, FileStore, Source
from hmacfs.uploads.files import FileInfo, FileMetadata

#: Read at once.
PORTION_BYTES = 256 * 1024
#: Before a larger file is read, it is made sure that nothing else than a file has its name: a folder, for example.
_LOOK_FIRST_BYTES = 1024 * 1024
#: How often a file may be replaced by another one of its name while it is looked at.
_ATTEMPTS = 3
#: Metadata that changes what clients get. ``stored`` does not, and ``sha256`` is compared with the bytes.
_COMPARED = ("content_type", "owner", "expires")


class Outcome(enum.Enum):
    """What became of a file, or would have become of it.

    COPIED: it was not there. THERE: it is. CONFLICT: something else is, which stays as it is. GONE: it is not in the
    source any more. MISSING: it is not there, and nothing was to be changed. SAME: it is there, byte by byte.
    """

    COPIED = enum.auto()
    THERE = enum.auto()
    CONFLICT = enum.auto()
    GONE = enum.auto()
    MISSING = enum.auto()
    SAME = enum.auto()


class Copied(NamedTuple):
    """size: of the source's file, in bytes. remark: what a conflict is about."""

    outcome: Outcome
    size: int = 0
    remark: str = ""


class Copying:
    """From one store into another. Any number of threads or greenlets may call, if the stores allow that.

    on_bytes: told of each portion's size once it was read; what it raises ends the copy of that file.
    All three raise what the stores raise, ``DigestMismatch`` for a source's file that is damaged, and
    ``IncompleteBody`` for one that became shorter.
    """

    def __init__(self, source: FileReader, target: FileStore, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._source = source
        self._target = target
        self._on_bytes = on_bytes

    def check(self) -> None:
        """Raises ``StoreUnavailable``, ``StorageFailed`` if one of the stores cannot be used now."""
        self._source.check_readable()
        self._target.check_readable()

    def copy(self, name: StoredName) -> Copied:
        """Copy it, unless something has its name in the target."""
        for _ in range(_ATTEMPTS):
            info = self._source.stat(name)
            if info is None:
                return Copied(Outcome.GONE)
            there = self._target.stat(name)
            if there is not None:
                return _compared(info, there)
            try:
                if self._copy_new(name, info):
                    return Copied(Outcome.COPIED, info.size)
            except NameTaken:
                there = self._target.stat(name)
                if there is not None:  # somebody was faster: another copy, or an upload
                    return _compared(info, there)
                return Copied(Outcome.CONFLICT, info.size, "something that is no file has its name, or part of it")
        raise IncompleteBody("It changes again and again while it is read.")

    def look(self, name: StoredName) -> Copied:
        """What ``copy`` would do, as far as names, sizes and known digests tell."""
        info = self._source.stat(name)
        if info is None:
            return Copied(Outcome.GONE)
        there = self._target.stat(name)
        return Copied(Outcome.MISSING, info.size) if there is None else _compared(info, there)

    def verify(self, name: StoredName) -> Copied:
        """Read both, and compare their bytes and the metadata that clients notice."""
        found = self.look(name)
        if found.outcome is not Outcome.THERE:
            return found
        try:
            if self._digest(self._source, name) != self._digest(self._target, name):
                return Copied(Outcome.CONFLICT, found.size, "its bytes are others")
        except NotFound:
            return self.look(name)
        info, there = self._source.stat(name), self._target.stat(name)
        if info is None or there is None:
            return self.look(name)
        fields = _COMPARED if self._target.capabilities.keeps_metadata else ()
        for field in fields:
            known = getattr(info.metadata, field)
            if known is not None and known != getattr(there.metadata, field):
                return Copied(Outcome.CONFLICT, found.size, f"its bytes are the same, and its {field} is not")
        return Copied(Outcome.SAME, found.size)

    def _copy_new(self, name: StoredName, info: FileInfo) -> bool:
        """False if the source has another file of that name by now, or none. Raises ``NameTaken``."""
        if info.size > _LOOK_FIRST_BYTES:
            self._target.check_free(name)
        with self._target.stage(name, info.size, _metadata_for(info)) as staged:
            try:
                source = self._source.open(name)
            except NotFound:
                return False
            try:
                if source.info.etag != info.etag:
                    return False
                digest = hashlib.sha256() if info.metadata.sha256 is not None else None
                _move(self._portions(source, digest), staged)
            finally:
                source.close()
            if digest is not None and digest.hexdigest() != info.metadata.sha256:
                raise DigestMismatch("Its bytes do not have the digest that is kept with it: it is damaged.")
            # Whoever deleted it meanwhile does not want it anywhere. Another server may write a file where it is read.
            present = self._source.stat(name)
            if present is None or present.etag != info.etag:
                return False
            staged.publish()
        return True

    def _portions(self, source: Source, digest: Hash | None) -> Iterator[memoryview]:
        left = source.info.size
        if left:
            for data in source.pieces(0, left, PORTION_BYTES):
                portion = memoryview(data)
                if digest is not None:
                    digest.update(portion)
                yield portion
                left -= len(data)
                self._on_bytes(len(data))
        if left:
            raise IncompleteBody("It became shorter while it was read.")

    def _digest(self, store: FileReader, name: StoredName) -> str:
        source = store.open(name)
        try:
            digest = hashlib.sha256()
            for _ in self._portions(source, digest):
                pass
            return digest.hexdigest()
        finally:
            source.close()


def _move(portions: Iterator[memoryview], sink: Sink) -> None:
    room = sink.room
    for left in portions:
        while left:
            portion, left = left[:room], left[room:]
            sink.write(portion)
            room -= len(portion)
            if not room:
                room = sink.hand_on()


def _metadata_for(info: FileInfo) -> FileMetadata:
    """With the time that the source's file is of, unless that is known better."""
    return FileMetadata(stored=int(info.modified)).completed_by(info.metadata)


def _compared(info: FileInfo, there: FileInfo) -> Copied:
    if info.size != there.size:
        return Copied(Outcome.CONFLICT, info.size, f"it has {info.size:,} bytes here and {there.size:,} there")
    digests = {info.metadata.sha256, there.metadata.sha256}
    if None not in digests and len(digests) > 1:
        return Copied(Outcome.CONFLICT, info.size, "its SHA-256 is another there")
    return Copied(Outcome.THERE, info.size)
