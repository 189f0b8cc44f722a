"""Whole uploads."""

from __future__ import annotations

from typing import Self

from hmacfs.errors import StoreUnavailable
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import FileSection, NoSuchUpload, Payload
from hmacfs.stores.s3.ending import tidying_up
from hmacfs.stores.s3.inventory import Mark
from hmacfs.stores.s3.notes import LEFT, Begun
from hmacfs.stores.s3.objects import attributes_of, new_identity
from hmacfs.stores.s3.sending import PartSender
from hmacfs.stores.s3.unfinished import UnfinishedObjects
from hmacfs.uploads.contracts.requests import ENDLESS
from hmacfs.uploads.files import FileInfo, FileMetadata

#: A body of at most so many bytes that is here is held in memory: its file in the spool would cost more.
HELD_BYTES = 128 * 1024


class StagedObject:
    """A ``StagedFile``. One of a single part is stored by one call; of a larger one each part is sent as soon as it is
    full, beside notes by which a sweep finds what a dead process left.

    room: of each part. partials: where the notes are. length: in bytes, ``None`` if that is unknown.
    """

    def __init__(
        self,
        partials: UnfinishedObjects,
        name: StoredName,
        length: int | None,
        metadata: FileMetadata,
        *,
        is_here: bool,
    ) -> None:
        self._partials = partials
        self._bucket = partials.bucket
        self._publisher = partials.publisher
        self._name = name
        self._key = partials.keys.of(name)
        self._metadata = metadata
        self._identity = new_identity()
        self._length = length
        self.room = (
            ENDLESS if is_here and length is not None and length <= HELD_BYTES else partials.part_size_of(length)
        )
        self._held: bytes | None = b"" if self.room == ENDLESS else None
        self._etags: dict[int, str] = {}
        self._upload_key = ""
        self._begun: Begun | None = None
        self._mark: Mark | None = None
        self._size = 0
        self._sender = PartSender(partials.spool, self._put_part)
        self._is_published = self._is_in_doubt = False

    def write(self, data: memoryview) -> None:
        if self._held is None:
            self._sender.current.write(data)
        elif self._held:
            self._held += data
        else:  # bytes that came with the head are one object that nobody changes
            self._held = data.obj if isinstance(data.obj, bytes) and len(data.obj) == len(data) else bytes(data)

    def fileno(self) -> int | None:
        return self._sender.current.fd if self._held is None else None

    def hand_on(self) -> int:
        if self._length is None or self._length > self.room:
            self._begin_multipart()
            self._sender.send()
        return self.room

    def publish(self, later: FileMetadata | None = None) -> FileInfo:
        """See ``StagedFile``; of a file in parts, ``later`` comes too late."""
        metadata = self._metadata if later is None or self._upload_key else self._metadata.completed_by(later)
        if not self._upload_key and self._publisher.is_exclusive():
            attributes = attributes_of(self._name, metadata, self._identity)
            payload, self._size = self._payload()
            etag = self._publisher.create(self._key, payload, attributes, self._identity)
        else:
            self._metadata = metadata
            etag = self._complete()
        self._is_published = True
        return FileInfo(self._size, self._bucket.now(), etag, metadata)

    def _payload(self) -> tuple[Payload, int]:
        """All of it, and how many bytes that are."""
        if self._held is not None:
            return self._held, len(self._held)
        file = self._sender.current
        length = file.measure()
        return file.section(0, length), length

    def _complete(self) -> str:
        self._begin_multipart()
        if self._held is not None:
            self._sender.current.write(memoryview(self._held))
        self._sender.wait()
        if self._sender.current.measure() or not self._etags:
            self._sender.send()
            self._sender.wait()
        try:
            return self._publisher.complete(self._key, self._upload_id, self._etags, self._identity)
        except StoreUnavailable:
            self._is_in_doubt = True
            raise

    @property
    def _upload_id(self) -> str:
        assert self._mark is not None, "it has not begun"
        return self._mark.upload_id

    def _begin_multipart(self) -> None:
        """The notes of an unfinished upload, of which no session knows: after ``SessionTTL`` a sweep takes it for an
        orphan."""
        if self._upload_key:
            return
        self._upload_key = new_identity()
        part_size = self._partials.part_size_of(self._length)
        self._begun = Begun(self._name.path, self._identity, part_size, self._metadata)
        self._is_in_doubt = True  # without an answer, a multipart upload may be begun later that no note names
        self._mark = self._partials.notes.begin(self._upload_key, self._begun)
        self._is_in_doubt = False

    def _put_part(self, number: int, payload: FileSection) -> None:
        try:
            self._etags[number] = self._bucket.put_part(self._key, self._upload_id, number, payload)
        except NoSuchUpload as error:  # it was silent for so long that a sweep has aborted it
            raise StoreUnavailable(where=self._key) from error
        self._size += payload.length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        if self._upload_key:
            with tidying_up():
                self._tidy_up()

    def _tidy_up(self) -> None:
        if self._is_published and self._begun is not None and self._mark is not None:
            self._partials.ending.conclude(self._upload_key, self._begun, [self._mark])
        else:
            self._partials.ending.discard(self._upload_key, keep=LEFT if self._is_in_doubt else "")
