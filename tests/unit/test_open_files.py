"""Small files stay open between requests, and nobody can tell but by the speed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hmacfs.errors import NotFound
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local import open_files
from hmacfs.stores.local.capabilities import TYPE_ATTRIBUTE
from hmacfs.stores.local.open_files import KEPT_BYTES, KeptFile
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.stores.local.tree import Root
from tests.stores.backends import content, put
from tests.stores.local import local_store

NAME = StoredName("folder/file.txt")


@pytest.fixture
def store(tmp_path: Path) -> LocalFileStore:
    """One whose repairs have begun."""
    root = tmp_path / "store"
    root.mkdir()
    (root / "trial").touch()
    is_one_device = (root / "trial").stat().st_dev == root.stat().st_dev  # not on every overlay
    store = local_store(root, durable=False)
    if not (store.file_system.anonymous and is_one_device):
        pytest.skip("no file stays open on this file system")
    store.repair()
    return store


def opened(store: LocalFileStore, name: StoredName = NAME) -> int:
    """Open and close it; its descriptor."""
    file = store.open(name)
    file.close()
    return file.fd


def is_open(path: Path) -> bool:
    """Whether this process has that file open, be it deleted."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
        except FileNotFoundError:  # the one of the listing
            continue
    return str(path) in found


def test_a_file_that_is_asked_for_again_is_open(store: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, NAME, b"hello")
    first = store.open(NAME)
    first.close()
    with monkeypatch.context() as patch:
        patch.setattr(Root, "open", None)
        second = store.open(NAME)
    assert second.fd == first.fd
    assert second.info is first.info
    assert b"".join(second.pieces(1, 3, 2)) == b"ell"


def test_a_deleted_file_is_not_found(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    opened(store)
    (store.root / NAME.path).unlink()
    with pytest.raises(NotFound):
        store.open(NAME)
    put(store, NAME, b"again")
    assert content(store, NAME) == b"again"
    store.delete(NAME)
    with pytest.raises(NotFound):
        store.open(NAME)


def test_a_replaced_file_is_the_new_one(store: LocalFileStore) -> None:
    put(store, NAME, b"first")
    path = store.root / NAME.path
    opened(store)
    other = path.with_name("other")
    other.write_bytes(b"other")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)
    assert content(store, NAME) == b"other"


def test_what_is_changed_in_place_is_told(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    path = store.root / NAME.path
    opened(store)
    with path.open("ab") as file:
        file.write(b" world")
    assert content(store, NAME) == b"hello world"
    assert store.open(NAME).info.size == 11
    if store.capabilities.keeps_metadata:
        wait_for_another_time(path)
        os.setxattr(path, TYPE_ATTRIBUTE, b"text/markdown")
        assert store.open(NAME).info.metadata.content_type == "text/markdown"


def wait_for_another_time(path: Path) -> None:
    """Until a change of the file gets another time than its last."""
    trial = path.with_name("trial")
    trial.touch()
    while trial.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        trial.touch()


def test_the_folder_that_is_now_the_store_is_asked(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    opened(store)
    store.root.rename(store.root.with_name("old"))
    store.root.mkdir()
    store.repair()
    with pytest.raises(NotFound):
        store.open(NAME)


def test_a_folder_that_became_a_link_to_outside_ends_it(store: LocalFileStore, tmp_path: Path) -> None:
    put(store, NAME, b"hello")
    opened(store)
    (store.root / "folder").rename(tmp_path / "outside")
    (store.root / "folder").symlink_to(tmp_path / "outside")
    store.repair()
    with pytest.raises(NotFound):
        store.open(NAME)


def test_the_space_of_a_deleted_file_is_free_after_the_next_repairs(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    path = store.root / NAME.path
    opened(store)
    path.unlink()
    assert is_open(path)
    store.repair()
    assert not is_open(path)


def test_a_reader_finishes_after_the_repairs(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    opened(store)
    reader, other = store.open(NAME), store.open(NAME)
    other.close()
    del other
    store.delete(NAME)
    store.repair()
    assert b"".join(reader.pieces(0, 5, 2)) == b"hello"
    reader.close()
    del reader
    assert not is_open(store.root / NAME.path)


def test_no_more_stay_open_than_there_is_room_for(store: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "FILES_KEPT", 3)
    store.repair()
    names = [StoredName(f"{number}/file") for number in range(5)]
    for name in names:
        put(store, name, b"hello")
        opened(store, name)
    assert [is_open(store.root / name.path) for name in names] == [True] * 3 + [False] * 2
    store.repair()
    assert not any(is_open(store.root / name.path) for name in names)


def test_a_large_file_does_not_stay_open(store: LocalFileStore) -> None:
    put(store, NAME, bytes(KEPT_BYTES + 1))
    opened(store)
    assert not is_open(store.root / NAME.path)


def test_what_a_link_leads_to_does_not_stay_open(store: LocalFileStore) -> None:
    put(store, NAME, b"hello")
    (store.root / "link").symlink_to("folder")
    assert opened(store, StoredName("link/file.txt"))
    assert not is_open(store.root / NAME.path)


def test_nothing_stays_open_where_nobody_repairs(store: LocalFileStore) -> None:
    another = local_store(store.root, durable=False)
    put(another, NAME, b"hello")
    assert not isinstance(another.open(NAME), KeptFile)


def test_nothing_stays_open_on_a_file_system_that_renames_what_is_deleted(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, NAME, b"hello")
    without = type(store.file_system)(anonymous=False, hard_links=True, attributes=False)
    monkeypatch.setattr(store, "_file_system", without)
    assert not isinstance(store.open(NAME), KeptFile)
