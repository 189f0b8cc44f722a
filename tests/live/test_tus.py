"""tus beyond one upload's way through: types that a signature covers, lengths that are told later, and what an upload's
own URL gives before, after and instead of its completion (docs/protocol.md, section 6.3)."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Answer, Client, get, put, request
from tests.live.pieces import BODY, PIECE_TYPE, TUS, TusUpload, begun, create, partial_file, partial_files, patch
from tests.servers import require, require_binary, wait_until
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer
from tests.servers.proxy import Proxy

ROOT = Path(__file__).parents[2]
StartServer = Callable[..., HmacFileServer]

MAX_SIZE = 1024 * 1024
_names = (f"tus-{number}/☃ film.mp4" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    settings = {"Workers": 2, "UploadMaxSize": MAX_SIZE, "MaxSessionsPerClient": 10_000}
    with HmacFileServer(tmp_path_factory.mktemp("server"), **settings) as running:
        yield running
        running.stop()
        assert running.complaints() == []
        assert running.leftovers() == []


@pytest.fixture
def name() -> str:
    return next(_names)


def metadata(**pairs: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


# -- the type that a signature covers -------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["v2", "token"])
@pytest.mark.parametrize(
    ("signed", "told", "body_type", "recorded"),
    [
        ("video/mp4", {"filetype": "video/mp4"}, None, "video/mp4"),
        ("video/mp4", {"filetype": "video/mp4"}, PIECE_TYPE, "video/mp4"),
        ("video/mp4", {"filetype": "video/mp4"}, "application/octet-stream", "video/mp4"),
        ("video/mp4", {"filetype": "video/mp4"}, "text/plain;charset=UTF-8", "video/mp4"),
        ("video/mp4", {"type": "video/mp4"}, "text/plain;charset=UTF-8", "video/mp4"),
        ("video/mp4", {}, "video/mp4", "video/mp4"),
        ("application/octet-stream", {}, None, "application/octet-stream"),
        ("application/octet-stream", {}, PIECE_TYPE, "application/octet-stream"),
        ("application/octet-stream", {}, "Application/Offset+Octet-Stream; x=y", "application/octet-stream"),
        ("application/octet-stream", {}, "application/octet-stream", "application/octet-stream"),
        ("application/octet-stream", {}, "text/plain;charset=UTF-8", "application/octet-stream"),
        ("application/octet-stream", {"filetype": "video/mp4"}, "text/plain;charset=UTF-8", "application/octet-stream"),
        ("text/plain;charset=UTF-8", {}, "text/plain;charset=UTF-8", "text/plain;charset=UTF-8"),
    ],
)
def test_a_creation_may_carry_any_type_beside_the_signed_one(
    server: HmacFileServer,
    name: str,
    scheme: str,
    signed: str,
    told: dict[str, str],
    body_type: str | None,
    recorded: str,
) -> None:
    """The type that the signature covers is the one that the file gets."""
    target = server.sign_v2(name, 5, signed).replace("v2=", f"{scheme}=")
    headers: dict[str, Any] = {"content_type": body_type, "upload_metadata": metadata(**told) or None, **TUS}
    made = request(server, "POST", target, content_length=0, upload_length=5, **headers)
    assert made.status == 201
    assert patch(server, made.headers["Location"], 0, b"12345").status == 204
    assert get(server, name).headers["Content-Type"] == recorded


@pytest.mark.parametrize("scheme", ["v2", "token"])
@pytest.mark.parametrize(
    ("signed", "told", "body_type"),
    [
        ("video/mp4", {}, None),
        ("video/mp4", {"filetype": "text/html"}, "text/html"),
        ("video/mp4", {"filetype": "video/MP4"}, PIECE_TYPE),
        (PIECE_TYPE, {}, PIECE_TYPE),
        ("image/png", {"filename": "image/png"}, None),
    ],
)
def test_a_creation_of_a_type_that_nobody_signed_is_refused(
    server: HmacFileServer, name: str, scheme: str, signed: str, told: dict[str, str], body_type: str | None
) -> None:
    target = server.sign_v2(name, 5, signed).replace("v2=", f"{scheme}=")
    headers: dict[str, Any] = {"content_type": body_type, "upload_metadata": metadata(**told) or None, **TUS}
    assert request(server, "POST", target, content_length=0, upload_length=5, **headers).status == 403


@pytest.mark.parametrize("body_type", [None, "text/html", PIECE_TYPE])
def test_without_a_signed_type_that_of_the_metadata_counts(
    server: HmacFileServer, name: str, body_type: str | None
) -> None:
    target = server.sign_v(name, 5)
    headers: dict[str, Any] = {"content_type": body_type, "upload_metadata": metadata(filetype="image/png"), **TUS}
    made = request(server, "POST", target, content_length=0, upload_length=5, **headers)
    assert patch(server, made.headers["Location"], 0, b"12345").status == 204
    assert get(server, name).headers["Content-Type"] == "image/png"


# -- every header once ----------------------------------------------------------------------------

#: Those that are lists, and may come in several lines.
_LISTS = {"vary"}


def test_no_answer_says_the_same_twice(server: HmacFileServer, name: str) -> None:
    """Whatever the request, with headers of all dialects in all of them."""
    slot, wrong, v3 = server.sign_v(name, 5), server.sign_v(name, 6), server.sign_v3("PUT", next(_names))
    unfinished = create(server, next(_names), 5).headers["Location"]
    finished = create(server, next(_names), 5, b"12345", content_type=PIECE_TYPE).headers["Location"]
    put(server, "twice/stored", b"12345")
    targets = [slot, wrong, v3, unfinished, finished, server.path("twice/stored"), server.path("none"), "/", "/healthz"]
    extras: list[dict[str, Any]] = [
        {},
        TUS,
        {"tus_resumable": "0.2.2"},
        {**TUS, "upload_length": 5},
        {**TUS, "upload_offset": 0, "content_type": PIECE_TYPE},
        {**TUS, "upload_offset": 3, "content_type": PIECE_TYPE, "accept": "application/json"},
        {"x_chunk_id": 2, "x_total_chunks": 2, "x_file_size": 5},
        {"content_range": "bytes 3-4/5", "range": "bytes=1-2", "if_none_match": "*"},
        {"range": "bytes=90-99"},
        {"if_match": '"x"'},
        {"origin": "https://chat.example.org", "access_control_request_method": "PUT"},
        {"expect": "200-maybe"},
    ]
    seen = 0
    for target in [*targets, "*"]:
        methods = ["OPTIONS", "HEAD", "GET", "PATCH", "POST", "PUT", "DELETE", "BREW"]
        for method, extra in itertools.product(methods if target != "*" else ["OPTIONS"], extras):
            answer = request(server, method, target, b"12" if method in ("PUT", "PATCH") else b"", **extra)
            names = [key.lower() for key in answer.headers if key.lower() not in _LISTS]
            assert len(names) == len(set(names)), (method, target, extra, answer.headers.items())
            seen += 1
    assert seen > 700


def test_options_says_once_that_it_speaks_tus(server: HmacFileServer, name: str) -> None:
    for headers in ({}, TUS):
        answer = request(server, "OPTIONS", server.sign_v(name, 5), **headers)
        assert answer.headers.get_all("Tus-Resumable") == ["1.0.0"]


# -- the upload's URL as a link -------------------------------------------------------------------


def test_the_url_of_a_finished_upload_gives_the_file(server: HmacFileServer, name: str) -> None:
    """With the same headers, ranges and conditions as the file's own URL."""
    made = create(server, name, len(BODY), upload_metadata=metadata(filetype="video/mp4"))
    url = made.headers["Location"]
    for unfinished in (b"", BODY[:40_000]):
        patch(server, url, 0, unfinished)
        early = request(server, "GET", url)
        assert (early.status, early.headers["Cache-Control"]) == (404, "no-store")
        assert b"not complete" in early.body
        assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == str(len(unfinished))
        assert request(server, "HEAD", url).status == 412
    assert patch(server, url, 40_000, BODY[40_000:]).status == 204
    etag = get(server, name).headers["ETag"]
    asked: list[dict[str, Any]] = [
        {},
        {"range": "bytes=100-199"},
        {"range": "bytes=-5"},
        {"range": "bytes=9999999-"},
        {"if_none_match": etag},
        {"if_match": '"x"'},
        {"range": "bytes=0-9", "if_range": '"x"'},
        {"origin": "https://chat.example.org"},
    ]
    for method, headers in itertools.product(("GET", "HEAD"), asked):
        ours = request(server, method, url, **headers)
        its = request(server, method, server.path(name), **headers)
        assert (ours.status, ours.body) == (its.status, its.body)
        for answer in (ours, its):
            for varying in ("Date", "X-Request-ID"):
                del answer.headers[varying]
        assert ours.headers.items() == its.headers.items()
    assert request(server, "GET", url).headers["Content-Type"] == "video/mp4"
    told = request(server, "HEAD", url, **TUS)
    assert (told.headers["Upload-Offset"], told.headers["Cache-Control"]) == (str(len(BODY)), "no-store")


