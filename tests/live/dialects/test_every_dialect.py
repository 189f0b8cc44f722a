"""Uploads in pieces (docs/protocol.md, section 6), the same in every dialect, answered by any of several workers."""

from __future__ import annotations

import base64
import contextlib
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Answer, Client, get, put, request
from tests.live.dialects.limits import new_names
from tests.live.pieces import (
    BODY,
    DIALECTS,
    NumberedUpload,
    RangeUpload,
    TusUpload,
    Upload,
    begun,
    is_kept,
    partial_files,
    persist,
)
from tests.servers import wait_until
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.stores("folder", "seaweedfs")

StartServer = Callable[..., HmacFileServer]


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("size", [33_000, 100_000])
def test_pieces_become_the_file(server: HmacFileServer, name: str, kind: type[Upload], size: int) -> None:
    upload = kind(server, name, BODY, size)
    if isinstance(upload, TusUpload):
        upload.create()
    for offset in range(0, len(BODY), size):
        answer = upload.send(offset)
        end = min(offset + size, len(BODY))
        finished, unfinished = (204, 204) if kind is TusUpload else (201, 202)
        assert answer.status == (finished if end == len(BODY) else unfinished)
        assert answer.headers["Upload-Offset"] == str(end)
        assert (answer.headers["Upload-Expires"] is not None) == (kind is TusUpload and end < len(BODY))
        if kind is not TusUpload:
            assert answer.headers["X-Session-Token"] == upload.token
            if end == len(BODY):
                assert answer.headers["Location"] == server.path(name)
                assert answer.headers["ETag"] == get(server, name).headers["ETag"]
        if end < len(BODY):
            assert get(server, name).status == 404
            probe = upload.probe()
            assert (probe.status, probe.headers["Upload-Offset"]) == (200, str(end))
            assert probe.headers["Upload-Length"] == str(len(BODY))
            assert probe.headers["Cache-Control"] == "no-store"
    assert get(server, name).body == BODY


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("offset", [0, 80_000])
def test_a_piece_that_starts_elsewhere_is_told_the_offset(
    server: HmacFileServer, name: str, kind: type[Upload], offset: int
) -> None:
    upload = begun(kind, server, name)
    answer = upload.send(offset)
    if kind is NumberedUpload and offset == 0:
        assert (answer.status, answer.headers["Upload-Offset"]) == (200, "40000")  # stored already
    else:
        assert (answer.status, answer.headers["Upload-Offset"]) == (409, "40000")
    assert upload.send(40_000).headers["Upload-Offset"] == "80000"
    upload.send(80_000)
    assert upload.content() == BODY


@pytest.mark.parametrize("kind", [RangeUpload, NumberedUpload])
def test_an_upload_begins_with_its_first_piece(server: HmacFileServer, name: str, kind: type[Upload]) -> None:
    upload = kind(server, name, BODY, 40_000)
    answer = upload.send(40_000)
    assert (answer.status, answer.headers["Upload-Offset"], answer.headers["X-Session-Token"]) == (409, "0", None)
    assert upload.probe().status == 404


@pytest.mark.stores("folder")  # where one sees what arrives
@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("offset", [0, 40_000])
def test_what_arrived_of_a_piece_is_kept(server: HmacFileServer, name: str, kind: type[Upload], offset: int) -> None:
    """The connection breaks in the middle of the first or second piece."""
    upload = begun(kind, server, name) if offset else kind(server, name, BODY, 40_000)
    if isinstance(upload, TusUpload) and not offset:
        upload.create()
    method, headers = upload.head_of(offset)
    arrived = offset + 30_000
    with Client(server) as client:
        client.head(method, upload.url, content_length=40_000, **headers)
        client.send(BODY[offset:arrived])
        wait_until(lambda: any(path.stat().st_size == arrived for path in partial_files(server)))
        client.reset()
    # A chunk has arrived, or it has not: what there is of it is sent again.
    assert upload.probe().headers["Upload-Offset"] == str(offset if kind is NumberedUpload else arrived)
    persist(upload, Counter())
    assert upload.content() == BODY


