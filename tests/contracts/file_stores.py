"""The contract of file stores (``hmacfs.uploads.contracts``), as one suite over each kind that there is.

A module that runs it has a subclass of ``FileStoreContract`` and a fixture ``backend``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from hmacfs.errors import NameTaken, NotFound, Superseded, WriterBusy
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.locks import Lease, Locker
from hmacfs.uploads.contracts.stores import PartialUpload
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.backends import Backend, Collector, content, put, write
from tests.stores.leases import LeaseTable, MemoryLocker


class Length(NamedTuple):
    """So many parts, and so many bytes besides."""

    parts: int
    rest: int = 0

    def of(self, backend: Backend) -> int:
        return self.parts * backend.part_size + self.rest

    def __str__(self) -> str:
        return f"{self.parts}P{self.rest:+d}"


NAME = StoredName("folder/deeper/photo.jpg")
KEY = "k" * 32
#: As many bytes as make less than a part, one, and several with and without a rest.
SIZES = [Length(0), Length(0, 1), Length(1, -1), Length(1), Length(1, 1), Length(3), Length(5, 3)]
ALL_KNOWN = FileMetadata("image/jpeg", "romeo@montague.example/ö", 1_700_000_000, 1_800_000_000, "ab" * 32)


def begin(backend: Backend, key: str = KEY) -> PartialUpload:
    backend.store.partials.create(key, NAME, None, FileMetadata())
    return reopen(backend, key)


def reopen(backend: Backend, key: str = KEY) -> PartialUpload:
    return backend.store.partials.open(key, leased(backend, key))


def leased(backend: Backend, key: str = KEY) -> Lease:
    lease = backend.locker.acquire(key)
    assert lease is not None
    return lease


def append(upload: PartialUpload, data: bytes, *, atomic: bool = False) -> None:
    with upload.begin(upload.length, atomic=atomic) as piece:
        write(piece, data)


def same(one: FileInfo | None, other: FileInfo | None) -> bool:
    """What is told of a file; its time is that of the store, which need not be known at once."""
    assert one is not None
    assert other is not None
    return one._replace(modified=0.0) == other._replace(modified=0.0)


def bytes_of(upload: PartialUpload) -> bytes:
    """Of one that is complete."""
    collector = Collector()
    upload.feed(collector)
    return collector.data


def lose_lease(backend: Backend, how: Callable[[PartialUpload], object]) -> None:
    """Do ``how`` as a holder whose lease has run out meanwhile, so that another one writes."""
    clock = [0.0]
    locker = MemoryLocker(LeaseTable(lambda: clock[0], seconds=30.0), lambda _: None)
    first = locker.acquire(KEY)
    assert first is not None
    late = backend.store.partials.open(KEY, first)
    clock[0] += 31
    second = locker.acquire(KEY)
    assert second is not None
    assert first.is_wanted()
    with pytest.raises(Superseded):
        first.check()
    with backend.store.partials.open(KEY, second) as upload:
        append(upload, b"the second's")
        how(late)
        late.__exit__(None, None, None)
        assert locker.acquire(KEY) is None, "nothing that the first does gives the second's lease back"
        with pytest.raises(Superseded):
            backend.store.partials.open(KEY, first)


def late_piece(late: PartialUpload, size: int, *, atomic: bool) -> None:
    with pytest.raises(Superseded), late.begin(late.length, atomic=atomic) as piece:
        write(piece, b"y" * size)


def taken(locker: Locker) -> Lease:
    lease = locker.acquire(KEY)
    assert lease is not None
    return lease


class FileStoreContract:
    # -- whole files ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("length", SIZES, ids=str)
    def test_what_is_published_is_read_back(self, backend: Backend, length: Length) -> None:
        size = length.of(backend)
        data = random.Random(size).randbytes(size)
        info = put(backend.store, NAME, data, FileMetadata("image/jpeg"))
        assert info.size == size
        assert info.etag.startswith('"')
        assert same(backend.store.stat(NAME), info)
        assert backend.store.exists(NAME)
        assert content(backend.store, NAME) == data
        source = backend.store.open(NAME)
        assert (source.info.size, source.info.etag, source.info.metadata.content_type) == (
            size,
            info.etag,
            "image/jpeg",
        )
        piece = max(5, size // 64)
        assert b"".join(source.pieces(1, 2 * size, piece)) == data[1:], "no more than there is"
        source.close()

    @pytest.mark.parametrize("length", SIZES, ids=str)
    def test_what_is_here_is_published_as_well(self, backend: Backend, length: Length) -> None:
        """A store may make such a file as late as it is published."""
        size = length.of(backend)
        data = random.Random(size).randbytes(size)
        with backend.store.stage(NAME, size, FileMetadata("image/jpeg"), is_here=True) as staged:
            write(staged, data)
            assert not backend.store.exists(NAME)
            info = staged.publish(FileMetadata(stored=5))
        assert same(backend.store.stat(NAME), info)
        assert content(backend.store, NAME) == data
        with backend.store.stage(NAME, 3, FileMetadata(), is_here=True) as staged:
            write(staged, b"new")
            with pytest.raises(NameTaken):
                staged.publish()
        assert content(backend.store, NAME) == data

    def test_nothing_is_visible_before_it_is_published(self, backend: Backend) -> None:
        store = backend.store
        with store.stage(NAME, None, FileMetadata()) as staged:
            write(staged, b"x" * 3 * backend.part_size)
            assert not store.exists(NAME)
            assert store.stat(NAME) is None
            assert list(store.names()) in ([], [[]])
            with pytest.raises(NotFound):
                store.open(NAME)
        assert not store.exists(NAME)

    @pytest.mark.parametrize("length", [Length(0, 3), Length(3)], ids=str)
    def test_the_first_to_publish_a_name_has_it(self, backend: Backend, length: Length) -> None:
        size = length.of(backend)
        with (
            backend.store.stage(NAME, size, FileMetadata()) as first,
            backend.store.stage(NAME, size, FileMetadata()) as second,
        ):
            write(first, b"1" * size)
            write(second, b"2" * size)
            info = second.publish()
            with pytest.raises(NameTaken):
                first.publish()
        assert content(backend.store, NAME) == b"2" * size
        assert same(backend.store.stat(NAME), info)

    def test_of_many_at_once_one_has_the_name(self, backend: Backend) -> None:
        outcomes: list[str] = []

        def publish(number: int) -> None:
            try:
                put(backend.store, NAME, b"%d" % number * backend.part_size)
                outcomes.append(str(number))
            except NameTaken:
                outcomes.append("taken")

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = set(outcomes) - {"taken"}
        assert content(backend.store, NAME) == winner.encode() * backend.part_size

    def test_all_that_is_known_is_kept_with_the_file(self, backend: Backend) -> None:
        if not backend.store.capabilities.keeps_metadata:
            pytest.skip("this file system keeps no metadata")
        info = put(backend.store, NAME, b"x" * 3 * backend.part_size, ALL_KNOWN)
        assert info.metadata == ALL_KNOWN
        assert same(backend.store.stat(NAME), info)

    def test_what_is_known_only_later_is_added(self, backend: Backend) -> None:
        if not backend.store.capabilities.keeps_metadata:
            pytest.skip("this file system keeps no metadata")
        known = FileMetadata("text/plain", owner="juliet@capulet.example")
        with backend.store.stage(NAME, 1, known) as staged:
            write(staged, b"x")
            staged.publish(FileMetadata(sha256="cd" * 32, stored=5))
        info = backend.store.stat(NAME)
        assert info is not None
        assert info.metadata == known._replace(sha256="cd" * 32, stored=5)

    def test_another_file_of_the_same_name_has_another_etag(self, backend: Backend) -> None:
        first = put(backend.store, NAME, b"x" * backend.part_size)
        backend.store.delete(NAME)
        assert put(backend.store, NAME, b"x" * (backend.part_size + 1)).etag != first.etag

    # -- deletion and listing -------------------------------------------------------------------------

    def test_a_deleted_file_is_gone_and_its_name_is_free(self, backend: Backend) -> None:
        put(backend.store, NAME, b"first")
        source = backend.store.open(NAME)
        assert backend.store.delete(NAME)
        assert not backend.store.delete(NAME)
        assert not backend.store.exists(NAME)
        if source.fileno() is not None:
            assert b"".join(source.pieces(0, 5, 5)) == b"first", "a reader finishes"
        source.close()
        put(backend.store, NAME, b"second")
        assert content(backend.store, NAME) == b"second"

    def test_only_the_very_file_is_deleted(self, backend: Backend) -> None:
        info = put(backend.store, NAME, b"here")
        assert not backend.store.delete(NAME, '"another"')
        assert content(backend.store, NAME) == b"here"
        assert backend.store.delete(NAME, info.etag)
        assert not backend.store.delete(NAME, info.etag)

    def test_all_files_are_listed_in_pages_once(self, backend: Backend) -> None:
        names = {StoredName(f"{number % 7}/{number % 3}/{number}") for number in range(60)} | {StoredName("top")}
        for name in names:
            put(backend.store, name, name.raw)
        begin(backend)
        pages = list(backend.store.names(limit=7))
        assert max(map(len, pages)) <= 7
        listed = [name for page in pages for name in page]
        assert sorted(listed, key=lambda name: name.path) == sorted(names, key=lambda name: name.path)

    def test_a_listing_begins_at_once_and_bears_changes(self, backend: Backend) -> None:
        names = [StoredName(f"{number}/file") for number in range(40)]
        for name in names:
            put(backend.store, name, b"x")
        pages = backend.store.names(limit=5)
        seen = [name for name in next(pages) if name is not None]
        for name in names[::2]:
            backend.store.delete(name)
        put(backend.store, StoredName("new/file"), b"x")
        seen += [name for page in pages for name in page]
        assert len(seen) == len(set(seen))
        assert set(names[1::2]) <= set(seen) <= {*names, StoredName("new/file")}

    def test_it_can_be_written(self, backend: Backend) -> None:
        backend.store.check_writable()
        backend.store.repair()
        assert backend.store.recover() == 0
        assert backend.store.free_bytes() is None or backend.store.free_bytes()
        assert list(backend.store.names()) in ([], [[]])

    # -- unfinished uploads ---------------------------------------------------------------------------

    @pytest.mark.parametrize("before", [Length(0), Length(0, 3), Length(1), Length(1, 3)], ids=str)
    @pytest.mark.parametrize("again", [Length(0, 3), Length(1), Length(2, 1)], ids=str)
    def test_the_last_atomic_piece_can_be_sent_again(self, backend: Backend, before: Length, again: Length) -> None:
        first, second = before.of(backend), again.of(backend)
        with begin(backend) as upload:
            append(upload, b"1" * first, atomic=True)
            append(upload, b"2" * second, atomic=True)
        for attempt in (b"3" * second, b"4", b"5" * (second + backend.part_size)):
            with reopen(backend) as upload:
                assert upload.length > first
                with upload.begin(first, atomic=True) as piece:
                    write(piece, attempt)
                assert backend.holds(KEY, b"1" * first + attempt)
        with reopen(backend) as upload:
            upload.publish(NAME, FileMetadata())
        assert content(backend.store, NAME) == b"1" * first + b"5" * (second + backend.part_size)

    def test_an_upload_that_loses_its_name_is_still_there(self, backend: Backend) -> None:
        put(backend.store, NAME, b"another")
        with begin(backend) as upload:
            append(upload, b"x" * 3 * backend.part_size)
            assert not upload.is_published(NAME)
            with pytest.raises(NameTaken):
                upload.publish(NAME, FileMetadata())
        assert backend.holds(KEY, b"x" * 3 * backend.part_size)
        with reopen(backend) as upload:
            upload.discard()
        assert backend.store.partials.stat(KEY) is None
        assert content(backend.store, NAME) == b"another"

    @pytest.mark.parametrize("length", [Length(0, 3), Length(3, 1)], ids=str)
    def test_a_process_that_died_after_publishing_is_helped_out(self, backend: Backend, length: Length) -> None:
        size = length.of(backend)
        with begin(backend) as upload:
            append(upload, b"x" * size)
        backend.publish_and_die(KEY, NAME)
        assert content(backend.store, NAME) == b"x" * size
        with reopen(backend) as upload:
            assert upload.is_published(NAME)
            assert same(upload.publish(NAME, FileMetadata()), backend.store.stat(NAME))
        assert backend.store.partials.stat(KEY) is None
        assert content(backend.store, NAME) == b"x" * size

    # -- the lock -------------------------------------------------------------------------------------

    def test_one_at_a_time_has_the_lock(self, backend: Backend) -> None:
        begin(backend).__exit__(None, None, None)
        lease = leased(backend)
        assert backend.locker.acquire(KEY) is None
        assert not lease.is_wanted()
        lease.release()
        lease.release()
        again = leased(backend)
        again.check()
        again.release()

    def test_a_holder_is_asked_to_let_go(self, backend: Backend) -> None:
        begin(backend).__exit__(None, None, None)
        lease, asked = leased(backend), list[bool]()

        def let_go() -> None:
            asked.append(lease.is_wanted())
            lease.release()

        backend.on_wait = let_go
        newcomer = backend.locker.wait(KEY, lambda: True)
        assert asked == [True]
        assert not newcomer.is_wanted(), "the request is withdrawn"
        newcomer.release()

    def test_a_newcomer_gives_up_and_leaves_no_request(self, backend: Backend) -> None:
        begin(backend).__exit__(None, None, None)
        lease = leased(backend)
        with pytest.raises(WriterBusy):
            backend.locker.wait(KEY, lambda: True)
        with pytest.raises(WriterBusy):
            backend.locker.wait(KEY, lambda: False)
        assert not lease.is_wanted()

    @pytest.mark.parametrize("how", ["piece", "atomic", "publish", "discard"])
    def test_a_holder_that_lost_its_lease_writes_nothing_more(self, backend: Backend, how: str) -> None:
        if not backend.can_lose_lease:
            pytest.skip("the kernel's lock ends with its process")
        with begin(backend) as upload:
            append(upload, b"x" * (backend.part_size + 2))

        def act(late: PartialUpload) -> None:
            if how in ("piece", "atomic"):
                late_piece(late, 3 * backend.part_size, atomic=how == "atomic")
            else:
                with pytest.raises(Superseded):
                    late.publish(NAME, FileMetadata()) if how == "publish" else late.discard()

        lose_lease(backend, act)
        assert not backend.store.exists(NAME)
        stored = backend.store.partials.stat(KEY)
        assert stored is not None
        assert stored.length == backend.part_size + 2 + len(b"the second's")

    def test_a_lease_that_is_lost_in_a_piece_ends_it(self, backend: Backend) -> None:
        if not backend.can_lose_lease:
            pytest.skip("the kernel's lock ends with its process")
        begin(backend).__exit__(None, None, None)
        table = LeaseTable(lambda: 0.0, seconds=0.0)
        locker = MemoryLocker(table, lambda _: None)
        first = locker.acquire(KEY)
        assert first is not None
        late = backend.store.partials.open(KEY, first)
        late_piece = late.begin(0, atomic=False)
        taker = late_piece.__enter__()
        taker.write(memoryview(b"x" * 5))
        with backend.store.partials.open(KEY, taken(locker)) as upload:
            append(upload, b"all of it")
        with pytest.raises(Superseded):
            late_piece.__exit__(None, None, None)
        assert backend.holds(KEY, b"all of it")
