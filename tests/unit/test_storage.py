"""The store on a local file system, where a live test cannot make it fail."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hmacfs.errors import NameTaken, NoSpace, ShuttingDown, StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.stores.local.tree import Folder, Root
from hmacfs.stores.local.writing import HELD_BYTES, Held
from hmacfs.system.threads import FileCalls
from hmacfs.uploads.files import FileInfo, FileMetadata
from tests.stores.backends import content
from tests.stores.local import local_store

NAME = StoredName("a/file.txt")


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStore:
    return local_store(tmp_path, attempts=3)


def failing_once(call: Callable[..., object], number: int) -> Callable[..., object]:
    failures = [OSError(number, os.strerror(number))]

    def attempt(*args: object, **kwargs: object) -> object:
        if failures:
            raise failures.pop()
        return call(*args, **kwargs)

    return attempt


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EIO, StorageFailed), (errno.ETIMEDOUT, StorageFailed), (errno.ENOSPC, NoSpace)]
)
def test_a_failed_fsync_is_never_repeated(
    storage: LocalFileStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    monkeypatch.setattr(os, "fsync", failing_once(os.fsync, number))
    with pytest.raises(error), storage.stage(NAME, None, FileMetadata()) as staged:
        staged.publish()
    assert not storage.exists(NAME)
    assert not (storage.root / "a").exists()


def test_reading_is_tried_again_after_a_passing_failure(
    storage: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.stage(NAME, None, FileMetadata()) as staged:
        staged.write(memoryview(b"hello"))
        staged.publish()
    monkeypatch.setattr(Root, "open", failing_once(Root.open, errno.EMFILE))
    file = storage.open(NAME)
    file.close()
    assert file.info.size == 5


@pytest.mark.parametrize("in_time", [True, False])
def test_a_stop_while_a_file_is_published(
    storage: LocalFileStore, monkeypatch: pytest.MonkeyPatch, *, in_time: bool
) -> None:
    def interrupted(call: Callable[..., object], *args: object) -> None:
        if in_time:
            call(*args)
        raise ShuttingDown

    monkeypatch.setattr(storage.file_calls, "always_blocking", interrupted)
    with (
        storage.stage(NAME, None, FileMetadata()) as staged,
        contextlib.nullcontext() if in_time else pytest.raises(ShuttingDown),
    ):
        assert staged.publish().size == 0
    assert storage.exists(NAME) == in_time


def store_held(storage: LocalFileStore, data: bytes = b"hello", name: StoredName = NAME) -> FileInfo:
    """As an upload whose bytes came with its head."""
    with storage.stage(name, len(data), FileMetadata("text/plain"), is_here=True) as staged:
        assert isinstance(staged, Held)
        staged.write(memoryview(data)[:2])
        staged.write(memoryview(data)[2:])
        return staged.publish()


@pytest.fixture
def quick(tmp_path: Path) -> LocalFileStore:
    """A store that stores at once."""
    store = local_store(tmp_path, durable=False)
    if not store.file_system.anonymous:
        pytest.skip("this file system has no anonymous files")
    return store


def nothing_is_left(storage: LocalFileStore) -> bool:
    return [path.name for path in storage.root.iterdir()] == [".hmacfs"]


def test_what_is_held_is_stored_like_any_other(quick: LocalFileStore) -> None:
    held = store_held(quick)
    info = quick.stat(NAME)
    assert info is not None
    assert (info.size, info.etag, info.modified) == (5, held.etag, held.modified)
    assert content(quick, NAME) == b"hello"
    assert info.metadata.content_type == ("text/plain" if quick.capabilities.keeps_metadata else None)
    with pytest.raises(NameTaken):
        store_held(quick, b"other")
    assert content(quick, NAME) == b"hello"
    with pytest.raises(NameTaken):
        store_held(quick, name=StoredName(f"{NAME.path}/below"))
    assert store_held(quick, b"", StoredName("top")).size == 0


@pytest.mark.parametrize("buffer", [bytes, bytearray])
def test_what_is_held_survives_the_buffer_that_it_came_in(
    quick: LocalFileStore, buffer: type[bytes | bytearray]
) -> None:
    data = buffer(b"x" * HELD_BYTES)
    with quick.stage(NAME, HELD_BYTES, FileMetadata(), is_here=True) as staged:
        assert isinstance(staged, Held)
        staged.write(memoryview(data))
        if isinstance(data, bytearray):
            data[:] = bytes(HELD_BYTES)
        assert staged.publish().size == HELD_BYTES
    assert content(quick, NAME) == b"x" * HELD_BYTES


def test_nothing_is_made_of_what_is_held_and_not_published(quick: LocalFileStore) -> None:
    with quick.stage(NAME, 5, FileMetadata(), is_here=True) as staged:
        staged.write(memoryview(b"hello"))
    assert nothing_is_left(quick)


@pytest.mark.parametrize("call", ["open", "write", "setxattr", "mkdir", "link", "fstat"])
def test_what_cannot_be_stored_at_once_is_stored_all_the_same(
    quick: LocalFileStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, failing_once(getattr(os, call), errno.EIO))
    store_held(quick)
    assert content(quick, NAME) == b"hello"


@pytest.mark.parametrize(("number", "error"), [(errno.EIO, StorageFailed), (errno.ENOSPC, NoSpace)])
@pytest.mark.parametrize("call", ["open", "write", "mkdir", "link"])
def test_a_failure_that_stays_leaves_nothing(
    quick: LocalFileStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    quick.delete(NAME)  # which makes the journal
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error):
        store_held(quick)
    monkeypatch.undo()
    assert nothing_is_left(quick)


def test_a_write_of_a_part_is_no_upload(quick: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:2]))
    store_held(quick)
    assert content(quick, NAME) == b"hello"


@pytest.mark.parametrize("in_time", [True, False])
def test_a_stop_while_what_is_held_is_stored(
    quick: LocalFileStore, monkeypatch: pytest.MonkeyPatch, *, in_time: bool
) -> None:
    def interrupted(_: object, call: Callable[..., object], *args: object) -> None:
        if in_time:
            call(*args)
        raise ShuttingDown

    monkeypatch.setattr(FileCalls, "__call__", interrupted)
    with contextlib.nullcontext() if in_time else pytest.raises(ShuttingDown):
        assert store_held(quick).size == 5
    monkeypatch.undo()
    assert quick.exists(NAME) == in_time


def test_a_large_or_a_durable_upload_is_not_held(storage: LocalFileStore, quick: LocalFileStore) -> None:
    for store, length in ((storage, 5), (quick, HELD_BYTES + 1), (quick, None)):
        with store.stage(NAME, length, FileMetadata(), is_here=True) as staged:
            assert not isinstance(staged, Held)


def test_folders_of_a_killed_process_are_taken_back(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from hmacfs.protocol.names import StoredName
from hmacfs.system.threads import FileCalls, ThreadOffload
from hmacfs.retry import Retry
from hmacfs.stores.local import publish
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.uploads.files import FileMetadata
publish._link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage = LocalFileStore(Path(sys.argv[1]), durable=True, file_calls=FileCalls(ThreadOffload(1)), retry=Retry(0, 0.0))
with storage.stage(StoredName(sys.argv[2]), None, FileMetadata()) as staged:
    staged.publish()
"""
    (tmp_path / "kept").mkdir()
    for name in ("a/file", "kept/file", "kept/b/c/file", "file"):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), name], check=False)
        assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "kept" / "b" / "c").is_dir()
    (tmp_path / "kept" / "another").touch()
    storage = local_store(tmp_path)
    storage.recover()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hmacfs", "kept"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["another"]
    assert list((tmp_path / ".hmacfs" / "notes").iterdir()) == []


def test_notes_of_the_living_stay(tmp_path: Path) -> None:
    folder = Folder(os.open(tmp_path, os.O_RDONLY))
    ours, others = DirectoryJournal(folder), DirectoryJournal(folder)
    with ours.about(b"not/open/yet"):
        assert others.entries_of_dead_processes() == []
    ours.open()
    with contextlib.ExitStack() as stack:
        for number in range(DirectoryJournal.SLOTS + 1):
            stack.enter_context(ours.about(b"%d/file" % number))
        assert others.entries_of_dead_processes() == []
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "odd").write_bytes(b"\xff" * 10_000)
    assert len(others.entries_of_dead_processes()) == 2
