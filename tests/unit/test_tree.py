"""How paths of the store are opened and its folders made: never through a link, never into the server's own folders."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from hmacfs.errors import BadName, NameTaken, NotFound
from hmacfs.protocol.names import StoredName
from hmacfs.stores.local import beneath, publish, tree
from hmacfs.stores.local import symlinks as links
from hmacfs.stores.local.beneath import open_without_links
from hmacfs.stores.local.store import LocalFileStore
from hmacfs.uploads.files import FileMetadata
from tests.stores.local import local_store

NAME = StoredName("a/file.txt")


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStore:
    return local_store(tmp_path)


def store(storage: LocalFileStore, name: str) -> None:
    with storage.stage(StoredName(name), None, FileMetadata()) as staged:
        staged.publish()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "not"])
@pytest.mark.parametrize("name", ["a/file", "a/b/file", "a/b/c/d/file"])
@pytest.mark.parametrize("there", range(4))
@pytest.mark.parametrize("hooked", ["mkdir", "link"])
def test_a_link_in_the_place_of_a_new_folder_gets_nothing(
    storage: LocalFileStore,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    there: int,
    durable: bool,
    hooked: str,
) -> None:
    """Somebody who may write in the store puts it there as soon as a folder is made, or right before the file is linked.
    ``there``: so many of the folders exist."""
    storage.durable = durable
    outside = tmp_path_factory.mktemp("outside")
    (outside / "b" / "c" / "d").mkdir(parents=True)
    folders = name.split("/")[:-1]
    storage.root.joinpath(*folders[:there]).mkdir(parents=True, exist_ok=True)
    mkdir, link = os.mkdir, publish._link
    swapped = False

    def swap() -> None:
        nonlocal swapped
        if not swapped:
            swapped = True
            (storage.root / "a").rename(storage.root / "away")
            (storage.root / "a").symlink_to(outside)

    def mkdir_and_swap(path: bytes, mode: int, *, dir_fd: int) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        swap()

    def swap_and_link(*args: Any) -> bool:
        swap()
        return link(*args)

    monkeypatch.setattr(*((os, "mkdir", mkdir_and_swap) if hooked == "mkdir" else (publish, "_link", swap_and_link)))
    with contextlib.suppress(NameTaken):
        store(storage, name)
    assert swapped == (hooked == "link" or there < len(folders))
    assert sorted(path.name for path in outside.rglob("*")) == ["b", "c", "d"]
    assert [path for path in (storage.root / "away").rglob("*") if path.is_file()] in (
        [],
        [storage.root / "away" / name.partition("/")[2]],
    )


def test_folders_and_files_are_for_this_user_and_the_group(storage: LocalFileStore) -> None:
    before = os.umask(0)
    try:
        for name in ("file", "a/file", "a/b/c/file"):
            store(storage, name)
    finally:
        os.umask(before)
    for path in storage.root.rglob("*"):
        if ".hmacfs" not in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_deep_paths_are_opened_level_by_level(storage: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not each from the top again, which costs the square of the depth."""
    looked_up = 0

    def counted(folder: int, path: bytes, flags: int) -> int:
        nonlocal looked_up
        looked_up += path.count(b"/") + 1
        return open_without_links(folder, path, flags)

    name = "/".join(["x"] * 64)
    monkeypatch.setattr(tree, "open_on_one_mount", counted)
    monkeypatch.setattr(tree, "open_without_links", counted)
    monkeypatch.setattr(links, "open_without_links", counted)
    storage.folders.root.walks = False
    store(storage, name)
    assert looked_up <= 3 * 64
    looked_up = 0
    assert storage.exists(StoredName(name))
    storage.open(StoredName(name)).close()
    assert looked_up <= 2 * 64
    (storage.root / "link").symlink_to("/".join(["x"] * 63))
    looked_up = 0
    storage.open(StoredName("link/x")).close()
    assert looked_up <= 3 * 64


def test_a_path_that_could_be_made_but_not_opened_is_refused(storage: LocalFileStore) -> None:
    name = "/".join(["s" * 255] * 15 + ["s" * 127, "s" * 128])
    assert len(name) == 4096
    for call in (lambda: storage.exists(StoredName(name)), lambda: store(storage, name)):
        with pytest.raises(BadName):
            call()
    assert [path.name for path in storage.root.iterdir()] == [".hmacfs"]
    store(storage, name[:-1])
    storage.open(StoredName(name[:-1])).close()


