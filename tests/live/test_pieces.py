"""Uploads in pieces on the wire (docs/protocol.md, section 6), answered by any of several workers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Answer, Client, get, put, request
from tests.live.pieces import (
    BODY,
    DIALECTS,
    PIECE_TYPE,
    TUS,
    NumberedUpload,
    RangeUpload,
    TusUpload,
    Upload,
    begun,
    create,
    numbered,
    partial_file,
    partial_files,
    patch,
    persist,
)
from tests.servers import wait_until
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]

MAX_SIZE = 1024 * 1024
TTL = 3600
_names = (f"dir {number}/fïle.bin" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"Workers": 3, "UploadMaxSize": MAX_SIZE, "SessionTTL": TTL, "ReadTimeout": "1s"}
    settings |= {"TrustedProxies": ["127.0.0.1"], "MaxSessionsPerClient": 1000, "AcceptUnsizedChunks": True}
    with HmacFileServer(folder, **settings) as running:
        yield running
        running.stop()
        (warning,) = running.complaints()
        assert "AcceptUnsizedChunks: a signature over one chunk is good for files of UploadMaxSize" in warning
        assert running.leftovers() == []


@pytest.fixture
def name() -> str:
    return next(_names)


# -- all dialects ---------------------------------------------------------------------------------


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
    assert upload.stored().read_bytes() == BODY


@pytest.mark.parametrize("kind", [RangeUpload, NumberedUpload])
def test_an_upload_begins_with_its_first_piece(server: HmacFileServer, name: str, kind: type[Upload]) -> None:
    upload = kind(server, name, BODY, 40_000)
    answer = upload.send(40_000)
    assert (answer.status, answer.headers["Upload-Offset"], answer.headers["X-Session-Token"]) == (409, "0", None)
    assert upload.probe().status == 404


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
    # A chunk has arrived, or it has not: what there is of it is sent anew.
    assert upload.probe().headers["Upload-Offset"] == str(offset if kind is NumberedUpload else arrived)
    persist(upload, Counter())
    assert upload.stored().read_bytes() == BODY


def test_what_arrived_before_a_client_stalled_is_kept(server: HmacFileServer) -> None:
    uploads = [begun(kind, server, next(_names)) for kind in DIALECTS]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in uploads]
        for upload, client in zip(uploads, clients, strict=True):
            method, headers = upload.head_of(40_000)
            client.head(method, upload.url, content_length=40_000, **headers)
            client.send(BODY[40_000:70_000])
        assert [client.answer().status for client in clients] == [408, 408, 408]
    for upload in uploads:
        persist(upload, Counter())
        assert upload.stored().read_bytes() == BODY


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_name_is_taken_once(server: HmacFileServer, name: str, kind: type[Upload]) -> None:
    """Also if the file came while the upload was under way; what is stored never changes."""
    upload = begun(kind, server, name)
    assert put(server, name, b"other").status == 201
    answer = upload.send(40_000)
    assert answer.status == 409
    assert answer.headers["Upload-Offset"] is None
    assert kind(server, name, BODY, 40_000).probe().status != 201
    assert upload.stored().read_bytes() == b"other"
    assert not partial_file(server, upload.token).exists()


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
        assert upload.stored().read_bytes() == BODY
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
            assert upload.stored().read_bytes() == BODY
        edges = [line for line in server.log().splitlines() if "session store redis is" in line]
        assert len(edges) == 2
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
        assert upload.stored().read_bytes() == BODY
    assert server.leftovers() == []
    assert partial_files(server) == []
    assert [line for line in server.complaints() if not line.endswith(" transfers to stop")] == []


# -- Content-Range --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_range", "length", "total", "status"),
    [
        ("bytes 0-9/5", 10, 5, 400),
        ("bytes 5-9/5", 5, 5, 400),
        ("bytes 0-9/100", 11, 100, 400),
        ("bytes 0-9/*", 10, 10, 400),
        ("bytes 9-0/100", 10, 100, 400),
        ("pieces 0-9/100", 10, 100, 400),
        ("bytes 0-9/100, bytes 10-19/100", 10, 100, 400),
        (f"bytes 0-9/{MAX_SIZE + 1}", 10, MAX_SIZE + 1, 413),
        ("bytes 0-9/999999999999999999", 10, 999999999999999999, 413),
        ("bytes 0-9/100", 10, 101, 403),
        ("bytes 0-9/100", 10, 10, 403),
    ],
)
def test_a_range_that_cannot_be_is_refused(
    server: HmacFileServer, name: str, content_range: str, length: int, total: int, status: int
) -> None:
    """``total``: what the MAC covers."""
    answer = request(server, "PUT", server.sign_v(name, total), b"x" * length, content_range=content_range)
    assert answer.status == status
    assert request(server, "HEAD", server.sign_v(name, total)).status == 404


def test_a_range_needs_a_length(server: HmacFileServer, name: str) -> None:
    with Client(server) as client:
        client.head("PUT", server.sign_v(name, 10), transfer_encoding="chunked", content_range="bytes 0-9/10")
        assert client.answer().status == 411


def test_ranges_of_another_total_are_refused(server: HmacFileServer, name: str) -> None:
    """Each with a good signature: the first piece says what the file will be."""
    upload = begun(RangeUpload, server, name)
    target = server.sign_v(name, len(BODY) + 1)
    answer = request(server, "PUT", target, b"x", content_range=f"bytes 40000-40000/{len(BODY) + 1}")
    assert answer.status == 409
    assert request(server, "HEAD", target).status == 404
    assert upload.probe().headers["Upload-Offset"] == "40000"


def test_range_and_number_are_not_mixed(server: HmacFileServer, name: str) -> None:
    headers: dict[str, Any] = {"content_range": "bytes 0-9/100", "x_chunk_id": 1, "x_total_chunks": 2}
    assert request(server, "PUT", server.sign_v(name, 100), b"x" * 10, **headers).status == 400


def test_the_progress_is_for_who_has_the_slot(server: HmacFileServer, name: str) -> None:
    upload = begun(RangeUpload, server, name)
    good = server.sign_v(name, len(BODY))
    wrong = good[:-4] + ("0000" if good[-4:] != "0000" else "1111")
    other = next(_names)
    for target in (wrong, server.sign_v(name, 5), server.sign_v3("DELETE", name), server.path(name) + "?v=2&v=3"):
        answer, nothing = (request(server, "HEAD", one) for one in (target, target.replace(name, other)))
        assert (answer.status, answer.headers["X-Session-Token"]) == (403 if "v3=" in target else 404, None)
        assert answer.status == nothing.status, "whether there is an upload is nobody else's business"
    assert request(server, "HEAD", server.path(name)).status == 404, "a download has nothing to do with it"
    assert request(server, "HEAD", server.path(name), x_session_token=upload.token).headers["Upload-Offset"]
    assert request(server, "HEAD", server.path(name), x_session_token="x" * 43).status != 200
    assert upload.probe().headers["X-Session-Token"] == upload.token


def test_an_empty_piece_is_no_range_and_a_whole_file_may_be_one(server: HmacFileServer, name: str) -> None:
    content_range = f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
    assert request(server, "PUT", server.sign_v(name, len(BODY)), BODY, content_range=content_range).status == 201
    assert get(server, name).body == BODY


# -- tokens of another upload ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RangeUpload, NumberedUpload])
def test_a_token_is_good_for_its_own_slot_only(server: HmacFileServer, kind: type[Upload]) -> None:
    mine, other = (begun(kind, server, next(_names)) for _ in range(2))
    tus = begun(TusUpload, server, next(_names))
    piece, content_range = BODY[40_000:80_000], f"bytes 40000-79999/{len(BODY)}"
    dialect: dict[str, Any] = {"content_range": content_range}
    if kind is NumberedUpload:
        dialect = {"x_chunk_id": 2, "x_total_chunks": 3, "x_file_size": len(BODY)}
    target = server.sign_v(mine.name, len(BODY))
    for token in (other.token, tus.token, "x" * 43, "../../etc/passwd", "x"):
        assert request(server, "PUT", target, piece, x_session_token=token, **dialect).status == 404
    unsigned = server.path(mine.name)
    assert request(server, "PUT", unsigned, piece, x_session_token=mine.token, **dialect).status == 403
    assert request(server, "PUT", target, piece, x_session_token=mine.token, **dialect).status == 202
    assert other.probe().headers["Upload-Offset"] == tus.probe().headers["Upload-Offset"] == "40000"


def test_a_slots_token_is_no_tus_url(server: HmacFileServer, name: str) -> None:
    upload = begun(RangeUpload, server, name)
    url = f"{server.prefix}.hmacfs/tus/{upload.token}"
    assert request(server, "HEAD", url, **TUS).status == 404
    assert patch(server, url, 40_000, BODY[40_000:]).status == 404
    assert request(server, "DELETE", url, **TUS).status == 404
    assert upload.probe().headers["Upload-Offset"] == "40000"


# -- numbered chunks ------------------------------------------------------------------------------


def test_chunks_may_be_signed_one_by_one(server: HmacFileServer, name: str) -> None:
    """As the original's clients do: nobody says how long the file will be."""
    parts = [b"one", b"twotwo", b"3"]
    first = numbered(server, name, parts[0], 1, 3)
    token = first.headers["X-Session-Token"]
    assert (first.status, first.headers["Upload-Offset"]) == (202, "3")
    again = numbered(server, name, parts[0], 1, 3)
    assert (again.status, again.headers["Upload-Offset"], again.headers["X-Session-Token"]) == (200, "3", token)
    gap = numbered(server, name, parts[2], 3, 3)
    assert (gap.status, gap.headers["Upload-Offset"]) == (409, "3")
    # A chunk's signature says nothing of the file: only the token shows the progress.
    assert request(server, "HEAD", server.sign_v(name, 3)).status == 404
    probe = request(server, "HEAD", server.path(name), x_session_token=token)
    assert (probe.headers["Upload-Offset"], probe.headers["Upload-Length"]) == ("3", None)
    second = numbered(server, name, parts[1], 2, 3, x_session_token=token)
    assert (second.status, second.headers["Upload-Offset"]) == (202, "9")
    last = numbered(server, name, parts[2], 3, 3)
    assert (last.status, last.headers["Upload-Offset"], last.headers["X-Session-Token"]) == (201, "10", token)
    assert last.headers["Location"] == server.path(name)
    assert get(server, name).body == b"".join(parts)
    # Who lost the last answer asks again.
    answer = numbered(server, name, parts[2], 3, 3, x_session_token=token)
    assert (answer.status, answer.headers["Upload-Offset"]) == (200, "10")
    assert numbered(server, name, parts[2], 3, 3).status == 200
    assert get(server, name).body == b"".join(parts)


