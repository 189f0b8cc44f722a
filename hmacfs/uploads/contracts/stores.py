"""What the use cases need of a place for files. See the package for why it is cut like this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, Self

from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.requests import Hash, Sink
from hmacfs.uploads.files import FileInfo, FileMetadata


class Source(Protocol):
    """A stored file open for reading. Its user calls ``close`` once, and refers to it no longer: others may have it."""

    @property
    def info(self) -> FileInfo: ...

    def pieces(self, offset: int, count: int, size: int) -> Iterator[bytes]:
        """``count`` bytes from ``offset`` on, in pieces of at most ``size``; fewer if the file became shorter. Called
        once at most: an object store asks for exactly these bytes."""

    def fileno(self) -> int | None:
        """A descriptor to send the bytes from instead (``sendfile``); ``None`` if it has none."""

    def close(self) -> None: ...


class StagedFile(Sink, Protocol):
    """A file that nobody sees until ``publish`` returns."""

    def publish(self, later: FileMetadata | None = None) -> FileInfo:
        """Make what was written visible under the name it was staged for: exclusive (of all processes and machines that
        publish a name, one succeeds), atomic (readers see the whole file or none) and, in a store that promises so,
        durable. later: metadata that was not known when the file was staged.

        Raises ``NameTaken``, ``NoSpace``, ``StorageFailed``; then nothing is visible.
        """


class Piece(Sink, Protocol):
    """A piece of an unfinished upload, as a transaction.

    When its context ends without an error, all of it counts, and is as durable as an unfinished upload ever is. With an
    error: of an atomic one nothing counts, of any other what arrived. If the end itself fails, so that it raises, a
    first part of it may count.
    """

    def roll_back(self) -> None:
        """Nothing of this piece shall count, atomic or not."""


class PartialInfo(NamedTuple):
    """length: bytes that count. touched: when the last of them came, in Unix seconds."""

    length: int
    touched: float


class PartialUpload(Protocol):
    """The right to write one unfinished upload, as a context. length: bytes that count. lease: what it was opened with.

    Every change is made under the lease that it was opened with: once another holder has that, each raises
    ``Superseded`` and changes nothing. The end of the context releases the lease.
    """

    @property
    def length(self) -> int: ...

    @property
    def lease(self) -> Lease: ...

    def space_of(self, offset: int, length: int | None, *, atomic: bool) -> int | None:
        """As ``FileStore.space_of``, of a piece of ``length`` bytes at ``offset``."""

    @property
    def space_to_publish(self) -> int | None:
        """How much of that space ``feed`` and ``publish`` take; ``None`` for none."""

    def begin(self, offset: int, *, atomic: bool) -> AbstractContextManager[Piece]:
        """A piece at ``offset``, which is ``length``, or where the last atomic piece began: that one, or what is left
        of it, is dropped then."""

    def feed(self, digest: Hash) -> None:
        """Tell ``digest`` of all bytes that count, which are the whole file: ``publish`` or ``discard`` comes next.
        Cooperative. If its process dies, the file stays unseen until another one feeds and publishes it. Raises
        ``NameTaken`` as ``publish`` does."""

    def is_published(self, name: StoredName) -> bool:
        """Whether the file of that name is this upload: its process died in ``feed`` or ``publish``. Then nothing may
        be written any more, and these do the rest."""

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """Make it visible, as ``StagedFile.publish`` does, with all that is known by now. The upload is gone then.
        Raises ``NameTaken``, ``NoSpace``, ``StorageFailed``: then it is still there."""

    def discard(self) -> None:
        """Remove the upload with its bytes: if an attempt to publish it is still carried out later, a sweep removes the
        file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object, /) -> None: ...