def test_the_url_gives_no_other_file_of_the_name(server: HmacFileServer, name: str) -> None:
    urls = [create(server, name, 5).headers["Location"] for _ in range(2)]
    assert patch(server, urls[0], 0, b"12345").status == 204
    assert patch(server, urls[1], 0, b"67890").status == 409
    assert [request(server, "GET", url).status for url in urls] == [200, 410]
    (server.store / name).unlink()
    assert request(server, "GET", urls[0]).status == 404
    assert request(server, "DELETE", urls[0], **TUS).status == 404
    put(server, name, b"another file")
    assert [request(server, method, urls[0]).status for method in ("GET", "HEAD")] == [404, 404]


def test_the_url_gives_no_right_to_read(start_server: StartServer) -> None:
    """Where downloads are signed, the signature for the file's name opens it, at either URL."""
    server = start_server(RequireSignedDownloads=True)
    url = create(server, "a/photo.jpg", 5, b"12345", content_type=PIECE_TYPE).headers["Location"]
    signed = server.sign_v3("GET", "a/photo.jpg").partition("?")[2]
    other = server.sign_v3("GET", "a/other.jpg").partition("?")[2]
    upload = server.sign_v("a/photo.jpg", 5).partition("?")[2]
    for method in ("GET", "HEAD"):
        for query in ("", f"?{other}", f"?{upload}", f"?{signed[:-1]}1"):
            assert request(server, method, url + query).status == 403, (method, query)
        answer = request(server, method, f"{url}?{signed}")
        assert (answer.status, answer.headers["Content-Length"]) == (200, "5")
        assert answer.headers["Cache-Control"].startswith("private")
    assert server.complaints() == []