def test_chunks_signed_one_by_one_are_no_way_around_the_largest_size(server: HmacFileServer, name: str) -> None:
    half = bytes(MAX_SIZE // 2)
    assert numbered(server, name, half, 1, 9).status == 202
    assert numbered(server, name, half, 2, 9).status == 202
    assert numbered(server, name, b"x", 3, 9).status == 413
    assert numbered(server, name, half, 3, 9).status == 413
    assert get(server, name).status == 404


def test_a_chunk_is_stored_as_it_was_signed(server: HmacFileServer, name: str) -> None:
    headers: dict[str, Any] = {"x_chunk_id": 1, "x_total_chunks": 2}
    assert request(server, "PUT", server.sign_v(name, 4), b"12345", **headers).status == 403
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", x_file_size=10, **headers).status == 403
    assert request(server, "PUT", server.sign_v(name, 10), b"12345", **headers).status == 403
    oversize = MAX_SIZE + 1
    assert request(server, "PUT", server.sign_v(name, oversize), b"1", x_file_size=oversize, **headers).status == 413
    assert request(server, "HEAD", server.sign_v(name, 10)).status == 404


def test_the_last_chunk_must_complete_the_announced_size(server: HmacFileServer, name: str) -> None:
    target = server.sign_v(name, 10)
    for number, status in ((1, 202), (2, 409)):
        headers: dict[str, Any] = {"x_chunk_id": number, "x_total_chunks": 2, "x_file_size": 10}
        assert request(server, "PUT", target, b"1234", **headers).status == status
    assert get(server, name).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"x_chunk_id": 0, "x_total_chunks": 2},
        {"x_chunk_id": 3, "x_total_chunks": 2},
        {"x_chunk_id": -1, "x_total_chunks": 2},
        {"x_chunk_id": 1},
        {"x_total_chunks": 2},
        {"x_chunk_id": "1.0", "x_total_chunks": 2},
        {"x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": "5x"},
    ],
)
def test_numbers_that_make_no_sense_are_refused(server: HmacFileServer, name: str, headers: dict[str, object]) -> None:
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", **headers).status == 400


