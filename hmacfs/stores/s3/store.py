"""The store: objects in a bucket of an S3 engine, which any number of servers share.

A file is the object of its name below ``S3Prefix``, so a bucket that another program filled is served as it is. What
this server needs for itself lies below one reserved prefix, which no URL can name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from hmacfs.errors import BadName, NotFound
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Bucket, ConditionFailed, Download, OutOfRange
from hmacfs.stores.s3.notes import Notes
from hmacfs.stores.s3.objects import Keys, info_of, is_file
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.source import ObjectSource
from hmacfs.stores.s3.spool import Spool
from hmacfs.stores.s3.staged import StagedObject
from hmacfs.stores.s3.unfinished import UnfinishedObjects
from hmacfs.stores.s3.visibility import Visibility
from hmacfs.uploads.contracts.stores import StoreCapabilities
from hmacfs.uploads.files import FileInfo, FileMetadata

#: A body of at most so many bytes that is here is stored without looking for its name before.
CHEAP_BYTES = 256 * 1024
#: Of a file of known length, so many parts at most: S3 allows 10,000.
_PARTS = 9_000
#: What it allows for a key.
_KEY_BYTES = 1024
#: In keys: SeaweedFS takes a backslash for a slash, and no XML can hold the other two (XML 1.0, section 2.2), so that
#: an engine's answer that names such a key cannot be read.
_REFUSED = re.compile("[\\\\\ufffe\uffff]")


class S3FileStore:
    """A ``FileStore`` in a bucket. prefix: ``S3Prefix``, empty or with a slash at its end. part_size: ``S3PartSize``,
    in bytes. grace: see ``Ending``. check_exclusive: raises ``StoreUnavailable`` while no name can be given to a file,
    and does not wait long."""

    def __init__(
        self,
        publisher: Publisher,
        spool: Spool,
        *,
        prefix: str,
        part_size: int,
        grace: float,
        check_exclusive: Callable[[], None],
    ) -> None:
        self.publisher = publisher
        self.bucket: Bucket = publisher.bucket
        self.spool = spool
        self.keys = Keys(prefix)
        self.notes = Notes(self.bucket, self.keys)
        self._visibility = Visibility(self.bucket, self.keys)
        self._part_size = part_size
        self._check_exclusive = check_exclusive
        self.partials = UnfinishedObjects(publisher, self.notes, spool, self.part_size_of, grace=grace)
        self.capabilities = StoreCapabilities(cheap_bytes=CHEAP_BYTES, keeps_metadata=True)

    def part_size_of(self, length: int | None) -> int:
        """The size of the parts of a file of that length."""
        return max(self._part_size, -(-(length or 0) // _PARTS))

    def key_of(self, name: StoredName) -> str:
        """Raises ``BadName`` for one that S3 does not take, or that some engine takes for another."""
        key = self.keys.of(name)
        if len(key.encode()) > _KEY_BYTES:
            raise BadName("The store does not take a name of this length.")
        if _REFUSED.search(name.path):
            raise BadName("The store does not take a name with a backslash, or with U+FFFE or U+FFFF.")
        return key

    def exists(self, name: StoredName) -> bool:
        """See ``FileStore``."""
        return is_file(self.bucket.head(self.key_of(name)))

    def check_free(self, name: StoredName) -> None:
        """See ``FileStore``."""
        self.publisher.check_free(self.key_of(name))

    def stat(self, name: StoredName) -> FileInfo | None:
        """See ``FileStore``."""
        key = self.key_of(name)
        stored = self.bucket.head(key)
        return info_of(stored) if self._visibility.shows(stored, key) else None

    def open(self, name: StoredName, wanted: ByteRange | None = WHOLE) -> ObjectSource:
        """See ``FileStore``: what is wanted comes with the information, by one request."""
        key = self.key_of(name)
        if wanted is not None:
            try:
                download = self.bucket.get(key, wanted)
            except OutOfRange:
                download = None
            if download is not None:
                if self._shows(key, download):
                    return ObjectSource(self.bucket, key, info_of(download.info), download)
                raise NotFound
        info = self.stat(name)
        if info is None:
            raise NotFound
        return ObjectSource(self.bucket, key, info, None)

    def _shows(self, key: str, download: Download) -> bool:
        """See ``Visibility``. What is not shown is closed."""
        is_shown = False
        try:
            is_shown = self._visibility.shows(download.info, key)
            return is_shown
        finally:
            if not is_shown:
                download.close()

    def location(self, name: StoredName, seconds: int, headers: Mapping[str, str]) -> str:
        """See ``FileStore``: a presigned URL."""
        overrides = {f"response-{header.lower()}": value for header, value in headers.items()}
        return self.bucket.presigned(self.key_of(name), seconds=seconds, overrides=overrides)

    def stage(
        self, name: StoredName, length: int | None, metadata: FileMetadata, *, is_here: bool = False
    ) -> StagedObject:
        """See ``FileStore``."""
        self.key_of(name)
        return StagedObject(self.partials, name, length, metadata, is_here=is_here)

    def delete(self, name: StoredName, etag: str | None = None) -> bool:
        """See ``FileStore``."""
        key = self.key_of(name)
        stored = self.bucket.head(key)
        if not self._visibility.shows(stored, key) or etag not in (None, stored.etag):
            return False
        try:
            self.bucket.delete(key, etag=stored.etag)
        except ConditionFailed:
            return False
        return True

    def names(self, limit: int = 1000) -> Iterator[list[StoredName]]:
        """See ``FileStore``: in the engine's order."""
        prefix = self.keys.prefix
        for page in self.bucket.pages(prefix, limit=limit):
            found = []
            unverified = set(self.notes.unverified())
            for one in page:
                if one.key.startswith(self.keys.reserved):
                    continue
                is_sure = one.size > _KEY_BYTES and one.key not in unverified  # a placeholder is small
                if is_sure or self._visibility.shows(self.bucket.head(one.key), one.key):
                    found += _names_of(one.key.removeprefix(prefix))
            if found:
                yield found

    def space_of(self, length: int | None) -> int | None:
        """See ``FileStore``: one part is on its way while another one fills."""
        most = 2 * self.part_size_of(length)
        return most if length is None else min(length, most)

    def free_bytes(self) -> int | None:
        """See ``FileStore``: of the spool. What the engine may still take, nobody knows."""
        return self.spool.free_bytes()

    def total_bytes(self) -> int:
        """See ``FileStore``."""
        return self.spool.total_bytes()

    def check_readable(self) -> None:
        """See ``FileReader``: to the HEAD of an object a bucket that is missing is an object that is missing."""
        any(self.bucket.pages(self.keys.reserved, limit=1))

    def check_writable(self) -> None:
        """See ``FileStore``."""
        self.spool.check_writable()
        self.bucket.check(self.keys.reserved)
        self._check_exclusive()

    def recover(self) -> int:
        """See ``FileStore``: files in the spool have no names, and what is in the bucket may be another server's."""
        return 0

    def repair(self) -> None:
        """See ``FileStore``: nothing is kept open."""


def _names_of(path: str) -> list[StoredName]:
    """The name that a URL can have; none for other objects."""
    try:
        return [StoredName.from_text(path)] if not _REFUSED.search(path) else []
    except BadName:
        return []