def test_what_arrived_before_a_client_stalled_is_kept(server: HmacFileServer) -> None:
    uploads = [begun(kind, server, next(new_names)) for kind in DIALECTS]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in uploads]
        for upload, client in zip(uploads, clients, strict=True):
            method, headers = upload.head_of(40_000)
            client.head(method, upload.url, content_length=40_000, **headers)
            client.send(BODY[40_000:70_000])
        assert [client.answer().status for client in clients] == [408, 408, 408]
    for upload in uploads:
        persist(upload, Counter())
        assert upload.content() == BODY


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_name_is_taken_once(server: HmacFileServer, name: str, kind: type[Upload]) -> None:
    """Also if the file came while the upload was under way; what is stored never changes."""
    upload = begun(kind, server, name)
    assert put(server, name, b"other").status == 201
    answer = upload.send(40_000)
    assert answer.status == 409
    assert answer.headers["Upload-Offset"] is None
    assert kind(server, name, BODY, 40_000).probe().status != 201
    assert upload.content() == b"other"
    assert not is_kept(server, upload.token)


@pytest.mark.parametrize("kind", DIALECTS)
def test_an_error_is_a_problem_for_who_accepts_json(server: HmacFileServer, name: str, kind: type[Upload]) -> None:
    upload = kind(server, name, BODY, 40_000, lambda: {"accept": "application/json"})
    if isinstance(upload, TusUpload):
        upload.create()
    answer = upload.send(40_000)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert b"urn:hmacfs:problem:offset-mismatch" in answer.body


def first_answer(upload: Upload) -> Answer:
    return upload.create() if isinstance(upload, TusUpload) else upload.send(0)


def test_a_client_has_so_many_unfinished_uploads(start_server: StartServer) -> None:
    """Whatever dialects it speaks."""
    server = start_server(MaxSessionsPerClient=3, TrustedProxies=["127.0.0.1"])

    def of(client: str, kind: type[Upload], name: str) -> Upload:
        return kind(server, name, BODY, 100_000, lambda: {"x_forwarded_for": client})

    mine = [kind(server, kind.dialect, BODY, 40_000, lambda: {"x_forwarded_for": "192.0.2.1"}) for kind in DIALECTS]
    assert [first_answer(upload).status for upload in mine] == [202, 202, 201]
    for kind in DIALECTS:
        answer = first_answer(of("192.0.2.1", kind, f"{kind.dialect} too many"))
        assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (429, True)
    assert first_answer(of("192.0.2.2", TusUpload, "another client's")).status == 201
    persist(mine[0], Counter())
    assert first_answer(of("192.0.2.1", TusUpload, "one more")).status == 201
    for upload in mine:
        persist(upload, Counter())
        assert upload.content() == BODY
    assert server.complaints() == []


def test_an_expired_upload_is_gone_and_one_that_was_never_there_unknown(start_server: StartServer) -> None:
    server = start_server(SessionTTL="700ms", SweepInterval="1h")
    uploads = [begun(kind, server, kind.dialect) for kind in DIALECTS]
    for upload in uploads:
        wait_until(lambda upload=upload: upload.probe().status == 410)  # type: ignore[misc]
        assert upload.send(40_000).status == 410
    assert server.sweep() == "removed 3 expired uploads and 0 orphans\n"
    for upload in uploads:
        assert upload.probe().status == 404
        if isinstance(upload, TusUpload):
            assert upload.send(40_000).status == 404
        else:
            assert upload.send(0).status == 202, "the slot is free again"
    assert server.complaints() == []