def test_numbers_that_are_too_large_are_told_so(server: HmacFileServer, name: str) -> None:
    headers: dict[str, Any] = {"x_chunk_id": 1, "x_total_chunks": "9" * 30}
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", **headers).status == 413


# -- tus ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["slot", ".hmacfs/tus/token"])
def test_options_announces_tus(server: HmacFileServer, target: str) -> None:
    """To browsers, which ask before each of their requests, too."""
    answer = request(server, "OPTIONS", server.path(target), origin="https://chat.example.org")
    assert answer.status == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Max-Size"] == str(MAX_SIZE)
    assert answer.headers["Tus-Extension"] == "creation,creation-with-upload,expiration,checksum,termination"
    assert answer.headers["Tus-Checksum-Algorithm"] == "sha256,sha1,md5"
    for method in ("POST", "PATCH", "HEAD", "DELETE"):
        assert method in answer.headers["Access-Control-Allow-Methods"]
    for header in ("Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Offset", "Content-Type"):
        assert header in answer.headers["Access-Control-Allow-Headers"]
    for header in ("Upload-Offset", "Location", "Upload-Length", "Tus-Resumable", "Upload-Expires"):
        assert header in answer.headers["Access-Control-Expose-Headers"]


def test_a_tus_upload_is_made_on_the_slot_and_goes_on_at_its_own_url(server: HmacFileServer, name: str) -> None:
    metadata = f"filename {base64.b64encode(b'x').decode()},filetype {base64.b64encode(b'image/png').decode()},flag"
    made = create(server, name, 10, upload_metadata=metadata)
    assert (made.status, made.headers["Tus-Resumable"], made.headers["Upload-Offset"]) == (201, "1.0.0", None)
    url = made.headers["Location"]
    assert url.startswith(f"{server.prefix}.hmacfs/tus/")
    assert len(url.rpartition("/")[2]) >= 43
    assert parsedate_to_datetime(made.headers["Upload-Expires"]) > parsedate_to_datetime(made.headers["Date"])
    head = request(server, "HEAD", url, **TUS)
    assert (head.status, head.headers["Upload-Offset"], head.headers["Upload-Length"]) == (200, "0", "10")
    assert head.headers["Upload-Metadata"] == metadata
    assert head.headers["Cache-Control"] == "no-store"
    assert head.headers["Tus-Resumable"] == "1.0.0"
    first = patch(server, url, 0, b"12345")
    assert (first.status, first.headers["Upload-Offset"], first.headers["Tus-Resumable"]) == (204, "5", "1.0.0")
    lifetime = parsedate_to_datetime(first.headers["Upload-Expires"]) - parsedate_to_datetime(first.headers["Date"])
    assert abs(lifetime.total_seconds() - TTL) <= 2
    assert patch(server, url, 5, b"67890").headers["Upload-Expires"] is None
    done = request(server, "HEAD", url, **TUS)
    assert (done.status, done.headers["Upload-Offset"], done.headers["Upload-Length"]) == (200, "10", "10")
    assert (patch(server, url, 10).status, patch(server, url, 5, b"67890").status) == (204, 409)
    file = get(server, name)
    assert (file.body, file.headers["Content-Type"]) == (b"1234567890", "image/png")


