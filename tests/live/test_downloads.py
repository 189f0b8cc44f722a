"""GET, HEAD, OPTIONS and the other methods over real sockets (docs/protocol.md, sections 4, 5 and 7)."""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hmacfs.errors import ForPages
from hmacfs.web.file_view import http_date
from tests.live.client import Answer, Client, get, put, request
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.sock_diag import congestion_controls

StartServer = Callable[..., HmacFileServer]

BODY = bytes(range(256)) * 2000
SAVED = "default-src 'none'; frame-ancestors 'none'; sandbox"
SHOWN = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@pytest.fixture(scope="module")
def stored(server: HmacFileServer) -> Answer:
    """The upload of ``down/file.bin``."""
    return put(server, "down/file.bin", BODY)


def test_a_download_has_all_its_headers(server: HmacFileServer, stored: Answer) -> None:
    answer = get(server, "down/file.bin")
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["ETag"] == stored.headers["ETag"]
    assert not answer.headers["ETag"].startswith("W/")
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == SAVED
    modified = email.utils.parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    assert abs(modified - (server.store / "down/file.bin").stat().st_mtime) < 1


def test_head_gives_the_headers_of_get(server: HmacFileServer, stored: Answer) -> None:
    assert stored.status == 201
    own = {"Date", "X-Request-ID"}
    for target in (server.path("down/file.bin"), server.path("down/none"), server.path("down")):
        with Client(server) as client:
            client.head("GET", target)
            by_get = client.answer("GET")
            client.head("HEAD", target)
            by_head = client.answer("HEAD")
            assert by_head.status == by_get.status
            assert by_head.body == b""
            assert {k: v for k, v in by_head.headers.items() if k not in own} == {
                k: v for k, v in by_get.headers.items() if k not in own
            }


SIZE = len(BODY)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0), ("bytes=0-99", 0, 99), ("bytes=100-", 100, SIZE - 1), ("bytes=-100", SIZE - 100, SIZE - 1),
        (f"bytes=-{SIZE * 2}", 0, SIZE - 1), (f"bytes={SIZE - 1}-{SIZE * 2}", SIZE - 1, SIZE - 1),
        ("bytes=1000-399999", 1000, 399999), (f"bytes=0-{2**63 - 1}", 0, SIZE - 1), (f"bytes=-{2**64}", 0, SIZE - 1),
        ("Bytes=0-0", 0, 0),
    ],
)  # fmt: skip
def test_a_range_is_206(server: HmacFileServer, stored: Answer, asked: str, first: int, last: int) -> None:
    answer = get(server, "down/file.bin", range=asked)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.body == BODY[first : last + 1]