def test_a_download_by_the_url_is_counted_as_one(start_server: StartServer) -> None:
    server = start_server(DownloadRateLimit="2/hour")
    url = create(server, "a/photo.jpg", 5, b"12345", content_type=PIECE_TYPE).headers["Location"]
    statuses = [request(server, "GET", target).status for target in (url, server.path("a/photo.jpg"), url)]
    assert statuses == [200, 200, 429]


def test_a_complete_upload_that_its_process_left_unfinished_is_the_file(server: HmacFileServer, name: str) -> None:
    url = create(server, name, 5).headers["Location"]
    partial_file(server, url.rpartition("/")[2]).write_bytes(b"12345")
    assert request(server, "GET", url).body == get(server, name).body == b"12345"


@pytest.mark.parametrize("how", ["GET", "HEAD", "PATCH", "DELETE"])
def test_a_terminated_upload_is_gone_until_the_sweep(start_server: StartServer, how: str) -> None:
    server = start_server(SessionTTL="2s", SweepInterval="1h")
    upload = begun(TusUpload, server, "a/film.mp4")
    assert request(server, "DELETE", upload.url, **TUS).status == 204
    headers: dict[str, Any] = {"upload_offset": 40_000, "content_type": PIECE_TYPE, "content_length": 0, **TUS}

    def ask() -> Answer:
        return request(server, how, upload.url, **headers)

    assert ask().status == 410
    assert request(server, how, upload.url, **{**headers, "tus_resumable": None}).status in (410, 412)
    assert partial_files(server) == []
    wait_until(lambda: "removed 1 " in server.sweep(), timeout=20, what="the end of its time")
    assert ask().status == 404
    assert create(server, "a/film.mp4", 5, b"12345", content_type=PIECE_TYPE).status == 201
    assert server.complaints() == []


