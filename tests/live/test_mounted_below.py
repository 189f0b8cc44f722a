"""Behind a real nginx that mounts the server below a path of another site: ``Location`` leads there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from tusclient.client import TusClient

from tests.live.client import request
from tests.live.pieces import TUS
from tests.servers import folder_of
from tests.servers.hmacfs import HmacFileServer
from tests.servers.nginx import Nginx

BELOW = "/my%20files"
BODY = os.urandom(50_000)


class Mounted:
    """A server and the nginx in front of it."""

    def __init__(self, server: HmacFileServer, nginx: Nginx) -> None:
        self.server = server
        self.port = nginx.port

    def slot(self, name: str) -> str:
        """Path and query of an upload as ``hmacfs sign`` makes them."""
        command = [sys.executable, "-m", "hmacfs", "sign", "put", name, "--size", str(len(BODY))]
        public = {"HMACFS_PUBLIC_URL": f"http://127.0.0.1:{self.port}{BELOW}"}
        run = subprocess.run(
            [*command, "-config", str(self.server.config)],
            check=True, capture_output=True, text=True, env={**os.environ, **public},
        )  # fmt: skip
        parts = urlsplit(run.stdout.strip())
        return f"{parts.path}?{parts.query}"

    def assert_leads_to_the_file(self, location: str) -> None:
        assert location.startswith(f"{BELOW}/upload/"), location
        assert request(self.port, "GET", location).body == BODY


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with folder_of("nobody") as folder:
        server = HmacFileServer(
            folder / "server",
            ListenPort=str(folder / "s.sock"),
            UnixSocket=True,
            PublicURL=f"https://files.example.org{BELOW}/",
        )
        server.start()
        (folder / "s.sock").chmod(0o666)
        nginx = Nginx(folder / "nginx", server, below=BELOW.replace("%20", " "))
        yield Mounted(server, nginx)
        nginx.stop()
        assert server.stop() == 0
        assert server.complaints() == []


@pytest.mark.parametrize("name", ["whole/photo.jpg", "whole/héllo wörld ☃ 100%2F.jpg"])
def test_a_whole_upload_is_found_at_its_location(mounted: Mounted, name: str) -> None:
    answer = request(mounted.port, "PUT", mounted.slot(name), BODY)
    assert answer.status == 201
    mounted.assert_leads_to_the_file(answer.headers["Location"])


@pytest.mark.parametrize(
    "headers",
    [{"content_range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"},
     {"x_chunk_id": 1, "x_total_chunks": 1, "x_file_size": len(BODY)}],
    ids=["range", "numbered"],
)  # fmt: skip
def test_pieces_are_found_at_their_location(mounted: Mounted, headers: dict[str, object]) -> None:
    answer = request(mounted.port, "PUT", mounted.slot(f"pieces/{len(headers)}"), BODY, **headers)
    assert answer.status == 201
    mounted.assert_leads_to_the_file(answer.headers["Location"])


def test_tus_goes_on_at_its_location(mounted: Mounted) -> None:
    created = request(mounted.port, "POST", mounted.slot("tus/raw"), content_length=0, upload_length=len(BODY), **TUS)
    location = created.headers["Location"]
    assert location.startswith(f"{BELOW}/upload/.hmacfs/tus/")
    assert request(mounted.port, "HEAD", location, **TUS).headers["Upload-Offset"] == "0"
    patched = request(
        mounted.port, "PATCH", location, BODY,
        content_type="application/offset+octet-stream", content_length=len(BODY), upload_offset=0, **TUS,
    )  # fmt: skip
    assert patched.status == 204
    assert (mounted.server.store / "tus/raw").read_bytes() == BODY


def test_tuspy_goes_on_at_its_location(mounted: Mounted) -> None:
    slot = f"http://127.0.0.1:{mounted.port}{mounted.slot('tus/film')}"
    TusClient(slot).uploader(file_stream=io.BytesIO(BODY), chunk_size=20_000).upload()
    assert (mounted.server.store / "tus/film").read_bytes() == BODY