@pytest.mark.parametrize(
    "asked", [f"bytes={SIZE}-", "bytes=-0", "bytes=999999999-", f"bytes={2**63}-", f"bytes={2**64}-{2**65}"]
)
def test_a_range_outside_is_416(server: HmacFileServer, stored: Answer, asked: str) -> None:
    answer = get(server, "down/file.bin", range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.body == b"The file ends before the range asked for.\n"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=0-1", "bytes=5-1", "bytes=a-b", "bytes", ""])
def test_what_is_no_single_range_gets_the_whole(server: HmacFileServer, stored: Answer, asked: str) -> None:
    answer = get(server, "down/file.bin", range=asked)
    assert (answer.status, answer.body) == (200, BODY)


def test_conditional_requests(server: HmacFileServer, stored: Answer) -> None:
    etag = stored.headers["ETag"]
    before, after = email.utils.formatdate(1, usegmt=True), email.utils.formatdate(time.time() + 99, usegmt=True)
    modified = get(server, "down/file.bin").headers["Last-Modified"]
    for headers, status in [
        ({"if_none_match": etag}, 304),
        ({"if_none_match": f'"x", W/{etag}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_none_match": '"x"', "if_modified_since": after}, 200),
        ({"if_modified_since": after}, 304),
        ({"if_modified_since": before}, 200),
        ({"if_modified_since": "nonsense"}, 200),
        ({"if_match": etag}, 200),
        ({"if_match": f"W/{etag}"}, 412),
        ({"if_match": '"x"'}, 412),
        ({"if_unmodified_since": before}, 412),
        ({"if_unmodified_since": after}, 200),
        ({"range": "bytes=0-9", "if_range": etag}, 206),
        ({"range": "bytes=0-9", "if_range": f"W/{etag}"}, 200),
        ({"range": "bytes=0-9", "if_range": '"x"'}, 200),
        ({"range": "bytes=0-9", "if_range": modified}, 206),
        ({"range": "bytes=0-9", "if_range": before}, 200),
        ({"range": "bytes=0-9", "if_none_match": etag}, 304),
    ]:
        answer = get(server, "down/file.bin", **headers)
        assert answer.status == status, headers
        assert answer.headers["ETag"] == etag
        if status == 304:
            assert answer.body == b""
        if status == 412:  # not for caches: it says nothing about a request without conditions
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.body == b"The file is not the one that the request expects.\n"


def test_times_that_http_cannot_say(server: HmacFileServer) -> None:
    (server.store / "old.txt").write_bytes(b"x")
    os.utime(server.store / "old.txt", (-5, -5))
    assert get(server, "old.txt").headers["Last-Modified"] == "Wed, 31 Dec 1969 23:59:55 GMT"
    assert http_date(10**12) == "Fri, 31 Dec 9999 23:59:59 GMT"  # not every file system keeps such a time


def test_what_is_not_there(server: HmacFileServer, stored: Answer) -> None:
    for path, status in [
        ("down/none", 404),
        ("down/file.bin/x", 404),
        ("down//file.bin", 400),
        ("down//", 400),
        ("/", 400),
        ("%2e%2e/x", 400),
        (".hmacfs/tmp", 400),
        ("a/b/.HmAcFs%20./tmp", 400),
        (".hm%E2%80%8Cacfs/tmp", 400),
        ("x/" * 63 + "x", 404),
        ("x/" * 64 + "x", 400),
    ]:
        assert request(server, "GET", f"/upload/{path}").status == status, path


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """All that an answer tells but for what is new in each."""
    new = {"Date", "X-Request-ID", "RateLimit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    return answer.status, {k: "" if k in new else v for k, v in answer.headers.items()}, answer.body


@pytest.mark.parametrize("settings", [{"DownloadRateLimit": "999/minute"}, {"RequireSignedDownloads": True}])
def test_a_folder_is_as_if_it_were_not_there(start_server: StartServer, settings: dict[str, object]) -> None:
    """Its name may tell who a user is. The mount point is one, too."""
    server = start_server(**settings)
    put(server, "some/folder/file.bin", b"x")
    folders = ("/upload", "/upload/", "/upload/some", "/upload/some/", "/upload/some/folder", "/upload/none/")
    for method, query in itertools.product(
        ("GET", "HEAD"),
        ("", "?v=2", f"?v={'0' * 64}", f"?v2={'0' * 64}", f"?token={'0' * 64}", f"?v3={'0' * 64}&expires=4000000000"),
    ):
        for sent in ({}, {"x_session_token": "x" * 22}, {"authorization": "Bearer x"}, {"range": "bytes=0-"}):
            nothing = told(request(server, method, server.path("some/none") + query, b"", **sent))
            assert nothing[0] == (403 if settings.get("RequireSignedDownloads") or "v3=" in query else 404)
            for path in folders:
                assert told(request(server, method, path + query, b"", **sent)) == nothing, path
    for method, query in itertools.product(
        ("PUT", "POST"), ("", f"?v={'0' * 64}", f"?v2={'0' * 64}", "?v3=0&expires=1")
    ):
        nothing, folder = (
            told(request(server, method, server.path(name) + query, tus_resumable="1.0.0", content_length=0))
            for name in ("some/none", "some/folder")
        )
        assert nothing == folder
        assert nothing[0] in (400, 403)
    for method in ("GET", "HEAD"):
        signed, nothing = (
            told(request(server, method, server.sign_v3(method, name))) for name in ("some/folder", "some/none")
        )
        assert signed == nothing
        assert signed[0] == 404


#: What browsers say that they fetch a file for (``Sec-Fetch-Dest``, ``Service-Worker``).
RUN_BY_PAGES = [
    "script",
    "style",
    "worker",
    "sharedworker",
    "serviceworker",
    "audioworklet",
    "paintworklet",
    "xslt",
    "speculationrules",
]
SERVED = [
    "image",
    "video",
    "audio",
    "track",
    "document",
    "empty",
    "iframe",
    "embed",
    "object",
    "font",
    "manifest",
    "json",
    "x",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_page_gets_a_script(start_server: StartServer, method: str) -> None:
    """Whatever the file's type is; whether there is one is not told."""
    server = start_server(AllowedOrigins=["https://chat.example"])
    for name, content_type in (("script.js", "text/javascript"), ("picture.png", "image/png"), ("none", None)):
        if content_type:
            assert put(server, name, b"run()", content_type).status == 201
        path = server.path(name)
        for sent in [*({"sec_fetch_dest": word} for word in RUN_BY_PAGES), {"service_worker": "script"}]:
            answer = request(server, method, path, b"", **sent)
            assert (answer.status, answer.headers["Cache-Control"]) == (403, "no-store")
            assert answer.body == (b"" if method == "HEAD" else ForPages.sentence.encode() + b"\n")
        for word in SERVED:
            answer = request(server, method, path, sec_fetch_dest=word)
            assert answer.status == (200 if content_type else 404)
            varying = "Sec-Fetch-Dest, Service-Worker, Origin" if name == "script.js" else "Origin"
            assert answer.headers.get_all("Vary") == [varying]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_what_is_not_below_the_mount_point_is_no_url_of_this_server(server: HmacFileServer, method: str) -> None:
    unknown = told(request(server, method, "/nothing/here"))
    assert unknown[0] == 404
    for path in ("//upload/a/1", "//upload/", "///upload/a", "//", "//healthz", "//readyz", "//metrics", "/uploads/a"):
        assert told(request(server, method, path)) == unknown, path


@pytest.mark.parametrize(("method", "status"), [("PUT", 400), ("POST", 415), ("OPTIONS", 204), ("PROPFIND", 405)])
def test_the_mount_point_is_the_same_without_its_slash(server: HmacFileServer, method: str, status: int) -> None:
    with_slash = request(server, method, "/upload/")
    assert with_slash.status == status
    assert told(request(server, method, "/upload")) == told(with_slash)


@pytest.mark.parametrize(
    ("content_type", "inline"),
    [
        ("image/png", True), ("video/mp4", True), ("audio/ogg", True), ("text/plain; charset=utf-8", True),
        ("image/svg+xml", False), ("IMAGE/SVG+XML", False), ("text/html", False), ("application/pdf", False),
        ("application/octet-stream", False), ("application/xhtml+xml", False), ("image/x+xml;a=b", False),
        ("video/x+XML", False), ("text/plainer", False), ("IMAGE/PNG;a=b", True),
    ],
)  # fmt: skip
def test_types_are_kept_and_dangerous_ones_are_saved_not_shown(
    server: HmacFileServer, content_type: str, inline: bool
) -> None:
    name = f"types/{content_type.encode().hex()}.html"
    assert put(server, name, b"<script>", content_type).status == 201
    answer = get(server, name)
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Content-Disposition"] == (None if inline else "attachment")
    policy = SHOWN if inline else SAVED
    assert answer.headers.get_all("Content-Security-Policy") == [policy]
    # A browser takes the headers of a 304 over into what it has stored.
    unchanged = get(server, name, if_none_match="*")
    assert (unchanged.status, unchanged.headers["Content-Security-Policy"]) == (304, policy)


@pytest.mark.parametrize(
    ("sent", "served"),
    [
        (None, "image/jpeg"),
        ("nonsense", "application/octet-stream"),
        ("a/b c", "application/octet-stream"),
        ("image/png;a=b,text/html", "application/octet-stream"),
        ('image/png;"a",text/html', "application/octet-stream"),
        ('video/mp4; codecs="avc1, mp4a"', 'video/mp4; codecs="avc1, mp4a"'),
    ],
)
def test_a_missing_or_odd_type(server: HmacFileServer, sent: str | None, served: str) -> None:
    name = f"odd-types/{str(sent).encode().hex()}.JPG"
    put(server, name, b"x", sent)
    assert get(server, name).headers["Content-Type"] == served


def test_a_type_that_somebody_else_wrote_cannot_forge_headers(server: HmacFileServer, stored: Answer) -> None:
    (server.store / "forged.txt").write_bytes(b"x")
    os.setxattr(server.store / "forged.txt", "user.mime_type", b"text/html\r\nSet-Cookie: a=b")
    answer = get(server, "forged.txt")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Set-Cookie"] is None


def test_pipes_and_devices_in_the_store_are_not_files(server: HmacFileServer, stored: Answer) -> None:
    os.mkfifo(server.store / "down" / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(server.store / "down" / "socket"))
    assert get(server, "down/pipe").status == 404
    assert get(server, "down/socket").status == 404
    listener.close()


def test_signed_downloads(start_server: StartServer) -> None:
    server = start_server(RequireSignedDownloads=True)
    put(server, "private.txt", b"hidden")
    assert get(server, "private.txt").status == 403
    assert request(server, "GET", server.sign_v("private.txt", 6)).status == 403
    assert request(server, "GET", server.sign_v3("PUT", "private.txt")).status == 403
    answer = request(server, "GET", server.sign_v3("GET", "private.txt"))
    assert (answer.status, answer.body) == (200, b"hidden")
    assert answer.headers["Cache-Control"].startswith("private")
    assert request(server, "HEAD", server.sign_v3("GET", "private.txt")).status == 200
    assert request(server, "GET", server.sign_v3("GET", "private.txt", int(time.time()))).status == 403


def test_a_signature_that_is_there_is_checked(server: HmacFileServer, stored: Answer) -> None:
    good = server.sign_v3("GET", "down/file.bin")
    for target, status in [
        (good, 200),
        (f"{good}&v=2&v2=3&token=&utm=x", 200),
        (good.replace("v3=", "v3=0"), 403),
        (good.replace("v3=", "%763=") + "0", 403),
        (f"{good}&v3=0", 403),
        (f"{good}&v=1&v=2", 403),
        (good.partition("&")[0], 403),
        (server.sign_v3("GET", "down/other.bin").replace("other", "file"), 403),
        (server.path("down/file.bin") + "?v3", 403),
    ]:
        assert request(server, "GET", target).status == status, target
        assert request(server, "HEAD", target).status == status, target
    assert request(server, "GET", server.sign_v3("PUT", "down/file.bin")).status == 403


#: What may follow a file's URL and is no v3 signature.
QUERIES = [
    "?v=2", "?v=", "?v", "?v=1.2.3&v=4", "?v2=x", "?token=abc", "?token=a&token=b", "?expires=0&expires=1", "?utm=x",
    "?%76=%ff", f"?v={'0' * 64}", f"?v2={'0' * 64}", "?", "?&&=&",
]  # fmt: skip


@pytest.mark.parametrize("is_private", [False, True])
def test_an_uploads_signature_and_a_cache_buster_say_nothing_of_a_download(
    start_server: StartServer, is_private: bool
) -> None:
    """They neither open nor close a file, and a public one is never out of reach for the number of them."""
    limit = "" if is_private else "1/hour"
    server = start_server(RequireSignedDownloads=is_private, AuthFailureRateLimit=limit)
    slots = {"v": server.sign_v("v.txt", 5), "v2": server.sign_v2("v2.txt", 5, "text/plain")}
    slots["token"] = slots["v2"].replace("v2.txt?v2=", "v2.txt?token=")
    for name in ("v.txt", "v2.txt"):
        assert put(server, name, b"hello", "text/plain").status == 201
    for method in ("GET", "HEAD"):
        plain = told(request(server, method, server.path("v.txt")))
        assert plain[0] == (403 if is_private else 200)
        for target in (*slots.values(), *(server.path("v.txt") + query for query in QUERIES)):
            answer = told(request(server, method, target))
            if target.partition("?")[0] == server.path("v.txt"):
                assert answer == plain, target
            assert answer[0] == plain[0], target
        bearer = request(server, method, server.path("v.txt"), authorization="Bearer a.b.c", x_session_token="x")
        assert told(bearer) == plain


def test_a_time_in_the_future_becomes_now(server: HmacFileServer, stored: Answer) -> None:
    """RFC 9110 section 8.8.2.1."""
    path = server.store / "future.txt"
    path.write_bytes(b"x")
    etag = get(server, "future.txt").headers["ETag"]
    for ahead in (60, 40 * 365 * 86400):
        os.utime(path, (time.time() + ahead,) * 2)
        answer = get(server, "future.txt")
        modified, sent = (
            email.utils.parsedate_to_datetime(answer.headers[name]).timestamp() for name in ("Last-Modified", "Date")
        )
        assert sent - 2 <= modified <= sent
        assert answer.headers["ETag"] != etag, "the tag is of the file as it is"
        later = email.utils.formatdate(time.time() + 5, usegmt=True)
        for condition, date, status in [
            ("if_modified_since", later, 304),
            ("if_unmodified_since", later, 200),
            ("if_modified_since", email.utils.formatdate(sent - 5, usegmt=True), 200),
            ("if_unmodified_since", email.utils.formatdate(sent - 5, usegmt=True), 412),
        ]:
            assert get(server, "future.txt", **{condition: date}).status == status, (condition, date)
        assert get(server, "future.txt", if_none_match=answer.headers["ETag"]).status == 304


def test_options_and_cors(server: HmacFileServer, start_server: StartServer) -> None:
    answer = request(server, "OPTIONS", "/upload/any/file", origin="https://chat.example")
    assert (answer.status, answer.body) == (204, b"")
    assert {"GET", "HEAD", "PUT", "OPTIONS"} <= set(answer.headers["Allow"].split(", "))
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Max-Age"] == "7200"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert {"*", "Authorization", "Content-Type", "X-Requested-With", "Cache-Control", "traceparent"} <= set(
        answer.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert answer.headers["Access-Control-Allow-Credentials"] is None
    exposed = get(server, "nothing").headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Accept-Ranges", "Content-Range", "ETag", "Upload-Offset"} <= set(exposed)
    everywhere = request(server, "OPTIONS", "*")
    assert everywhere.status == 204
    assert "PUT" in everywhere.headers["Allow"]
    strict = start_server(AllowedOrigins=["https://chat.example"])
    allowed = request(strict, "OPTIONS", "/upload/x", origin="https://chat.example")
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert allowed.headers["Vary"] == "Origin"
    assert (
        request(strict, "GET", "/upload/x", origin="https://evil.example").headers["Access-Control-Allow-Origin"]
        is None
    )


@pytest.mark.parametrize(
    "method", ["DELETE", "PATCH", "PROPFIND", "TRACE", "MKCOL", "put", "Put", "get", "head", "post", "options", "patch"]
)
def test_other_methods_are_405_and_small_letters_are_others(server: HmacFileServer, method: str) -> None:
    target = server.sign_v("some/file", 4)
    answer = request(server, method, target, b"body", content_length=4)
    assert (answer.status, answer.body) == (405, b"Method Not Allowed.\n")
    assert answer.headers.get_all("Allow") == ["OPTIONS, HEAD, GET, PUT, POST"]
    assert request(server, "OPTIONS", target).headers.get_all("Allow") == ["OPTIONS, HEAD, GET, PUT, POST"]
    assert get(server, "some/file").status == 404


@pytest.mark.parametrize("method", ["PUT", "get", "head", "OPTIONS", "BREW"])
def test_the_allow_of_other_resources_is_their_own(server: HmacFileServer, method: str) -> None:
    for path in ("/healthz", "/readyz"):
        answer = request(server, method, path, content_length=0)
        assert (answer.status, answer.body) == (405, b"Method Not Allowed.\n")
        assert answer.headers.get_all("Allow") == ["HEAD, GET"]
    answer = request(server, method, "/upload/.hmacfs/tus/x" * 3)
    if method != "OPTIONS":
        assert answer.status == 405
        assert answer.headers.get_all("Allow") == ["OPTIONS, HEAD, GET, POST, PATCH, DELETE"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
        (b"PUT /upload/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"PUT /upload/x HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
        (b"PUT /upload/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"PUT /upload/x HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"PUT /upload/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"PUT /upload/x HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n", 417),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_not_http_is_refused(server: HmacFileServer, head: bytes, status: int) -> None:
    with Client(server) as client:
        client.send(head)
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (status, "close")
        assert answer.headers["X-Request-ID"]
        assert client.is_closed()


def test_keep_alive_and_http_1_0(server: HmacFileServer, stored: Answer) -> None:
    path = server.path("down/file.bin").encode()
    with Client(server) as client:
        for _ in range(3):
            client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.answer().body == BODY
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.answer().headers["Connection"] == "close"
        assert client.is_closed()
    with Client(server) as client:
        client.send(b"GET " + path + b" HTTP/1.0\r\n\r\n")
        assert client.answer().body == BODY
        assert client.is_closed()


def test_slow_heads_are_cut(start_server: StartServer) -> None:
    server = start_server(IdleTimeout="500ms")
    with Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost:")
        assert client.is_closed()
    with Client(server) as client:
        assert client.is_closed()


def test_a_reader_that_stalls_is_dropped(start_server: StartServer) -> None:
    server = start_server(WriteTimeout="500ms")
    size = 64 * 1024 * 1024
    with (server.store / "large").open("wb") as file:
        file.truncate(size)
    with Client(server) as client:
        client.head("GET", server.path("large"))
        wait_until(lambda: "path=/upload/large" in server.log(), what="the end of the transfer")
    line = next(line for line in server.log().splitlines() if "path=/upload/large" in line)
    sent = int(line.split(" sent=")[1].split()[0])
    assert 0 < sent < size


def test_health(server: HmacFileServer, start_server: StartServer) -> None:
    assert request(server, "GET", "/healthz").body == b"ok\n"
    assert request(server, "GET", "/readyz").body == b"ready\n"
    own = start_server()
    tmp = own.store / ".hmacfs" / "tmp"
    tmp.rmdir()
    tmp.write_bytes(b"no folder can be made here")
    wait_until(lambda: request(own, "GET", "/readyz").status == 503, what="the next look")
    answer = request(own, "GET", "/readyz")
    assert b"store" in answer.body
    assert request(own, "GET", "/healthz").status == 200


def test_a_unix_socket(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = start_server(ListenPort=str(path), UnixSocket=True)
    assert path.stat().st_mode & 0o777 == 0o660
    assert put(server, "unix.txt", b"x").status == 201
    assert get(server, "unix.txt").body == b"x"
    assert server.stop() == 0
    assert not path.exists()


def test_a_store_that_another_server_filled(server: HmacFileServer) -> None:
    """prosody-filer and the original lay files down as they are named in the URL, without types."""
    for name, content_type in [
        ("0b7e7d9c-aaaa-4bbb-8ccc-0123456789ab/photo.jpg", "image/jpeg"),
        (
            "da39a3ee5e6b4b0d3255bfef95601890afd80709/ZYXWVUTSRQPONMLKJIHGFEDCBA0123456789abcd/notes.txt",
            "text/plain; charset=utf-8",
        ),
        ("old/no-extension", "application/octet-stream"),
        ("old/wörld.pdf", "application/pdf"),
    ]:
        path = server.store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"as it lies")
        answer = get(server, name)
        assert (answer.status, answer.body) == (200, b"as it lies")
        assert answer.headers["Content-Type"] == content_type
        assert put(server, name, b"other").status == 409
        assert path.read_bytes() == b"as it lies"


def test_a_deleted_file_is_gone_at_once_and_its_space_soon(server: HmacFileServer) -> None:
    """However often it was asked for, and though the connections that asked are still open."""
    assert put(server, "down/hot.bin", BODY).status == 201
    path = server.store / "down/hot.bin"
    clients = [Client(server) for _ in range(4)]
    for client in clients * 3:
        client.head("GET", server.path("down/hot.bin"))
        assert client.answer().body == BODY
    path.unlink()
    for client in clients:
        client.head("GET", server.path("down/hot.bin"))
        assert client.answer().status == 404
    path.write_bytes(b"another")
    for client in clients * 2:
        client.head("GET", server.path("down/hot.bin"))
        assert client.answer().body == b"another"
    path.unlink()
    wait_until(lambda: not any("down/hot.bin" in file for file in open_files(server)), what="its being closed")
    for client in clients:
        client.close()


def open_files(server: HmacFileServer) -> list[str]:
    """Of all workers, the deleted ones too."""
    found = []
    for worker in server.workers():
        for link in Path(f"/proc/{worker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(link))
    return found


def test_nothing_is_paced_over_the_loopback(server: HmacFileServer) -> None:
    """Whatever the system's congestion control is."""
    with Client(server) as client:
        client.head("GET", "/healthz")
        assert client.answer().status == 200
        controls = congestion_controls(server.port)
    assert controls
    assert not [name for name in controls if name.startswith("bbr")]
