"""Behind a real nginx that fetches the files from a real object store, with the shipped configuration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.live.client import Answer, request
from tests.servers import folder_of, free_port, wait_until
from tests.servers.engines import ENGINES
from tests.servers.foreign_engine import BODY as FOREIGN
from tests.servers.foreign_engine import ForeignEngine
from tests.servers.hmacfs import HmacFileServer, in_bucket
from tests.servers.nginx import Nginx
from tests.servers.object_store import ObjectStoreServer
from tests.servers.seaweedfs import SeaweedFS

SAVED = "default-src 'none'; frame-ancestors 'none'; sandbox"
SHOWN = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
BODY = os.urandom(300_000)
#: What may stand in an answer; an engine's own is hidden.
HEADERS = {
    *("Server", "Date", "Content-Type", "Content-Length", "Content-Range", "Connection", "Accept-Ranges", "ETag"),
    *("Last-Modified", "Cache-Control", "Content-Disposition", "X-Content-Type-Options", "Content-Security-Policy"),
    *("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary", "X-Request-ID"),
}
#: What an engine, or a proxy before it, may say beside the bytes: a browser would act on it, or it is not the client's.
FOREIGN_HEADERS = [(name, "foreign") for name in (
    "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers", "Access-Control-Max-Age", "Age", "Alt-Svc", "Cache-Control", "Clear-Site-Data",
    "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-Security-Policy",
    "Content-Security-Policy-Report-Only", "Content-Type", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "ETag",
    "Expires", "Last-Modified", "Link", "Location", "NEL", "Origin-Trial", "Permissions-Policy", "Pragma", "Referrer-Policy",
    "Refresh", "Report-To", "Reporting-Endpoints", "Server", "Server-Timing", "Service-Worker-Allowed", "Set-Cookie", "SourceMap",
    "Strict-Transport-Security", "Timing-Allow-Origin", "Vary", "Via", "Warning", "WWW-Authenticate", "X-Content-Type-Options",
    "X-Frame-Options", "X-Request-ID", "X-Robots-Tag", "X-XSS-Protection", "x-amz-checksum-crc32", "x-amz-id-2",
    "x-amz-meta-hmacfs-id", "x-amz-meta-hmacfs-owner", "x-amz-request-id", "x-amz-server-side-encryption", "x-amz-version-id",
    "X-Accel-Redirect", "X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset",
)]  # fmt: skip
#: Statuses of an engine that are none of a file's bytes: S3's, and those of proxies before an engine.
REFUSALS = (
    *(301, 304, 307, 400, 401, 403, 404, 405, 409, 410, 411, 412, 416, 418, 429),
    *(500, 501, 502, 503, 504, 507, 522),
)
FETCH = "proxy_pass http://hmac_object_store$kept_source;"


class Pair:
    """A server and the nginx in front of it. changes: of nginx's configuration."""

    def __init__(self, folder: Path, engine: ObjectStoreServer, bucket: str, **changes: str) -> None:
        authority = urlsplit(engine.endpoint).netloc
        self.server = HmacFileServer(
            folder / "server",
            **in_bucket(engine, bucket, folder / "server"),
            ListenPort=str(folder / "s.sock"),
            UnixSocket=True,
            DownloadOffload="x-accel",
            S3ConditionalWrites="auto" if engine.heeds_new else "off",
        )
        self.engine = engine
        self.server.folder.mkdir(parents=True)
        self.server.store.mkdir()  # nobody's: nginx's configuration names one
        self.server.start()
        (folder / "s.sock").chmod(0o666)
        without_tls = (
            *("proxy_ssl_server_name on;", "proxy_ssl_name s3.example.org;", "proxy_ssl_verify on;"),
            "proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;",
        )
        shipped = {
            **{f"        {line}\n": "" for line in without_tls},
            "https://hmac_object_store": "http://hmac_object_store",
            "server s3.example.org:443;": f"server {changes.get('server', authority)};",
            "Host s3.example.org;": f"Host {changes.get('host', authority)};",
            FETCH: changes.get("fetch", FETCH),
        }
        self.nginx = Nginx(folder / "nginx", self.server, variant="C", changes=shipped)

    def ask(self, method: str, name: str, body: bytes = b"", **headers: object) -> Answer:
        target = self.server.sign_v(name, len(body)) if method == "PUT" else self.server.path(name)
        return request(self.nginx.port, method, target, body, **headers)

    def end(self) -> None:
        self.nginx.kill()
        self.server.end()


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    engine = request.getfixturevalue(request.param)
    assert isinstance(engine, ENGINES[request.param])
    with folder_of("nobody") as folder:
        running = Pair(folder, engine, engine.make_bucket())
        yield running
        running.nginx.stop()
        assert running.server.stop() == 0
        assert running.server.complaints() == []


