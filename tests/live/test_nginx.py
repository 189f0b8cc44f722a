"""Behind a real nginx with the shipped configuration, in all its variants."""

from __future__ import annotations

import contextlib
import email.utils
import filecmp
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmacfs.protocol.media_types import nginx_types
from tests.live.client import Answer, Client, request
from tests.live.confiding import confide, leaks
from tests.live.pieces import DIALECTS, PIECE_TYPE, TUS, Upload, begun, partial_files, persist
from tests.servers import folder_of, require_binary, require_root, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.nginx import DEPLOY, Nginx, share

VARIANTS = ["", "A", "B"]
SAVED = "default-src 'none'; frame-ancestors 'none'; sandbox"
SHOWN = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
BODY = os.urandom(300_000)


class Pair:
    """A server and the nginx in front of it."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.variant = variant
        self.server = HmacFileServer(
            folder / "server",
            ListenPort=str(folder / "s.sock"),
            UnixSocket=True,
            UploadMaxSize="2GB",
            ReadTimeout="2s",
            MinBytesPerSecond=8,
            Durability="none",
            DownloadOffload="x-accel" if variant == "B" else "none",
        )
        share(self.server.store)
        self.server.start()
        # The socket's mode is 0660; nginx's workers are in the server's group on a real system.
        (folder / "s.sock").chmod(0o666)
        self.nginx = Nginx(folder / "nginx", self.server, variant="A" if variant == "A" else "")

    def ask(self, method: str, target: str, body: bytes = b"", **headers: object) -> Answer:
        return request(self.nginx.port, method, target, body, **headers)

    def put(self, name: str, body: bytes, content_type: str | None = None) -> Answer:
        return self.ask("PUT", self.server.sign_v(name, len(body)), body, content_type=content_type)

    def get(self, name: str, **headers: str) -> Answer:
        return self.ask("GET", self.server.path(name), b"", **headers)


@pytest.fixture
def nginx_folder() -> Iterator[Path]:
    with folder_of("nobody") as folder:
        yield folder


@pytest.fixture(scope="module", params=VARIANTS, ids=["plain", "A", "B"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with folder_of("nobody") as folder:  # as whom nginx's workers open the socket and files
        running = Pair(folder, request.param)
        yield running
        running.nginx.stop()
        assert running.server.stop() == 0
        # Some tests ask the server itself, and name no client.
        assert [line for line in running.server.complaints() if "does not name in X-Forwarded-For" not in line] == []


def needs_two_users(pair: Pair) -> None:
    """Where a file has another type than its extension's, which nginx must not be able to read in variant A."""
    if pair.variant == "A":
        require_root("run nginx as another user than the server")


def test_uploads_come_back_with_the_same_headers_in_every_variant(pair: Pair) -> None:
    needs_two_users(pair)
    text, plain = "text/plain; charset=utf-8", "text/plain"
    for name, sent, served, disposition in [
        ("a/photo.jpg", "image/jpeg", "image/jpeg", None),
        ("a/photo2.JPG", None, "image/jpeg", None),
        ("a/encrypted.jpg", "application/octet-stream", "application/octet-stream", "attachment"),
        ("a/page.html", "text/html", "text/html", "attachment"),
        ("a/page.jpg", "text/html", "text/html", "attachment"),
        ("a/drawing.svg", "image/svg+xml", "image/svg+xml", "attachment"),
        ("a/drawing.png", "image/svg+xml", "image/svg+xml", "attachment"),
        ("a/notes.txt", text, text, None),
        ("a/notes2.txt", plain, plain, None),
        ("a/notes3.txt", None, text, None),
        ("a/table.csv", None, "text/csv; charset=utf-8", "attachment"),
        ("a/table2.csv", "text/csv", "text/csv", "attachment"),
        ("a/film.mp4", "video/mp4", "video/mp4", None),
        ("a/film.x", "video/x+xml", "video/x+xml", "attachment"),
        ("a/unknown", None, "application/octet-stream", "attachment"),
        ("a/héllo wörld ☃ 100% +.png", "image/png", "image/png", None),
    ]:
        stored = pair.put(name, BODY, sent)
        assert stored.status == 201
        for method in ("GET", "HEAD"):
            answer = pair.ask(method, pair.server.path(name), b"")
            assert answer.status == 200, name
            assert answer.body == (BODY if method == "GET" else b"")
            headers = answer.headers
            assert headers["Content-Type"] == served
            assert headers["Content-Disposition"] == disposition
            assert headers["Content-Length"] == str(len(BODY))
            assert headers["ETag"] == stored.headers["ETag"]
            assert headers["Last-Modified"]
            assert headers.get_all("Accept-Ranges") == ["bytes"]
            assert headers.get_all("Cache-Control") == ["public, max-age=31536000, immutable"]
            assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
            assert headers.get_all("Content-Security-Policy") == [SAVED if disposition else SHOWN]
            assert headers.get_all("Access-Control-Allow-Origin") == ["*"]
            assert "ETag" in headers["Access-Control-Expose-Headers"]
            assert len(headers.get_all("X-Request-ID") or []) == 1


