"""The bytes of one unfinished upload on the grid: whole cells as parts, the rest as remainders (see ``notes``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hmacfs.errors import SessionUnknown, StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import FileSection, NoSuchUpload, Part, Payload, read_all
from hmacfs.stores.s3.notes import Begun, Notes, Remainder, State
from hmacfs.stores.s3.objects import of_session
from hmacfs.stores.s3.spool import Spool, SpoolFile
from hmacfs.uploads.contracts.locks import Lease

#: With more remainders than this, they become one.
_REMAINDERS_LIMIT = 16
#: How often a part is sent again until the engine tells of it and not of what it replaces, and the seconds between.
_REPLACEMENTS, _NEXT_SECOND = 3, 1.1


class Grid:
    """Changes what there is of an upload, under its lease. clock: gives Unix seconds. sleep: cooperative."""

    def __init__(
        self,
        notes: Notes,
        spool: Spool,
        key: str,
        begun: Begun,
        lease: Lease,
        state: State,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.spool = spool
        self.state = state
        self.cell_size = begun.part_size if state.mark is None else state.mark.part_size
        self._notes = notes
        self._bucket = notes.bucket
        self._key = key
        self._begun = begun
        self._target = notes.keys.prefix + begun.path
        self._lease = lease
        self._clock = clock
        self._sleep = sleep

    @property
    def length(self) -> int:
        """How many bytes count."""
        return self.state.length

    @property
    def whole(self) -> int:
        """How many parts count."""
        return self.state.whole

    def go_back(self, offset: int) -> None:
        """Have nothing after ``offset`` count. The bytes before it that are in a part which counts no more are still
        there as remainders: those go only when the next piece begins."""
        state = self._again()
        self._lease.check()
        void = {number: part.etag for number, part in state.parts.items() if number * self.cell_size > offset}
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
        self.state = state
        return state

    def tidy(self) -> None:
        """Drop those that are in a part, or in another one; make many of them one."""
        state = self.state
        chain = state.chain
        if len(chain) > _REMAINDERS_LIMIT:
            with self.spool.new() as file:
                self.load_tail(file)
                merged = Remainder(chain[0].start, file.measure())
                self._notes.put(self._key, merged.name, file.section(0, merged.length))
            state.remainders.add(merged)
            state.count()
        for one in state.remainders - set(state.chain):
            self._drop(one)

    def _drop(self, one: Remainder) -> None:
        self._notes.remove(self._key, one.name)
        self.state.remainders.discard(one)

    def tail(self) -> Iterator[bytes]:
        """The bytes that are in remainders, and in no part."""
        for one in self.state.chain:
            download = self._bucket.get(self._notes.keys.of_upload(self._key) + one.name)
            if download is None:  # another holder may have gone on with the upload
                self._lease.check()
                raise StorageFailed(where=self._target)
            yield from read_all(download)

    def load_tail(self, file: SpoolFile) -> None:
        """Write the tail to ``file``."""
        for data in self.tail():
            file.write(memoryview(data))

    def upload_id(self) -> str:
        """Of the multipart upload, which is begun if there is none yet."""
        state = self.state
        if state.mark is None:
            self._lease.check()
            attributes = of_session(self._begun.attributes(), self._key)
            state.mark = self._notes.begin_multipart(self._key, self._begun, attributes)
        return state.mark.upload_id

    def put_part(self, number: int, payload: FileSection) -> None:
        """Store a part. One with the same bytes as one that was taken back counts again. Raises ``StoreUnavailable``
        too if the multipart upload is gone: a sweep took it for dead."""
        state = self.state
        etag = self._sent(number, payload)
        if state.void.get(number) == etag:
            del state.void[number]
            self._notes.put_void(self._key, state.void)
        elif number in state.void:
            self._see_to_replacement(number, payload, etag)
        state.parts[number] = Part(number, payload.length, self._clock(), etag)
        state.count()

    def _sent(self, number: int, payload: FileSection) -> str:
        self._lease.check()
        try:
            return self._bucket.put_part(self._target, self.upload_id(), number, payload)
        except NoSuchUpload as error:
            raise StoreUnavailable(where=self._target) from error

    def _see_to_replacement(self, number: int, payload: FileSection, etag: str) -> None:
        """A part with other bytes than one that was taken back must be what the engine tells of from now on. Of two
        that came in the same second, SeaweedFS tells of either."""
        for _ in range(_REPLACEMENTS):
            listed = {part.number: part.etag for part in self._bucket.parts(self._target, self.upload_id())}
            if listed.get(number) == etag:
                return
            self._sleep(_NEXT_SECOND)
            self._sent(number, payload)
        raise StoreUnavailable(where=self._target)

    def put_remainder(self, start: int, payload: Payload, length: int) -> None:
        self._lease.check()
        one = Remainder(start, length)
        self._notes.put(self._key, one.name, payload)
        self.state.remainders.add(one)
        self.state.count()
