"""Unfinished uploads in a bucket; ``notes`` says what there is of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from hmacfs.errors import SessionUnknown, StorageFailed, StoreUnavailable
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Bucket, Download, FileSection, InvalidPart, NoSuchUpload, Part, Payload
from hmacfs.stores.s3.notes import Begun, Notes, Remainder, State, is_key
from hmacfs.stores.s3.objects import Keys, attributes_of, identity_of, info_of, new_identity
from hmacfs.stores.s3.pieces import AtomicPiece, ObjectPiece
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.spool import Spool, SpoolFile
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.requests import Hash
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileInfo, FileMetadata

#: With more remainders than this, they become one.
_REMAINDERS_LIMIT = 16
_PIECE = 256 * 1024
#: How often a part is sent again until the engine tells of it and not of what it replaces, and the seconds between.
_REPLACEMENTS, _NEXT_SECOND = 3, 1.1


class UnfinishedObjects:
    """The unfinished uploads of a bucket. part_size_of: the size of the cells of a file of that length. grace: for how
    many seconds a multipart upload may be there without its note."""

    def __init__(
        self,
        publisher: Publisher,
        notes: Notes,
        spool: Spool,
        part_size_of: Callable[[int | None], int],
        *,
        grace: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.publisher = publisher
        self.notes = notes
        self.spool = spool
        self.clock = clock
        self.sleep = publisher.sleep
        self._part_size_of = part_size_of
        self._grace = grace

    @property
    def bucket(self) -> Bucket:
        return self.notes.bucket

    @property
    def keys(self) -> Keys:
        return self.notes.keys

    def create(self, key: str, name: StoredName, length: int | None, metadata: FileMetadata) -> None:
        """See ``PartialUploads``."""
        identity = new_identity()
        self.notes.create(key, Begun(name.path, identity, self._part_size_of(length), metadata))

    def stat(self, key: str) -> PartialInfo | None:
        """See ``PartialUploads``."""
        state = self.notes.state(key)
        return PartialInfo(state.length, state.touched) if state is not None else None

    def open(self, key: str, lease: Lease) -> UnfinishedObject:
        """See ``PartialUploads``."""
        try:
            lease.check()
            state = self.notes.state(key)
            begun = self.notes.begun(key) if state is not None else None
            if state is None or begun is None:
                raise SessionUnknown
            return UnfinishedObject(self, key, lease, begun, state)
        except BaseException:
            lease.release()
            raise

    def discard(self, key: str, *, is_in_doubt: bool = False) -> None:
        """See ``PartialUploads``. What was begun is aborted first: after that nobody can complete it, and a placeholder
        of it is dead. But not what has become the file: an engine that died before it forgot the parts, such as
        SeaweedFS, would take them for no object's. is_in_doubt: a request to publish it may still be on its way, so a
        sweep looks again."""
        if not is_key(key):
            return
        begun = self.notes.begun(key)
        if begun is None:
            self._look_again(key)
            return
        state = self.notes.state(key)
        if state is None:  # somebody else has just removed it
            return
        target = self.keys.prefix + begun.path
        stored = self.bucket.head(target)
        is_published = stored is not None and identity_of(stored) == begun.identity and not state.is_unverified
        for mark in state.others if is_published else state.marks:
            self.bucket.abort(target, mark.upload_id)
        if state.is_unverified:
            self._remove_file(target, begun.identity)
        self.publisher.withdraw(target, begun.identity)
        self.conclude(key, begun, state, is_in_doubt=is_in_doubt)

    def _look_again(self, key: str) -> None:
        """For what may have turned up of an upload that is over."""
        begun = self.notes.left(key)
        if begun is not None:
            target = self.keys.prefix + begun.path
            self.publisher.withdraw(target, begun.identity)
            if not self._abort_unnamed(target):
                return
        self.notes.forget(key)

    def conclude(self, key: str, begun: Begun, state: State, *, is_in_doubt: bool = False) -> None:
        """Forget an upload that is over, but for what a sweep has to look at again. state: with the multipart uploads
        that are completed or aborted. is_in_doubt: see ``discard``."""
        is_left = not self._abort_unnamed(self.keys.prefix + begun.path) or is_in_doubt
        if is_left:
            self.notes.put_left(key, begun)
        self.notes.forget(key, state.marks, but_left=is_left)

    def _abort_unnamed(self, target: str) -> bool:
        """Abort the multipart uploads of that key that no note names: a process died before it wrote the note, or the
        answer was lost that had the id. Whether none is left: a young one may be noted in the next moment."""
        found = self.bucket.uploads(target)
        if not found:
            return True
        named, is_done = set(self.notes.all_marks()), True
        for one in found:
            if one.upload_id in named:
                continue
            if self.clock() - one.begun < self._grace:
                is_done = False
            else:
                self.bucket.abort(target, one.upload_id)
        return is_done

    def _remove_file(self, target: str, identity: str) -> None:
        """A file that turned out not to be what was announced."""
        stored = self.bucket.head(target)
        if stored is not None and identity_of(stored) == identity:
            self.bucket.delete(target, etag=stored.etag)

    def untouched_since(self, before: float) -> list[str]:
        """See ``PartialUploads``."""
        found = []
        for key, (modified, has_mark) in self.notes.newest().items():
            if modified >= before:
                continue
            info = self.stat(key) if has_mark else None  # its parts may be newer
            if info is None or info.touched < before:
                found.append(key)
        return sorted(found)


class UnfinishedObject:
    """A ``PartialUpload``."""

    def __init__(self, uploads: UnfinishedObjects, key: str, lease: Lease, begun: Begun, state: State) -> None:
        self._uploads = uploads
        self._notes = uploads.notes
        self._key = key
        self._begun = begun
        self._target = uploads.keys.prefix + begun.path
        self._state = state
        self.lease = lease
        self.part_size = begun.part_size if state.mark is None else state.mark.part_size

    @property
    def length(self) -> int:
        return self._state.length

    @property
    def bucket(self) -> Bucket:
        return self._uploads.bucket

    @property
    def spool(self) -> Spool:
        return self._uploads.spool

    @property
    def target(self) -> str:
        """The key of the file to be."""
        return self._target

    @property
    def whole(self) -> int:
        """How many parts count."""
        return self._state.whole

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lease.release()

    # -- pieces ---------------------------------------------------------------------------------------

    def begin(self, offset: int, *, atomic: bool) -> ObjectPiece | AtomicPiece:
        """See ``PartialUpload``."""
        self.lease.check()
        if offset < self.length:
            self.go_back(offset)
        else:
            self._tidy_remainders()
        return AtomicPiece(self) if atomic else ObjectPiece(self)

    def go_back(self, offset: int) -> None:
        """Have nothing after ``offset`` count. The bytes before it that are in a part which counts no more are still
        there as remainders: those go only when the next piece begins."""
        state = self._again()
        self.lease.check()
        void = {number: part.etag for number, part in state.parts.items() if number * self.part_size > offset}
        if void:
            state.void.update(void)
            self._notes.put_void(self._key, state.void)
        for one in sorted((one for one in state.remainders if one.start >= offset), reverse=True):
            self._drop(one)
        state.count()
        if state.length != offset:
            raise StorageFailed(f"The upload cannot go back to byte {offset}.", where=self._target)

    def _again(self) -> State:
        state = self._notes.state(self._key)
        if state is None:
            raise SessionUnknown
        self._state = state
        return state

    def _tidy_remainders(self) -> None:
        """Drop those that are in a part, or in another one; make many of them one."""
        state = self._state
        chain = state.chain
        if len(chain) > _REMAINDERS_LIMIT:
            with self._uploads.spool.new() as file:
                self.load_tail(file)
                merged = Remainder(chain[0].start, file.measure())
                self._notes.put(self._key, merged.name, file.section(0, merged.length))
            state.remainders.add(merged)
            state.count()
        for one in state.remainders - set(state.chain):
            self._drop(one)

    def _drop(self, one: Remainder) -> None:
        self._notes.remove(self._key, one.name)
        self._state.remainders.discard(one)

    def load_tail(self, file: SpoolFile) -> None:
        """Write what is in remainders, and in no part, to ``file``."""
        for one in self._state.chain:
            download = self.bucket.get(self._uploads.keys.of_upload(self._key) + one.name)
            if download is None:  # another holder may have gone on with the upload
                self.lease.check()
                raise StorageFailed(where=self._target)
            _copy(download, lambda data: file.write(memoryview(data)))

    def _upload_id(self) -> str:
        """Of the multipart upload, which is begun if there is none yet."""
        state = self._state
        if state.mark is None:
            self.lease.check()
            state.mark = self._notes.begin_multipart(self._key, self._begun)
        return state.mark.upload_id

    def put_part(self, number: int, payload: FileSection) -> None:
        """Store a part. One with the same bytes as one that was taken back counts again. Raises ``StoreUnavailable``
        too if the multipart upload is gone: a sweep took it for dead."""
        state = self._state
        etag = self._sent(number, payload)
        if state.void.get(number) == etag:
            del state.void[number]
            self._notes.put_void(self._key, state.void)
        elif number in state.void:
            self._see_to_replacement(number, payload, etag)
        state.parts[number] = Part(number, payload.length, self._uploads.clock(), etag)
        state.count()

    def _sent(self, number: int, payload: FileSection) -> str:
        self.lease.check()
        try:
            return self.bucket.put_part(self._target, self._upload_id(), number, payload)
        except NoSuchUpload as error:
            raise StoreUnavailable(where=self._target) from error

    def _see_to_replacement(self, number: int, payload: FileSection, etag: str) -> None:
        """A part with other bytes than one that was taken back must be what the engine tells of from now on. Of two
        that came in the same second, SeaweedFS tells of either."""
        for _ in range(_REPLACEMENTS):
            listed = {part.number: part.etag for part in self.bucket.parts(self._target, self._upload_id())}
            if listed.get(number) == etag:
                return
            self._uploads.sleep(_NEXT_SECOND)
            self._sent(number, payload)
        raise StoreUnavailable(where=self._target)

    def put_remainder(self, start: int, payload: Payload, length: int) -> None:
        self.lease.check()
        one = Remainder(start, length)
        self._notes.put(self._key, one.name, payload)
        self._state.remainders.add(one)
        self._state.count()

    # -- the end --------------------------------------------------------------------------------------

    def feed(self, digest: Hash) -> None:
        """See ``PartialUpload``. No engine gives parts back: a file of several cells is completed to be read, with a
        note that it is not verified, by which ``discard`` removes it again."""
        if self._state.whole == 0:
            with self.spool.new() as file:
                self.load_tail(file)
                length = file.measure()
                for offset in range(0, length, _PIECE):
                    digest.update(memoryview(file.read(offset, min(_PIECE, length - offset))))
            return
        self._notes.put_unverified(self._key)
        self._state.is_unverified = True
        self._complete()
        download = self.bucket.get(self._target)
        if download is None or identity_of(download.info) != self._begun.identity:
            raise StorageFailed(where=self._target)
        _copy(download, lambda data: digest.update(memoryview(data)))

    def is_published(self, name: StoredName) -> bool:
        """See ``PartialUpload``."""
        if self._state.is_unverified:
            return False
        stored = self.bucket.head(self._uploads.keys.of(name))
        return stored is not None and identity_of(stored) == self._begun.identity

    def publish(self, name: StoredName, metadata: FileMetadata) -> FileInfo:
        """See ``PartialUpload``; of a file in parts, the metadata is what it was created with."""
        self.lease.check()
        stored = self.bucket.head(self._target)
        if stored is None or identity_of(stored) != self._begun.identity:
            if self._state.whole == 0 and self._uploads.publisher.is_exclusive():
                self._create(name, metadata)
            else:
                self._complete()
            stored = self.bucket.head(self._target)
            if stored is None or identity_of(stored) != self._begun.identity:  # removed by somebody in this moment
                raise StorageFailed(where=self._target)
        if self._state.is_unverified:
            self._notes.remove_unverified(self._key)
        for mark in self._state.others:
            self.bucket.abort(self._target, mark.upload_id)
        if self._state.marks:
            self._uploads.conclude(self._key, self._begun, self._state)
        else:  # of a file of less than a cell no multipart upload is looked for
            self._notes.forget(self._key)
        return info_of(stored)

    def _create(self, name: StoredName, metadata: FileMetadata) -> None:
        """A file of less than a cell: one object."""
        begun = self._begun
        attributes = attributes_of(name, begun.metadata.completed_by(metadata), begun.identity)
        with self.spool.new() as file:
            self.load_tail(file)
            payload = file.section(0, file.measure())
            self._uploads.publisher.create(self._target, payload, attributes, begun.identity)

    def _complete(self) -> None:
        state = self._state
        last = state.whole
        if state.chain or not last:
            last += 1
            with self.spool.new() as file:
                self.load_tail(file)
                self.put_part(last, file.section(0, file.measure()))
        etags = {number: part.etag for number, part in state.parts.items() if number <= last}
        try:
            self._uploads.publisher.complete(self._target, self._upload_id(), etags, self._begun.identity)
        except InvalidPart as error:
            raise StorageFailed(where=self._target) from error

    def discard(self) -> None:
        """See ``PartialUpload``."""
        self.lease.check()
        self._uploads.discard(self._key)


def _copy(download: Download, take: Callable[[bytes], object]) -> None:
    try:
        for data in download.pieces(_PIECE):
            take(data)
    finally:
        download.close()
