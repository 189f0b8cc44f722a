"""Operators remove old files and empty folders by cron, under the running server; some lines take its own folders too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.client import Client, get, put, request
from tests.live.pieces import BODY, DIALECTS, Upload, begun
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
OLD = time.time() - 40 * 86400

#: What people have in their crontabs. STORE and RUN stand for the folders.
EMPTY_FOLDERS = r"find STORE -type d -empty -exec rmdir {} \; 2>/dev/null || true"
OLD_FOLDERS = "find STORE -mindepth 1 -type d -mtime +28 -print0 | xargs -0 rm -rf"
PURGES = {
    "empty folders": EMPTY_FOLDERS,
    "old folders": OLD_FOLDERS,
    "all files": "find STORE -type f -delete",
    "all": "find STORE -mindepth 1 -delete",
    "the store": "rm -rf STORE",
    "RuntimeDir": "rm -rf RUN",
    "RuntimeDir's files": "find RUN -type f -delete",
    "RuntimeDir's folders": "rm -rf RUN/metrics",
}


def run(line: str, server: HmacFileServer) -> None:
    """As cron would."""
    runtime = str(server.settings.get("RuntimeDir", ""))
    line = line.replace("STORE", str(server.store)).replace("RUN", runtime)
    subprocess.run(["sh", "-c", line], check=True)


def age_all(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def metrics(server: HmacFileServer) -> str:
    url = f"http://{server.settings['MetricsPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def uploads(server: HmacFileServer) -> float:
    match = re.search(r"^hmacfs_uploads_total (\S+)", metrics(server), re.MULTILINE)
    return float(match[1]) if match else -1.0


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> HmacFileServer:
    server = start_server(
        Workers=2,
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{free_port()}",
        RuntimeDir=str(tmp_path / "run"),
        UploadRateLimit="40/minute",
        Durability="none",
    )
    wait_until(lambda: len(list((tmp_path / "run" / "metrics").glob("gauge_livesum_*"))) == 2, what="both workers")
    return server


def finish(upload: Upload) -> None:
    assert upload.send(40_000).status in (200, 202, 204)
    assert upload.send(80_000).status in (201, 204)


def of_each_worker(server: HmacFileServer, act: Callable[[], object]) -> None:
    """Often enough that each worker gets some."""
    for _ in range(5):
        act()


@pytest.mark.parametrize("purge", PURGES)
def test_all_works_on_after_a_purge(server: HmacFileServer, purge: str) -> None:
    numbers = iter(range(1000))
    of_each_worker(server, lambda: put(server, f"before/{next(numbers)}", b"x"))
    begun_before = [begun(kind, server, f"begun-{kind.dialect}") for kind in DIALECTS]
    if "-mtime" in PURGES[purge]:
        age_all(server.store)
    run(PURGES[purge], server)
    # The very next requests, on each worker.
    of_each_worker(server, lambda: put(server, f"a{next(numbers)}/b/c", b"stored").status)
    for number in range(4):
        assert put(server, f"next/{number}", b"stored").status == 201
        assert get(server, f"next/{number}").body == b"stored"
    for upload in begun_before:  # unfinished uploads may be lost: then that is said
        assert upload.probe().status in (200, 204, 404, 410)
        assert upload.send(40_000).status in (202, 204, 200, 404, 409, 410)
    for kind in DIALECTS:
        upload = begun(kind, server, f"after-{kind.dialect}")
        finish(upload)
        assert upload.stored().read_bytes() == BODY
    assert request(server, "GET", "/readyz").status == 200
    before = uploads(server)
    assert put(server, "counted", b"x").status == 201
    wait_until(lambda: uploads(server) > before, what="the upload is counted")
    log = server.log()
    assert "Traceback" not in log
    assert " ERROR " not in log
    assert server.stop() == 0


@pytest.mark.parametrize("purge", ["RuntimeDir", "RuntimeDir's files"])
def test_new_workers_and_old_ones_share_again(server: HmacFileServer, purge: str) -> None:
    """Limits outlive a purge, and a worker that begins after it counts with those that were there before."""
    for number in range(30):
        assert put(server, f"before/{number}", b"x").status == 201
    counted = uploads(server)
    run(PURGES[purge], server)
    table = Path(str(server.settings["RuntimeDir"])) / "rates"
    last = "the files of this process's metrics were removed: made again"
    wait_until(lambda: server.log().count(last) == 2, what="both workers notice")
    assert table.exists()
    victim = server.workers()[0]
    victim.kill()
    wait_until(lambda: victim.pid not in (pids := [w.pid for w in server.workers()]) and len(pids) == 2)
    wait_until(server.is_ready)
    statuses = [put(server, f"after/{number}", b"x").status for number in range(20)]
    assert statuses == [201] * 10 + [429] * 10
    wait_until(lambda: uploads(server) == counted + 10, what="nothing that was counted is lost")
    assert "Traceback" not in server.log()


def test_a_long_upload_outlives_the_removal_of_our_folders(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.head("PUT", server.sign_v("long/upload", 1000), content_length=1000)
        client.send(b"x" * 500)
        wait_until(lambda: "hmacfs_uploads_in_progress 1.0" in metrics(server))
        shutil.rmtree(server.store / ".hmacfs")
        client.send(b"x" * 500)
        assert client.answer().status == 201
    assert (server.store / "long" / "upload").read_bytes() == b"x" * 1000


def test_the_documented_purge_takes_old_files_and_nothing_of_ours(server: HmacFileServer) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ *find /srv/store .*$", readme, re.MULTILINE)
    assert len(lines) == 2
    for name in ("old/file", "new/file", "both/old", "both/new"):
        assert put(server, name, b"x").status == 201
    upload = begun(DIALECTS[0], server, "unfinished")
    age_all(server.store)
    for name in ("new/file", "both/new"):
        os.utime(server.store / name)
    own = sorted(path for path in (server.store / ".hmacfs").rglob("*"))
    files, folders = (line.replace("/srv/store", "STORE") for line in lines)
    run(files, server)
    os.utime(server.store / "old", (OLD, OLD))  # it has just lost its file
    run(folders, server)
    assert server.stored() == ["both/new", "new/file"]
    assert not (server.store / "old").exists()
    assert sorted(path for path in (server.store / ".hmacfs").rglob("*")) == own
    finish(upload)
    assert put(server, "next/file", b"x").status == 201
    assert server.stop() == 0
    assert server.complaints() == []


def test_a_running_server_keeps_its_folders_young(start_server: StartServer) -> None:
    server = start_server()
    own = server.store / ".hmacfs"
    folders = [own, own / "tmp", own / "partial", own / "notes", *(own / "run").iterdir()]
    for path in folders:
        age_all(path)
    wait_until(lambda: min(path.stat().st_mtime for path in folders) > OLD + 1)
    run(OLD_FOLDERS, server)
    assert (own / "partial").is_dir()