def is_fetched(pair: Pair, answer: Answer) -> bool:
    """Whether nginx asked the engine, and its answer was the client's: the log names who was asked."""
    number = answer.headers["X-Request-ID"]

    def line() -> str:
        return next((line for line in pair.nginx.log().splitlines() if line.endswith(f" {number}")), "")

    return f'"200 : {answer.status}"' in wait_until(line, what="the request in nginx's log")


@pytest.mark.parametrize(
    ("name", "sent", "served", "disposition"),
    [
        ("a/photo.jpg", "image/jpeg", "image/jpeg", None), ("a/photo2.JPG", None, "image/jpeg", None),
        ("a/encrypted.jpg", "application/octet-stream", "application/octet-stream", "attachment"),
        ("a/page.jpg", "text/html", "text/html", "attachment"), ("a/drawing.png", "image/svg+xml", "image/svg+xml", "attachment"),
        ("a/notes.txt", "text/plain; charset=utf-8", "text/plain; charset=utf-8", None), ("a/notes2.txt", "text/plain", "text/plain", None),
        ("a/film.mp4", "video/mp4", "video/mp4", None), ("a/unknown", None, "application/octet-stream", "attachment"),
        ("a/h\u00e9llo w\u00f6rld \u2603 100% + &=?#.png", "image/png", "image/png", None),
    ],
)  # fmt: skip
def test_the_headers_are_ours_and_no_others(
    pair: Pair, name: str, sent: str | None, served: str, disposition: str | None
) -> None:
    stored = pair.ask("PUT", name, BODY, content_type=sent)
    assert stored.status == 201
    for method in ("GET", "HEAD"):
        answer = pair.ask(method, name)
        assert (answer.status, answer.body) == (200, BODY if method == "GET" else b"")
        headers = answer.headers
        assert set(headers) <= HEADERS
        assert len(headers) == len(set(headers)), "one is there twice"
        assert headers["Content-Type"] == served
        assert headers["Content-Disposition"] == disposition
        assert headers["Content-Length"] == str(len(BODY))
        assert headers["ETag"] == stored.headers["ETag"]
        assert headers["Last-Modified"]
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == (SAVED if disposition else SHOWN)
        assert ("Sec-Fetch-Dest" in (headers["Vary"] or "")) == bool(disposition)
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert "ETag" in headers["Access-Control-Expose-Headers"]
        assert is_fetched(pair, answer) == (method == "GET")


