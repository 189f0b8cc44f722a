"""Expired uploads and orphans are removed, by the server now and then and by ``hmacfs sweep``; what is in progress is
not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.client import Client, request
from tests.live.pieces import BODY, DIALECTS, Upload, begun, new_key, partial_file
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]


def orphan(server: HmacFileServer) -> Path:
    """The bytes of an upload that no session store knows, an hour old."""
    path = server.store / ".hmacfs" / "partial" / new_key()
    path.write_bytes(b"orphan")
    age(path)
    return path


def age(path: Path) -> None:
    os.utime(path, (path.stat().st_atime - 3600, path.stat().st_mtime - 3600))


@contextmanager
def in_progress(upload: Upload) -> Iterator[Client]:
    """An upload whose client has sent a part of the second piece and is slow."""
    with Client(upload.server) as client:
        method, headers = upload.head_of(40_000)
        client.head(method, upload.url, content_length=40_000, **headers)
        client.send(BODY[40_000:50_000])
        path = partial_file(upload.server, upload.token)
        wait_until(lambda: path.stat().st_size == 50_000)
        yield client


def finish(upload: Upload, client: Client) -> None:
    client.send(BODY[50_000:80_000])
    assert client.answer().status == 202
    assert upload.send(80_000).status == 201
    assert upload.stored().read_bytes() == BODY


@pytest.mark.parametrize("by_command", [False, True])
def test_what_is_expired_goes_and_what_is_in_progress_stays(start_server: StartServer, by_command: bool) -> None:
    """The slow client sends its last byte long after the expired uploads got theirs; and then none for longer than an
    upload may rest."""
    # An upload ends after seven times as long, also one in progress: commands take seconds on a busy machine.
    ttl, interval = ("3s", "1h") if by_command else ("1s", "200ms")
    server = start_server(Workers=3, SessionTTL=ttl, SweepInterval=interval)
    slow = begun(DIALECTS[0], server, "slow")
    with in_progress(slow) as client:
        resting = [begun(kind, server, kind.dialect) for kind in DIALECTS]
        forgotten = orphan(server)
        young = server.store / ".hmacfs" / "partial" / new_key()
        young.write_bytes(b"begun this moment")
        os.utime(young, (2**32, 2**32))
        gone = [forgotten, *(partial_file(server, upload.token) for upload in resting)]
        if by_command:
            wait_until(lambda: all(upload.probe().status == 410 for upload in resting))
            age(partial_file(server, slow.token))
            assert server.sweep() == "removed 3 expired uploads and 1 orphans\n"
            assert not any(path.exists() for path in gone)
            assert server.sweep() == "removed 0 expired uploads and 0 orphans\n"
        else:
            age(partial_file(server, slow.token))
            wait_until(lambda: not any(path.exists() for path in gone))
            later = orphan(server)
            wait_until(lambda: not later.exists(), what="another sweep")
        assert young.exists()
        finish(slow, client)
    for upload in resting:
        assert upload.probe().status == 404
    assert server.stored() == ["slow"]
    assert server.stop() == 0
    assert server.complaints() == []


def test_uploads_that_nobody_goes_on_with_outlive_a_stop_and_expire_after_it(start_server: StartServer) -> None:
    server = start_server(SessionTTL="1s", SweepInterval="200ms")
    upload = begun(DIALECTS[0], server, "a")
    path = partial_file(server, upload.token)
    assert server.stop() == 0
    assert path.exists()
    server.start()
    wait_until(lambda: not path.exists())
    assert request(server, "HEAD", upload.url).status == 404
    assert server.complaints() == []