def test_a_terminated_upload_no_longer_counts_for_its_client(start_server: StartServer) -> None:
    server = start_server(MaxSessionsPerClient=1)
    url = create(server, "a", 5).headers["Location"]
    assert create(server, "b", 5).status == 429
    assert request(server, "DELETE", url, **TUS).status == 204
    assert create(server, "b", 5).status == 201


# -- a length that is told later ------------------------------------------------------------------


def defer(server: HmacFileServer, target: str, body: bytes = b"", **headers: Any) -> Answer:
    headers = {"content_type": PIECE_TYPE, "content_length": len(body), "upload_defer_length": 1, **TUS, **headers}
    return request(server, "POST", target, body, **headers)


@pytest.mark.parametrize("with_creation", [False, True])
def test_a_length_may_be_told_with_the_last_piece(server: HmacFileServer, name: str, *, with_creation: bool) -> None:
    target = server.sign_v3("PUT", name)
    assert request(server, "OPTIONS", target).headers["Tus-Extension"].endswith(",creation-defer-length")
    made = defer(server, target, b"123" if with_creation else b"", upload_metadata=metadata(filetype="video/mp4"))
    url = made.headers["Location"]
    assert (made.status, made.headers["Upload-Offset"]) == (201, "3" if with_creation else None)
    assert parsedate_to_datetime(made.headers["Upload-Expires"]).timestamp() > time.time()
    if not with_creation:
        assert patch(server, url, 0, b"123").headers["Upload-Offset"] == "3"
    head = request(server, "HEAD", url, **TUS)
    told = [head.headers[header] for header in ("Upload-Offset", "Upload-Length", "Upload-Defer-Length")]
    assert told == ["3", None, "1"]
    assert patch(server, url, 3, b"45").headers["Upload-Offset"] == "5"
    assert patch(server, url, 5, b"67", upload_length=9).headers["Upload-Offset"] == "7"
    head = request(server, "HEAD", url, **TUS)
    told = [head.headers[header] for header in ("Upload-Offset", "Upload-Length", "Upload-Defer-Length")]
    assert told == ["7", "9", None]
    assert patch(server, url, 7, b"89", upload_length=9).status == 204
    file = request(server, "GET", url)
    assert (file.body, file.headers["Content-Type"]) == (b"123456789", "video/mp4")
    assert patch(server, url, 9, b"", upload_length=9).status == 204, "its answer was lost"


@pytest.mark.parametrize("body", [b"", b"12345"])
def test_a_length_that_is_reached_completes_the_file(server: HmacFileServer, name: str, body: bytes) -> None:
    url = defer(server, server.sign_v3("PUT", name), body).headers["Location"]
    assert request(server, "GET", url).status == 404
    assert patch(server, url, len(body), b"", upload_length=len(body)).status == 204
    assert request(server, "GET", url).body == get(server, name).body == body


def test_a_length_that_cannot_be_is_refused_and_forgotten(server: HmacFileServer, name: str) -> None:
    url = defer(server, server.sign_v3("PUT", name), b"12345").headers["Location"]
    for length, status in ((4, 400), (0, 400), (6, 413), (MAX_SIZE + 1, 413), ("x", 400), ("", 400), ("9" * 19, 413)):
        assert patch(server, url, 5, b"67", upload_length=length).status == status, length
    elsewhere = patch(server, url, 3, b"67", upload_length=2)
    assert (elsewhere.status, elsewhere.headers["Upload-Offset"]) == (409, "5")
    assert request(server, "HEAD", url, **TUS).headers["Upload-Defer-Length"] == "1"
    assert patch(server, url, 5, b"6", upload_length=7).status == 204
    for length in (6, 8, MAX_SIZE + 1):
        assert patch(server, url, 6, b"", upload_length=length).status == 400, "it was told already"
    assert patch(server, url, 6, b"78").status == 413
    assert patch(server, url, 6, b"7").status == 204
    assert get(server, name).body == b"1234567"


