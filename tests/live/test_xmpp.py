"""Uploads through real XMPP servers, with a real client, using the snippets that ``deploy/`` ships."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import Answer, request
from tests.servers import folder_of, require_binary
from tests.servers.hmacfs import HmacFileServer
from tests.servers.xmpp import DOMAIN, Ejabberd, Prosody, XmppServer

pytestmark = [pytest.mark.needs_xmpp, pytest.mark.stores("folder", "seaweedfs")]

PROJECT = Path(__file__).parents[2]
MAX_SIZE = 1024**3

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

#: For each kind of slot the folders in its path, the start of its query (none: the signature is a header), and the status
#: of an upload of another length.
SHAPES = {
    "prosody-v": (f"{UUID}/", "?v=", 403),
    "prosody-v2": (f"{UUID}/", "?v2=", 403),
    "prosody-bearer": (f"([A-Za-z0-9_-]{{24}}|{UUID})/", "", 413),  # of Prosody 0.12, and since 13
    "ejabberd-v": (r"[0-9a-f]{40}/[A-Za-z0-9]{40}/", "?v=", 403),
}


@dataclasses.dataclass(frozen=True)
class File:
    name: str
    content_type: str
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def disposition(self) -> str | None:
        """What the download says about showing it."""
        return None if self.content_type.startswith(("image/", "video/", "text/plain")) else "attachment"


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def photo(size: int) -> bytes:
    """A JPEG of one grey pixel and of about ``size`` bytes: as much random data as a colour profile."""
    data = b"\xff\xd8" + jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    while len(data) < size:
        data += jpeg_segment(0xE2, os.urandom(min(65533, size)))
    data += jpeg_segment(0xDB, b"\0" + b"\1" * 64) + jpeg_segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0")
    for table in (b"\x00", b"\x10"):
        data += jpeg_segment(0xC4, table + b"\1" + bytes(16))
    return data + jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x3f\xff\xd9"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    folder = tmp_path_factory.mktemp("files")
    contents = [
        ("photo.jpg", "image/jpeg", photo(400_000)),
        ("notes.txt", "text/plain; charset=utf-8", "Grüße, hello ☃\n".encode() * 50),
        ("héllo wörld ☃.jpg", "image/jpeg", photo(1000)),
        ("R&D (1+1=2), it's 100%25!;@$~*#?.pdf", "application/octet-stream", b"%PDF-1.7\n"),
        ("page.html", "text/html", b"<script>alert(1)</script>"),
        ("video.mp4", "video/mp4", os.urandom(20 * 1024 * 1024)),
    ]
    made = []
    for number, (name, content_type, data) in enumerate(contents):
        path = folder / str(number)
        path.write_bytes(data)
        made.append(File(name, content_type, path))
    return made


@pytest.fixture(scope="module")
def prosody(server: HmacFileServer) -> Iterator[Prosody]:
    require_binary("prosody")
    with folder_of("prosody") as folder:
        running = Prosody(folder, f"{server.url}/upload/", str(server.settings["Secret"]))
        yield running
        running.stop()


@pytest.fixture(scope="module")
def ejabberd(server: HmacFileServer) -> Iterator[Ejabberd]:
    require_binary("ejabberdctl")
    with folder_of("ejabberd") as folder:
        running = Ejabberd(folder, f"{server.url}/upload/", str(server.settings["Secret"]))
        yield running
        running.stop()


@dataclasses.dataclass(frozen=True)
class Session:
    """What a client got from an XMPP server in one of its kinds of slots. ``slots`` has one for each file."""

    kind: str
    files: list[File]
    announced: dict[str, int]
    expected: set[str]
    uploads: list[str]
    slots: list[dict[str, Any]]
    spare: dict[str, Any]
    hostile: list[dict[str, Any]]


HOSTILE = ["..", "."]


@pytest.fixture(scope="module", params=SHAPES)
def session(request: pytest.FixtureRequest, server: HmacFileServer, files: list[File]) -> Session:
    name, _, scheme = request.param.partition("-")
    xmpp_server: XmppServer = request.getfixturevalue(name)
    assert server.is_ready()
    wanted = [{"name": file.name, "type": file.content_type, "size": len(file.data)} for file in files]
    wanted += [{"name": name, "type": "image/jpeg", "size": 5} for name in ("spare.jpg", *HOSTILE)]
    outcome = run_client(
        xmpp_server,
        jid=f"user-{scheme}@{DOMAIN}",
        service=xmpp_server.services[scheme],
        files=[{"name": file.name, "type": file.content_type, "path": str(file.path)} for file in files],
        slots=wanted,
    )
    slots, (spare, *hostile) = outcome["slots"][: len(files)], outcome["slots"][len(files) :]
    expected = set(xmpp_server.services.values())
    return Session(request.param, files, outcome["services"], expected, outcome["uploads"], slots, spare, hostile)


def run_client(server: XmppServer, **job: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.live.xmpp_client"],
        input=json.dumps({"port": server.port, **job}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=PROJECT,
    )
    assert done.returncode == 0, f"{done.stderr}\n{server.log()}"
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def target(server: HmacFileServer, url: str) -> str:
    """A URL's path and query, as the XMPP server wrote them: newer ejabberds leave UTF-8 as it is."""
    assert url.startswith(f"{server.url}/upload/")
    return url.removeprefix(server.url).encode().decode("latin-1")  # of which the client makes bytes


