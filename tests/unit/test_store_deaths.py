"""Processes that are killed before or after any call that changes something: no acknowledged byte is lost, and what is
published is whole."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hmacfs.protocol.names import StoredName
from hmacfs.stores.local.locker import FileLocker
from hmacfs.uploads.contracts.locks import Lease, Locker
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileMetadata
from tests.stores.backends import PART_SIZE, ObjectBackend, content, write
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.local import local_store
from tests.stores.memory_bucket import Killed

NAME = StoredName("folder/file")
KEY = "k" * 32
ROUNDS = 40
#: What a folder is changed by.
_CHANGES = ("open", "write", "ftruncate", "unlink", "link", "mkdir", "rmdir", "fsync", "setxattr", "fchmod")

Action = Callable[[FileStore, Locker], int]


def append(data: bytes, offset: int, *, atomic: bool) -> Action:
    def act(store: FileStore, locker: Locker) -> int:
        with store.partials.open(KEY, taken(locker)) as upload:
            assert upload.length == offset
            with upload.begin(offset, atomic=atomic) as piece:
                write(piece, data)
            return upload.length

    return act


def publish(store: FileStore, locker: Locker) -> int:
    with store.partials.open(KEY, taken(locker)) as upload:
        return upload.publish(NAME, FileMetadata("image/jpeg")).size


def taken(locker: Locker) -> Lease:
    lease = locker.acquire(KEY)
    assert lease is not None, "a dead process holds the lock"
    return lease


class Objects:
    """Dies in this process: its access to the engine is dead from then on, and its lease runs out."""

    #: Twice as many as an action makes, counting before and after.
    APPENDING = PUBLISHING = 60

    def __init__(self, _: object) -> None:
        self._now = 0.0
        self._backend = ObjectBackend(lambda: self._now)
        self._table = LeaseTable(lambda: self._now)
        self.store: FileStore = self._backend.store

    def run(self, action: Action, dies_at: int) -> int | None:
        calls = iter(range(10**6))
        store = self._backend.process(lambda _name, _when: next(calls) == dies_at)
        try:
            return action(store, MemoryLocker(self._table, lambda _: None))
        except Killed:
            self._now += 100
            return None


class Folder:
    """Dies in a process of its own, by an exit that cleans up nothing."""

    APPENDING, PUBLISHING = 8, 40

    def __init__(self, tmp_path: Path) -> None:
        self._path = tmp_path
        self.store: FileStore = local_store(tmp_path)

    def run(self, action: Action, dies_at: int) -> int | None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                gc.disable()  # it would remove folders of earlier tests, and each call for that would count
                store = local_store(self._path)
                die_at(dies_at)
                result = action(store, FileLocker(store.partials))
                os.writev(writer, [b"%d" % result])  # which is not counted
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, 9)
        return int(told) if told else None


def die_at(number: int) -> None:
    """Have this process end before or after its call of that number that changes something."""
    calls = iter(range(10**6))

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                os._exit(9)
            result = call(*args, **kwargs)
            if next(calls) == number:
                os._exit(9)
            return result

        return made

    for name in _CHANGES:
        setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize("kind", [Objects, Folder])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_acknowledged_byte_is_lost(kind: type[Objects | Folder], seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    processes = kind(tmp_path)
    store = processes.store
    data = chance.randbytes(chance.choice([3, PART_SIZE, 7 * PART_SIZE + 5]))
    store.partials.create(KEY, NAME, len(data), FileMetadata("image/jpeg"))
    acknowledged = deaths = 0
    while (stored := store.partials.stat(KEY)) is not None:
        if acknowledged == len(data):
            processes.run(publish, chance.randrange(processes.PUBLISHING))
            deaths += 1
            assert deaths < 1000
            continue
        assert acknowledged <= stored.length <= len(data)
        piece = data[stored.length : stored.length + chance.randrange(3 * PART_SIZE)]
        action = append(piece, stored.length, atomic=chance.random() < 0.3)
        told = processes.run(action, chance.randrange(processes.APPENDING))
        if told is not None:
            assert told == stored.length + len(piece)
            acknowledged = told
    assert content(store, NAME) == data
    info = store.stat(NAME)
    assert info is not None
    assert info.metadata.content_type == "image/jpeg"


def test_a_small_upload_is_whole_or_nothing(tmp_path: Path) -> None:
    """One that is stored by one call, in a process that dies at each of the calls that this makes."""
    for dies_at in range(40):
        root = tmp_path / str(dies_at)
        root.mkdir()
        child = os.fork()
        if child == 0:
            try:
                store = local_store(root, durable=False)
                die_at(dies_at)
                with store.stage(NAME, 5, FileMetadata("image/jpeg"), is_here=True) as staged:
                    staged.write(memoryview(b"hello"))
                    staged.publish()
                os._exit(0)
            finally:
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store = local_store(root, durable=False)
        store.recover()
        if (root / "folder").exists():
            assert content(store, NAME) == b"hello"
        if ended == 0:
            assert dies_at > 10
            assert store.exists(NAME)
            return
        assert ended == 9
    raise AssertionError("it makes more calls than this test knows")