def test_links_are_followed_so_far_and_no_farther(storage: LocalFileStore) -> None:
    for link, target in {
        "deep": "/".join(["y"] * 65), "long": "x/../" * 600 + "x", "wide": "x", "x": ".", "back": "x/../..", "own": "x/.hmacfs",
    }.items():  # fmt: skip
        (storage.root / link).symlink_to(target)
    root = storage.folders.root
    assert links.resolve(root, b"wide/wide/new") == b"new"
    assert links.resolve(root, b"wide") == b""
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"deep", b"long", b"back", b"own", b"own/tmp", b"wide/.hmacfs"):
        assert links.resolve(root, path) is None, path
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=["at once", "step by step", "without openat2"])
def walking(request: pytest.FixtureRequest, storage: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> LocalFileStore:
    """The ways to open a path: the second one where a name may have several spellings."""
    storage.folders.root.walks = request.param != "at once"
    if request.param == "without openat2":
        monkeypatch.setattr(tree, "open_without_links", beneath._walk)
    return storage


def test_paths_are_the_same_in_whichever_way_they_are_opened(walking: LocalFileStore) -> None:
    for name in ("file", "a/file", "a/b/c/d/file"):
        store(walking, name)
        assert walking.exists(StoredName(name))
        os.close(walking.open(StoredName(name)).fd)
        with pytest.raises(NameTaken):
            store(walking, name)
    for name in ("none", "a/none", "none/none", "a/b"):
        with pytest.raises(NotFound):
            walking.open(StoredName(name))
    (walking.root / "outside").symlink_to("/etc")
    assert walking.exists(StoredName("outside"))
    for taken in ("outside/passwd", "outside/none", "file/x"):
        with pytest.raises(NameTaken):
            walking.exists(StoredName(taken))


def test_our_own_folders_stay_private_where_they_are_moved_to(walking: LocalFileStore) -> None:
    (walking.root / ".hmacfs" / "secret").touch()
    (walking.root / ".hmacfs").rename(walking.root / "moved")
    walking.repair()
    assert (walking.root / ".hmacfs" / "tmp").is_dir()
    with pytest.raises(NotFound):
        walking.open(StoredName("moved/secret"))
    for name in ("moved/new", "moved/tmp/new"):
        with pytest.raises(NameTaken):
            walking.exists(StoredName(name))
        with pytest.raises(NameTaken):
            store(walking, name)
    store(walking, "a/file.txt")
    shutil.rmtree(walking.root / ".hmacfs")
    walking.repair()
    assert walking.exists(NAME)


def test_spellings_that_the_file_system_takes_for_one_are_found_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one that knows short names (8.3), as FAT and NTFS do."""
    (tmp_path / ".hmacfs").mkdir()
    (tmp_path / ".hmacfs" / "secret").touch()
    stat_of, mkdir = os.stat, os.mkdir

    def folded(path: Any) -> Any:
        return path.replace(b"HMACFS~1", b".hmacfs") if isinstance(path, bytes) else path

    monkeypatch.setattr(os, "stat", lambda path, **more: stat_of(folded(path), **more))
    monkeypatch.setattr(os, "mkdir", lambda path, *mode, **more: mkdir(folded(path), *mode, **more))
    for name in ("open_on_one_mount", "open_without_links"):
        call = getattr(beneath, name)
        monkeypatch.setattr(tree, name, lambda at, path, flags, call=call: call(at, folded(path), flags))
    storage = local_store(tmp_path)
    assert storage.file_system.spellings == ("HMACFS~1",)
    assert any("'HMACFS~1' for .hmacfs" in remark for remark in storage.capabilities.remarks)
    with pytest.raises(NotFound):
        storage.open(StoredName("HMACFS~1/secret"))
    for name in ("HMACFS~1/secret", "HMACFS~1/new", "HMACFS~1/new/new"):
        with pytest.raises(NameTaken):
            storage.exists(StoredName(name))
        with pytest.raises(NameTaken):
            store(storage, name)
    assert storage.exists(StoredName("HMACFS~1"))
    assert not (tmp_path / ".hmacfs" / "new").exists()
    store(storage, "a/file.txt")
    storage.open(NAME).close()


def test_paths_are_opened_at_once_after_a_purge(storage: LocalFileStore) -> None:
    for _ in range(3):
        shutil.rmtree(storage.root / ".hmacfs")
        storage.repair()
        store(storage, f"{len(os.listdir(storage.root))}/file")
    assert storage.folders.root.walks == (not beneath.HAS_OPENAT2)


@pytest.mark.parametrize(("link", "target"), [(".hmacfs", "elsewhere"), (".hmacfs/tmp", "elsewhere")])
def test_a_link_as_our_own_folder_is_refused(tmp_path: Path, link: str, target: str) -> None:
    (tmp_path / target).mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("../" * link.count("/") + target)
    with pytest.raises(OSError, match="a link") as caught:
        local_store(tmp_path)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert list((tmp_path / target).iterdir()) == []


def test_the_kernel_is_given_a_structure_that_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache keeps none that another thread was faster to make: the call's own reference is the only one then."""
    ended = []

    class How(beneath._OpenHow):
        def __del__(self) -> None:
            ended.append(True)

    def how(flags: int, resolve: int) -> tuple[How, int]:
        structure = How(flags | os.O_CLOEXEC, 0, resolve)
        return structure, ctypes.addressof(structure)

    def call(*_: object) -> int:
        assert ended == []
        return 99

    monkeypatch.setattr(beneath, "_how", how)
    monkeypatch.setattr(beneath, "_call", call)
    assert beneath._openat2(3, b"name", beneath.FOLDER_FLAGS) == 99
    assert ended == [True]
