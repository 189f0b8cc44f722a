"""What the use cases need of a place for files."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Protocol

from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import Hash
from hmacfs.uploads.files import FileInfo, FileMetadata


class StagedFile(Protocol):
    """A file that nobody sees until ``publish`` returns."""

    @property
    def fd(self) -> int: ...

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo: ...


class Source(Protocol):
    """A stored file open for reading. Its user closes ``fd``."""

    @property
    def fd(self) -> int: ...

    @property
    def info(self) -> FileInfo: ...


class PartialUpload(Protocol):
    """The right to write one unfinished upload, at ``fd``'s position: the end of the ``length`` bytes it has.

    ``is_wanted`` says whether another writer asked for it; ``stored`` measures again; ``discard`` removes the upload;
    ``feed`` tells a digest of all bytes stored;
    ``publish`` makes the file visible and removes the unfinished upload, or raises ``NameTaken``. If its process ends
    between the two, what is written here would change the visible file: then ``is_published`` is true, and ``publish``
    does the rest.
    """

    fd: int
    length: int

    def is_wanted(self) -> bool: ...

    def truncate(self, length: int) -> None: ...

    def stored(self) -> int: ...

    def discard(self) -> None: ...

    def feed(self, digest: Hash) -> None: ...

    def is_published(self, name: StoredName) -> bool: ...

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo: ...


class PartialUploads(Protocol):
    """The unfinished uploads. ``writer`` raises ``SessionUnknown`` and ``WriterBusy``; it asks a present writer to let
    go if the stored bytes end at ``offset``, or in any case without one. ``touched`` is the Unix time of the last byte.
    ``discard`` refuses (False) while somebody writes, and where a byte came since ``untouched_since``."""

    def create(self, key: str) -> None: ...

    def length(self, key: str) -> int | None: ...

    def touched(self, key: str) -> float | None: ...

    def writer(self, key: str, offset: int | None) -> AbstractContextManager[PartialUpload]: ...

    def discard(self, key: str, untouched_since: float = math.inf) -> bool: ...

    def untouched_since(self, before: float) -> list[str]: ...


class FileStore(Protocol):
    """Stores whole files under their names. All errors are this project's own (``NameTaken``, ``NoSpace``,
    ``StorageFailed``); nothing is visible or left over unless ``publish`` returned. ``durable``: that waits for the
    device. ``partials``: the unfinished uploads."""

    @property
    def durable(self) -> bool: ...

    @property
    def partials(self) -> PartialUploads: ...

    def exists(self, name: StoredName) -> bool: ...

    def stat(self, name: StoredName) -> FileInfo | None: ...

    def open(self, name: StoredName) -> Source: ...

    def stage(self, name: StoredName) -> AbstractContextManager[StagedFile]: ...