def test_the_largest_size_bounds_an_upload_whose_length_is_not_known(server: HmacFileServer, name: str) -> None:
    url = defer(server, server.sign_v3("PUT", name)).headers["Location"]
    assert patch(server, url, 0, bytes(MAX_SIZE)).status == 204
    assert patch(server, url, MAX_SIZE, b"x").status == 413
    with Client(server) as client:
        client.head("PATCH", url, transfer_encoding="chunked", upload_offset=MAX_SIZE, content_type=PIECE_TYPE, **TUS)
        client.send(b"1\r\nx\r\n0\r\n\r\n")
        assert client.answer().status == 413
    assert request(server, "HEAD", url, **TUS).headers["Upload-Offset"] == str(MAX_SIZE)
    assert patch(server, url, MAX_SIZE, b"", upload_length=MAX_SIZE).status == 204
    assert len(get(server, name).body) == MAX_SIZE


@pytest.mark.parametrize("scheme", ["v", "v2", "token", "bearer", "none", "wrong v3"])
def test_a_signature_over_the_length_needs_it(server: HmacFileServer, scheme: str) -> None:
    name = f"slot/{scheme}.bin"
    v2, v3 = server.sign_v2(name, 5, "application/octet-stream"), server.sign_v3("GET", name)
    claims = {"slot": "slot", "filename": f"{scheme}.bin", "filesize": 5, "filetype": "image/png", "exp": FAR_FUTURE}
    targets = {"v": server.sign_v(name, 5), "v2": v2, "token": v2.replace("v2=", "token="), "wrong v3": v3}
    authorization = f"Bearer {encode_bearer(server.keyring, claims)}" if scheme == "bearer" else None
    target = targets.get(scheme, server.path(name))
    refused = defer(server, target, authorization=authorization)
    assert refused.status == (403 if scheme in ("none", "wrong v3") else 400)
    if refused.status == 400:
        assert b"send Upload-Length" in refused.body
        assert "defer" not in request(server, "OPTIONS", target).headers["Tus-Extension"]


def test_headers_of_a_creation_do_not_contradict_each_other(server: HmacFileServer, name: str) -> None:
    target = server.sign_v3("PUT", name)
    assert defer(server, target, upload_length=5).status == 400
    assert defer(server, target, upload_defer_length=0).status == 400
    assert defer(server, target, upload_defer_length=None).status == 400
    assert partial_files(server) == [] or get(server, name).status == 404


def test_a_browser_may_tell_the_length_later(server: HmacFileServer, name: str) -> None:
    answer = request(server, "OPTIONS", server.sign_v3("PUT", name), origin="https://chat.example.org")
    assert "Upload-Defer-Length" in answer.headers["Access-Control-Allow-Headers"]
    assert "Upload-Defer-Length" in answer.headers["Access-Control-Expose-Headers"]


# -- tus-js-client --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 99_999, 300_001])
def test_tus_js_client_uploads_a_stream_and_fetches_it_from_its_url(
    server: HmacFileServer, name: str, size: int
) -> None:
    _stream(server, name, os.urandom(size), cuts=0)


def test_tus_js_client_uploads_a_stream_over_a_bad_network(server: HmacFileServer, name: str) -> None:
    _stream(server, name, os.urandom(800_001), cuts=3)


def _stream(server: HmacFileServer, name: str, body: bytes, cuts: int) -> None:
    modules = ROOT / "build/js/node_modules"
    require(modules if (modules / "tus-js-client").exists() else None, "tus-js-client")
    with Proxy(server.port, cuts=cuts, longest=300_000, seed=1) as proxy:
        slot = f"http://127.0.0.1:{proxy.port}{server.sign_v3('PUT', name)}"
        command = [require_binary("node"), str(ROOT / "tests/live/js/stream.cjs"), slot, "100000", json.dumps({})]
        environ = {**os.environ, "NODE_PATH": str(modules)}
        run = subprocess.run(command, input=body, capture_output=True, env=environ, timeout=60)
        assert run.returncode == 0, run.stderr.decode()
        assert proxy.cut == cuts
    assert run.stdout == b"200 video/mp4\n" + body
    assert get(server, name).body == body