def test_ranges_and_conditions(pair: Pair) -> None:
    stored = pair.ask("PUT", "ranges/file.jpg", BODY, content_type="image/jpeg")
    etag = stored.headers["ETag"]
    size = len(BODY)
    for wanted, first, end in (
        ("bytes=5-9", 5, 10),
        ("bytes=-7", size - 7, size),
        ("bytes=299990-999999", 299_990, size),
    ):
        answer = pair.ask("GET", "ranges/file.jpg", range=wanted)
        assert (answer.status, answer.body) == (206, BODY[first:end])
        assert answer.headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
        assert (answer.headers["ETag"], answer.headers["Content-Type"]) == (etag, "image/jpeg")
        assert set(answer.headers) <= HEADERS
        assert is_fetched(pair, answer)
    for headers, status in (
        ({"range": "bytes=0-1,5-6"}, 200),
        ({"range": "bytes=5-9", "if_range": '"another"'}, 200),
        ({"range": "bytes=5-9", "if_range": etag}, 206),
        ({"if_none_match": '"another"'}, 200),
        ({"if_match": etag}, 200),
    ):
        assert pair.ask("GET", "ranges/file.jpg", **headers).status == status
    not_modified = pair.ask("GET", "ranges/file.jpg", if_none_match=etag)
    assert (not_modified.status, not_modified.body, not_modified.headers["ETag"]) == (304, b"", etag)
    assert pair.ask("GET", "ranges/file.jpg", if_modified_since=stored.headers["Date"]).status == 304
    beyond = pair.ask("GET", "ranges/file.jpg", range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    failed = pair.ask("GET", "ranges/file.jpg", if_match='"another"')
    assert (failed.status, failed.headers["Cache-Control"]) == (412, "no-store")


def test_large_and_empty_files(pair: Pair) -> None:
    body = os.urandom(20 * 2**20)
    assert pair.ask("PUT", "large/film.mp4", body, content_type="video/mp4").status == 201
    assert pair.ask("GET", "large/film.mp4").body == body
    assert pair.ask("GET", "large/film.mp4", range="bytes=15000000-").body == body[15_000_000:]
    assert pair.ask("PUT", "large/nothing.txt", b"").status == 201
    empty = pair.ask("GET", "large/nothing.txt")
    assert (empty.status, empty.body, empty.headers["Content-Length"]) == (200, b"", "0")


def test_what_took_a_signature_is_private(pair: Pair) -> None:
    pair.ask("PUT", "signed/file.jpg", BODY)
    answer = request(pair.nginx.port, "GET", pair.server.sign_v3("GET", "signed/file.jpg"))
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["Cache-Control"].startswith("private")


def test_nobody_gets_at_the_engine_but_through_a_file(pair: Pair) -> None:
    source = "/files/x?X-Amz-Signature=0"
    for target in ("/hmacfs-object", f"/hmacfs-object?{source}", f"/hmacfs-object{source}"):
        answer = request(pair.nginx.port, "GET", target, b"", x_hmacfs_source=source)
        assert answer.status == 404
        assert b"xml" not in answer.body
    assert pair.ask("GET", "not/there").headers["Content-Type"] == "text/plain; charset=utf-8"


def test_no_log_has_a_url_of_the_engine(pair: Pair) -> None:
    pair.ask("PUT", "logged/file.jpg", BODY)
    answer = pair.ask("GET", "logged/file.jpg")
    assert is_fetched(pair, answer)
    for log in (pair.nginx.log(), pair.nginx.errors(), pair.server.log()):
        assert "X-Amz-" not in log
        assert str(pair.server.settings["S3SecretKey"]) not in log


@pytest.fixture
def start(seaweedfs: SeaweedFS) -> Iterator[Callable[..., Pair]]:
    with contextlib.ExitStack() as stack:

        def started(**changes: str) -> Pair:
            pair = Pair(stack.enter_context(folder_of("nobody")), seaweedfs, seaweedfs.make_bucket(), **changes)
            stack.callback(pair.end)
            return pair

        yield started


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        # Not what was signed: 403.
        ({"host": "another.example"}, "403"),
        # Another object, with the signature of this: 403, and 404 for a bucket that there is not.
        ({"fetch": "proxy_pass http://hmac_object_store/none-of-ours/none;"}, "40[34]"),
        ({"server": f"127.0.0.1:{free_port()}"}, "502"),
    ],
)  # fmt: skip
def test_errors_of_the_engine_become_ours(start: Callable[..., Pair], changes: dict[str, str], status: str) -> None:
    """The server, which reaches the engine in its own way, sends the file itself, or says what there is to say."""
    pair = start(**changes)
    assert pair.ask("PUT", "kept/page.html", BODY, content_type="text/html").status == 201
    for wanted, part in (("", BODY), ("bytes=5-9", BODY[5:10])):
        answer = pair.ask("GET", "kept/page.html", range=wanted or None)
        assert (answer.status, answer.body) == (206 if wanted else 200, part)
        assert len(answer.headers) == len(set(answer.headers)), "one is there twice"
        assert set(answer.headers) <= HEADERS
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Disposition"] == "attachment"
        assert answer.headers["Content-Security-Policy"] == SAVED
        assert not is_fetched(pair, answer)
    asked = [line for line in pair.nginx.log().splitlines() if "GET" in line]
    assert len(asked) == 2
    for line in asked:
        assert f'"200 : {status[:2]}' in line, line


def test_nothing_that_an_engine_says_beside_the_bytes_reaches_a_client(start: Callable[..., Pair]) -> None:
    """Statuses become ours, as far as they are known; with any, the policy is ours and the headers are no others."""
    with ForeignEngine(FOREIGN_HEADERS) as engine:
        pair = start(server=engine.address)
        for status in (200, 206, 203, 599, *REFUSALS):
            name = f"answered/with/{status}"
            stored = pair.ask("PUT", name, BODY, content_type="image/png")
            assert stored.status == 201
            answer = pair.ask("GET", name)
            headers = answer.headers
            if status == 401:  # nginx keeps it, hidden or not; at another status than 401 it says nothing to a browser
                del headers["WWW-Authenticate"]
            assert len(headers) == len(set(headers)), "one is there twice"
            assert set(headers) <= HEADERS
            assert "foreign" not in headers.values()
            assert headers["Content-Security-Policy"] == SHOWN
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert headers["Content-Type"] == "image/png"
            assert (answer.status, answer.body) == ((200, BODY) if status in REFUSALS else (status, FOREIGN))
            assert headers["ETag"] in (stored.headers["ETag"], None)
            assert (headers["Cache-Control"] is None) == (status in (203, 599))


def test_a_file_that_is_taken_away_from_the_engine_is_404_and_not_cached(pair: Pair) -> None:
    pair.ask("PUT", "gone/file.jpg", BODY, content_type="image/jpeg")
    with contextlib.closing(pair.engine.client(str(pair.server.settings["S3Bucket"]))) as client:
        client.delete("gone/file.jpg")
    answer = pair.ask("GET", "gone/file.jpg")
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
    assert b"<" not in answer.body
