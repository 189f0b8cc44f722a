"""Unfinished uploads in a bucket; ``notes`` says what there is of each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Self

from hmacfs.errors import SessionUnknown, StorageFailed, StoreUnavailable
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Bucket, ObjectInfo, read_all
from hmacfs.stores.s3.ending import Ending, tidying_up
from hmacfs.stores.s3.grid import Grid
from hmacfs.stores.s3.inventory import Inventory
from hmacfs.stores.s3.notes import GIVEN_UP, Begun, Notes
from hmacfs.stores.s3.objects import Keys, attributes_of, identity_of, info_of, new_identity
from hmacfs.stores.s3.pieces import AtomicPiece, ObjectPiece
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.renewal import Renewal
from hmacfs.stores.s3.spool import Spool
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.requests import Hash
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileInfo, FileMetadata


class UnfinishedObjects:
    """The unfinished uploads of a bucket. part_size_of: the size of the cells of a file of that length. grace: see
    ``Ending``."""

    def __init__(
        self,
        publisher: Publisher,
        notes: Notes,
        spool: Spool,
        part_size_of: Callable[[int | None], int],
        *,
        grace: float,
    ) -> None:
        self.publisher = publisher
        self.notes = notes
        self.spool = spool
        self.sleep = publisher.sleep
        self.part_size_of = part_size_of
        self.ending = Ending(publisher, notes, grace=grace)

    @property
    def bucket(self) -> Bucket:
        return self.notes.bucket

    @property
    def keys(self) -> Keys:
        return self.notes.keys

    def create(self, upload_key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        """See ``PartialUploads``."""
        identity = new_identity()
        self.notes.create(upload_key, Begun(name.path, identity, self.part_size_of(length), metadata))

    def exists(self, upload_key: str) -> bool:
        """See ``PartialUploads``."""
        return self.notes.has_begun(upload_key)

    def stat(self, upload_key: str) -> PartialInfo | None:
        """See ``PartialUploads``."""
        inventory = self.notes.inventory(upload_key)
        return PartialInfo(inventory.length, inventory.touched) if inventory is not None else None

    def open(self, upload_key: str, lease: Lease) -> UnfinishedObject:
        """See ``PartialUploads``."""
        try:
            lease.check()
            found = self.notes.find(upload_key)
            if found is None:
                raise SessionUnknown
            return UnfinishedObject(self, upload_key, lease, *found)
        except BaseException:
            lease.release()
            raise

    def discard(self, upload_key: str) -> None:
        """See ``PartialUploads``."""
        self.ending.discard(upload_key)

    def untouched_since(self, before: float) -> list[str]:
        """See ``PartialUploads``: by its notes. Parts may be newer."""
        return sorted(upload_key for upload_key, noted in self.ending.survey().items() if noted < before)


class UnfinishedObject:
    """A ``PartialUpload``."""

    def __init__(
        self, uploads: UnfinishedObjects, upload_key: str, lease: Lease, begun: Begun, inventory: Inventory
    ) -> None:
        self._uploads = uploads
        self._notes = uploads.notes
        self._upload_key = upload_key
        self._begun = begun
        self._key = uploads.keys.of(begun.name)
        self._file = None if inventory.file is None else info_of(inventory.file)
        self._grid = Grid(uploads.notes, uploads.spool, upload_key, begun, lease, inventory, sleep=uploads.sleep)
        self.lease = lease
        self._renewal: Renewal | None = None
        self._is_fed = False

    @property
    def length(self) -> int:
        return self._inventory.length

    @property
    def _inventory(self) -> Inventory:
        return self._grid.inventory

    @property
    def bucket(self) -> Bucket:
        return self._uploads.bucket

    def __enter__(self) -> Self:
        self._renewal = Renewal(self.lease)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._renewal is not None:
                self._renewal.stop()
        finally:
            self.lease.release()

    # -- pieces ---------------------------------------------------------------------------------------

    def space_of(self, offset: int, length: int | None, *, atomic: bool) -> int | None:
        """See ``PartialUpload``."""
        return self._grid.space_of(offset, length, atomic=atomic)

    @property
    def space_to_publish(self) -> int | None:
        """See ``PartialUpload``: what is less than a cell passes through the spool."""
        return self._grid.tail_length or None

    def begin(self, offset: int, *, atomic: bool) -> ObjectPiece | AtomicPiece:
        """See ``PartialUpload``."""
        self.lease.check()
        self._grid.begin(offset)
        return AtomicPiece(self._grid) if atomic else ObjectPiece(self._grid)

    # -- the end --------------------------------------------------------------------------------------

    def feed(self, digest: Hash) -> None:
        """See ``PartialUpload``. No engine gives parts back: a file of several cells is completed to be read, with a
        note that hides it from readers (see ``visibility``), and by which ``discard`` removes it again."""
        is_complete = self._is_ours(self.bucket.head(self._key))
        if not is_complete and self._inventory.whole == 0:
            for data in self._grid.tail():
                digest.update(memoryview(data))
            return
        if not is_complete:
            self.lease.check()
            self._notes.put_unverified(self._upload_key)
            self._inventory.is_unverified = True
            self._complete()
        download = self.bucket.get(self._key)
        if download is None or not self._is_ours(download.info):
            raise StorageFailed(where=self._key)
        with closing(read_all(download)) as pieces:
            for data in pieces:
                self.lease.check()
                digest.update(memoryview(data))
                self._uploads.sleep(0)  # in a gevent worker the others' turn
        self._is_fed = True

    def _is_ours(self, stored: ObjectInfo | None) -> bool:
        if stored is None or identity_of(stored) != self._begun.identity:
            return False
        self._file = info_of(stored)
        return True

    def is_published(self, name: StoredName) -> bool:
        """See ``PartialUpload``."""
        return self._is_ours(self.bucket.head(self._uploads.keys.of(name)))

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """See ``PartialUpload``; of a file in parts, the metadata is what it was created with. Raises
        ``StoreUnavailable`` for one that is to be judged by claims which the caller does not know of."""
        self.lease.check()
        inventory = self._inventory
        if inventory.is_unverified and not self._is_fed:
            raise StoreUnavailable(where=self._key)
        is_created = self._file is None and inventory.whole == 0 and self._uploads.publisher.is_exclusive()
        file = self._file or (self._create(name, metadata) if is_created else self._complete())
        if inventory.is_unverified:  # nobody has seen the file until then
            self._notes.remove_begun(self._upload_key)
        with tidying_up():
            self._conclude(is_created=is_created)
        return file

    def _conclude(self, *, is_created: bool) -> None:
        """Remove what is left of an upload that has become the file. is_created: not by a multipart upload."""
        ending, marks = self._uploads.ending, self._inventory.marks
        if is_created or self._inventory.others:
            ending.abort(self._begun, marks, is_other=is_created)
        if marks:
            ending.conclude(self._upload_key, self._begun, marks)
        else:  # of a file of less than a cell no multipart upload is looked for
            ending.forget(self._upload_key)

    def _create(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """A file of less than a cell: one object."""
        metadata, identity = self._begun.metadata.completed_by(metadata), self._begun.identity
        attributes = attributes_of(name, metadata, identity)
        with self._grid.spooled(self._inventory.chain) as payload:
            etag = self._uploads.publisher.create(self._key, payload, attributes, identity)
        return FileInfo(payload.length, self.bucket.now(), etag, metadata)

    def _complete(self) -> FileInfo:
        inventory, length = self._inventory, self.length
        last = inventory.whole
        if inventory.chain or not last:
            last += 1
            with self._grid.spooled(inventory.chain) as payload:
                self._grid.put_part(last, payload)
        etags = {number: part.etag for number, part in inventory.parts.items() if number <= last}
        etag = self._uploads.publisher.complete(self._key, self._grid.upload_id(), etags, self._begun.identity)
        self._file = FileInfo(length, self.bucket.now(), etag, self._begun.metadata)
        return self._file

    def discard(self) -> None:
        """See ``PartialUpload``. Nobody knows whether an attempt to publish it is still on its way."""
        self.lease.check()
        self._uploads.ending.discard(self._upload_key, keep=GIVEN_UP)