def test_the_url_of_a_finished_tus_upload_is_a_link_in_every_variant(pair: Pair) -> None:
    slot = pair.server.sign_v("link/photo.jpg", len(BODY))
    made = pair.ask("POST", slot, content_length=0, upload_length=len(BODY), **TUS)
    url = made.headers["Location"]
    piece = {"upload_offset": 0, "content_type": PIECE_TYPE, "content_length": len(BODY)}
    assert pair.ask("GET", url).status == 404
    assert pair.ask("PATCH", url, BODY, **piece, **TUS).status == 204
    for headers in ({}, {"range": "bytes=100-199"}):
        link, file = pair.ask("GET", url, b"", **headers), pair.get("link/photo.jpg", **headers)
        assert (link.status, link.body) == (file.status, file.body)
        for name in ("Content-Type", "Content-Length", "Content-Range", "Content-Disposition", "ETag", "Cache-Control"):
            assert link.headers[name] == file.headers[name]
    assert pair.ask("HEAD", url).headers["Content-Length"] == str(len(BODY))
    assert pair.ask("HEAD", url, **TUS).headers["Upload-Offset"] == str(len(BODY))


#: Requests for a picture, and the status of the answer.
ASKED: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    ({"range": "bytes=100-199"}, 206),
    ({"range": "bytes=-5"}, 206),
    ({"range": "bytes=0-1,5-6"}, 200),
    ({"range": "bytes=0-9", "if_range": '"x"'}, 200),
    ({"range": "bytes=999999999-"}, 416),
    ({"if_none_match": "ETAG"}, 304),
    ({"if_none_match": '"x"'}, 200),
    ({"if_modified_since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
    ({"if_match": '"x"'}, 412),
    ({"if_match": "ETAG"}, 200),
    ({"if_unmodified_since": "Fri, 02 Jan 1970 00:00:00 GMT"}, 412),
    ({"origin": "https://chat.example.org"}, 200),
]
#: In what nginx differs where it answers by itself. In variant A it does not know the type at a 304, by which it would
#: have to choose the policy: a browser keeps the one that it has. In B it repeats the disposition there.
LEFT_OUT: dict[str, dict[int, set[str]]] = {
    "": {},
    "A": {206: {"Accept-Ranges"}, 304: {"Accept-Ranges", "Content-Security-Policy", "Vary"}},
    "B": {206: {"Accept-Ranges"}, 304: {"Accept-Ranges", "Content-Disposition"}},
}


@pytest.mark.parametrize(("extension", "content_type"), [("jpg", "image/jpeg"), ("txt", None), ("html", "text/html")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_the_server_would_say_is_what_nginx_says(
    pair: Pair, method: str, extension: str, content_type: str | None
) -> None:
    """All headers of all answers, beside those of the server itself."""
    if content_type == "text/html":  # which is not quite the type of the extension
        needs_two_users(pair)
    name = f"beside/{method}.{extension}"
    etag = pair.put(name, BODY, content_type).headers["ETag"]
    for asked, status in ASKED:
        if method == "HEAD" and "range" in asked:
            status = 200  # RFC 9110 section 14.2: a Range is for GET alone
        headers = {name: value.replace("ETAG", etag) for name, value in asked.items()} | {"x_accel_offload": "off"}
        own, ours = (
            request(who, method, pair.server.path(name), b"", **headers) for who in (pair.server, pair.nginx.port)
        )
        assert (own.status, ours.status) == (status, status), asked
        if status == 416 and pair.variant:  # a page of nginx's
            assert ours.headers["Content-Range"] == own.headers["Content-Range"]
            continue
        left_out = LEFT_OUT[pair.variant].get(status, set())
        assert facts(ours, left_out) == facts(own, left_out), asked
        assert ours.body == own.body


def test_a_folder_is_as_if_it_were_not_there(pair: Pair) -> None:
    pair.put("some/folder/file.bin", b"x")
    for method in ("GET", "HEAD"):
        nothing = pair.ask(method, "/upload/some/none")
        assert nothing.status == 404
        for path in ("/upload", "/upload/", "/upload/some", "/upload/some/", "/upload/some/folder", "/upload/none/"):
            answer = pair.ask(method, path)
            assert (answer.status, answer.body) == (404, nothing.body), path
            assert facts(answer, set()) == facts(nothing, set()), path


def test_no_page_gets_a_script_in_any_variant(pair: Pair) -> None:
    pair.put("pages/script.js", BODY, "application/javascript")
    for name, status in (("pages/script.js", 200), ("pages/none", 404)):
        for sent in ({"sec_fetch_dest": "script"}, {"sec_fetch_dest": "serviceworker"}, {"service_worker": "script"}):
            assert pair.get(name, **sent).status == 403
        for word in ("document", "image", "empty"):
            assert pair.get(name, sec_fetch_dest=word).status == status
    assert pair.get("pages/script.js").headers.get_all("Vary") == ["Sec-Fetch-Dest, Service-Worker"]


def test_paths_are_too_deep_in_every_variant(pair: Pair) -> None:
    """Also where the file is there: an older store may have it."""
    for segments, status in ((64, 200), (65, 400)):
        path = pair.server.store.joinpath(*["d"] * (segments - 1), "file.bin")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        name = "/".join(path.relative_to(pair.server.store).parts)
        assert pair.get(name).status == status
        assert pair.put(name + ".new", b"x").status == (201 if status == 200 else 400)


def test_a_time_in_the_future_becomes_now(pair: Pair) -> None:
    """Where hmac-file-server is asked: nginx by itself (variant A) cannot compare times."""
    pair.put("future.jpg", BODY, "image/jpeg")
    ahead = time.time() + 86400
    os.utime(pair.server.store / "future.jpg", (ahead, ahead))
    for asked, status in [({}, 200), ({"range": "bytes=0-9"}, 206), ({"if_none_match": "*"}, 304)]:
        answer = pair.get("future.jpg", **asked)
        modified, sent = (
            email.utils.parsedate_to_datetime(answer.headers[name]).timestamp() for name in ("Last-Modified", "Date")
        )
        assert answer.status == status
        assert (modified <= sent) == (pair.variant != "A")


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "POST", "PATCH", "DELETE"])
def test_answers_to_all_other_methods_are_the_servers_alone(pair: Pair, method: str) -> None:
    """A browser refuses an answer with two ``Access-Control-Allow-Origin``."""
    own, ours = (
        request(who, method, pair.server.path("other/methods"), b"", origin="https://chat.example.org")
        for who in (pair.server, pair.nginx.port)
    )
    assert (ours.status, ours.body) == (own.status, own.body)
    assert facts(ours, set()) == facts(own, set())


def test_an_upload_is_answered_by_the_server_alone(pair: Pair) -> None:
    headers = pair.put("answered/alone.jpg", BODY, "image/jpeg").headers
    assert headers.get_all("Access-Control-Allow-Origin") == ["*"]
    assert len(headers.get_all("X-Request-ID") or []) == 1
    assert headers["Cache-Control"] is None


def facts(answer: Answer, left_out: set[str]) -> list[tuple[str, str]]:
    """The headers that are about the file; of those that are new in each answer only the name."""
    changing = {"Date", "X-Request-ID"}
    hop = {"Connection", "Server"}
    return sorted(
        (name, "" if name in changing else value)
        for name, value in answer.headers.items()
        if name not in hop | left_out
    )


@pytest.mark.parametrize("size", [0, 1, 1024, 65_537, 2**20, 50 * 2**20, 2**30])
def test_uploads_of_all_sizes(pair: Pair, tmp_path: Path, size: int) -> None:
    if size == 2**30 and pair.variant:
        pytest.skip("once is enough: uploads take the same way in all variants")
    path, back = tmp_path / "body", tmp_path / "back"
    block = os.urandom(min(size, 2**20))
    with path.open("wb") as file:
        for _ in range(size // (len(block) or 1)):
            file.write(block)
    name = f"sizes/{size}"
    curl = [require_binary("curl"), "-sS", "-w", "%{http_code}", "--max-time", "120"]
    url = f"http://127.0.0.1:{pair.nginx.port}{pair.server.sign_v(name, size)}"
    done = subprocess.run([*curl, "-o", os.devnull, "-T", str(path), url], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("201", "")
    assert filecmp.cmp(path, pair.server.store / name, shallow=False)
    url = f"http://127.0.0.1:{pair.nginx.port}{pair.server.path(name)}"
    done = subprocess.run([*curl, "-o", str(back), url], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("200", "")
    back.touch()  # curl makes no empty file
    assert filecmp.cmp(path, back, shallow=False)
    for large in (path, back, pair.server.store / name):
        os.truncate(large, 0)


def test_a_slow_upload_goes_through_and_one_that_stalls_is_told_so(pair: Pair) -> None:
    """The server's patience decides: nginx has more."""
    with Client(pair.nginx.port) as slow, Client(pair.nginx.port) as stalling:
        for client, name in ((slow, "slow"), (stalling, "stalling")):
            client.head("PUT", pair.server.sign_v(name, 40), content_length=40)
            client.send(b"12345678")
        for _ in range(4):
            assert slow.stays_silent(0.7)
            slow.send(b"12345678")
        assert slow.answer().status == 201
        assert stalling.answer().status == 408
    wait_until(lambda: pair.server.leftovers() == [], what="the end of what stalled")
    assert "stalling" not in pair.server.stored()


def test_a_slow_download_holds_up_nobody_and_arrives_whole(pair: Pair) -> None:
    body = os.urandom(32 * 2**20)
    pair.put("slowly/download", body)
    with Client(pair.nginx.port) as slow:
        slow.head("GET", pair.server.path("slowly/download"))
        slow.informational()
        received, buffer = bytearray(), bytearray(4096)
        while len(received) < len(body) and (count := slow.read_into(buffer)):
            received += buffer[:count]
            if len(received) < 50_000:
                assert pair.get("slowly/download", range="bytes=0-9").body == body[:10]
        assert received == body


def is_receiving(server: HmacFileServer) -> bool:
    """Whether a worker has a file open that has no name yet."""
    links = [link for worker in server.workers() for link in Path(f"/proc/{worker.pid}/fd").iterdir()]
    for link in links:
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(link)
            if name.startswith(str(server.store)) and name.endswith(" (deleted)"):
                return True
    return False


def test_a_client_that_goes_away_leaves_nothing(pair: Pair) -> None:
    """In mid-upload, orderly and by a reset; and in mid-download."""
    before = pair.server.log().count("reason=body-cut-short")
    for number, leave in enumerate((Client.close, Client.reset)):
        client = Client(pair.nginx.port)
        client.head("PUT", pair.server.sign_v(f"gone/{number}", 10**7), content_length=10**7)
        client.send(b"x" * 2**20)
        # What nginx still holds of a connection that is reset it hands on to nobody.
        wait_until(lambda: is_receiving(pair.server), what="the upload's beginning")
        leave(client)
        wait_until(lambda: not is_receiving(pair.server), what="its end")
    wait_until(lambda: pair.server.log().count("reason=body-cut-short") == before + 2, what="both ends")
    assert pair.server.leftovers() == []
    assert not [name for name in pair.server.stored() if name.startswith("gone/")]
    pair.put("gone-down", os.urandom(8 * 2**20))
    for leave in (Client.close, Client.reset):
        client = Client(pair.nginx.port)
        client.head("GET", pair.server.path("gone-down"))
        client.informational()
        leave(client)
    assert pair.get("gone-down", range="bytes=0-9").status == 206


def test_ranges_and_conditions(pair: Pair) -> None:
    etag = pair.put("ranges/file.bin", BODY).headers["ETag"]
    part = pair.get("ranges/file.bin", range="bytes=100-199")
    assert (part.status, part.body) == (206, BODY[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(BODY)}"
    assert pair.get("ranges/file.bin", range="bytes=-5").body == BODY[-5:]
    assert pair.get("ranges/file.bin", range="bytes=999999999-").status == 416
    assert pair.get("ranges/file.bin", if_none_match=etag).status == 304
    assert pair.get("ranges/file.bin", if_match='"x"').status == 412


def test_refusals_pass_through(pair: Pair) -> None:
    pair.put("refused/file", b"x")
    for method, target, status in [
        ("GET", "/upload/none", 404),
        ("GET", "/upload/refused", 404),
        ("GET", "/upload/refused/", 404),
        ("GET", "/upload/", 404),
        ("GET", "/upload", 404),
        ("PUT", "/upload", 400),
        ("GET", "/upload/refused/file?v=2", 200),
        ("GET", "/upload/refused/file?v=2&v=3", 200),
        ("GET", pair.server.sign_v("refused/file", 1), 200),
        ("HEAD", pair.server.sign_v("refused/file", 1), 200),
        ("GET", "/upload/.hmacfs/tmp", 400),
        ("GET", "/upload/.hmacfs", 400),
        ("GET", "/upload/a//b", 400),
        ("GET", "/upload/refused//file", 400),
        ("GET", "/upload/./refused/file", 400),
        ("GET", "/upload/x/../refused/file", 400),
        ("GET", "/upload/x/%2e%2E/refused/file", 400),
        ("GET", "/upload/refused%2ffile", 200),
        ("GET", "/upload/refused/file%23", 404),
        ("GET", "/upload/refused/file#x", 400),
        ("HEAD", "/upload/refused//file", 400),
        ("GET", "/hmacfs-internal/refused/file", 404),
        ("GET", "/upload/refused/file?v3=0", 403),
        ("DELETE", "/upload/refused/file", 405),
        ("PUT", "/upload/x?v=0", 403),
        ("PUT", pair.server.sign_v("refused/file", 1), 409),
        ("OPTIONS", "/upload/x", 204),
        ("GET", "/readyz", 200),
    ]:
        body = b"x" if method == "PUT" else b""
        answer = pair.ask(method, target, body)
        assert answer.status == status, (method, target)
        if target.startswith("/upload/"):
            assert answer.headers["X-Request-ID"], (method, target)
            assert answer.headers["Content-Type"] != "text/html"


def test_each_request_has_an_id_of_its_own(pair: Pair) -> None:
    pair.put("named/file", b"x")
    ids: set[str] = set()
    for _ in range(3):
        with Client(pair.nginx.port) as client:
            for target in ("named/file", "named/none", "named/file"):
                client.head("GET", pair.server.path(target))
                ids.add(client.answer().headers["X-Request-ID"])
    assert len(ids) == 9
    wait_until(lambda: any(f"request_id={one} " in pair.server.log() for one in ids), what="one that the server knows")


def test_no_log_has_what_gives_rights(pair: Pair) -> None:
    """Signatures, bearer tokens and the tokens of unfinished uploads, in query, path, header and Referer; also where nginx
    or the server refuses, and in nginx's log of errors."""
    before = len(pair.nginx.log().splitlines())
    secrets = confide(pair.nginx.port, pair.server)
    lines = wait_until(lambda: pair.nginx.log().splitlines()[before + 100 :], what="the requests in nginx's log")
    assert any('"PUT /upload/name/of.txt?... HTTP/1.1" 403 ' in line for line in lines)
    assert any('"PATCH /upload/.hmacfs/... HTTP/1.1" ' in line for line in lines)
    for log in (pair.nginx.log(), pair.nginx.errors(), pair.server.log()):
        assert leaks(log, secrets) == []


def test_a_server_that_is_away_leaks_nothing_either(nginx_folder: Path) -> None:
    """nginx has errors to report then, with the request in them, whose signature is still good."""
    server = HmacFileServer(nginx_folder / "server", ListenPort=str(nginx_folder / "s.sock"), UnixSocket=True)
    server.store.mkdir(parents=True)
    nginx = Nginx(nginx_folder / "nginx", server)
    try:
        secrets = confide(nginx.port, server)
        wait_until(lambda: '?... HTTP/1.1" 502 ' in nginx.log(), what="the requests in nginx's log")
        assert leaks(nginx.log() + nginx.errors(), secrets) == []
    finally:
        nginx.kill()


def test_what_is_logged_is_enough_to_find_a_request(pair: Pair) -> None:
    pair.put("logged/file.txt", b"x")
    answer = pair.ask(
        "GET", pair.server.path("logged/file.txt"), referer="https://me@x.example/page?who=me", user_agent="U"
    )
    pattern = (
        r'127\.0\.0\.1 - - \[[^]]+\] "GET /upload/logged/file\.txt HTTP/1\.1" 200 1 '
        rf'"//x\.example" "U" [0-9.]+ "[^"]*" {re.escape(answer.headers["X-Request-ID"])}'
    )
    wait_until(lambda: re.search(f"^{pattern}$", pair.nginx.log(), re.MULTILINE), what="the request in nginx's log")


@pytest.mark.parametrize("protocol", ["1.0", "1.1"])
@pytest.mark.parametrize("host", ["", "Host: a.example:81\r\n"])
def test_a_host_that_is_missing_or_another_changes_nothing(pair: Pair, protocol: str, host: str) -> None:
    if protocol == "1.1" and not host:
        host = "Host: [::1]\r\n"  # it must not be missing there
    name = f"hosts/{protocol}/{len(host)}"
    more = f" HTTP/{protocol}\r\n{host}Connection: close\r\n"
    for method, target, status in [
        ("PUT", pair.server.sign_v(name, 1), 201),
        ("GET", pair.server.path(name), 200),
        ("GET", pair.server.sign_v3("GET", name), 200),
        ("GET", "/readyz", 200),
    ]:
        with Client(pair.nginx.port) as client:
            body = "Content-Length: 1\r\n\r\nx" if method == "PUT" else "\r\n"
            client.send(f"{method} {target}{more}{body}".encode())
            answer = client.answer()
            assert answer.status == status
            assert "nginx/" not in answer.headers.get("Server", "")


@pytest.mark.parametrize("variant", ["", "A"], ids=["plain", "A"])
def test_one_client_has_its_share_of_nginx(nginx_folder: Path, variant: str) -> None:
    """Downloads that nobody reads. An IPv6 client's share is its /64's; a /48 has four of them."""
    socket = nginx_folder / "s.sock"
    server = HmacFileServer(nginx_folder / "server", ListenPort=str(socket), UnixSocket=True, Durability="none")
    smaller = {
        "hmac_file_server_clients 256;": "hmac_file_server_clients 4;",
        "hmac_file_server_sites 1024;": "hmac_file_server_sites 8;\n"
        "    set_real_ip_from 127.0.0.9;\n    real_ip_header X-Test-Address;",
    }
    share(server.store)
    with server, contextlib.ExitStack() as stack:
        socket.chmod(0o666)
        nginx = Nginx(nginx_folder / "nginx", server, variant=variant, changes=smaller)
        stack.callback(nginx.kill)
        with (server.store / "large").open("wb") as file:
            file.truncate(64 * 1024**2)

        def ask(source: str, address: str | None = None) -> int:
            """The status of one more download, which is left unread."""
            client = stack.enter_context(Client(nginx.port, source=source))
            client.head("GET", server.path("large"), x_test_address=address)
            return int(client.informational().split()[1])

        assert [ask("127.0.0.2") for _ in range(6)] == [200] * 4 + [429] * 2
        assert ask("127.0.0.3") == 200
        assert [ask("127.0.0.9", f"2001:db8:0:1::{number}") for number in range(6)] == [200] * 4 + [429] * 2
        assert [ask("127.0.0.9", f"2001:db8:0:{number}::1") for number in range(2, 8)] == [200] * 4 + [429] * 2
        assert ask("127.0.0.9", "2001:db8:1:1::1") == 200
        with Client(nginx.port, source="127.0.0.3") as client:
            client.head("PUT", server.sign_v("beside", 1), content_length=1)
            client.send(b"x")
            assert client.answer().status == 201


def test_a_link_out_of_the_store_is_not_followed(pair: Pair) -> None:
    outside = pair.server.folder / "outside.txt"
    outside.write_text("secret")
    (pair.server.store / "link.txt").symlink_to(outside)
    assert pair.get("link.txt").status == 404


def test_signed_downloads_pass(pair: Pair) -> None:
    pair.put("signed/file.txt", BODY, "text/plain")
    answer = pair.ask("GET", pair.server.sign_v3("GET", "signed/file.txt"))
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["Cache-Control"].startswith("private")


def test_the_clients_address_is_the_one_nginx_saw(pair: Pair) -> None:
    with Client(pair.nginx.port) as client:
        client.send(b"PUT /upload/spoofed?v=0 HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nX-Request-ID: mine\r\n")
        client.send(b"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\nx-forwarded-for: 203.0.113.7\r\n")
        client.send(b"Forwarded: for=203.0.113.8\r\n\r\nx")
        assert client.answer().headers["X-Request-ID"] != "mine"
    wait_until(lambda: "path=/upload/spoofed" in pair.server.log())
    line = next(line for line in pair.server.log().splitlines() if "path=/upload/spoofed" in line)
    assert " client=127.0.0.1 " in line


@pytest.mark.parametrize("way", ["direct", "nginx"])
def test_a_refusal_reaches_every_curl_that_sends_a_gibibyte(nginx_folder: Path, tmp_path: Path, way: str) -> None:
    """curl streams the body without waiting for 100 Continue and must still read the 403."""
    curl = require_binary("curl")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1024**3)
    if way == "direct":
        server = HmacFileServer(tmp_path / "server", UploadMaxSize="2GB").start()
        nginx = None
        target = f"{server.url}/upload/refused?v={'0' * 64}"
    else:
        both = Pair(nginx_folder, "")
        server, nginx = both.server, both.nginx
        target = f"http://127.0.0.1:{nginx.port}/upload/refused?v={'0' * 64}"
    line = (
        f"{curl} -sS -o /dev/null -w '%{{http_code}} %{{errormsg}}\\n' -H Expect: -T {tmp_path}/large '{target}' 2>&1"
    )
    script = f"seq 200 | xargs -P 4 -I N sh -c {subprocess.list2cmdline([line])}"
    try:
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=300, check=False)
        lines = done.stdout.split("\n")[:-1]
        assert len(lines) == 200
        assert {line.strip() for line in lines} == {"403"}
        assert server.stored() == []
        assert server.complaints() == []
    finally:
        server.daemon.kill()
        if nginx is not None:
            nginx.kill()


def test_the_shipped_types_are_this_servers() -> None:
    assert (DEPLOY / "mime.types").read_text(encoding="utf-8") == nginx_types()


@pytest.mark.parametrize("kind", DIALECTS)
def test_uploads_in_pieces_go_through(pair: Pair, kind: type[Upload]) -> None:
    upload = kind(pair.server, f"pieces/{kind.dialect}", BODY, 70_000)
    upload.proxy = pair.nginx.port
    tally: Counter[str] = Counter()
    persist(upload, tally)
    assert pair.get(upload.name).body == BODY
    assert set(tally) <= {"201", "202", "204"}


@pytest.mark.parametrize("kind", DIALECTS)
def test_unfinished_uploads_are_told_of_and_never_shown(pair: Pair, kind: type[Upload]) -> None:
    upload = begun(kind, pair.server, f"unfinished/{kind.dialect}")
    upload.proxy = pair.nginx.port
    probe = upload.probe()
    assert (probe.status, probe.headers["Upload-Offset"]) == (200, "40000")
    gap = upload.send(80_000)
    assert (gap.status, gap.headers["Upload-Offset"]) == (409, "40000")
    assert pair.get(upload.name).status == 404
    (path,) = partial_files(pair.server)
    for hidden in (path, pair.server.store / ".hmacfs" / "sessions.sqlite3"):
        assert hidden.exists()
        for target in (f".hmacfs/{hidden.relative_to(pair.server.store / '.hmacfs')}", f".hmacfs/tus/{path.name}"):
            assert pair.ask("GET", f"{pair.server.prefix}{target}").status in (400, 403, 404)
    persist(upload, Counter())
    assert partial_files(pair.server) == []
