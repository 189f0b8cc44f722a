"""Stores of more than one file system, disks that come late, file systems that tell no size, links, locales: with real
mounts, in a mount namespace of the server's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.live.client import Client, get, put, request
from tests.live.pieces import BODY, DIALECTS, begun
from tests.programs import program
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="only root may mount file systems",
)
Mounted = Callable[..., HmacFileServer]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Starts a server in a mount namespace in which a shell line was run before; STORE stands for its store."""
    started: list[HmacFileServer] = []

    def start(line: str, **settings: object) -> HmacFileServer:
        server = HmacFileServer(tmp_path / "server", **settings)
        server.store.mkdir(parents=True)
        line = line.replace("STORE", str(server.store)).replace("TEMPORARY", str(tmp_path))
        server.command = ["unshare", "-m", "sh", "-ec", f'{line}; exec "$0" "$@"', *server.command]
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.daemon.kill()


def within(server: HmacFileServer, line: str) -> str:
    """The output of a shell line in the server's namespace."""
    command = ["nsenter", "-m", "-t", str(server.pid), "sh", "-ec", line.replace("STORE", str(server.store))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


MOUNTS = {
    "tmpfs": "mkdir STORE/other; mount -t tmpfs none STORE/other",
    "bind": "mkdir STORE/other TEMPORARY/elsewhere; mount --bind TEMPORARY/elsewhere STORE/other",
}


@needs_mounts
@pytest.mark.parametrize("kind", MOUNTS)
def test_a_folder_on_another_mount(mounted: Mounted, kind: str) -> None:
    server = mounted(MOUNTS[kind], Workers=2, UploadMaxSize="200MB")
    large = os.urandom(70_000_000)  # more than is copied at once
    for name, body in (("other/first", large), ("other/a/b/c", b"c"), ("other/a/b/d", b"d"), ("here", b"here")):
        assert put(server, name, body, "image/png").status == 201
        answer = get(server, name)
        assert (answer.body == body, answer.headers["Content-Type"]) == (True, "image/png")
        assert put(server, name, body).status == 409
    for dialect in DIALECTS:
        upload = begun(dialect, server, f"other/{dialect.dialect}/file")
        assert upload.send(40_000).status in (200, 202, 204)
        assert upload.send(80_000).status in (201, 204)
        assert get(server, upload.name).body == BODY
    with Client(server) as client:
        client.head("PUT", server.sign_v("other/new/cut", 1000), content_length=1000)
        client.send(b"x" * 500)
    wait_until(lambda: within(server, "cd STORE/other && ls").split() == ["a", "first", "numbered", "range", "tus"])
    assert within(server, "find STORE -name tmp -type d | xargs -I{} find {} -type f") == ""
    server.daemon.kill()
    assert server.complaints() == []


@needs_mounts
def test_no_space_on_the_other_file_system_is_507(mounted: Mounted) -> None:
    server = mounted("mkdir STORE/other; mount -t tmpfs -o size=1m none STORE/other")
    for _ in range(3):  # copied the first time, staged there the next
        assert put(server, "other/file", bytes(3_000_000)).status == 507
        assert get(server, "other/file").status == 404
    assert put(server, "other/small", b"x").status == 201


@needs_mounts
@pytest.mark.parametrize("at", ["before", "after"])
def test_killed_while_a_copy_is_published(mounted: Mounted, tmp_path: Path, at: str) -> None:
    """Before the link: nothing is visible. After it, before the unfinished upload is removed: the retry finds it."""
    flag = tmp_path / "kill"
    flag.touch()
    elsewhere = "mkdir -p STORE/other TEMPORARY/elsewhere; mount --bind TEMPORARY/elsewhere STORE/other"
    server = mounted(f"{elsewhere}; export KILL={flag} KILL_AT={at} PYTHONPATH={program('killed_at_publication')}")
    upload = begun(DIALECTS[0], server, "other/file")
    assert upload.send(40_000).status == 202
    with pytest.raises(OSError):
        upload.send(80_000)
    server.daemon.kill()
    visible = [path.name for path in (tmp_path / "elsewhere").iterdir() if path.is_file()]
    assert visible == ([] if at == "before" else ["file"])
    flag.unlink()
    server.start()
    upload.probe()
    assert upload.send(80_000).status in (200, 201, 409) if at == "after" else True
    wait_until(lambda: get(server, "other/file").body == BODY)
    assert list((server.store / ".hmacfs" / "partial").iterdir()) == []


@needs_mounts
@pytest.mark.parametrize("options", ["-t ramfs", "-t tmpfs -o size=0"])
def test_a_file_system_that_tells_no_size_is_not_full(mounted: Mounted, options: str) -> None:
    port = free_port()
    server = mounted(
        f"mount {options} none STORE",
        MinFreeSpace="10%",
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{port}",
    )
    assert put(server, "a/file", b"x" * 1000).status == 201
    assert get(server, "a/file").body == b"x" * 1000
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"hmacfs_store_free_bytes" not in answer.read()


@needs_mounts
def test_a_disk_that_is_mounted_later_is_used_and_missed_when_it_goes(mounted: Mounted) -> None:
    """One worker: another that got no upload meanwhile would find the disk by its look once a second."""
    server = mounted("true", Workers=1)
    assert put(server, "hidden/file", b"hidden").status == 201
    within(server, "mount -t tmpfs none STORE")
    for number in range(6):
        assert put(server, f"disk/{number}", b"disk").status == 201
    assert within(server, "cd STORE/disk && ls").split() == [str(number) for number in range(6)]
    assert get(server, "hidden/file").status == 404
    for dialect in DIALECTS:
        upload = begun(dialect, server, dialect.dialect)
        assert upload.send(40_000).status in (200, 202, 204)
        assert upload.send(80_000).status in (201, 204)
    assert request(server, "GET", "/readyz").status == 200
    within(server, "umount --lazy STORE")
    for number in range(6):
        answer = put(server, f"lost/{number}", b"x")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "60")
    wait_until(lambda: request(server, "GET", "/readyz").status == 503, what="the next look")
    answer = request(server, "GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"store: The server's store is not there at the moment.\n")
    assert not (server.store / "lost").exists()
    within(server, "mount -t tmpfs none STORE")
    wait_until(server.is_ready)
    assert put(server, "back/file", b"x").status == 201
    assert "Traceback" not in server.log()


@needs_mounts
def test_no_temporary_folder_can_be_written(mounted: Mounted) -> None:
    server = mounted(
        "mount --bind STORE STORE; mount -o remount,ro / 2>/dev/null || mount -o remount,ro,bind /;"
        " mount -t tmpfs -o ro none /dev/shm; export TMPDIR=/nowhere; cd /",
        Workers=2,
    )
    assert within(server, "touch /tmp/x 2>/dev/null || echo refused") == "refused\n"
    assert put(server, "a/file", b"x").status == 201
    assert server.stop() == 0


def test_links_inside_the_store_are_followed_absolute_or_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "spelling").symlink_to(tmp_path / "real")
    store = tmp_path / "real"
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"secret")
    with HmacFileServer(tmp_path / "server", StoreDir=str(tmp_path / "spelling")) as server:
        assert put(server, "target/file", b"x").status == 201
        links = {
            "absolute": store / "target",
            "spelled": tmp_path / "spelling" / "target",
            "relative": Path("target"),
            "chain": store / "absolute",
            "fresh": store / "not" / "yet",
            "fresh-relative": Path("neither", "yet"),
        }
        for name, target in links.items():
            (store / name).symlink_to(target)
        (store / "alone").symlink_to(store / "target" / "file")
        assert get(server, "alone").body == b"x"
        for name in ("absolute", "spelled", "relative", "chain"):
            assert get(server, f"{name}/file").body == b"x"
            assert put(server, f"{name}/by-{name}/new", b"y").status == 201
            assert (store / "target" / f"by-{name}" / "new").read_bytes() == b"y"
            assert put(server, f"{name}/file", b"z").status == 409
        assert put(server, "fresh/file", b"z").status == 201
        assert (store / "not" / "yet" / "file").read_bytes() == b"z"
        assert put(server, "fresh-relative/file", b"z").status == 201
        assert (store / "neither" / "yet" / "file").read_bytes() == b"z"
        for name, target in {"top": Path("."), "absolute-top": store, "around": Path("target", "..")}.items():
            (store / name).symlink_to(target)
            assert put(server, f"{name}/in-{name}", b"t").status == 201
            assert (store / f"in-{name}").read_bytes() == b"t"
            assert get(server, f"{name}/in-{name}").body == b"t"
            taken = put(server, f"{name}/in-{name}", b"u")
            assert (taken.status, taken.body) == (409, b"A file of this name already exists.\n")
            assert put(server, f"{name}/target/file", b"u").status == 409
            assert get(server, name).status == 404
        closed = {
            "outside": tmp_path / "secret",
            "back": store / "target" / ".." / ".." / "secret",
            "loop": store / "loop",
            "own": store / ".hmacfs",
            "own-relative": Path(".hmacfs"),
            "own-around": Path("target", "..", ".hmacfs"),
            "own-chain": Path("own-relative"),
            "root": Path("/"),
        }
        for name, target in closed.items():
            (store / name).symlink_to(target)
            for file in ("file", "sessions.sqlite3", "tmp/x"):
                assert get(server, f"{name}/{file}").status == 404
                assert put(server, f"{name}/{file}", b"x").status == 409
        (store / "sessions").symlink_to(Path(".hmacfs", "sessions.sqlite3"))
        assert get(server, "sessions").status == 404
        assert [path.name for path in (tmp_path / "secret").iterdir()] == ["file"]
        assert server.complaints() == []


