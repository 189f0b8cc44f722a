"""Uploads through real XMPP servers, with a real client, using the snippets that ``deploy/`` ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.hmacfs import HmacFileServer
from tests.servers.xmpp import DOMAIN, Ejabberd, Prosody, XmppServer

#: The beginning of a JPEG with an Exif segment; decoders are not asked, but type sniffers would be fooled.
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffe10010") + b"Exif\0\0"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("files")
    contents = [
        ("photo.jpg", "image/jpeg", JPEG + os.urandom(400_000) + b"\xff\xd9"),
        ("notes.txt", "text/plain; charset=utf-8", "Grüße, hello ☃\n".encode() * 50),
        ("héllo wörld ☃.jpg", "image/jpeg", JPEG + os.urandom(1000)),
        ("video.mp4", "video/mp4", os.urandom(20 * 1024 * 1024)),
        ("page.html", "text/html", b"<script>alert(1)</script>"),
    ]
    given = []
    for number, (name, content_type, data) in enumerate(contents):
        path = folder / str(number)
        path.write_bytes(data)
        given.append({"name": name, "type": content_type, "path": str(path)})
    return given


@pytest.fixture(scope="module")
def prosody(server: HmacFileServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prosody]:
    running = Prosody(tmp_path_factory.mktemp("prosody"), f"{server.url}/upload/", str(server.settings["Secret"]))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ejabberd(server: HmacFileServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ejabberd]:
    running = Ejabberd(tmp_path_factory.mktemp("ejabberd"), f"{server.url}/upload/", str(server.settings["Secret"]))
    yield running
    running.stop()


def upload(server: XmppServer, service: str, files: list[dict[str, str]], *, discover: bool) -> list[dict[str, Any]]:
    job = {
        "jid": f"user-{service.split('.')[0]}@{DOMAIN}",
        "port": server.port,
        "service": service,
        "discover": discover,
        "files": files,
    }
    client = [sys.executable, "-m", "tests.live.xmpp_client"]
    done = subprocess.run(
        client,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, f"{done.stderr}\n{server.log()}"
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def check(server: HmacFileServer, files: list[dict[str, str]], results: list[dict[str, Any]]) -> None:
    assert [result["status"] for result in results] == [201] * len(files)
    for file, result in zip(files, results, strict=True):
        with urllib.request.urlopen(result["get"], timeout=20) as answer:
            assert answer.read() == Path(file["path"]).read_bytes()
            assert answer.headers["Content-Type"] == file["type"]
            attachment = answer.headers["Content-Disposition"]
            assert attachment == ("attachment" if file["type"] == "text/html" else None)
    assert server.complaints() == []


@pytest.mark.parametrize("scheme", ["v", "v2", "bearer"])
def test_prosody(server: HmacFileServer, prosody: Prosody, files: list[dict[str, str]], scheme: str) -> None:
    results = upload(prosody, prosody.services[scheme], files, discover=False)
    for result in results:
        if scheme == "bearer":
            assert result["headers"] == ["Authorization"]
        else:
            assert f"?{scheme}=" in result["put"]
    check(server, files, results)


def test_ejabberd(server: HmacFileServer, ejabberd: Ejabberd, files: list[dict[str, str]]) -> None:
    results = upload(ejabberd, ejabberd.services["v"], files, discover=True)
    assert all("?v=" in result["put"] for result in results)
    check(server, files, results)