@pytest.mark.parametrize("sent", [0, 4, 10])
def test_a_creation_may_carry_the_first_piece(server: HmacFileServer, name: str, sent: int) -> None:
    body = b"1234567890"
    made = create(server, name, 10, body[:sent], content_type=PIECE_TYPE)
    assert (made.status, made.headers["Upload-Offset"]) == (201, str(sent) if sent else None)
    if sent < 10:
        assert made.headers["Upload-Expires"]
        assert patch(server, made.headers["Location"], sent, body[sent:]).status == 204
    assert get(server, name).body == body


def test_a_creation_with_a_body_of_another_type_is_refused(server: HmacFileServer, name: str) -> None:
    assert create(server, name, 10, b"12345", content_type="text/plain").status == 415


def test_an_empty_file_is_complete_when_it_is_made(server: HmacFileServer, name: str) -> None:
    made = create(server, name, 0)
    assert (made.status, made.headers["Upload-Offset"]) == (201, "0")
    assert get(server, name).body == b""


def test_a_piece_may_come_in_chunked_coding(server: HmacFileServer, name: str) -> None:
    url = create(server, name, 10).headers["Location"]
    for offset, piece in ((0, b"12345"), (5, b"67890")):
        with Client(server) as client:
            head = {"content_type": PIECE_TYPE, "upload_offset": offset, **TUS}
            client.head("PATCH", url, transfer_encoding="chunked", **head)
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece))
            assert client.answer().status == 204
    assert get(server, name).body == b"1234567890"


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
def test_a_piece_with_its_checksum_is_kept_and_another_is_not(
    server: HmacFileServer, name: str, algorithm: str
) -> None:
    url = create(server, name, len(BODY)).headers["Location"]
    digest = base64.b64encode(hashlib.new(algorithm, BODY).digest()).decode()
    broken = patch(server, url, 0, BODY[:-1] + b"?", upload_checksum=f"{algorithm} {digest}")
    assert (broken.status, broken.headers["Tus-Resumable"]) == (460, "1.0.0")
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "0"
    assert patch(server, url, 0, BODY, upload_checksum=f"{algorithm} {digest}").status == 204
    assert get(server, name).body == BODY