@needs_mounts
def test_a_link_to_a_folder_on_another_file_system(mounted: Mounted) -> None:
    server = mounted(MOUNTS["tmpfs"])
    (server.store / "absolute").symlink_to(server.store / "other")
    (server.store / "relative").symlink_to("other")
    for way in ("absolute", "relative"):
        assert put(server, f"{way}/{way}", b"x").status == 201
        assert get(server, f"other/{way}").body == b"x"
    server.daemon.kill()
    assert server.complaints() == []


@needs_mounts
def test_no_other_name_leads_into_the_servers_own_folders(mounted: Mounted) -> None:
    """A mount of one of them elsewhere in the store, or under a short name (8.3): the identity of the folder counts. The
    store itself may be mounted in the store."""
    server = mounted(
        "mkdir -p STORE/.hmacfs/tmp STORE/.hmacfs/partial STORE/other STORE/again 'STORE/HMACFS~1' STORE/whole STORE/parts STORE/deep/deeper;"
        " mount -t tmpfs none STORE/other; mkdir -p STORE/other/.hmacfs STORE/other/alias; echo secret >STORE/other/.hmacfs/x;"
        " mount --bind STORE/.hmacfs STORE/again; mount --bind STORE/.hmacfs 'STORE/HMACFS~1'; mount --bind STORE/.hmacfs STORE/deep/deeper;"
        " mount --bind STORE/.hmacfs/partial STORE/parts; mount --bind STORE/other/.hmacfs STORE/other/alias; mount --rbind STORE STORE/whole"
    )
    assert put(server, "file", b"x").status == 201
    upload = begun(DIALECTS[0], server, "in/pieces")
    assert upload.send(40_000).status == 202
    (token,) = within(server, "cd STORE/.hmacfs/partial && ls").split()
    for path in (
        "again/sessions.sqlite3",
        "HMACFS~1/sessions.sqlite3",
        "deep/deeper/sessions.sqlite3",
        f"parts/{token}",
        f"again/partial/{token}",
        "other/alias/x",
        "whole/again/sessions.sqlite3",
    ):
        for method in ("GET", "HEAD"):
            assert request(server, method, server.path(path)).status == 404, path
        folder = path.rpartition("/")[0]
        for name in (path, f"{folder}/new", f"{folder}/new/new"):
            assert put(server, name, b"x").status == 409, name
    assert within(server, "cd STORE/.hmacfs && find . -name new").split() == []
    assert get(server, "whole/.hmacfs/sessions.sqlite3").status == 400
    assert get(server, "whole/file").body == b"x"
    for name in ("other/new", "whole/new", "deep/new", "other/a/b/new"):
        assert put(server, name, b"y").status == 201
        assert get(server, name).body == b"y"
    assert "takes 'HMACFS~1' for .hmacfs" in server.log()
    assert upload.send(80_000).status == 201


