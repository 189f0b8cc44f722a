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

from hmacfs.errors import NoSpace, Stopping, StorageFailed
from hmacfs.naming import StoredName
from hmacfs.offload import Disk, Offload
from hmacfs.retry import Retry
from hmacfs.storage.local import LocalStorage
from hmacfs.storage.notes import FolderNotes
from hmacfs.storage.tree import Folder, Root

NAME = StoredName("a/file.txt")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path, durable=True, disk=Disk(Offload(1)), retry=Retry(3, 0.0))


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
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    monkeypatch.setattr(os, "fsync", failing_once(os.fsync, number))
    with pytest.raises(error), storage.stage() as staged:
        staged.publish(NAME, None)
    assert not storage.exists(NAME)
    assert not (storage.root / "a").exists()


def test_reading_is_tried_again_after_a_passing_failure(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.stage() as staged:
        os.write(staged.fd, b"hello")
        staged.publish(NAME, None)
    monkeypatch.setattr(Root, "open", failing_once(Root.open, errno.EMFILE))
    file = storage.open(NAME)
    os.close(file.fd)
    assert file.facts.size == 5


@pytest.mark.parametrize("in_time", [True, False])
def test_a_stop_while_a_file_is_published(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, *, in_time: bool
) -> None:
    def interrupted(call: Callable[[], None]) -> None:
        if in_time:
            call()
        raise Stopping

    monkeypatch.setattr(storage.disk, "always_blocking", interrupted)
    with storage.stage() as staged, contextlib.nullcontext() if in_time else pytest.raises(Stopping):
        assert staged.publish(NAME, None).size == 0
    assert storage.exists(NAME) == in_time


def test_folders_of_a_killed_process_are_taken_back(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from hmacfs.naming import StoredName
from hmacfs.offload import Disk, Offload
from hmacfs.retry import Retry
from hmacfs.storage import publish
from hmacfs.storage.local import LocalStorage
publish._link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage = LocalStorage(Path(sys.argv[1]), durable=True, disk=Disk(Offload(1)), retry=Retry(0, 0.0))
with storage.stage() as staged:
    staged.publish(StoredName(sys.argv[2]), None)
"""
    (tmp_path / "kept").mkdir()
    for name in ("a/file", "kept/file", "kept/b/c/file", "file"):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), name], check=False)
        assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "kept" / "b" / "c").is_dir()
    (tmp_path / "kept" / "another").touch()
    storage = LocalStorage(tmp_path, durable=True, disk=Disk(Offload(1)), retry=Retry(0, 0.0))
    storage.remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hmacfs", "kept"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["another"]
    assert list((tmp_path / ".hmacfs" / "notes").iterdir()) == []


def test_notes_of_the_living_stay(tmp_path: Path) -> None:
    folder = Folder(os.open(tmp_path, os.O_RDONLY))
    ours, others = FolderNotes(folder), FolderNotes(folder)
    with ours.about(b"not/open/yet"):
        assert others.of_the_dead() == []
    ours.open()
    with contextlib.ExitStack() as stack:
        for number in range(FolderNotes.SLOTS + 1):
            stack.enter_context(ours.about(b"%d/file" % number))
        assert others.of_the_dead() == []
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "odd").write_bytes(b"\xff" * 10_000)
    assert len(others.of_the_dead()) == 2
