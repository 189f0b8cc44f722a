"""``hmacfs copy-store``, as an operator runs it."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hmacfs.stores.s3.client import S3Bucket
from tests.live.client import get, put
from tests.live.shared_bucket import KEPT
from tests.live.test_object_store import configured
from tests.servers import as_user, folder_of, give_to, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.seaweedfs import SeaweedFS

ROOT = Path(__file__).parents[2]
USER = "daemon"
StartServer = Callable[..., HmacFileServer]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "hmacfs", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def files_of(folder: Path) -> dict[str, str]:
    """The digests of all files but the server's own, by their names."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".hmacfs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def fill(folder: Path, count: int) -> None:
    """Small files, as another server may have put them there."""
    for number in range(count):
        path = folder / f"{number % 50}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"file {number}\n".encode() * 20)


def all_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What a folder would show of anything that was made, changed or removed in it: by paths, with modes and times."""
    found = ((path, path.lstat()) for path in (folder, *folder.rglob("*")))
    return {str(path): (status.st_mode, status.st_mtime_ns, status.st_ctime_ns) for path, status in found}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}/store"\nDurability = "none"\n')
    return path


@pytest.fixture
def store(config: Path) -> Path:
    return config.parent / "store"


def test_a_folder_is_copied_into_the_store_of_a_running_server_and_back(
    start_server: StartServer, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    fill(folder, 120)
    (folder / "elsewhere").symlink_to("/etc/hostname")
    folder.chmod(0o555)
    before = all_of(folder)
    server = start_server()
    assert put(server, "theirs", b"there").status == 201
    done = run("-config", server.config, "copy-store", "--from-folder", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "copied: 120 files, 18.9 KB"
    assert get(server, "7/7.txt").body == b"file 7\n" * 20
    assert run("-config", server.config, "copy-store", "--from-folder", folder, "--verify").returncode == 0
    assert all_of(folder) == before, "it is only read"
    folder.chmod(0o755)
    back = tmp_path / "back"
    done = run("copy-store", "-config", server.config, "--to-folder", back, "--parallel", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "copied: 121 files" in done.stdout
    (folder / "elsewhere").unlink()  # what a link leads to has another name
    assert files_of(back) == files_of(folder) | {"theirs": hashlib.sha256(b"there").hexdigest()}
    assert int((back / "7/7.txt").stat().st_mtime) == int((folder / "7/7.txt").stat().st_mtime)
    again = run("copy-store", "-config", server.config, "--to-folder", back)
    assert again.stdout.splitlines()[0].startswith("there already: 121 files")


@pytest.fixture
def as_from_a_terminal() -> Iterator[None]:
    """A shell has SIGINT ignored in what it runs in the background, and in the children of that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_from_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_is_ended_is_resumed(config: Path, store: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "folder"
    fill(folder, 3000)
    (folder / "large").write_bytes(os.urandom(20_000_000))
    arguments = ("-config", config, "copy-store", "--from-folder", folder, "--parallel", 2)
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: len(list(store.rglob("*.txt"))) > 100, what="the first files")
        process.send_signal(number)
        told, complaints = process.communicate(timeout=60)
    copied = files_of(store)
    assert copied.items() <= files_of(folder).items(), "whole files alone"
    assert len(copied) < 3001, "it was ended in the middle"
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert f"copied: {len(copied):,} files" in told
        assert complaints == "interrupted: the same command goes on from here\n"
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"there already: {len(copied):,} files" in done.stdout
    assert files_of(store) == files_of(folder)