def test_own_folders_that_were_moved_are_not_served(tmp_path: Path) -> None:
    with HmacFileServer(tmp_path) as server:
        assert put(server, "a/file", b"x").status == 201
        (server.store / ".hmacfs").rename(server.store / "moved")
        (server.store / ".hmacfs").symlink_to("moved")
        wait_until(lambda: get(server, "moved/sessions.sqlite3").status == 404, what="the look once a second")
        assert get(server, "a/file").body == b"x"
        assert put(server, "b/file", b"x").status == 500
        (server.store / ".hmacfs").unlink()
        wait_until(lambda: put(server, "b/file", b"x").status == 201, what="folders of its own")
        assert get(server, "moved/sessions.sqlite3").status == 404
        assert "Traceback" not in server.log()


def locales(folder: Path) -> dict[str, str]:
    """The environment of a Latin-1 locale, or of one that knows ASCII alone."""
    if shutil.which("localedef"):
        command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
        if subprocess.run(command, capture_output=True, check=False).returncode in (0, 1):
            return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}
    return {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_names_are_utf8_in_any_locale(tmp_path: Path) -> None:
    environment = locales(tmp_path)
    store = tmp_path / "store-é☃"
    server = HmacFileServer(tmp_path / "server", StoreDir=str(store), LogFile=str(tmp_path / "lög"), Workers=2)
    server.start(**environment)
    try:
        for name in ("☃.txt", "é.txt", "ordner-ü/☃/é"):
            assert put(server, name, name.encode()).status == 201
            assert get(server, name).body == name.encode()
            assert (store / name).read_bytes() == name.encode()
            assert put(server, name, name.encode()).status == 409
        upload = begun(DIALECTS[0], server, "ü/☃")
        assert upload.send(40_000).status == 202
        assert upload.send(80_000).status == 201
        assert (store / "ü" / "☃").read_bytes() == BODY
        assert server.path("☃.txt") == "/upload/" + quote("☃.txt")
    finally:
        server.stop()
    assert " WARNING " not in (tmp_path / "lög").read_text(encoding="utf-8")


def test_reloads_leave_nothing_behind_where_nobody_scrapes(tmp_path: Path) -> None:
    port = free_port()
    server = HmacFileServer(
        tmp_path / "server",
        Workers=2,
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{port}",
        RuntimeDir=str(tmp_path / "run"),
    )
    with server:
        folder = tmp_path / "run" / "metrics"
        sizes = []
        for number in range(6):
            assert put(server, f"file{number}", b"x").status == 201
            before = {worker.pid for worker in server.workers()}
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda before=before: not before & {worker.pid for worker in server.workers()})  # type: ignore[misc]
            wait_until(lambda: len(list(folder.glob("counter_*.db"))) == 3, what="two workers and those that ended")
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
        # A worker makes some of its files after the one that is waited for.
        assert max(sizes[3:]) < 1.2 * max(sizes[:3])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert re.search(rb"^hmacfs_uploads_total 6\.0$", answer.read(), re.MULTILINE)


def test_what_servers_of_other_names_shared_goes_once_they_ended(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path / "server")
    others = server.store / ".hmacfs" / "run"
    for name, lock in (("ended", True), ("young", True), ("of-an-older-version", False)):
        (others / name / "metrics").mkdir(parents=True)
        (others / name / "rates").touch()
        if lock:
            (others / name / "server.lock").touch()
        if name != "young":
            for path in (others / name).rglob("*"):
                os.utime(path, (1e9, 1e9))
            os.utime(others / name, (1e9, 1e9))
    with server:
        found = {path.name for path in others.iterdir()}
        assert "young" in found
        assert not found & {"ended", "of-an-older-version"}
        assert len(found) == 2
