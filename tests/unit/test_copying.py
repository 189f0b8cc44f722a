"""Copying between stores of every kind: nothing is replaced, nothing is half there, and what was interrupted is resumed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmacfs.cli.copy_progress import Display, Tally
from hmacfs.cli.copy_store import CopyRun
from hmacfs.errors import DigestMismatch, IncompleteBody, NoSpace, StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.retry import Retry
from hmacfs.stores.local.folders import SourceFolder
from hmacfs.stores.local.reading import StoreReader
from hmacfs.stores.local.tree import Root
from hmacfs.uploads.copying import Copied, Copying, Outcome
from hmacfs.uploads.files import NO_METADATA, FileMetadata
from tests.stores.backends import Backend, FolderBackend, ObjectBackend, content, put
from tests.stores.local import file_calls, local_store
from tests.stores.memory_bucket import Killed

NAME = StoredName("folder/deeper/photo.jpg")
#: Small, so that not many bytes are several parts, and not many parts are many bytes.
PART_SIZE = 1024
DATA = b"the bytes of a photo, " * 200
KNOWN = FileMetadata(
    "image/x-own", "romeo@montague.example/ö", 1_700_000_000, 1_800_000_000, hashlib.sha256(DATA).hexdigest()
)


def backend(kind: str) -> Backend:
    return FolderBackend(lambda: 50_000.0) if kind == "folder" else bucket()


def bucket() -> ObjectBackend:
    return ObjectBackend(lambda: 50_000.0, PART_SIZE)


@pytest.fixture(params=["folder", "objects"])
def source(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param)


@pytest.fixture(params=["folder", "objects"])
def target(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param)


@pytest.fixture
def copying(source: Backend, target: Backend) -> Copying:
    return Copying(source.store, target.store)


@pytest.mark.parametrize("is_served", [True, False])
def test_a_folder_that_is_copied_from_is_only_read(tmp_path: Path, target: Backend, *, is_served: bool) -> None:
    """The folder of a server, whose files have their metadata, and one in which none has stored anything."""
    if is_served:
        put(local_store(tmp_path), NAME, DATA, KNOWN)
    else:
        (tmp_path / NAME.path).parent.mkdir(parents=True)
        (tmp_path / NAME.path).write_bytes(DATA)
    (tmp_path / "way").symlink_to(NAME.segments[0])
    (tmp_path / "own").symlink_to(".hmacfs")
    tmp_path.chmod(0o555)  # which keeps root from nothing
    before = all_of(tmp_path)
    reader = StoreReader(tmp_path, SourceFolder(tmp_path), file_calls=file_calls(), retry=Retry(0, 0.0))
    copying = Copying(reader, target.store)
    assert list(reader.names()) == [[NAME]]
    assert copying.copy(NAME) == Copied(Outcome.COPIED, len(DATA))
    assert copying.verify(NAME) == Copied(Outcome.SAME, len(DATA))
    assert copying.look(StoredName("way/deeper/photo.jpg")) == Copied(Outcome.MISSING, len(DATA))
    assert reader.stat(StoredName("own/tmp")) is None
    assert all_of(tmp_path) == before
    info = target.store.stat(NAME)
    assert info is not None
    assert info.metadata == (KNOWN if is_served else NO_METADATA._replace(stored=info.metadata.stored))


def all_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What it would show of anything that was made, changed or removed in it."""
    found = ((path, path.lstat()) for path in (folder, *folder.rglob("*")))
    return {path: (status.st_mode, status.st_mtime_ns, status.st_ctime_ns) for path, status in found}


