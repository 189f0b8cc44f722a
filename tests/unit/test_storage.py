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

from hmacfs.errors import NoSpace, ShuttingDown, StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.journal import DirectoryJournal
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.stores.local.tree import Folder, Root
from hmacfs.uploads.files import FileMetadata
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
        os.write(staged.fd, b"hello")
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