def put(server: HmacFileServer, slot: dict[str, Any], body: bytes, content_type: str) -> Answer:
    """A PUT with exactly the headers that the slot asks for."""
    return request(server, "PUT", target(server, slot["put"]), body, content_type=content_type, **slot["headers"])


def check_download(server: HmacFileServer, url: str, file: File) -> None:
    answer = request(server, "GET", target(server, url))
    assert answer.status == 200
    assert answer.body == file.data
    assert answer.headers["Content-Type"] == file.content_type
    assert answer.headers["Content-Disposition"] == file.disposition


def test_clients_find_the_service(session: Session) -> None:
    assert session.announced == dict.fromkeys(session.expected, MAX_SIZE)


def test_a_client_uploads_files(server: HmacFileServer, session: Session) -> None:
    for url, file in zip(session.uploads, session.files, strict=True):
        check_download(server, url, file)
    assert server.complaints() == []


def test_slots_take_plain_puts(server: HmacFileServer, session: Session) -> None:
    folder, parameter, _ = SHAPES[session.kind]
    for slot, file in zip(session.slots, session.files, strict=True):
        path, _, query = target(server, slot["put"]).partition("?")
        assert re.match(f"/upload/{folder}", path)
        assert f"?{query}".startswith(parameter)
        assert list(slot["headers"]) == ([] if parameter else ["Authorization"])
        assert put(server, slot, file.data, file.content_type).status == 201
        check_download(server, slot["get"], file)
    assert server.complaints() == []


def test_a_slot_is_good_for_its_file_alone_and_once(server: HmacFileServer, session: Session) -> None:
    slot, (_, _, other_length) = session.spare, SHAPES[session.kind]
    for body in (b"1234", b"123456", b""):
        assert put(server, slot, body, "image/jpeg").status == other_length
    assert request(server, "GET", target(server, slot["get"])).status == 404
    if session.kind == "prosody-v2":
        assert put(server, slot, b"12345", "text/html").status == 403
    # A token that names the type decides about it; else it is the client's word.
    sent = "text/html" if session.kind == "prosody-bearer" else "image/jpeg"
    assert put(server, slot, b"12345", sent).status == 201
    assert put(server, slot, b"54321", "image/jpeg").status == 409
    answer = request(server, "GET", target(server, slot["get"]))
    assert (answer.body, answer.headers["Content-Type"]) == (b"12345", "image/jpeg")


def test_slots_with_hostile_names_are_refused(server: HmacFileServer, session: Session) -> None:
    """The XMPP servers sign them."""
    for slot, name in zip(session.hostile, HOSTILE, strict=True):
        assert target(server, slot["put"]).partition("?")[0].endswith(f"/{name}")
        assert put(server, slot, b"12345", "image/jpeg").status == 400