def test_a_folder_that_cannot_be_listed_is_told_once_all_else_is_copied(
    tmp_path: Path, target: Backend, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [StoredName(f"{folder}/{number}") for folder in ("closed", "gone", "open") for number in range(30)]
    for name in names:
        put(local_store(tmp_path), name, DATA)
    folders = SourceFolder(tmp_path)

    class FailingRoot(Root):
        def open(self, path: bytes, flags: int, at: int | None = None) -> int:
            if number := {b"closed": errno.EACCES, b"gone": errno.ENOENT}.get(path):
                raise OSError(number, os.strerror(number))
            return super().open(path, flags, at)

    monkeypatch.setattr(folders, "root", FailingRoot(os.dup(folders.root.fd)))
    reader = StoreReader(tmp_path, folders, file_calls=file_calls(), retry=Retry(0, 0.0))
    run = CopyRun(reader, target.store, Tally(), Display(Tally(), stream), parallel=4)
    with pytest.raises(StorageFailed) as caught:
        run.run(run.copying.copy)
    assert caught.value.for_log() == f"storage failed: {tmp_path}/closed: Permission denied"
    assert run.tally.files == {Outcome.COPIED: 30}
    assert all(content(target.store, name) == DATA for name in names[60:])


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, 3 * PART_SIZE + 1, 700_000])
def test_a_file_is_copied_whole_with_all_that_is_known_of_it(source: Backend, target: Backend, size: int) -> None:
    data, seen = random.Random(size).randbytes(size), list[int]()
    copying = Copying(source.store, target.store, seen.append)
    known = KNOWN._replace(sha256=hashlib.sha256(data).hexdigest())
    put(source.store, NAME, data, known)
    assert copying.copy(NAME) == Copied(Outcome.COPIED, size)
    assert sum(seen) == size
    assert content(target.store, NAME) == data
    info = target.store.stat(NAME)
    assert info is not None
    assert info.metadata == known
    assert copying.copy(NAME) == Copied(Outcome.THERE, size)
    assert copying.verify(NAME) == Copied(Outcome.SAME, size)


def test_a_file_of_which_nothing_is_known_has_the_time_that_it_is_of(
    source: Backend, target: Backend, copying: Copying
) -> None:
    modified = int(put(source.store, NAME, DATA).modified)
    copying.copy(NAME)
    info = target.store.stat(NAME)
    assert info is not None
    assert info.metadata == NO_METADATA._replace(stored=modified)


def test_there_and_back_a_folder_s_file_keeps_its_time_and_its_etag() -> None:
    here, between, back = FolderBackend(lambda: 1.0), bucket(), FolderBackend(lambda: 1.0)
    info = put(here.store, NAME, DATA, KNOWN)
    assert info.modified == KNOWN.stored
    Copying(here.store, between.store).copy(NAME)
    Copying(between.store, back.store).copy(NAME)
    assert back.store.stat(NAME) == info


@pytest.mark.parametrize("there", [DATA[1:], b""])
def test_a_file_of_another_size_is_a_conflict_and_stays(
    source: Backend, target: Backend, copying: Copying, there: bytes
) -> None:
    put(source.store, NAME, DATA)
    info = put(target.store, NAME, there)
    for step in (copying.look, copying.copy, copying.verify):
        copied = step(NAME)
        assert (copied.outcome, copied.size) == (Outcome.CONFLICT, len(DATA))
        assert f"{len(DATA):,} bytes here and {len(there):,} there" in copied.remark
    assert target.store.stat(NAME) == info
    assert content(target.store, NAME) == there


def test_other_bytes_of_the_same_size_are_noticed_where_digests_are_known(
    source: Backend, target: Backend, copying: Copying
) -> None:
    put(source.store, NAME, DATA, KNOWN)
    other = bytes(reversed(DATA))
    put(target.store, NAME, other, KNOWN._replace(sha256=hashlib.sha256(other).hexdigest()))
    assert copying.copy(NAME).outcome is Outcome.CONFLICT
    assert content(target.store, NAME) == other


def test_other_bytes_of_the_same_size_are_noticed_by_a_verification(
    source: Backend, target: Backend, copying: Copying
) -> None:
    put(source.store, NAME, DATA)
    put(target.store, NAME, bytes(reversed(DATA)))
    assert copying.copy(NAME).outcome is Outcome.THERE
    assert copying.verify(NAME) == Copied(Outcome.CONFLICT, len(DATA), "its bytes are others")