@pytest.mark.parametrize("checksum", ["crc32 AAAA", "sha1", "sha1 AAAA", "sha1 ???", "sha256 " + "A" * 28, ""])
def test_a_checksum_that_cannot_be_is_refused(server: HmacFileServer, name: str, checksum: str) -> None:
    url = create(server, name, 10).headers["Location"]
    assert patch(server, url, 0, b"1234567890", upload_checksum=checksum).status == 400
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0", "1.0.0, 2.0.0"])
def test_another_version_of_tus_is_refused(server: HmacFileServer, name: str, version: str | None) -> None:
    url = create(server, name, 5).headers["Location"]
    other = server.sign_v(f"{name}2", 5)
    for answer in (
        request(server, "POST", other, content_length=0, upload_length=5, tus_resumable=version),
        patch(server, url, 0, b"12345", tus_resumable=version),
        request(server, "HEAD", url, tus_resumable=version),
        request(server, "DELETE", url, tus_resumable=version),
    ):
        assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "0"


def test_what_is_too_large_is_not_begun(server: HmacFileServer, name: str) -> None:
    assert create(server, name, MAX_SIZE).status == 201
    assert create(server, name, MAX_SIZE + 1).status == 413


def test_more_than_was_announced_is_refused(server: HmacFileServer, name: str) -> None:
    url = create(server, name, 5).headers["Location"]
    assert patch(server, url, 0, b"123456").status == 413
    with Client(server) as client:
        head = {"content_type": PIECE_TYPE, "upload_offset": 0, **TUS}
        client.head("PATCH", url, transfer_encoding="chunked", **head)
        client.send(b"6\r\n123456\r\n0\r\n\r\n")
        assert client.answer().status == 413
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "0"


