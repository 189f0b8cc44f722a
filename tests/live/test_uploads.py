"""PUT over real sockets (docs/protocol.md, sections 1 to 3)."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Answer, Client, get, put, request
from tests.servers import wait_until
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer
from tests.servers.machine import Duration

StartServer = Callable[..., HmacFileServer]

BODY = os.urandom(300_000)


def bearer(server: HmacFileServer, name: str, size: int, **claims: object) -> str:
    slot, _, filename = name.partition("/")
    given = {"slot": slot, "filename": filename, "filesize": size, "filetype": "image/png", "exp": FAR_FUTURE}
    return "Bearer " + encode_bearer(server.keyring, {**given, **claims})


@pytest.mark.parametrize("scheme", ["v", "v2", "token", "v3", "bearer"])
def test_each_scheme_stores_the_file(server: HmacFileServer, scheme: str) -> None:
    name, headers = f"scheme-{scheme}/photo.jpg", {}
    target = {
        "v": server.sign_v(name, len(BODY)),
        "v2": server.sign_v2(name, len(BODY), "image/jpeg"),
        "token": server.sign_v2(name, len(BODY), "image/jpeg").replace("?v2=", "?token="),
        "v3": server.sign_v3("PUT", name),
        "bearer": server.path(name),
    }[scheme]
    if scheme == "bearer":
        headers["authorization"] = bearer(server, name, len(BODY))
    answer = request(server, "PUT", target, BODY, content_type="image/jpeg", **headers)
    assert answer.status == 201
    assert answer.headers["Location"] == server.path(name)
    fetched = get(server, name)
    assert fetched.body == BODY
    assert fetched.headers["ETag"] == answer.headers["ETag"]
    assert fetched.headers["Content-Type"] == ("image/png" if scheme == "bearer" else "image/jpeg")


@pytest.mark.parametrize(
    "name",
    ["plain.txt", "a/b/c/d.txt", "0b7e/héllo wörld ☃.jpg", "per%2Fcent/%41.txt", "plus+and&=,()'!.txt", ".hidden/x"],
)
def test_names_survive(server: HmacFileServer, name: str) -> None:
    name = f"names/{name}"
    answer = put(server, name, b"x")
    assert answer.status == 201
    assert request(server, "GET", answer.headers["Location"]).body == b"x"
    assert (server.store / name).read_bytes() == b"x"


def test_a_path_in_raw_utf8_is_the_same_name(server: HmacFileServer) -> None:
    name = "raw/wörld ☃.jpg"
    raw = server.sign_v(name, 1).split("?")[1]
    target = f"/upload/{name.replace(' ', '%20')}?{raw}".encode().decode("latin-1")
    assert request(server, "PUT", target, b"x").status == 201
    assert get(server, name).body == b"x"


@pytest.mark.parametrize(
    "path",
    ["", "a/", "a//b", "/a", "./a", "a/./b", "../a", "a/%2e%2e/b", "a%00b", "a%0ab", "a%7f", "%ff", "%c2%85", "b" * 256,
     ".hmacfs/x", ".HMACFS/x", "/".join(["long-segment"] * 400)],
)  # fmt: skip
def test_illegal_names_are_refused(server: HmacFileServer, path: str) -> None:
    mac = server.sign_v("whatever", 1).split("?")[1]
    answer = request(server, "PUT", f"/upload/{path}?{mac}", b"x")
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_name_that_only_the_file_system_finds_too_long(server: HmacFileServer) -> None:
    name = "/".join(["s" * 255] * 15 + ["s" * 127, "s" * 128])
    assert len(name) == 4096  # Linux counts a zero byte at the end
    assert put(server, name, b"x").status == 400
    assert get(server, name).status == 404


def test_a_link_in_the_store_never_leads_outside(server: HmacFileServer, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("outside")
    (server.store / "inside").mkdir()
    (server.store / "inside" / "file.txt").write_text("inside")
    (server.store / "links").mkdir()
    (server.store / "links" / "out").symlink_to(tmp_path)
    (server.store / "links" / "up").symlink_to("../inside")
    assert get(server, "links/out/secret.txt").status == 404
    assert get(server, "links/up/file.txt").body == b"inside"
    assert put(server, "links/out/new.txt", b"x").status == 409
    assert not (tmp_path / "new.txt").exists()


@pytest.mark.parametrize(
    "query",
    ["", "v=", "v=00", "v=" + "0" * 64, "v=" + "g" * 64, "v=" + "%00" * 64, "v=%ff%fe", "v2=" + "0" * 64, "v3=" + "0" * 64,
     "v3=" + "0" * 64 + "&expires=x", "token=" + "0" * 64, "expires=1"],
)  # fmt: skip
def test_a_bad_signature_is_403(server: HmacFileServer, query: str) -> None:
    answer = request(server, "PUT", f"/upload/bad/signature?{query}", b"x")
    assert answer.status == 403
    assert not (server.store / "bad").exists()


def test_a_request_is_judged_by_its_highest_scheme(server: HmacFileServer) -> None:
    good = server.sign_v("highest", 1)
    assert request(server, "PUT", f"{good}&v2={'0' * 64}", b"x").status == 403
    assert request(server, "PUT", f"{good}&{good.split('?')[1]}", b"x").status == 403
    assert request(server, "PUT", good.upper().replace("/UPLOAD/HIGHEST?V=", "/upload/highest?v="), b"x").status == 201


def test_v3_ends_when_it_expires(server: HmacFileServer) -> None:
    now = int(time.time())
    assert request(server, "PUT", server.sign_v3("PUT", "expired", now), b"x").status == 403
    assert request(server, "PUT", server.sign_v3("GET", "expired"), b"x").status == 403
    assert request(server, "PUT", server.sign_v3("PUT", "expired", now + 60), b"x").status == 201


@pytest.mark.parametrize(
    ("claims", "size", "status"),
    [({}, 3, 201), ({"exp": 1}, 3, 410), ({"slot": "other"}, 3, 400), ({"filename": "other"}, 3, 400), ({}, 4, 413),
     ({"filesize": "3"}, 3, 401), ({"exp": True}, 3, 401)],
)  # fmt: skip
def test_bearer_claims(server: HmacFileServer, claims: dict[str, object], size: int, status: int) -> None:
    name = f"bearer-{status}-{len(claims)}-{'-'.join(claims)}/file.bin"
    token = bearer(server, name, 3, **claims)
    answer = request(server, "PUT", server.path(name), b"x" * size, authorization=token)
    assert answer.status == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_foreign_token_is_401(server: HmacFileServer) -> None:
    unsigned = "eyJhbGciOiJub25lIn0.eyJzbG90IjoicyJ9."
    for token in (unsigned, "x", "", "a.b.c"):
        assert request(server, "PUT", "/upload/s/f", b"x", authorization=f"Bearer {token}").status == 401


def test_previous_secrets_still_verify(start_server: StartServer) -> None:
    old = start_server()
    signed = old.sign_v("slot/handed-out", 1)
    new = start_server(Secret="a new secret, longer than 16", PreviousSecrets=[old.settings["Secret"]])
    assert request(new, "PUT", signed, b"x").status == 201
    assert put(new, "slot/new", b"x").status == 201


def test_the_length_must_be_given_unless_the_signature_leaves_it_open(server: HmacFileServer) -> None:
    chunked = b"5\r\nhello\r\n0\r\n\r\n"
    for target, authorization in [
        (server.sign_v("length/v", 5), None),
        (server.sign_v2("length/v2", 5, "application/octet-stream"), None),
        (server.path("length/b"), bearer(server, "length/b", 5)),
    ]:
        with Client(server) as client:
            client.head("PUT", target, transfer_encoding="chunked", authorization=authorization)
            client.send(chunked)
            assert client.answer().status == 411
    with Client(server) as client:
        client.head("PUT", server.sign_v3("PUT", "length/v3"), transfer_encoding="chunked")
        client.send(b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n")
        assert client.answer().status == 201
        client.head("GET", server.path("length/v3"))
        assert client.answer().body == b"hello"
    assert (
        request(
            server, "PUT", server.sign_v("length/minus", -1), transfer_encoding="chunked", content_length=None
        ).status
        == 411
    )
    with Client(server) as client:
        client.head("PUT", server.sign_v3("PUT", "length/none"))
        assert client.answer().status == 411
    with Client(server) as client:  # an old client, whose body ends with the connection
        client.send(f"PUT {server.sign_v3('PUT', 'length/none')} HTTP/1.0\r\n\r\nhello".encode())
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().status == 411
    assert get(server, "length/none").status == 404


@pytest.mark.parametrize(
    "bad", [b"x\r\nhello\r\n", b"+5\r\nhello\r\n", b"5\r\nhelloX", b"5 5\r\nhello\r\n", b"\r\n", b"5\nhello\n"]
)
def test_broken_chunks_are_refused(server: HmacFileServer, bad: bytes) -> None:
    name = f"chunks/{bad.hex()}"
    with Client(server) as client:
        client.head("PUT", server.sign_v3("PUT", name), transfer_encoding="chunked")
        client.send(bad + b"0\r\n\r\n")
        assert client.answer().status == 400
    assert get(server, name).status == 404


def test_the_largest_size_is_enforced(start_server: StartServer) -> None:
    server = start_server(UploadMaxSize=1000)
    assert put(server, "fits", b"x" * 1000).status == 201
    assert put(server, "declared", b"x" * 1001).status == 413
    with Client(server) as client:
        client.head("PUT", server.sign_v3("PUT", "undeclared"), transfer_encoding="chunked")
        client.send(b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
        assert client.answer().status == 413
    assert server.stored() == ["fits"]
    assert server.leftovers() == []


@pytest.mark.parametrize("digits", ["9" * 19, "1" + "0" * 18, "9" * 5000])
def test_a_number_that_is_too_large_is_413(server: HmacFileServer, digits: str) -> None:
    target, v3 = server.sign_v("large/number", 5), server.sign_v3("PUT", "large/number")
    cases: list[tuple[str, str, dict[str, Any], bytes]] = [
        ("PUT", target, {"content_length": digits}, b""),
        ("PUT", target, {"content_range": f"bytes 0-4/{digits}"}, b"hello"),
        ("PUT", target, {"x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": digits}, b"hello"),
        ("POST", target, {"upload_length": digits, "tus_resumable": "1.0.0"}, b""),
        ("PUT", v3, {"content_length": None, "transfer_encoding": "chunked"}, digits.encode() + b"\r\n"),
    ]
    for method, where, headers, body in cases:
        if body.endswith(b"\n") and len(digits) > 4000:
            continue  # longer than a line may be
        answer = request(server, method, where, body, **headers)
        assert answer.status == 413, headers
    assert get(server, "large/number").status == 404


def test_zeros_in_front_of_a_length_change_nothing(server: HmacFileServer) -> None:
    target = server.sign_v("zeros/length", 5)
    assert request(server, "PUT", target, b"hello", content_length="0" * 40 + "5").status == 201
    with Client(server) as client:
        client.head("PUT", server.sign_v3("PUT", "zeros/chunk"), transfer_encoding="chunked")
        client.send(b"0" * 40 + b"5\r\nhello\r\n" + b"0" * 40 + b"\r\n\r\n")
        assert client.answer().status == 201
    assert get(server, "zeros/chunk").body == get(server, "zeros/length").body == b"hello"


def test_a_taken_name_is_409_and_keeps_its_bytes(server: HmacFileServer) -> None:
    assert put(server, "taken/file", b"first").status == 201
    assert put(server, "taken/file", b"other").status == 409
    assert put(server, "taken", b"a folder's name").status == 409
    assert put(server, "taken/file/below", b"a file as folder").status == 409
    assert get(server, "taken/file").body == b"first"


def test_100_continue_comes_only_after_all_checks(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.head("PUT", server.sign_v("expect/good", 5), content_length=5, expect="100-continue")
        assert client.informational() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.answer().status == 201
    for target, status in [
        (server.sign_v("expect/good", 5), 409),
        ("/upload/expect/bad?v=" + "0" * 64, 403),
        (server.sign_v("expect/large", 10**9), 413),
    ]:
        with Client(server) as client:
            length = 10**9 if status == 413 else 5
            client.head("PUT", target, content_length=length, expect="100-continue")
            assert client.informational().startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("size", [0, 1, 1000, 16384, 65535, 65536, 65537, 131072, 262144, 1048576, 1048577, 5_000_000])
@pytest.mark.parametrize("way", ["at once", "head first", "byte by byte", "with the next request"])
def test_every_size_arrives_exactly_however_it_is_sent(server: HmacFileServer, size: int, way: str) -> None:
    name, body = f"sizes/{size}-{way}", os.urandom(size)
    target = server.sign_v(name, size)
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    following = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with Client(server) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if way == "at once":
            client.send(head + body)
        elif way == "head first":
            client.send(head)
            client.send(body)
        elif way == "byte by byte":
            for index in range(len(head)):
                client.send(head[index : index + 1])
            for index in range(min(size, 200)):
                client.send(body[index : index + 1])
            client.send(body[200:])
        else:
            client.send(head + body + following)
        assert client.answer().status == 201
        if way != "with the next request":
            client.send(following)
        assert client.answer().body == b"ok\n"
    assert (server.store / name).read_bytes() == body


@pytest.mark.parametrize("sent", [0, 1, 1000, 200_000, 299_999])
def test_a_cut_body_leaves_nothing(server: HmacFileServer, sent: int) -> None:
    name = f"cut/{sent}"
    with Client(server) as client:
        client.head("PUT", server.sign_v(name, len(BODY)), content_length=len(BODY))
        client.send(BODY[:sent])
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (400, "close")
    assert get(server, name).status == 404
    assert server.leftovers() == []


def test_a_reset_in_mid_body_leaves_nothing(server: HmacFileServer) -> None:
    client = Client(server)
    client.head("PUT", server.sign_v("reset/file", len(BODY)), content_length=len(BODY))
    client.send(BODY[:1000])
    client.reset()
    wait_until(lambda: "path=/upload/reset/file status=400" in server.log(), what="the refusal in the log")
    assert get(server, "reset/file").status == 404


def test_a_stalled_body_is_dropped_after_the_read_timeout(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.head("PUT", server.sign_v("stalled", len(BODY)), content_length=len(BODY))
        client.send(BODY[:200_000])
        before = time.monotonic()
        with Duration() as own:
            assert client.answer().status == 408
        assert time.monotonic() - before > 0.9
        assert own.seconds < 10
    assert server.leftovers() == []


def test_a_longer_body_does_not_leak_into_the_file(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.head("PUT", server.sign_v("longer", 5), content_length=5)
        client.send(b"hello, GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 201
        assert client.answer().status == 400
        assert client.is_closed()
    assert get(server, "longer").body == b"hello"


def test_a_refused_body_is_discarded_and_the_answer_still_arrives(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.head("PUT", "/upload/refused?v=" + "0" * 64, content_length=32 * 1024 * 1024)
        piece = b"x" * 1024 * 1024
        for _ in range(32):
            client.send(piece)
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (403, "close")
        assert client.is_closed()


def test_after_refusals_of_small_bodies_the_connection_goes_on(server: HmacFileServer) -> None:
    assert put(server, "goes/on", b"stored").status == 201
    body = b"GET /upload/goes/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    cases: list[tuple[str, str, dict[str, object], int]] = [
        ("PUT", "/upload/goes/away?v=" + "0" * 64, {}, 403),
        ("PUT", "/upload/goes//away", {}, 400),
        ("PUT", server.sign_v("goes/on", len(body)), {}, 409),
        ("PUT", server.sign_v("goes/off", len(body)), {"content_range": "items 1-2/3"}, 400),
        ("PUT", server.path("goes/away"), {"authorization": "Bearer x"}, 401),
        ("PUT", "/nowhere", {}, 404),
        ("BREW", "/upload/goes/away", {}, 405),
        ("POST", "/healthz", {}, 405),
        ("PATCH", "/upload/.hmacfs/tus/unknown", {"tus_resumable": "9"}, 412),
        ("GET", "/upload/goes/away", {}, 404),
        ("GET", "/upload/goes/on", {}, 200),
    ]
    with Client(server) as client:
        for way in ("at once", "after the answer"):
            for method, target, headers, status in cases:
                client.head(method, target, content_length=len(body), **headers)
                if way == "at once":
                    client.send(body)
                answer = client.answer(method)
                assert (answer.status, answer.headers["Connection"]) == (status, None), (method, target)
                if way == "after the answer":
                    client.send(body)
        client.head("GET", server.path("goes/on"))
        assert client.answer().body == b"stored"
    assert "smuggled" not in server.log()


def test_twenty_writers_of_one_name_have_one_winner(server: HmacFileServer) -> None:
    bodies = [hashlib.sha256(bytes([number])).digest() * 4000 for number in range(20)]
    barrier = threading.Barrier(len(bodies))

    def upload(body: bytes) -> Answer:
        with Client(server) as client:
            client.head("PUT", server.sign_v("race/file", len(body)), content_length=len(body))
            client.send(body[:1000])
            barrier.wait()
            client.send(body[1000:])
            return client.answer()

    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        statuses = [answer.status for answer in pool.map(upload, bodies)]
    assert sorted(statuses) == [201] + [409] * 19
    assert get(server, "race/file").body == bodies[statuses.index(201)]


def test_a_reader_never_sees_a_part(server: HmacFileServer) -> None:
    seen: list[tuple[int, int]] = []
    finished = threading.Event()

    def poll() -> None:
        while not finished.is_set():
            answer = get(server, "poll/file")
            seen.append((answer.status, len(answer.body)))

    poller = threading.Thread(target=poll)
    poller.start()
    with Client(server) as client:
        client.head("PUT", server.sign_v("poll/file", len(BODY)), content_length=len(BODY))
        for start in range(0, len(BODY), 30_000):
            client.send(BODY[start : start + 30_000])
            polled = len(seen)
            wait_until(lambda polled=polled: len(seen) > polled)  # type: ignore[misc]
        assert client.answer().status == 201
    polled = len(seen)
    wait_until(lambda: len(seen) > polled + 1)
    finished.set()
    poller.join()
    assert set(seen) == {(404, len(b"There is no such file.\n")), (200, len(BODY))}


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_killed_server_leaves_nothing_after_the_next_start(start_server: StartServer, anonymous: bool) -> None:
    server = start_server()
    if not anonymous:  # what a file system without O_TMPFILE would leave
        (server.store / ".hmacfs" / "tmp" / "0123456789abcdef").write_bytes(b"left over")
    with Client(server) as client:
        client.head("PUT", server.sign_v("killed/file", len(BODY)), content_length=len(BODY))
        client.send(BODY[:100_000])
        assert client.stays_silent(0.2)
        os.killpg(server.pid, signal.SIGKILL)
    server.daemon.kill()
    assert server.stored() == []
    server.start()
    assert server.leftovers() == []
    assert put(server, "killed/file", b"again").status == 201


def test_a_full_disk_is_507_and_readyz_and_the_log_say_so(start_server: StartServer) -> None:
    server = start_server(MinFreeSpace="99%", ReadyPath="/healthz")
    for _ in range(20):
        assert put(server, "full", b"x").status == 507
    assert server.stored() == []
    for _ in range(20):
        answer = request(server, "GET", "/readyz")
        assert answer.status == 503
        assert re.fullmatch(rb"store: \d+ bytes are free, \d+ must stay free \(MinFreeSpace\): .*\n", answer.body)
    lines = server.complaints()
    assert len(lines) == 2  # however often
    assert "WARNING" in lines[0]
    assert re.search(r"1 request was refused \(no-space\): \d+ bytes are free, \d+ must stay free", lines[0])
    assert "not ready: store: " in lines[1]


def test_errors_are_problem_json_for_those_who_ask(server: HmacFileServer) -> None:
    answer = request(server, "PUT", "/upload/x?v=1", b"x", accept="text/html, Application/JSON")
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == 403
    assert problem["type"] == "urn:hmacfs:problem:bad-signature"


def test_every_answer_has_a_request_id_and_the_log_has_it_too(server: HmacFileServer) -> None:
    for answer in (put(server, "id/file", b"x"), get(server, "id/none"), request(server, "GET", "/nowhere")):
        wait_until(lambda answer=answer: f"request_id={answer.headers['X-Request-ID']} " in server.log())  # type: ignore[misc]
    assert get(server, "id/file", x_request_id="from-the-proxy.1").headers["X-Request-ID"] == "from-the-proxy.1"
    assert get(server, "id/file", x_request_id='x" forged').headers["X-Request-ID"] != 'x" forged'


@pytest.mark.alone
def test_two_gibibytes_go_through_in_constant_memory(start_server: StartServer) -> None:
    server = start_server(UploadMaxSize="3GB", Durability="none")
    size, piece = 2 * 1024**3, os.urandom(4 * 1024**2)
    assert put(server, "warm/up", BODY * 10).status == 201
    assert get(server, "warm/up").status == 200
    worker = server.workers()[0]
    before = worker.memory_info().rss
    sent, fetched = hashlib.blake2b(), hashlib.blake2b()
    with Client(server, timeout=60) as client:
        client.head("PUT", server.sign_v("large", size), content_length=size)
        for _ in range(size // len(piece)):
            client.send(piece)
            sent.update(piece)
        assert client.answer().status == 201
        after_upload = worker.memory_info().rss
        client.head("GET", server.path("large"))
        head = client.informational()
        assert b"Content-Length: 2147483648\r\n" in head
        buffer = bytearray(1024**2)
        left = size
        while left:
            count = client.read_into(buffer)
            assert count
            fetched.update(memoryview(buffer)[:count])
            left -= count
    after_download = worker.memory_info().rss
    (server.store / "large").unlink()
    assert fetched.digest() == sent.digest()
    assert max(after_upload, after_download) - before < 32 * 1024**2


def test_the_log_of_this_module_has_no_surprises(server: HmacFileServer) -> None:
    put(server, "log/file", b"x")
    assert server.complaints() == []