def test_without_a_session_store_pieces_wait_and_whole_uploads_go_on(start_server: StartServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        server = start_server(RedisAddr=redis.address, RedisTimeout="300ms", RetryDelay="200ms")
        uploads = [begun(kind, server, kind.dialect) for kind in DIALECTS]
        with redis.client() as client:
            client.save()
        redis.kill()
        for upload in uploads:
            other = type(upload)(server, "other", BODY, 40_000)
            for answer in (upload.send(40_000), upload.probe(), first_answer(other)):
                assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
        assert put(server, "whole", b"x").status == 201
        assert get(server, "whole").body == b"x"
        assert request(server, "GET", "/healthz").status == 200
        wait_until(lambda: request(server, "GET", "/readyz").status == 503, what="its readiness to end")
        redis.start()
        wait_until(server.is_ready, what="Redis's return")
        for upload in uploads:
            assert upload.send(40_000).status in (202, 204)
            assert upload.send(80_000).status in (201, 204)
            assert upload.content() == BODY
        transitions = [line for line in server.log().splitlines() if "session store redis is" in line]
        assert len(transitions) == 2
        assert [line for line in server.complaints() if "is lost" not in line and "not ready" not in line] == []


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("scheme", ["v2", "token", "v3", "bearer"])
def test_a_slot_signed_in_any_way_takes_pieces(server: HmacFileServer, kind: type[Upload], scheme: str) -> None:
    """Those of other schemes than ``v``: with the type, without the size, and as a token beside the URL."""
    name = f"{kind.dialect}-{scheme}/file.bin"
    v2 = server.sign_v2(name, len(BODY), "image/png")
    targets = {"v2": v2, "token": v2.replace("v2=", "token="), "v3": server.sign_v3("PUT", name)}
    headers = {"content_type": "image/png"}
    if scheme == "bearer":
        slot, filename = name.split("/")
        claims = {"slot": slot, "filename": filename, "filesize": len(BODY), "filetype": "image/png", "exp": FAR_FUTURE}
        headers["authorization"] = f"Bearer {encode_bearer(server.keyring, claims)}"
    target = targets.get(scheme, server.path(name))
    metadata = f"filetype {base64.b64encode(b'image/png').decode()}"
    if kind is TusUpload:  # whose own URL needs no signature, and whose Content-Type is the piece's
        upload = TusUpload(server, name, BODY, 40_000)
        upload.slot = target
        authorization = headers.get("authorization")
        assert upload.create(upload_metadata=metadata, authorization=authorization).status == 201
    else:
        upload = kind(server, name, BODY, 40_000, lambda: headers)  # type: ignore[assignment]
        upload.url = target
    for offset in range(0, len(BODY), 40_000):
        if offset:
            probe = upload.probe()
            assert (probe.status, probe.headers["Upload-Offset"]) == (200, str(offset))
        assert upload.send(offset).status in (201, 202, 204)
    file = get(server, name)
    assert (file.body, file.headers["Content-Type"]) == (BODY, "image/png")
    assert upload.probe().status == 200, "of the complete file"


@pytest.mark.stores("folder")
def test_a_stop_keeps_what_arrived_of_a_piece(start_server: StartServer) -> None:
    """It is broken off when the graceful time is over, and the client told so."""
    server = start_server(Workers=3, GracefulShutdownTimeout="300ms")
    uploads = [begun(kind, server, kind.dialect) for kind in DIALECTS]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in uploads]
        for upload, client in zip(uploads, clients, strict=True):
            method, headers = upload.head_of(40_000)
            client.head(method, upload.url, content_length=40_000, **headers)
            client.send(BODY[40_000:70_000])
        wait_until(lambda: {path.stat().st_size for path in partial_files(server)} == {70_000})
        server.daemon.process.send_signal(signal.SIGTERM)
        assert [client.answer().status for client in clients] == [503, 503, 503]
        assert server.daemon.process.wait(20) == 0
    server.start()
    for upload in uploads:
        offset = "40000" if isinstance(upload, NumberedUpload) else "70000"
        assert upload.probe().headers["Upload-Offset"] == offset
        persist(upload, Counter())
        assert upload.content() == BODY
    assert server.leftovers() == []
    assert server.files.unfinished() == {}
    assert [line for line in server.complaints() if not line.endswith(" transfers to stop")] == []