def test_files_that_come_and_go_meanwhile_do_no_harm(config: Path, store: Path, tmp_path: Path) -> None:
    folder, count = tmp_path / "folder", 1500
    fill(folder, count)
    is_over = threading.Event()

    def change() -> None:
        """For each new file an old one goes: else a copy on a slow machine would never catch up."""
        for number in itertools.takewhile(lambda _: not is_over.is_set(), itertools.count()):
            place = folder / f"{number % 50}"
            old = f"{number}.txt" if number < count else f"new-{number - count}"
            (place / old).unlink()
            (folder / "staged").write_bytes(b"x" * (number % count))
            (folder / "staged").rename(place / f"new-{number}")

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change)
        try:
            first = run("-config", config, "copy-store", "--from-folder", folder, "--quiet")
        finally:
            is_over.set()
        assert changes.exception() is None
    # The file that another program writes under its name may be seen half.
    others = [line for line in first.stderr.splitlines() if " staged: " not in line]
    assert others in ([], ["some files failed: repeat the command once the cause is gone"])
    assert first.returncode == bool(first.stderr)
    done = run("-config", config, "copy-store", "--from-folder", folder, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(folder).items() <= files_of(store).items()


def test_conflicts_are_listed_and_nothing_changes(config: Path, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    fill(folder, 3)
    (store / "1").mkdir()
    (store / "1/1.txt").write_bytes(b"another")
    for option in ("--dry-run", "--verify", "--quiet"):
        before = files_of(store)
        done = run("-config", config, "copy-store", "--from-folder", folder, option)
        assert done.returncode == 1
        assert "conflict: 1/1.txt: it has 140 bytes here and 7 there\n" in done.stderr
        assert ("missing: 0/0.txt: it is not there\n" in done.stderr) == (option == "--verify")
        assert (files_of(store) == before) == (option != "--quiet")
    assert (store / "1/1.txt").read_bytes() == b"another"
    assert (store / "2/2.txt").exists()


def test_a_mistake_is_one_line(config: Path, store: Path, tmp_path: Path) -> None:
    (store / "below").mkdir()
    for arguments, told in {
        ("--from-folder", tmp_path / "nowhere"): "nowhere cannot be used: No such file or directory",
        ("--from-folder", config): "config.toml cannot be used: Not a directory",
        ("--from-folder", store / "below"): "are the same, or one is in the other; name another folder",
        ("--to-folder", tmp_path): "are the same, or one is in the other; name another folder",
        ("--to-folder", store / "new"): "are the same, or one is in the other; name another folder",
    }.items():
        done = run("-config", config, "copy-store", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"hmac-file-server: {arguments[0]} {arguments[1]}: ")
        assert done.stderr.endswith(f"{told}\n")
        assert done.stderr.count("\n") == 1
    assert not (store / "new").exists()
    for words, complaint in {
        (): "one of the arguments --from-folder --to-folder is required",
        ("--to-folder", "x", "--parallel", "0"): "allowed is a number from 1 to 64",
    }.items():
        done = run("-config", config, "copy-store", *words)
        assert done.returncode == 2
        assert complaint in done.stderr


def test_a_relative_path_is_told_as_it_was_given(config: Path) -> None:
    done = run("-config", config, "copy-store", "--from-folder", "nowhere")
    assert done.stderr == "hmac-file-server: --from-folder nowhere: nowhere cannot be used: No such file or directory\n"


@pytest.mark.parametrize("option", ["--quiet", "--dry-run", "--verify"])
def test_a_bucket_that_is_not_there_is_told_of_once(tmp_path: Path, seaweedfs: SeaweedFS, option: str) -> None:
    """Not for each file; and to look a file up there only says that it is not there."""
    fill(tmp_path / "folder", 3)
    server = configured(tmp_path, seaweedfs, "none-of-ours")
    done = run("-config", server.config, "copy-store", "--from-folder", tmp_path / "folder", option)
    assert done.returncode == 1
    assert done.stderr.count("404 NoSuchBucket") == 1


@pytest.fixture
def users_folder() -> Iterator[Path]:
    with folder_of(USER) as folder:
        yield folder


@needs_root
def test_what_root_copies_into_a_folder_is_its_owner_s(config: Path, store: Path, users_folder: Path) -> None:
    moved = users_folder / "store"
    fill(moved, 20)
    give_to(moved, USER)
    config.write_text(config.read_text().replace(f'"{store}"', f'"{moved}"'))
    target = users_folder / "new" / "store"
    done = run("-config", config, "copy-store", "--to-folder", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(target) == files_of(moved)
    assert {path.owner() for path in (target.parent, target, *target.rglob("*"))} == {USER}


@needs_root
@pytest.mark.parametrize("option", ["--from-folder", "--to-folder"])
def test_a_folder_of_another_user_is_copied_by_who_may_only_read_it(
    config: Path, store: Path, users_folder: Path, option: str
) -> None:
    """Into the configured store, or out of it: a server has that one's folder of its own for itself alone."""
    source, target = users_folder / "theirs", users_folder / "ours"
    fill(source, 5)
    (source / ".hmacfs").mkdir(mode=0o700)
    target.mkdir()
    give_to(target, USER)
    before = all_of(source)
    folder, configured = (source, target) if option == "--from-folder" else (target, source)
    config.write_text(config.read_text().replace(f'"{store}"', f'"{configured}"'))
    done = run("-config", config, "copy-store", option, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(target) == files_of(source)
    assert all_of(source) == before
    assert (target / "1/1.txt").owner() == USER


@needs_root
def test_what_may_not_be_read_is_a_failure_and_the_others_are_copied(
    config: Path, store: Path, users_folder: Path
) -> None:
    folder = users_folder / "folder"
    fill(folder, 5)
    give_to(folder, USER)
    give_to(store, USER)
    (folder / "1/1.txt").chmod(0)
    os.chown(folder / "1/1.txt", 0, 0)
    (folder / "closed").mkdir(mode=0o700)
    config.chmod(0o644)
    arguments = ("-config", config, "copy-store", "--from-folder", folder)
    done = subprocess.run(
        [*as_user(USER), *command(*arguments)], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    if "No module" in done.stderr or "cannot be read" in done.stderr:
        pytest.skip(f"user {USER} cannot read this Python or this checkout")
    assert done.returncode == 1
    assert f"failed: 1/1.txt: storage failed: {folder}/1/1.txt: Permission denied\n" in done.stderr
    assert done.stderr.endswith(f"hmacfs copy-store: storage failed: {folder}/closed: Permission denied\n")
    assert sorted(files_of(store)) == ["0/0.txt", "2/2.txt", "3/3.txt", "4/4.txt"]


def test_a_folder_moves_into_a_bucket_and_back_whenever_the_copy_is_killed(
    tmp_path: Path, seaweedfs: SeaweedFS
) -> None:
    """What a killed copy leaves in the bucket is swept as an upload that nobody goes on with."""
    folder, back, bucket = tmp_path / "folder", tmp_path / "back", seaweedfs.make_bucket()
    fill(folder, 600)
    (folder / "photo.jpg").write_bytes(os.urandom(3000))
    for number in range(2):
        (folder / f"large{number}").write_bytes(os.urandom(20_000_000))
    server = configured(tmp_path, seaweedfs, bucket, SessionTTL="2s")
    arguments = ("-config", server.config, "copy-store", "--from-folder", folder)
    client = seaweedfs.client(bucket)

    def stored() -> list[str]:
        return [one.key for page in client.pages("") for one in page if not one.key.startswith(".hmacfs/")]

    try:
        for most in (50, 300):
            with subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
                try:
                    wait_until(lambda most=most: len(stored()) >= most, what="the first files")  # type: ignore[misc]
                finally:
                    process.kill()
        wait_until(lambda: _sweep_leaves(server, client) == [], what="a sweep that leaves nothing")
        server.start()
        assert _copied(run(*arguments))
        assert _copied(run(*arguments, "--verify"))
        assert get(server, "photo.jpg").headers["content-type"] == "image/jpeg"
        assert get(server, "large1").body == (folder / "large1").read_bytes()
        assert _copied(run("-config", server.config, "copy-store", "--to-folder", back))
        assert files_of(back) == files_of(folder)
        assert _sweep_leaves(server, client) == []
    finally:
        client.close()
        server.end()


def _copied(done: subprocess.CompletedProcess[str]) -> bool:
    assert done.returncode == 0, done.stderr
    return True


def _sweep_leaves(server: HmacFileServer, client: S3Bucket) -> list[str]:
    """What is of unfinished uploads after a sweep."""
    assert run("-config", server.config, "sweep").returncode == 0
    return [one.key for page in client.pages(".hmacfs/") for one in page if one.key not in KEPT]