class PartialUploads(Protocol):
    """The unfinished uploads, each under the key of its session; what is no key is unknown.

    What counts is told by the stored bytes alone: an offset that a client was told never goes back, whichever process
    dies at whatever moment.
    """

    def create(self, key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        """An empty one. name, length (``None`` while unknown), metadata: what the file is to become; a store that needs
        none of it keeps none, so ``publish`` is told again. Raises ``NoSpace``, ``StorageFailed``."""

    def exists(self, key: str) -> bool:
        """Whether there is such an upload: for callers that need not know how far it is. Raises ``StorageFailed``."""

    def stat(self, key: str) -> PartialInfo | None:
        """How far it is, without a lease; ``None`` if there is no such upload (any more). A store may have to list all
        that is stored of it, so a request asks once. Raises ``StorageFailed``."""

    def open(self, key: str, lease: Lease) -> PartialUpload:
        """To go on with it. The upload has the ``lease`` from then on, which is released if this raises. Raises
        ``SessionUnknown`` if there is no such upload (any more), ``Superseded``, ``StorageFailed``."""

    def discard(self, key: str) -> None:
        """Remove one that nobody writes: the caller has its lease, or is the only one to know it. No error if there is
        none."""

    def untouched_since(self, before: float) -> list[str]:
        """The keys of all whose last byte came before that Unix time, and of what is left of any from then. There may
        be others among them: ``stat`` tells. Raises ``StorageFailed``."""


class StoreCapabilities(NamedTuple):
    """What a store can do, asked once, at start.

    cheap_bytes: a body of at most so many bytes that is here is published as soon as its name is looked up, so that
    only the publication judges whether that is taken; -1 if none is. keeps_metadata: what it cannot keep, it forgets.
    remarks: what an operator should know, one sentence each.
    """

    cheap_bytes: int
    keeps_metadata: bool
    remarks: tuple[str, ...] = ()


class FileReader(Protocol):
    """The part of a ``FileStore`` that its files are read by."""

    def check_readable(self) -> None:
        """Raises ``StoreUnavailable``, ``StorageFailed`` if no file can be looked up now: some stores answer then as if
        there were none."""

    def stat(self, name: StoredName) -> FileInfo | None:
        """All that is known of a file; ``None`` if there is none of that name."""

    def open(self, name: StoredName, wanted: ByteRange | None = WHOLE) -> Source:
        """A file for reading. wanted: what is going to be read of it, as far as anybody knows, so that a store far away
        can send that with the information; ``None``: nothing. Of its metadata only what serving needs
        (``content_type``) need be told. Raises ``NotFound``."""

    def names(self, limit: int = 1000) -> Iterator[list[StoredName]]:
        """All files that could be opened by a name, in pages of at most ``limit``, in any order; never what the server
        keeps for itself, nor what a link leads to. Cheap to begin: nothing is read ahead of the page that is asked for.
        A file that is published or deleted meanwhile may be among them or not, all others are, once. If some could not
        be listed, ``StorageFailed`` or ``StoreUnavailable`` follows the last page."""


class FileStore(FileReader, Protocol):
    """Keeps whole files under their names, and unfinished uploads apart from them.

    Duties of a store:
    - Every call is cooperative: it may switch greenlets but does not block the event loop.
    - Errors are this project's own: ``NoSpace``, ``StoreUnavailable``, ``StorageFailed``, ``BadName`` for a name that
      it cannot keep, and what is said below. "I cannot tell" is never "there is none".
    - A file is visible whole or not at all, and the same bytes for as long as it has its name.
    - Repeating what may be repeated is its own affair: its callers never do.

    Duties of the caller: it keeps no information across requests, and asks nothing of a file that it does not use.
    """

    @property
    def capabilities(self) -> StoreCapabilities: ...

    @property
    def partials(self) -> PartialUploads: ...

    def exists(self, name: StoredName) -> bool:
        """Whether a file could not be published under this name, since something has it. Raises ``NameTaken`` if a part
        of the path is a file."""

    def check_free(self, name: StoredName) -> None:
        """Return if a new upload could be published under this name now. Raises ``NameTaken``, and ``StoreUnavailable``
        while another one is being published under it."""

    def location(self, name: StoredName, seconds: int, headers: Mapping[str, str]) -> str | None:
        """A URL at which the store itself gives a file, to everybody who has it and for so long; ``None`` if it serves
        none. Whether there is such a file is not looked at. headers: of its answers, by name: Content-Type,
        Content-Disposition, Cache-Control."""

    def stage(
        self, name: StoredName, length: int | None, metadata: FileMetadata, *, is_here: bool = False
    ) -> AbstractContextManager[StagedFile]:
        """A new file of ``length`` bytes (``None`` if that is unknown), as a context. Whatever happens inside, nothing
        is left of it unless it was published. is_here: all bytes will be written without a wait, so a store may make
        the file as late as ``publish``, and only then tell of what is in the way."""

    def delete(self, name: StoredName, etag: str | None = None) -> bool:
        """Remove a file, as durably as they are published, with the empty folders that it leaves, if the store has
        folders; a reader that has it open finishes. etag: only if this is still its tag. Whether a file was removed."""

    def space_of(self, length: int | None) -> int | None:
        """Of a file of ``length`` bytes, how many take up the space that ``free_bytes`` tells of, at the same time;
        ``None`` if nobody knows."""

    def free_bytes(self) -> int | None:
        """The free space of what files in the making are written to; ``None`` if nobody knows."""

    def total_bytes(self) -> int:
        """The size of that, 0 if nobody knows."""

    def check_writable(self) -> None:
        """For readiness. Raises ``StoreUnavailable``, ``StorageFailed`` or ``NoSpace`` if no file can be stored now,
        ``StoreStarting`` if that is not known yet."""

    def recover(self) -> int:
        """Remove what processes left that died; how many unfinished files. Called before workers start, also beside
        those of other servers: what a living process has stays."""

    def repair(self) -> None:
        """Called once a second: notice what changed underneath. Raises ``StoreUnavailable``, ``StorageFailed``."""
