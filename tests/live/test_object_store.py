"""The server with its files in a real object store: its start, checks, readiness and metrics."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.live.client import get, put, request
from tests.live.test_start import run
from tests.servers import free_port, wait_until
from tests.servers.hmacfs import HmacFileServer, in_bucket
from tests.servers.juicefs import JuiceFS
from tests.servers.object_store import ObjectStoreServer
from tests.servers.seaweedfs import SeaweedFS

GOOD = [
    *("connection", "clock", "credentials", "bucket", "put", "head", "get", "list", "delete"),
    *("multipart create", "multipart part", "multipart list", "multipart complete", "multipart abort"),
    "conditional writes",
]


def configured(tmp_path: Path, engine: ObjectStoreServer, bucket: str, **settings: object) -> HmacFileServer:
    server = HmacFileServer(tmp_path / "server", **(in_bucket(engine, bucket, tmp_path) | settings))
    server.folder.mkdir()
    server.write_config()
    return server


def checked(server: HmacFileServer, *options: str, works: bool = True) -> list[str]:
    """The lines about the object store. works: whether a server does, as the check has it."""
    done = run("-config", str(server.config), "-check", *options, cwd=server.folder)
    verdict = "the configuration is good" if works else "a server starts with this configuration, and does not work"
    assert (done.returncode, done.stderr) == (0 if works else 1, "")
    assert done.stdout.startswith(f"note: {server.config}: S3Bucket: unfinished uploads")
    assert done.stdout.endswith(f": {verdict}\n")
    assert str(server.settings["S3SecretKey"]) not in done.stdout + done.stderr
    shown = ("connecting to ", "object store: ", "not tried: ")
    return [line for line in done.stdout.splitlines() if any(words in line for words in shown)]


def test_each_thing_is_checked_and_told_in_one_line(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.make_bucket()
    server = configured(tmp_path, seaweedfs, bucket)
    connecting, *lines = checked(server, "-online")
    assert connecting == f"connecting to s3://{bucket}/ at {seaweedfs.endpoint}"
    assert lines == [f"object store: {subject}: good" for subject in GOOD]
    client = seaweedfs.client(bucket)
    try:
        assert list(client.pages("")) == []
    finally:
        client.close()
    (line,) = checked(server)
    assert line.startswith(f"not tried: whether s3://{bucket}/ at {seaweedfs.endpoint} can be reached")
    assert not (tmp_path / "state").exists()


def test_what_is_wrong_is_told(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.make_bucket()
    for number, (settings, subject, words) in enumerate(
        (
            ({"S3SecretKey": "another"}, "credentials", "SignatureDoesNotMatch"),
            ({"S3AccessKey": "nobody"}, "credentials", "InvalidAccessKeyId"),
            ({"S3Bucket": "none-of-ours"}, "bucket", "NoSuchBucket"),
            ({"S3Endpoint": f"http://127.0.0.1:{free_port()}"}, "connection", "cannot be reached: "),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = checked(configured(folder, seaweedfs, bucket, **settings), "-online", works=False)
        assert lines[-1].startswith(f"error: object store: {subject}: ")
        assert words in lines[-1]
        assert all(line.endswith(": good") for line in lines[1:-1])


def test_an_engine_that_ignores_conditions_is_told_of(tmp_path: Path, juicefs: JuiceFS) -> None:
    bucket = juicefs.make_bucket()
    lines = checked(configured(tmp_path, juicefs, bucket), "-online")
    assert lines[-1].startswith("warning: object store: conditional writes: conditions are ignored: claims")
    assert all(line.endswith(": good") for line in lines[1:-1])
    for told, last in (
        ("off", "object store: conditional writes: good"),
        ("on", f"error: {lines[-1].removeprefix('warning: ')}"),
    ):
        folder = tmp_path / told
        folder.mkdir()
        server = configured(folder, juicefs, bucket, S3ConditionalWrites=told)
        assert checked(server, "-online", works=told == "off")[-1] == last


def test_files_come_back_and_are_counted(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    port = free_port()
    bucket = seaweedfs.make_bucket()
    settings = in_bucket(seaweedfs, bucket, tmp_path) | {"MetricsEnabled": True, "MetricsPort": f"127.0.0.1:{port}"}
    with HmacFileServer(tmp_path / "server", Workers=2, S3Prefix="some/where", **settings) as server:
        for name, body in (("a/small.jpg", os.urandom(100)), ("a/large.jpg", os.urandom(20 * 2**20))):
            assert put(server, name, body, "image/jpeg").status == 201
            assert put(server, name, body, "image/jpeg").status == 409
            assert get(server, name).body == body
            assert get(server, name, range="bytes=5-9").body == body[5:10]
        assert "keeps to conditional writes" in server.log()
        assert server.log().count("keeps to conditional writes") == 1, "each worker tried"
        metrics = request(port, "GET", "/metrics").body.decode()
        assert server.complaints() == []
        assert "known on this machine alone, in SQLite: where several servers use one bucket" in server.log()
    calls = {
        name: float(value) for name, value in re.findall(r'hmacfs_s3_calls_total{operation="(\w+)"} (\S+)', metrics)
    }
    assert calls["put_part"] == 3
    assert calls["complete"] == 1
    assert calls["get"] == 4
    (sent,) = re.findall(r'hmacfs_s3_bytes_total{direction="sent"} (\S+)', metrics)
    assert float(sent) > 20 * 2**20
    assert "hmacfs_s3_spool_bytes 0.0" in metrics
    assert "hmacfs_s3_spool_free_bytes" in metrics
    assert "hmacfs_store_free_bytes" not in metrics
    assert not re.findall(r"hmacfs_s3_errors_total{.*} [1-9]", metrics)
    client = seaweedfs.client(bucket)
    try:
        assert sorted(each.key for page in client.pages("") for each in page) == [
            "some/where/.hmacfs/conditional-writes-hold",
            "some/where/a/large.jpg",
            "some/where/a/small.jpg",
        ]
    finally:
        client.close()


def test_the_server_starts_while_the_engine_is_away_and_serves_once_it_is_there(tmp_path: Path) -> None:
    """What cannot be asked is not believed to keep to conditions: the trial comes later."""
    engine = SeaweedFS(tmp_path / "engine")
    settings = in_bucket(engine, "files", tmp_path) | {"MaxRetries": 0, "ReadyPath": "/healthz"}
    with HmacFileServer(tmp_path / "server", **settings) as server:
        refused = put(server, "a/file", b"x")
        assert (refused.status, bool(refused.headers["Retry-After"])) == (503, True)
        assert get(server, "a/file").status == 503
        ready = request(server, "GET", "/readyz")
        assert (ready.status, ready.body.startswith(b"store: ")) == (503, True)
        assert "conditional writes" not in server.log()
        with engine:
            assert request(server, "GET", "/readyz").status == 503, "without a bucket"
            engine.make_bucket("files")
            wait_until(lambda: request(server, "GET", "/readyz").status == 200, what="readiness", timeout=30)
            assert put(server, "a/file", b"x").status == 201
            assert "keeps to conditional writes" in server.log()
        wait_until(lambda: request(server, "GET", "/readyz").status == 503, what="the end of readiness", timeout=30)
        assert put(server, "a/other", b"x").status == 503


def test_an_engine_that_is_silent_is_told_of_in_time_and_holds_up_nobody(tmp_path: Path) -> None:
    with SeaweedFS(tmp_path / "engine") as engine:
        settings = in_bucket(engine, engine.make_bucket(), tmp_path) | {
            "S3Timeout": "3s",
            "S3ConditionalWrites": "on",  # with this patience the trial may fail again and again on a busy machine
            "MaxRetries": 0,
        }
        with HmacFileServer(tmp_path / "server", **settings) as server:
            # The engine may still be making its first volumes.
            wait_until(lambda: put(server, "a/file", b"x").status in (201, 409), what="the first file")
            engine.pause()
            before = time.monotonic()
            wait_until(lambda: request(server, "GET", "/readyz").status == 503, what="the end of readiness")
            assert time.monotonic() - before < 6
            with ThreadPoolExecutor(4) as pool:
                waiting = [pool.submit(put, server, f"b/{number}", b"x") for number in range(4)]
                wait_until(lambda: all(one.running() for one in waiting), what="the uploads' beginning")
                before = time.monotonic()
                assert request(server, "GET", "/healthz").status == 200
                assert time.monotonic() - before < 1
                assert {one.result().status for one in waiting} == {503}
            engine.resume()
            wait_until(lambda: request(server, "GET", "/readyz").status == 200, what="readiness", timeout=30)
            assert put(server, "c/file", b"x").status == 201


def test_over_an_engine_that_ignores_conditions_claims_decide(tmp_path: Path, juicefs: JuiceFS) -> None:
    bucket = juicefs.make_bucket()
    with HmacFileServer(tmp_path / "server", **in_bucket(juicefs, bucket, tmp_path)) as server:
        assert put(server, "a/file", b"x").status == 201
        assert put(server, "a/file", b"y").status == 409
        assert get(server, "a/file").body == b"x"
        assert "claims in the session store decide instead" in server.log()


def test_redirects_lead_to_the_file(tmp_path: Path, seaweedfs: SeaweedFS) -> None:
    settings = in_bucket(seaweedfs, seaweedfs.make_bucket(), tmp_path)
    with HmacFileServer(tmp_path / "server", DownloadOffload="redirect", **settings) as server:
        body = os.urandom(1000)
        assert put(server, "a/\u2603 100%.html", body, "text/html").status == 201
        answer = get(server, "a/\u2603 100%.html")
        assert answer.status == 307
        url = answer.headers["Location"]
        assert url.startswith(f"{seaweedfs.endpoint}/")
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=5-9"}), timeout=10) as fetched:
            assert (fetched.status, fetched.read()) == (206, body[5:10])
            assert fetched.headers["Content-Type"] == "text/html"
            assert fetched.headers["Content-Disposition"] == "attachment"
        head = request(server, "HEAD", server.path("a/\u2603 100%.html"))
        assert (head.status, head.headers["Content-Length"]) == (200, "1000")
        assert "X-Amz-" not in server.log()