def test_a_piece_must_be_declared_as_one(server: HmacFileServer, name: str) -> None:
    url = create(server, name, 5).headers["Location"]
    assert patch(server, url, 0, b"12345", content_type="text/plain").status == 415
    assert patch(server, url, 0, b"12345", content_type=None).status == 415


def test_an_upload_can_be_given_up(server: HmacFileServer, name: str) -> None:
    upload = begun(TusUpload, server, name)
    url = upload.url
    gone = request(server, "DELETE", url, **TUS)
    assert (gone.status, gone.headers["Tus-Resumable"]) == (204, "1.0.0")
    assert upload.probe().status == upload.send(40_000).status == 410
    assert request(server, "DELETE", url, **TUS).status == request(server, "GET", url).status == 410
    assert not partial_file(server, upload.token).exists()


def test_an_upload_that_is_being_written_can_be_given_up(server: HmacFileServer, name: str) -> None:
    upload = begun(TusUpload, server, name)
    path = partial_file(server, upload.token)
    with Client(server) as client:
        method, headers = upload.head_of(40_000)
        client.head(method, upload.url, content_length=40_000, **headers)
        client.send(BODY[40_000:50_000])
        wait_until(lambda: path.stat().st_size == 50_000)
        assert request(server, "DELETE", upload.url, **TUS).status == 204
        assert client.answer().status == 409
    assert not path.exists()
    assert upload.probe().status == 410


def test_a_finished_file_is_not_taken_away_with_its_upload(server: HmacFileServer, name: str) -> None:
    url = create(server, name, 5, b"12345", content_type=PIECE_TYPE).headers["Location"]
    refused = request(server, "DELETE", url, **TUS)
    assert (refused.status, b"does not delete files" in refused.body) == (403, True)
    assert get(server, name).body == get(server, url.removeprefix(server.prefix)).body == b"12345"
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "5"


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE"])
def test_a_client_that_can_only_post_overrides_the_method(server: HmacFileServer, name: str, method: str) -> None:
    url = create(server, name, 5).headers["Location"]
    headers = {"content_type": PIECE_TYPE, "upload_offset": 0, "x_http_method_override": method, **TUS}
    answer = request(server, "POST", url, b"12345", content_length=5, **headers)
    assert answer.status == {"PATCH": 204, "HEAD": 200, "DELETE": 204}[method]
    after = request(server, "HEAD", url, **TUS)
    assert after.headers["Upload-Offset"] == {"PATCH": "5", "HEAD": "0", "DELETE": None}[method]


@pytest.mark.parametrize("method", ["patch", "Head", "delete", "GET", "PUT"])
def test_an_override_is_a_method_by_its_exact_name(server: HmacFileServer, name: str, method: str) -> None:
    url = create(server, name, 5).headers["Location"]
    headers = {"content_type": PIECE_TYPE, "upload_offset": 0, "x_http_method_override": method, **TUS}
    assert request(server, "POST", url, b"12345", content_length=5, **headers).status == 405
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == "0"


def test_the_url_alone_is_the_capability(server: HmacFileServer, name: str) -> None:
    """And nothing like it is: neither a signature, nor a name in the reserved folder, nor a guess."""
    upload = begun(TusUpload, server, name)
    url = upload.url
    assert request(server, "HEAD", url, x_forwarded_for="198.51.100.7", **TUS).status == 200
    folder = url.rpartition("/")[0]
    for guess in ("x" * 43, "", "..", f"{url}/x".rpartition("tus/")[2], upload.token[:-1], "%00", "a" * 5000):
        target = f"{folder}/{guess}"
        for method in ("HEAD", "PATCH", "DELETE"):
            answer = request(server, method, target, content_length=0, upload_offset=0, content_type=PIECE_TYPE, **TUS)
            assert 400 <= answer.status < 500, (guess, method)
    partial = f"{server.prefix}.hmacfs/partial/{partial_file(server, upload.token).name}"
    assert request(server, "GET", partial).status in (400, 404)
    assert request(server, "GET", url).status in (400, 404)
    assert request(server, "PUT", url, b"x").status == 405
    assert create(server, f".hmacfs/tus/{upload.token}", 5).status in (400, 405)
    assert upload.probe().headers["Upload-Offset"] == "40000"


