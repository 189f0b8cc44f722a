"""A file system that fills up."""

from __future__ import annotations

import os
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import Client, get, put, request
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
MIB = 2**20


def start(start_server: StartServer, disk: Path, runtime: Path, **settings: object) -> HmacFileServer:
    server = start_server(StoreDir=str(disk), RuntimeDir=str(runtime), UploadMaxSize="1GB", Workers=2, **settings)
    server.store = disk
    return server


@pytest.mark.parametrize("way", ["announced", "chunked"])
def test_a_disk_filled_to_the_brim(start_server: StartServer, small_disk: Path, tmp_path: Path, way: str) -> None:
    server = start(start_server, small_disk, tmp_path / "run", MinFreeSpace="2MB", MaxReservedPerClient=0)
    body = os.urandom(MIB)

    def upload(number: int) -> int:
        name = f"file{number}"
        if way == "announced":
            return put(server, name, body).status
        with Client(server) as client:
            client.head("PUT", server.sign_v3("PUT", name), transfer_encoding="chunked")
            piece = b"%x\r\n" % len(body) + body + b"\r\n"
            try:
                client.send(piece + b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):  # refused, and more came than the server would throw away
                return 507
            return client.answer().status

    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(upload, range(80)))
    assert set(statuses) == {201, 507}
    assert server.leftovers() == []
    stored = server.stored()
    assert len(stored) == statuses[201]
    if way == "announced":  # the space that must stay free is, and no more than that
        assert 27 <= statuses[201] <= 30
    else:
        assert statuses[201] >= 20
    for name in stored:
        assert get(server, name).body == body
    for name in stored[:5]:
        (small_disk / name).unlink()
    assert put(server, "again", body).status == 201
    assert [line for line in server.complaints() if "Traceback" in line or " ERROR " in line] == []


def test_uploads_in_progress_count_over_all_workers(
    start_server: StartServer, small_disk: Path, tmp_path: Path
) -> None:
    server = start(start_server, small_disk, tmp_path / "run", MinFreeSpace=0, MaxReservedPerClient=0)
    holders = [Client(server) for _ in range(4)]
    for number, client in enumerate(holders):
        client.head("PUT", server.sign_v(f"held{number}", 7 * MIB), content_length=7 * MIB, expect="100-continue")
        assert client.informational().startswith(b"HTTP/1.1 100")
    refused = [put(server, f"more{number}", bytes(5 * MIB)).status for number in range(8)]
    assert refused == [507] * 8
    for client in holders:
        client.reset()
    wait_until(lambda: put(server, "more", bytes(5 * MIB)).status == 201, what="the space of those who left")
    assert server.leftovers() == []


def test_a_share_of_the_disk_may_be_kept_free(start_server: StartServer, small_disk: Path, tmp_path: Path) -> None:
    server = start(start_server, small_disk, tmp_path / "run", MinFreeSpace="50%", MaxReservedPerClient="100%")
    assert put(server, "first", bytes(12 * MIB)).status == 201
    with Client(server) as client:  # refused before a byte of the body
        client.head("PUT", server.sign_v("second", 8 * MIB), content_length=8 * MIB, expect="100-continue")
        answer = client.answer()
    assert answer.status == 507
    assert b"not enough space" in answer.body
    assert put(server, "third", bytes(MIB)).status == 201
    with Client(server) as client:  # a body whose length nobody knows beforehand is held to it too
        client.head("PUT", server.sign_v3("PUT", "fourth"), transfer_encoding="chunked")
        client.send(b"%x\r\n" % (8 * MIB) + bytes(8 * MIB) + b"\r\n0\r\n\r\n")
        assert client.answer().status == 507
    assert server.stored() == ["first", "third"]


@pytest.mark.parametrize("length", [{"upload_defer_length": 1}, {"upload_length": 14 * MIB}], ids=["deferred", "told"])
def test_a_piece_of_unknown_length_leaves_free_what_must_stay_so(
    start_server: StartServer, small_disk: Path, tmp_path: Path, length: dict[str, Any]
) -> None:
    server = start(start_server, small_disk, tmp_path / "run", MinFreeSpace="50%", MaxReservedPerClient="100%")
    tus = {"tus_resumable": "1.0.0", "content_type": "application/offset+octet-stream"}
    made = request(server, "POST", server.sign_v3("PUT", "file"), content_length=0, tus_resumable="1.0.0", **length)
    url = made.headers["Location"]
    assert put(server, "other", bytes(8 * MIB)).status == 201
    with Client(server) as client:
        client.head("PATCH", url, transfer_encoding="chunked", upload_offset=0, **tus)
        client.send(b"%x\r\n" % (10 * MIB) + bytes(10 * MIB) + b"\r\n0\r\n\r\n")
        assert client.answer().status == 507
    wait_until(lambda: os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > 16 * MIB)
    assert request(server, "PATCH", url, bytes(MIB), upload_offset=0, **tus).status == 204


def test_a_disk_that_others_filled_keeps_no_worker_from_serving(start_server: StartServer, small_disk: Path) -> None:
    port = free_port()
    server = start(
        start_server,
        small_disk,
        small_disk / ".hmacfs" / "run" / "here",
        MinFreeSpace="4MB",
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{port}",
    )
    assert put(server, "file", b"x" * 1000).status == 201
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 4096)
    victims = {worker.pid for worker in server.workers()}
    for worker in server.workers():
        worker.kill()
    wait_until(lambda: len({worker.pid for worker in server.workers()} - victims) == 2, what="new workers")
    for number in range(20):
        assert get(server, "file").status == 200
        assert put(server, f"file{number}", b"x").status == 507
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"hmacfs_uploads_total 1.0" in answer.read()
    assert "SIGBUS" not in server.log()
