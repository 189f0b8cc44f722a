"""A store that another server filled, served as it lies.

prosody-filer and the original keep each file under the name of its URL, ``<uuid>/<name>`` from Prosody and
``<sha1>/<40 characters>/<name>`` from ejabberd, and record no types. Servers that do use the attribute ``user.mime_type``.
"""

from __future__ import annotations

import dataclasses
import email.utils
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.client import Answer, get, put, request
from tests.servers.hmacfs import HmacFileServer

PROSODY = "9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
EJABBERD = "da39a3ee5e6b4b0d3255bfef95601890afd80709/ZYXWVUTSRQPONMLKJIHGFEDCBA0123456789abcd"
STORED_AT = 1_600_000_000


@dataclasses.dataclass(frozen=True)
class Old:
    """A file of the old store, and how it has to be served."""

    name: str
    content_type: str
    inline: bool
    content: bytes = b"as it lies"
    recorded: bytes | None = None
    mode: int = 0o644


FILES = [
    Old(f"{PROSODY}/photo.jpg", "image/jpeg", inline=True, content=b"\xff\xd8" + os.urandom(100_000)),
    Old(f"{PROSODY}/héllo wörld ☃.JPG", "image/jpeg", inline=True),
    Old("0b7e7d9c-aaaa-4bbb-8ccc-0123456789ab/R&D (1+1=2), 100%25.pdf", "application/pdf", inline=False),
    Old("0b7e7d9c-aaaa-4bbb-8ccc-0123456789ac/page.html", "text/html; charset=utf-8", inline=False),
    Old("0b7e7d9c-aaaa-4bbb-8ccc-0123456789ad/picture.svg", "image/svg+xml", inline=False),
    Old(f"{EJABBERD}/notes.txt", "text/plain; charset=utf-8", inline=True, mode=0o444),
    Old(f"{EJABBERD}/h_llo_w_rld__.tar.gz", "application/gzip", inline=False),
    Old(f"{EJABBERD}/empty.mp4", "video/mp4", inline=True, content=b""),
    Old("flat", "application/octet-stream", inline=False),
    Old("a/much/deeper/path/.hidden", "application/octet-stream", inline=False),
    Old("typed/voice.bin", "audio/ogg", inline=True, recorded=b"audio/ogg", mode=0o600),
    Old("typed/really-html.jpg", "text/html", inline=False, recorded=b"text/html"),
    Old("typed/broken.png", "image/png", inline=True, recorded=b"image/png\r\nSet-Cookie: a=b"),
]
each_file = pytest.mark.parametrize("old", FILES, ids=lambda old: old.name)


def fill(store: Path) -> None:
    for old in FILES:
        path = store / old.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(old.content)
        if old.recorded is not None:
            os.setxattr(path, "user.mime_type", old.recorded)
        path.chmod(old.mode)
        os.utime(path, (STORED_AT, STORED_AT))


def state(store: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Everything in the store but this server's own folder: inode, mode, times, and content of files."""
    return {
        str(path.relative_to(store)): (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)
        for path in store.rglob("*")
        if ".hmacfs" not in path.parts
        for status in [path.stat()]
        for content in [path.read_bytes() if path.is_file() else b""]
    }


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    """A server whose store was full before it started. Nothing may have changed there at the end."""
    server = HmacFileServer(tmp_path_factory.mktemp("foreign"))
    fill(server.store)
    before = state(server.store)
    with server:
        yield server
        assert server.stop() == 0
    assert state(server.store) == before
    assert server.complaints() == []


def head(server: HmacFileServer, name: str) -> Answer:
    return request(server, "HEAD", server.path(name))


@each_file
def test_it_is_served_as_it_lies(foreign: HmacFileServer, old: Old) -> None:
    answer = get(foreign, old.name)
    assert (answer.status, answer.body) == (200, old.content)
    assert answer.headers["Content-Type"] == old.content_type
    assert answer.headers["Content-Disposition"] == (None if old.inline else "attachment")
    assert answer.headers["Content-Length"] == str(len(old.content))
    assert answer.headers["Last-Modified"] == email.utils.formatdate(STORED_AT, usegmt=True)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Set-Cookie"] is None
    assert head(foreign, old.name).headers["ETag"] == answer.headers["ETag"]


@each_file
def test_its_entity_tag_is_good_for_conditions_and_ranges(foreign: HmacFileServer, old: Old) -> None:
    etag = head(foreign, old.name).headers["ETag"]
    assert etag.startswith('"')
    assert get(foreign, old.name, if_none_match=etag).status == 304
    assert get(foreign, old.name, if_match='"another"').status == 412
    part = get(foreign, old.name, range="bytes=3-", if_range=etag)
    assert part.status == (206 if old.content else 416)
    assert not old.content or part.body == old.content[3:]


@each_file
def test_its_name_is_taken(foreign: HmacFileServer, old: Old) -> None:
    for body in (b"other", old.content):
        assert put(foreign, old.name, body, "image/png").status == 409
    assert put(foreign, f"{old.name}/below", b"other").status == 409
    assert get(foreign, old.name).body == old.content


@pytest.mark.parametrize("folder", [PROSODY, EJABBERD, EJABBERD.partition("/")[0], "a/much"])
def test_its_folders_are_neither_listed_nor_replaced(foreign: HmacFileServer, folder: str) -> None:
    for path in (folder, f"{folder}/"):
        answer, nothing = get(foreign, path), get(foreign, "none")
        assert (answer.status, answer.body) == (nothing.status, nothing.body) == (404, b"There is no such file.\n")
    assert put(foreign, folder, b"other").status == 409


def test_new_files_lie_among_the_old(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path)
    fill(server.store)
    before = state(server.store)
    with server:
        for name in (f"{PROSODY}/new.jpg", f"{EJABBERD}/new.jpg", "new.jpg"):
            assert put(server, name, b"new", "image/jpeg").status == 201
            assert (server.store / name).read_bytes() == b"new"
    after = state(server.store)
    assert {name: after[name] for name in (old.name for old in FILES)} == {old.name: before[old.name] for old in FILES}
    assert len(after) == len(before) + 3


def test_entity_tags_outlive_the_server(tmp_path: Path) -> None:
    """They are the file's, not the process's: a cache stays good."""
    server = HmacFileServer(tmp_path)
    fill(server.store)
    tags = []
    for _ in range(2):
        with server:
            tags.append([head(server, old.name).headers["ETag"] for old in FILES])
    assert tags[0] == tags[1]
