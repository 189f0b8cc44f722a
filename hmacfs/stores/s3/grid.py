"""The bytes of one unfinished upload on the grid: whole cells as parts, the rest as remainders (see ``notes``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from hmacfs.errors import SessionUnknown, StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import Doubt, FileSection, NoSuchUpload, Part, Payload, read_all
from hmacfs.stores.s3.inventory import Inventory, Mark, Remainder
from hmacfs.stores.s3.notes import Begun, Notes
from hmacfs.stores.s3.objects import with_upload_key
from hmacfs.stores.s3.spool import Spool
from hmacfs.uploads.contracts.locks import Lease

#: With more remainders than this, some become one.
_REMAINDERS_LIMIT = 16
#: How often a part is sent again until the engine tells of it and not of what it replaces, and the seconds between.
_REPLACEMENTS, _NEXT_SECOND = 3, 1.1


class Grid:
    """Changes what there is of an upload, under its lease. sleep: cooperative."""

    def __init__(
        self,
        notes: Notes,
        spool: Spool,
        upload_key: str,
        begun: Begun,
        lease: Lease,
        inventory: Inventory,
        *,
        sleep: Callable[[float], None],
    ) -> None:
        self.spool = spool
        self.inventory = inventory
        self.cell_size = begun.part_size if inventory.mark is None else inventory.mark.part_size
        self._notes = notes
        self._bucket = notes.bucket
        self._upload_key = upload_key
        self._begun = begun
        self._key = notes.keys.of(begun.name)
        self._lease = lease
        self._sleep = sleep
        self._era = self._next_era()

    @property
    def length(self) -> int:
        """How many bytes count."""
        return self.inventory.length

    @property
    def whole(self) -> int:
        """How many parts count."""
        return self.inventory.whole

    def begin(self, offset: int) -> None:
        """A piece, at ``offset``; what is after that is taken back."""
        self._era = self._next_era()
        if offset < self.length:
            self.go_back(offset)
        self._tidy()

    def _next_era(self) -> int:
        """By the clock too: nothing may be left of the eras of remainders that have become parts. In milliseconds,
        so that no client's pieces come faster than eras."""
        return max(self.inventory.era + 1, int(self._bucket.now() * 1000))

    def go_back(self, offset: int) -> None:
        """Have nothing after ``offset`` count. The bytes before it that are in a part which counts no more are still
        there as remainders: those go only when the next piece begins."""
        inventory = self._look_again()
        self._lease.check()
        self._notes.put_tombstone(self._upload_key, inventory.taken_back(offset, self._era))
        if self._look_again().length != offset:
            self._lease.check()
            raise StorageFailed(f"The upload cannot go back to byte {offset}.", where=self._key)

    def _look_again(self) -> Inventory:
        inventory = self._notes.inventory(self._upload_key, self._begun)
        if inventory is None:
            raise SessionUnknown
        self.inventory = inventory
        return inventory

    def _tidy(self) -> None:
        """Drop what does not count, and will not count again; make many remainders fewer."""
        merged = self._merged()
        if merged:
            with self.spooled(merged) as payload:
                self.put_remainder(merged[0].start, payload, payload.length)
        inventory = self.inventory
        for name in sorted(inventory.outdated | {one.name for one in inventory.remainders - set(inventory.chain)}):
            self._notes.remove(self._upload_key, name)
        inventory.remainders, inventory.outdated = set(inventory.chain), set()

    def _merged(self) -> Sequence[Remainder]:
        """The remainders that the next piece makes one: the last ones, from one on that is shorter than all after it.
        So a byte is merged a number of times that grows with the logarithm of the cell's size."""
        chain = self.inventory.chain
        if len(chain) > _REMAINDERS_LIMIT:
            for number, one in enumerate(chain):
                if one.length < _length_of(chain[number + 1 :]):
                    return chain[number:]
        return ()

    def space_of(self, offset: int, length: int | None, *, atomic: bool) -> int | None:
        """See ``PartialUpload``: one cell is on its way while another one fills. What is before the piece in its first
        cell comes back into the spool if that is filled."""
        before, most = offset % self.cell_size, 2 * self.cell_size
        if length is None:
            return None if atomic else most
        count = length + before if length + before >= self.cell_size else length
        return max(count if atomic else min(count, most), _length_of(self._merged()))

    @property
    def tail_length(self) -> int:
        return _length_of(self.inventory.chain)

    def tail(self) -> Iterator[bytes]:
        """The bytes that are in remainders, and in no part."""
        return self._read(self.inventory.chain)

    def _read(self, remainders: Sequence[Remainder]) -> Iterator[bytes]:
        for one in remainders:
            download = self._bucket.get(self._notes.keys.folder_of(self._upload_key) + one.name)
            if download is None:  # another holder may have gone on with the upload
                self._lease.check()
                raise StorageFailed(where=self._key)
            try:
                yield from read_all(download)
            except Doubt as error:
                raise StoreUnavailable(where=self._key) from error

    @contextlib.contextmanager
    def spooled(self, remainders: Sequence[Remainder]) -> Iterator[FileSection]:
        """Their bytes as a body."""
        with self.spool.new() as file:
            file.skip(length := _length_of(remainders))
            file.fill(self._read(remainders))
            yield file.section(0, length)

    def upload_id(self) -> str:
        """Of the multipart upload, which is begun if there is none yet."""
        return self._mark().upload_id

    def _mark(self) -> Mark:
        inventory = self.inventory
        if inventory.mark is None:
            self._lease.check()
            attributes = with_upload_key(self._begun.attributes(), self._upload_key)
            inventory.listed[self._notes.begin_multipart(self._upload_key, self._begun, attributes)] = {}
            inventory.count()
        assert inventory.mark is not None
        return inventory.mark

    def put_part(self, number: int, payload: FileSection) -> None:
        """Store a part. Raises ``StoreUnavailable`` too if the multipart upload is gone: a sweep took it for dead."""
        part = self._sent(number, payload)
        if number in self.inventory.tombstone.parts.get(self.upload_id(), {}):
            part = self._replacement(part, payload)
        self.inventory.add_part(self._mark(), part)

    def _sent(self, number: int, payload: FileSection) -> Part:
        self._lease.check()
        try:
            etag = self._bucket.put_part(self._key, self.upload_id(), number, payload)
        except NoSuchUpload as error:
            raise StoreUnavailable(where=self._key) from error
        return Part(number, payload.length, self._bucket.now(), etag)

    def _replacement(self, sent: Part, payload: FileSection) -> Part:
        """As it is listed, once that is none that was taken back: it must be of another moment than those. Of two that
        came in the same second, SeaweedFS lists either."""
        for _ in range(_REPLACEMENTS):
            for part in self._bucket.parts(self._key, self.upload_id()):
                is_it = (part.number, part.etag) == (sent.number, sent.etag)
                if is_it and not self.inventory.is_void(self._mark(), part):
                    return part
            self._sleep(_NEXT_SECOND)
            sent = self._sent(sent.number, payload)
        raise StoreUnavailable(where=self._key)

    def put_remainder(self, start: int, payload: Payload, length: int) -> None:
        self._lease.check()
        one = Remainder.new(start, length, self._era, self._bucket.now())
        self._notes.put(self._upload_key, one.name, payload)
        self.inventory.add_remainder(one)


def _length_of(remainders: Iterable[Remainder]) -> int:
    return sum(one.length for one in remainders)