def test_another_type_is_noticed_by_a_verification(source: Backend, target: Backend, copying: Copying) -> None:
    put(source.store, NAME, DATA, KNOWN)
    put(target.store, NAME, DATA, KNOWN._replace(content_type="text/plain", stored=5))
    assert "content_type" in copying.verify(NAME).remark


def test_what_is_not_there_is_only_told_of_where_nothing_is_to_change(
    source: Backend, target: Backend, copying: Copying
) -> None:
    put(source.store, NAME, DATA)
    for step in (copying.look, copying.verify):
        assert step(NAME) == Copied(Outcome.MISSING, len(DATA))
    assert not target.store.exists(NAME)


def test_a_file_that_was_deleted_is_none(target: Backend, copying: Copying) -> None:
    for step in (copying.look, copying.copy, copying.verify):
        assert step(NAME) == Copied(Outcome.GONE)
    assert not target.store.exists(NAME)


@pytest.mark.parametrize("size", [PART_SIZE // 2, len(DATA)])
def test_a_file_that_is_deleted_while_it_is_copied_appears_nowhere(source: Backend, target: Backend, size: int) -> None:
    put(source.store, NAME, DATA[:size])
    copying = Copying(source.store, target.store, lambda _: assert_true(source.store.delete(NAME)))
    assert copying.copy(NAME) == Copied(Outcome.GONE)
    assert not target.store.exists(NAME)


def assert_true(value: object) -> None:
    assert value


def test_a_file_that_becomes_another_while_it_is_copied_is_copied_as_that(source: Backend, target: Backend) -> None:
    put(source.store, NAME, DATA)
    replaced: list[int] = []

    def replace(_: int) -> None:
        if not replaced:
            replaced.append(1)
            source.store.delete(NAME)
            put(source.store, NAME, b"another")

    assert Copying(source.store, target.store, replace).copy(NAME) == Copied(Outcome.COPIED, 7)
    assert content(target.store, NAME) == b"another"


@pytest.mark.parametrize(("there", "outcome"), [(DATA, Outcome.THERE), (b"another", Outcome.CONFLICT)])
def test_a_name_that_is_taken_while_it_is_copied_stays_as_it_is(
    source: Backend, target: Backend, there: bytes, outcome: Outcome
) -> None:
    put(source.store, NAME, DATA)
    copying = Copying(source.store, target.store, lambda _: assert_true(put(target.store, NAME, there)))
    assert copying.copy(NAME).outcome is outcome
    assert content(target.store, NAME) == there


@pytest.mark.parametrize("size", [10, 2 * 1024 * 1024])
@pytest.mark.parametrize("there", ["folder/deeper/photo.jpg/below", "folder"])
def test_a_folder_in_the_way_is_a_conflict(source: Backend, size: int, there: str) -> None:
    target = FolderBackend(lambda: 1.0)
    put(source.store, NAME, b"x" * size)
    put(target.store, StoredName(there), b"in the way")
    copied = Copying(source.store, target.store).copy(NAME)
    assert (copied.outcome, copied.size) == (Outcome.CONFLICT, size)
    assert "no file" in copied.remark


def test_a_damaged_file_is_copied_nowhere(source: Backend, target: Backend, copying: Copying) -> None:
    put(source.store, NAME, DATA, KNOWN._replace(sha256="00" * 32))
    with pytest.raises(DigestMismatch):
        copying.copy(NAME)
    assert not target.store.exists(NAME)


def test_a_file_that_becomes_shorter_is_copied_nowhere(target: Backend) -> None:
    """As another server's may, which writes where it is read."""
    source = FolderBackend(lambda: 1.0)
    put(source.store, NAME, b"x" * 600_000)
    path = source.root / NAME.path

    def shorten(_: int) -> None:
        with path.open("rb+") as file:
            file.truncate(300_000)

    with pytest.raises(IncompleteBody):
        Copying(source.store, target.store, shorten).copy(NAME)
    assert not target.store.exists(NAME)


def test_wherever_a_copy_is_killed_the_next_one_makes_it_whole_and_the_sweep_leaves_nothing_else() -> None:
    """The engine's calls are counted, and a process is killed before and after each."""
    source = FolderBackend(lambda: 1.0)
    names = [StoredName(f"{size}/file") for size in (1, PART_SIZE, 3 * PART_SIZE + 1)]
    for name in names:
        put(source.store, name, random.Random(name.path).randbytes(int(name.segments[0])))
    calls, is_over = 0, False
    while not is_over:
        now = [50_000.0]
        target, left = ObjectBackend(lambda now=now: now[0], PART_SIZE), calls  # type: ignore[misc]

        def kill_at(_call: str, _when: str) -> bool:
            nonlocal left
            left -= 1
            return left < 0

        copying = Copying(source.store, target.process(kill_at))
        try:
            for name in names:
                copying.copy(name)
            is_over = True
        except Killed:
            calls += 1
        for name in names:
            assert not target.store.exists(name) or content(target.store, name) == content(source.store, name)
        now[0] += 100.0
        copy_all(source, target, names)
        for _ in range(2):  # the dead process's upload ended beside another one of its name
            now[0] += 100.0
            sweep(target, now[0])
        for name in names:
            assert content(target.store, name) == content(source.store, name)
        assert sorted(target.engine.objects) == sorted(target.store.keys.of(name) for name in names)
        assert target.engine.uploads == {}
    assert calls > 20


def copy_all(source: Backend, target: Backend, names: list[StoredName]) -> None:
    for name in names:
        Copying(source.store, target.store).copy(name)


def sweep(target: Backend, before: float) -> None:
    """As the server does: of a copy no session knows."""
    for key in target.store.partials.untouched_since(before):
        target.store.partials.discard(key)


# -- many files -----------------------------------------------------------------------------------


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def run(source: Backend, target: Backend, stream: Stream) -> CopyRun:
    tally = Tally()
    return CopyRun(source.store, target.store, tally, Display(tally, stream), parallel=4)


def fill(source: Backend, count: int) -> list[StoredName]:
    names = [StoredName(f"{number % 7}/{number}") for number in range(count)]
    for name in names:
        put(source.store, name, name.raw * 9)
    return names


def test_all_files_are_copied_and_the_second_time_none(
    source: Backend, target: Backend, run: CopyRun, stream: Stream
) -> None:
    names = fill(source, 60)
    run.run(run.copying.copy)
    assert {name: content(target.store, name) for name in names} == {name: name.raw * 9 for name in names}
    size = sum(len(name.raw) * 9 for name in names)
    assert (run.tally.files, run.tally.bytes) == ({Outcome.COPIED: 60}, {Outcome.COPIED: size})
    assert run.tally.bytes_read == size
    again = CopyRun(source.store, target.store, Tally(), run.display, parallel=4)
    again.run(again.copying.copy)
    assert again.tally.files == {Outcome.THERE: 60}
    assert again.tally.bytes_read == 0
    assert again.tally.is_good
    assert stream.getvalue() == ""


def test_conflicts_and_failures_are_listed_and_the_others_go_on(
    source: Backend, target: Backend, run: CopyRun, stream: Stream
) -> None:
    names = fill(source, 20)
    put(target.store, names[3], b"another")
    put(source.store, StoredName("damaged"), DATA, KNOWN._replace(sha256="00" * 32))
    run.run(run.copying.copy)
    assert run.tally.files == {Outcome.COPIED: 19, Outcome.CONFLICT: 1}
    assert run.tally.failed == 1
    assert not run.tally.is_good
    told = sorted(stream.getvalue().splitlines())
    assert told == [
        "conflict: 3/3: it has 27 bytes here and 7 there",
        "failed: damaged: Its bytes do not have the digest that is kept with it: it is damaged.",
    ]
    assert content(target.store, names[3]) == b"another"


def test_a_store_that_fails_again_and_again_ends_it(source: Backend, run: CopyRun, stream: Stream) -> None:
    fill(source, 200)

    def fail(_: StoredName) -> Copied:
        raise NoSpace

    with pytest.raises(StorageFailed, match="in a row"):
        run.run(fail)
    assert 50 <= run.tally.failed < 100
    assert "There is not enough space" in stream.getvalue()


def test_an_interruption_ends_what_is_under_way_and_leaves_nothing_of_it(
    source: Backend, target: Backend, run: CopyRun
) -> None:
    names = fill(source, 30)
    large = StoredName("large")
    put(source.store, large, b"x" * 1_000_000)
    is_reading, may_go_on = threading.Event(), threading.Event()

    def copy(name: StoredName) -> Copied:
        if name != large:
            return run.copying.copy(name)
        is_reading.set()
        assert may_go_on.wait(30)
        return run.copying.copy(name)

    def pages() -> Iterator[list[StoredName]]:
        yield [*names[:5], large]
        assert is_reading.wait(30)
        threading.Timer(0.05, may_go_on.set).start()
        raise KeyboardInterrupt

    run._source.names = pages  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        run.run(copy)
    assert run.tally.done <= 5
    assert not target.store.exists(large)
    assert not any(target.store.exists(name) for name in names[5:])


def test_files_are_counted_while_they_are_copied(source: Backend, run: CopyRun) -> None:
    fill(source, 30)
    run._count()
    assert run.tally.total == 30


def a_tally(clock: Callable[[], float]) -> Tally:
    tally = Tally(clock)
    for _ in range(1200):
        tally.add(Copied(Outcome.COPIED, 1024**2))
    tally.add_bytes(1200 * 1024**2)
    return tally


def test_progress_tells_what_is_known() -> None:
    now = [0.0]
    tally = a_tally(lambda: now[0])
    now[0] = 60.0
    assert tally.progress() == "1,200 files, 1.2 GB, 20.0 MB/s"
    tally.total = 4800
    assert tally.progress() == "1,200 of 4,800 files, 1.2 GB, 20.0 MB/s, about 3 min left"
    tally.add_failure()
    tally.add(Copied(Outcome.CONFLICT, 5, "it differs"))
    assert tally.progress().endswith(" left, 1 conflicts, 1 failed")
    now[0] = 7200.0
    assert "about 5 h 59 min left" in tally.progress()


def test_the_report_names_what_there_was() -> None:
    now = [0.0]
    tally = a_tally(lambda: now[0])
    tally.add(Copied(Outcome.THERE, 5))
    now[0] = 30.0
    assert tally.report().splitlines() == [
        "copied: 1,200 files, 1.2 GB",
        "there already: 1 files, 5 bytes",
        "1,201 files in 30 s (1.2 GB read, 40.0 MB/s)",
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_name_drives_no_terminal(is_terminal: bool) -> None:
    stream = Stream(is_terminal=is_terminal)
    Display(Tally(), stream).tell(StoredName("a\u202eb"), "failed", "two\nlines")
    assert stream.getvalue().removeprefix("\r\x1b[K") == "failed: a?b: two?lines\n"


def test_on_a_terminal_one_line_is_renewed_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmacfs.cli.copy_progress._TERMINAL_SECONDS", 0.001)
    stream, tally = Stream(is_terminal=True), Tally()
    tally.add(Copied(Outcome.COPIED, 5))
    shown = threading.Event()
    stream.flush = shown.set  # type: ignore[method-assign]
    with Display(tally, stream).running():
        assert shown.wait(30)
    assert "\r\x1b[K1 files, " in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
    assert "\n" not in stream.getvalue()
