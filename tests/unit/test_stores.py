"""What every store promises (``tests.contracts.file_stores``), over those that need no server."""

from __future__ import annotations

import fcntl
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmacfs.errors import NameTaken, SessionUnknown
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileMetadata
from tests.contracts.file_stores import KEY, NAME, FileStoreContract, append, begin, reopen
from tests.stores.backends import BACKENDS, PART_SIZE, Backend, FolderBackend, ObjectBackend, content, put, write
from tests.stores.leases import LeaseTable, MemoryLocker


@pytest.fixture
def now() -> list[float]:
    return [50_000.0]


@pytest.fixture
def backend(kind: str, now: list[float]) -> Backend:
    return BACKENDS[kind](lambda: now[0])


class TestContract(FileStoreContract):
    pass


def test_an_upload_begins_empty_and_is_known(backend: Backend, now: list[float]) -> None:
    partials = backend.store.partials
    for key in (KEY, "", "../" + KEY, "x"):
        assert partials.stat(key) is None
        assert not partials.exists(key)
    partials.create(KEY, NAME, 10, FileMetadata())
    assert partials.exists(KEY)
    assert partials.stat(KEY) == PartialInfo(0, now[0])
    assert not backend.store.exists(NAME)
    with pytest.raises(SessionUnknown):
        partials.open("u" * 32, MemoryLocker(LeaseTable(lambda: 0.0), lambda _: None).acquire("u" * 32))  # type: ignore[arg-type]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(sorted(BACKENDS)),
    pieces=st.lists(st.tuples(st.integers(0, 3 * PART_SIZE), st.booleans(), st.booleans(), st.booleans()), max_size=12),
)
def test_pieces_are_transactions(kind: str, pieces: list[tuple[int, bool, bool, bool]]) -> None:
    """Each is atomic or not, fails or not, and is taken back or not."""
    backend = BACKENDS[kind](lambda: 1.0)
    begin(backend).__exit__(None, None, None)
    expected, numbers = b"", random.Random(1)
    for size, atomic, fails, is_taken_back in pieces:
        data = numbers.randbytes(size)
        with reopen(backend) as upload:
            assert upload.length == len(expected)
            try:
                with upload.begin(len(expected), atomic=atomic) as piece:
                    write(piece, data)
                    if is_taken_back:
                        piece.roll_back()
                        raise KeyError
                    if fails:
                        raise KeyError
            except KeyError:
                expected += b"" if atomic or is_taken_back else data
            else:
                expected += data
            assert upload.length == len(expected)
            assert backend.content_of(KEY) == expected
        stored = backend.store.partials.stat(KEY)
        assert stored is not None
        assert stored.length == len(expected)
    with reopen(backend) as upload:
        upload.publish(NAME, FileMetadata())
    assert content(backend.store, NAME) == expected
    assert backend.store.partials.stat(KEY) is None


def test_what_was_silent_for_long_is_found(backend: Backend, now: list[float]) -> None:
    partials = backend.store.partials
    partials.create("a" * 32, NAME, None, FileMetadata())
    now[0] += 100
    partials.create("b" * 32, NAME, None, FileMetadata())
    assert partials.untouched_since(now[0]) == ["a" * 32]
    assert partials.untouched_since(now[0] + 1) == ["a" * 32, "b" * 32]
    for _ in range(2):
        partials.discard("a" * 32)
        assert not partials.exists("a" * 32)
        assert partials.stat("a" * 32) is None
    assert partials.untouched_since(now[0] + 1) == ["b" * 32]


def test_what_becomes_the_visible_file_before_it_is_locked_is_no_unfinished_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lock can be had then, and its inode still has a name."""
    backend = FolderBackend(lambda: 1.0)
    backend.store.partials.create(KEY, NAME, None, FileMetadata())
    lock = fcntl.flock

    def lock_late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with reopen(backend) as upload:
            append(upload, b"hello")
            upload.publish(NAME, FileMetadata())
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(SessionUnknown):
        backend.locker.acquire(KEY)
    assert content(backend.store, NAME) == b"hello"


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("size", [1, PART_SIZE, 3 * PART_SIZE, 3 * PART_SIZE + 1])
def test_an_upload_that_becomes_a_file_never_seems_to_have_less(size: int, *, heeds: bool) -> None:
    """Others look at it, or its process dies, between any two calls: its client would send again what it has told of."""
    backend = ObjectBackend(lambda: 1.0, heeds_conditions=heeds)
    with begin(backend) as upload:
        for _ in range(size):
            append(upload, b"x")
    seen: list[int | None] = []

    def look(_call: str, _when: str) -> bool:
        info = backend.store.partials.stat(KEY)
        seen.append(None if info is None else info.length)
        return False

    lease = backend.locker.acquire(KEY)
    assert lease is not None
    with backend.process(look).partials.open(KEY, lease) as last:
        last.publish(NAME, FileMetadata())
    lengths = [length for length in seen if length is not None]
    assert set(lengths) == {size}
    assert seen[-1] is None
    assert seen[: len(lengths)] == lengths, "it was there again"
    assert content(backend.store, NAME) == b"x" * size


@pytest.mark.parametrize("size", [1, 3 * PART_SIZE])
def test_a_name_that_the_engine_takes_for_a_folder_s_is_taken(size: int) -> None:
    """As a folder has it; the client would come again in vain."""
    backend = ObjectBackend(lambda: 1.0)
    backend.engine.has_folders = True
    put(backend.store, StoredName.from_text("a/b"), b"first")
    with pytest.raises(NameTaken):
        put(backend.store, StoredName.from_text("a"), bytes(size))
    backend.store.partials.create(KEY, StoredName.from_text("a"), None, FileMetadata())
    with reopen(backend) as upload:
        append(upload, bytes(size))
        with pytest.raises(NameTaken):
            upload.publish(StoredName.from_text("a"), FileMetadata())
        upload.discard()
    put(backend.store, StoredName.from_text("a/bc"), bytes(size))
    assert [name.path for page in backend.store.names() for name in page] == ["a/b", "a/bc"]
    assert not backend.engine.uploads


def test_a_folder_takes_a_lease_of_another_locker() -> None:
    backend = FolderBackend(lambda: 1.0)
    backend.store.partials.create(KEY, NAME, None, FileMetadata())
    locker = MemoryLocker(LeaseTable(lambda: 0.0), lambda _: None)
    lease = locker.acquire(KEY)
    assert lease is not None
    with backend.store.partials.open(KEY, lease) as upload:
        append(upload, b"hello")
        upload.publish(NAME, FileMetadata())
    assert content(backend.store, NAME) == b"hello"
    assert locker.acquire(KEY) is not None
