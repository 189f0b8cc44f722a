"""What the store needs of an object store's engine: the operations of S3 on one bucket, and what can go wrong.

Keys are whole ones, ``S3Prefix`` included. Entity tags have their quotes. Every call is cooperative.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from hmacfs.protocol.conditions import WHOLE, ByteRange

#: Of an object that passes through memory, so many bytes at a time.
_READ_BYTES = 256 * 1024


class FileSection(NamedTuple):
    """``length`` bytes of an open file from ``offset`` on, as a body: sent from the kernel where that is possible."""

    fd: int
    offset: int
    length: int


#: A body that can be sent again.
Payload = bytes | FileSection


class Attributes(NamedTuple):
    """What an object carries besides its bytes. content_type: empty for none. metadata: by names without the prefix
    ``x-amz-meta-``, in lower case; both of printable ASCII."""

    content_type: str = ""
    metadata: Mapping[str, str] = {}


NO_ATTRIBUTES = Attributes()


class ObjectInfo(NamedTuple):
    """size: of the whole object, in bytes. modified: Unix seconds, by the engine's clock."""

    size: int
    modified: float
    etag: str
    attributes: Attributes


class ListedObject(NamedTuple):
    """As ``ObjectInfo``; a listing tells no attributes."""

    key: str
    size: int
    modified: float


class ListedUpload(NamedTuple):
    """A multipart upload that was neither completed nor aborted. begun: Unix seconds, by the engine's clock."""

    key: str
    upload_id: str
    begun: float


class Part(NamedTuple):
    """A part of a multipart upload. number: from 1 to 10,000."""

    number: int
    size: int
    modified: float
    etag: str


class Doubt(Exception):
    """A request may have been carried out, and may still be: its answer was lost, is a 5xx, or does not come. The
    caller finds out by what tells its object from others.

    may_repeat: whether the engine seems to answer, so that repeating is worth a try: false after a timeout. The cause,
    for the log, is ``__cause__``.
    """

    def __init__(self, message: str, *, may_repeat: bool) -> None:
        super().__init__(message)
        self.may_repeat = may_repeat


class ConditionFailed(Exception):
    """412, or 409 ConditionalRequestConflict: the condition of a request does not hold, or did not at that moment."""


class NoSuchUpload(Exception):
    """404: the multipart upload was completed or aborted, or never was."""


class InvalidPart(Exception):
    """400 InvalidPart, InvalidPartOrder, EntityTooSmall: the engine does not take the list of a completion."""


class OutOfRange(Exception):
    """416: the object has none of the bytes that were asked for."""


class Download(Protocol):
    """An object's bytes on their way. info: of the whole object. first, count: which of its bytes come. Its user calls
    ``close`` once."""

    @property
    def info(self) -> ObjectInfo: ...

    @property
    def first(self) -> int: ...

    @property
    def count(self) -> int: ...

    def pieces(self, size: int) -> Iterator[bytes]:
        """The bytes, in pieces of at most ``size``, none of them empty. Raises ``Doubt`` if they end early or stop
        coming."""

    def close(self) -> None: ...


def read_all(download: Download) -> Generator[bytes, None, None]:
    """Its bytes, some at a time. It is closed then."""
    try:
        yield from download.pieces(_READ_BYTES)
    finally:
        download.close()


class Bucket(Protocol):
    """Operations on a bucket.

    Those that may be repeated are, after a transient failure (``MaxRetries``, ``RetryDelay``); all but ``put`` with
    ``is_new`` and ``complete`` may, and ``begin_multipart`` unless the engine says that it has begun one.

    All raise ``StoreUnavailable`` if the engine cannot be reached, does not answer within ``S3Timeout``, dribbles for
    minutes, or says again and again that it cannot serve now; ``StorageFailed`` for what an operator has to mend
    (credentials, permissions, no such bucket); ``NoSpace`` for a quota that is used up or a full engine; ``BadName``
    for a key that the engine does not take; those that store, ``NameTaken`` for one that is a folder's to it, or below
    a file's. ``Doubt`` is raised only where it says so: else it is one of these.
    """

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        """Store an object; its entity tag. is_new: only if there is none of that key (``If-None-Match: *``); then it is
        tried once, and raises ``ConditionFailed`` and ``Doubt``."""

    def head(self, key: str) -> ObjectInfo | None:
        """``None`` if there is no such object."""

    def get(self, key: str, wanted: ByteRange = WHOLE, *, etag: str = "") -> Download | None:
        """``None`` if there is no such object. etag: only if it has this (``If-Match``), else ``ConditionFailed``.
        Raises ``OutOfRange``."""

    def delete(self, key: str, *, etag: str = "") -> None:
        """No error if there is none. etag: ``If-Match``, which some engines ignore, so it is repeated only after a look
        whether that one is still there; raises ``ConditionFailed``."""

    def pages(self, prefix: str, *, limit: int = 1000) -> Iterator[Sequence[ListedObject]]:
        """All objects whose keys begin with ``prefix``, in pages of at most ``limit`` (1,000 at most), none of them
        empty, in the engine's order: that of the bytes of the keys, but with SeaweedFS, where "a/b" comes before "a-b".
        What is stored or deleted meanwhile may be among them or not."""

    def begin_multipart(self, key: str, attributes: Attributes) -> str:
        """Its id."""

    def put_part(self, key: str, upload_id: str, number: int, payload: Payload) -> str:
        """Its entity tag. A part of that number that there is is replaced. Raises ``NoSuchUpload``."""

    def parts(self, key: str, upload_id: str) -> Sequence[Part]:
        """All of them, by number. Raises ``NoSuchUpload``."""

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], *, etag: str = "") -> str:
        """Make the parts with these numbers and entity tags the object, in place of what is there; its entity tag.
        etag: only if that is there (``If-Match``), for engines that heed it. Tried once.

        Raises ``ConditionFailed``, ``NoSuchUpload``, ``InvalidPart``, ``Doubt``."""

    def abort(self, key: str, upload_id: str) -> None:
        """Forget a multipart upload with its parts, so that it can never be completed. No error if there is none."""

    def uploads(self, key: str) -> Sequence[ListedUpload]:
        """The multipart uploads of exactly that key."""

    def presigned(self, key: str, *, seconds: int, overrides: Mapping[str, str]) -> str:
        """An absolute URL that is the right to GET the object for so long. overrides: ``response-content-type`` and
        its like."""

    def now(self) -> float:
        """Unix seconds by the engine's clock, as its last answer told them, and by this machine's until one did. Asks
        nothing."""

    def check(self, prefix: str) -> None:
        """Return if the bucket can be reached and listed below ``prefix``, after one attempt and within a few
        seconds."""