@pytest.mark.parametrize("signed", [4, 6, 0])
def test_a_creation_needs_a_signature_over_the_length(server: HmacFileServer, name: str, signed: int) -> None:
    target = server.sign_v(name, signed)
    assert request(server, "POST", target, content_length=0, upload_length=5, **TUS).status == 403
    assert request(server, "POST", server.path(name), content_length=0, upload_length=5, **TUS).status == 403
    assert request(server, "POST", target, content_length=0, **TUS).status == 400
    deferred = request(server, "POST", target, content_length=0, upload_defer_length=1, **TUS)
    assert deferred.status == 400, "it was not announced"


def test_several_tus_uploads_of_a_name_are_apart_and_one_wins(server: HmacFileServer, name: str) -> None:
    urls = [create(server, name, 5).headers["Location"] for _ in range(2)]
    assert patch(server, urls[0], 0, b"12").status == 204
    assert patch(server, urls[1], 0, b"abcde").status == 204
    assert patch(server, urls[0], 2, b"345").status == 409
    assert get(server, name).body == b"abcde"


# -- hostile values -------------------------------------------------------------------------------

HOSTILE = [
    "", " ", "-1", "+1", "1e3", "0x10", "1_0", "٣", "²", "\xff\xfe", "9" * 19, "9" * 400, "1 2", "1,2", "NaN", "None",
    "../../x", "%00", "' OR 1=1 --", "{}", "a" * 4000, "\x7f", "\t1", "bytes", "bytes 0-0/0", "bytes -1-0/1",
    "bytes 0-99999999999999999999/1", "sha1 " + "=" * 50, "sha1 \xff", "key \xff", "a b,a b", ",,,", "k " + "A" * 5000,
]  # fmt: skip


@pytest.mark.parametrize(
    "header",
    ["content_range", "x_chunk_id", "x_total_chunks", "x_file_size", "x_session_token", "content_type", "accept"],
)
def test_hostile_headers_of_a_slot_are_refused(server: HmacFileServer, header: str) -> None:
    name = next(_names)
    basic: dict[str, Any] = (
        {"x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": 100} if header != "content_range" else {}
    )
    for value in HOSTILE:
        sent = value.encode("utf-8", "surrogateescape").decode("latin-1")
        answer = request(server, "PUT", server.sign_v(name, 100), b"12345", **{**basic, header: sent})
        assert answer.status < 500, (header, value)
        probe = request(server, "HEAD", server.sign_v(name, 100), b"", **{header: sent})
        assert probe.status < 500, (header, value)


@pytest.mark.parametrize(
    "header",
    [
        *("upload_length", "upload_offset", "upload_metadata", "upload_checksum", "tus_resumable", "content_type"),
        *("x_http_method_override", "upload_defer_length", "upload_concat"),
    ],
)
def test_hostile_headers_of_tus_are_refused(server: HmacFileServer, header: str) -> None:
    name = next(_names)
    url = create(server, name, 100).headers["Location"]
    for value in HOSTILE:
        sent = value.encode("utf-8", "surrogateescape").decode("latin-1")
        piece: dict[str, Any] = {"upload_offset": 50, "content_type": PIECE_TYPE, **TUS, header: sent}
        made: dict[str, Any] = {"upload_length": 100, **TUS, header: sent}
        for answer in (
            request(server, "POST", server.sign_v(next(_names), 100), b"12345", content_length=5, **made),
            request(server, "POST", url, b"12345", content_length=5, **piece),
            request(server, "PATCH", url, b"12345", content_length=5, **piece),
            request(server, "HEAD", url, **{**TUS, header: sent}),
        ):
            assert answer.status < 500, (header, value)
