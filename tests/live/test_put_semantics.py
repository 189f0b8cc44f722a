"""What a PUT's headers ask for is done or refused, never ignored (docs/protocol.md, section 3)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import Answer, Client, get, latencies, put, request
from tests.live.pieces import DIALECTS, PIECE_TYPE, TUS, TusUpload, Upload
from tests.servers import require_binary
from tests.servers.hmacfs import HmacFileServer

pytestmark = pytest.mark.stores("folder", "seaweedfs")

StartServer = Callable[..., HmacFileServer]

BODY = os.urandom(300_000)


def digest(algorithm: str, data: bytes) -> str:
    value = base64.b64encode(hashlib.new(algorithm.replace("-", ""), data).digest()).decode()
    return value if algorithm == "md5" else f"{algorithm}=:{value}:"


CLAIMS: list[tuple[str, Callable[[bytes], str]]] = [
    ("content_digest", lambda data: digest("sha-256", data)),
    ("content_digest", lambda data: "unknown=1, " + digest("sha-512", data)),
    ("repr_digest", lambda data: digest("sha-256", data)),
    ("content_md5", lambda data: digest("md5", data)),
    ("x_amz_content_sha256", lambda data: hashlib.sha256(data).hexdigest()),
]


@pytest.mark.parametrize("size", [0, 5, 300_000])
@pytest.mark.parametrize(("header", "claim"), CLAIMS)
def test_digests_are_verified(server: HmacFileServer, header: str, claim: Callable[[bytes], str], size: int) -> None:
    body, name = BODY[:size], f"digests/{header}-{size}-{len(claim(b''))}"
    wrong = request(server, "PUT", server.sign_v(name, size), body, **{header: claim(b"another")})
    assert wrong.status == 400
    assert b"does not match" in wrong.body
    assert get(server, name).status == 404
    right = request(server, "PUT", server.sign_v(name, size), body, **{header: claim(body)})
    assert right.status == 201
    assert get(server, name).body == body


def test_a_chunked_body_is_verified_too(server: HmacFileServer) -> None:
    target = server.sign_v3("PUT", "digests/chunked")
    for data, status in ((b"other", 400), (b"hello", 201)):
        with Client(server) as client:
            client.head("PUT", target, transfer_encoding="chunked", content_digest=digest("sha-256", data))
            client.send(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
            assert client.answer().status == status


@pytest.mark.parametrize("header", ["content_digest", "repr_digest", "content_md5"])
def test_a_malformed_digest_is_refused_before_the_body(server: HmacFileServer, header: str) -> None:
    with Client(server) as client:
        target = server.sign_v("digests/malformed", 5)
        client.head("PUT", target, content_length=5, expect="100-continue", **{header: "sha-256=nonsense"})
        assert client.informational().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("header", ["content_digest", "content_md5"])
def test_nothing_is_kept_of_a_piece_whose_digest_is_wrong(
    server: HmacFileServer, kind: type[Upload], header: str
) -> None:
    upload = kind(server, f"pieces/{header}-{kind.dialect}", BODY, 200_000)
    claim = dict(CLAIMS)[header]
    if isinstance(upload, TusUpload):
        assert upload.create().status == 201
    for offset in (0, 200_000):
        method, headers = upload.head_of(offset)
        piece = upload.piece(offset)
        statuses = []
        for claimed in (b"another", piece):
            answer = upload.ask(
                method, upload.url, piece, content_length=len(piece), **headers, **{header: claim(claimed)}
            )
            statuses.append(answer.status)
        assert statuses[0] == 400
        assert statuses[1] in (201, 202, 204)
    assert upload.content() == BODY


@pytest.mark.parametrize("kind", DIALECTS)
def test_the_whole_file_is_verified_with_its_last_piece(server: HmacFileServer, kind: type[Upload]) -> None:
    upload = kind(server, f"whole/{kind.dialect}", BODY, 200_000)

    def run(claimed: bytes) -> list[Answer]:
        if isinstance(upload, TusUpload):
            assert upload.create().status == 201
        answers = []
        for offset in (0, 200_000):
            method, headers = upload.head_of(offset)
            piece, claim = upload.piece(offset), digest("sha-256", claimed)
            answers.append(
                upload.ask(method, upload.url, piece, content_length=len(piece), **headers, repr_digest=claim)
            )
        return answers

    before = server.files.unfinished()
    first, last = run(BODY + b"x")
    assert (first.status < 300, last.status) == (True, 400)
    assert b"Repr-Digest" in last.body
    assert upload.name not in server.stored()
    assert server.files.unfinished() == before
    assert [answer.status < 300 for answer in run(BODY)] == [True, True]
    assert upload.content() == BODY


def test_hashing_a_large_body_stalls_nobody(start_server: StartServer) -> None:
    server = start_server(Durability="none", UploadMaxSize="1GB")
    body = bytes(64 * 1024 * 1024)
    with latencies(server) as found:
        started = time.monotonic()
        claims: dict[str, object] = {"content_digest": digest("sha-512", body), "content_md5": digest("md5", body)}
        assert request(server, "PUT", server.sign_v("large", len(body)), body, **claims).status == 201
        last: dict[str, object] = {
            "content_range": f"bytes 0-{len(body) - 1}/{len(body)}",
            "repr_digest": digest("sha-512", body),
        }
        assert request(server, "PUT", server.sign_v("pieces", len(body)), body, **last).status == 201
        lasted = time.monotonic() - started
    assert sorted(found)[len(found) // 2] < lasted / 10
    assert len(found) > 10


@pytest.mark.parametrize(
    "headers",
    [{"content_encoding": "gzip"}, {"content_encoding": "identity, br"}, {"content_encoding": "aws-chunked"},
     {"x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, {"x_amz_decoded_content_length": "5"}],
)  # fmt: skip
def test_a_coded_body_is_415_before_a_byte_of_it(server: HmacFileServer, headers: dict[str, str]) -> None:
    body = gzip.compress(BODY)
    name = "coded/" + "-".join(headers) + str(len(str(headers)))
    upload = TusUpload(server, name, body, 1000)
    assert upload.create().status == 201
    piece = {"content_type": PIECE_TYPE, "upload_offset": 0, **TUS}
    creation = {"content_type": PIECE_TYPE, "upload_length": len(body), **TUS}
    pieces: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", upload.slot, {}),
        ("PUT", upload.slot, {"content_range": f"bytes 0-{len(body) - 1}/{len(body)}"}),
        ("POST", upload.slot, creation),
        ("PATCH", upload.url, piece),
    ]
    for method, target, more in pieces:
        with Client(server) as client:
            client.head(method, target, content_length=len(body), expect="100-continue", **more, **headers)
            answer = client.answer(method)
            assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity"), (method, more)
    assert get(server, name).status == 404
    assert request(server, "PUT", upload.slot, body, content_encoding="identity").status == 201


@pytest.mark.parametrize(
    ("headers", "fresh", "taken"),
    [
        ({"if_match": "*"}, 412, 409),
        ({"if_match": '"x"'}, 412, 412),
        ({"if_match": "ETAG"}, 412, 409),
        ({"if_match": 'W/"x", ETAG'}, 412, 409),
        ({"if_match": "nonsense"}, 412, 412),
        ({"if_none_match": "*"}, 201, 409),
        ({"if_none_match": "ETAG"}, 201, 409),
        ({"if_unmodified_since": "Fri, 02 Jan 1970 00:00:00 GMT"}, 201, 412),
        ({"if_unmodified_since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 201, 409),
        ({"if_unmodified_since": "nonsense"}, 201, 409),
    ],
)
def test_the_conditions_of_a_put(server: HmacFileServer, headers: dict[str, str], fresh: int, taken: int) -> None:
    stored = put(server, "conditions/taken", b"stored")
    etag = stored.headers["ETag"] or get(server, "conditions/taken").headers["ETag"]
    asked: dict[str, Any] = {name: value.replace("ETAG", etag) for name, value in headers.items()}
    name = "conditions/" + "-".join([*headers, *(value.strip('"*') for value in headers.values())]).replace("/", "")
    pieces: list[dict[str, Any]] = [{}, {"content_range": "bytes 0-5/6"}]
    for number, piece in enumerate(pieces):
        with Client(server) as client:
            target = server.sign_v("conditions/taken", 6)
            client.head("PUT", target, content_length=6, expect="100-continue", **piece, **asked)
            answer = client.answer()
            assert answer.status == taken
            if taken == 412:
                assert answer.headers["ETag"] == etag
        assert request(server, "PUT", server.sign_v(f"{name}{number}", 6), b"change", **piece, **asked).status == fresh
        assert get(server, f"{name}{number}").status == (200 if fresh == 201 else 404)
    creation = {"content_length": 0, "upload_length": 6, **TUS}
    created = request(server, "POST", server.sign_v(f"{name}-tus", 6), **creation, **asked)
    assert created.status == fresh
    assert get(server, "conditions/taken").body == b"stored"


def test_an_unfinished_upload_matches_no_tag(server: HmacFileServer) -> None:
    upload = TusUpload(server, "conditions/unfinished", BODY, 1000)
    assert upload.create().status == 201
    method, headers = upload.head_of(0)
    for condition, status in (('"x"', 412), ("*", 204)):
        piece = upload.piece(0)
        answer = upload.ask(method, upload.url, piece, content_length=len(piece), **headers, if_match=condition)
        assert answer.status == status
    assert upload.ask("DELETE", upload.url, if_match='"x"', **TUS).status == 412
    assert upload.probe().headers["Upload-Offset"] == "1000"


def test_conditions_tell_nothing_without_a_signature(server: HmacFileServer) -> None:
    put(server, "conditions/secret", b"stored")
    for method in ("PUT", "POST"):
        answer = request(
            server, method, "/upload/conditions/secret?v=" + "0" * 64, b"",
            content_length=0, upload_length=0, if_match='"x"', **TUS,
        )  # fmt: skip
        assert answer.status == 403


def curl(*arguments: str) -> tuple[int, str]:
    """The status and the body of a request by a real curl."""
    command = [require_binary("curl"), "-sS", "-w", "\n%{http_code}", *arguments]
    body, _, status = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rpartition("\n")
    return int(status), body


def test_curl_keeps_its_connection_after_a_refusal(server: HmacFileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY[:50_000])
    targets = [server.sign_v("kept/refused", 1), "/upload/kept//refused", server.sign_v("kept/stored", 50_000)]
    command = [require_binary("curl")]
    for target in targets:
        # With -T it sends the body in a second write, and closes the connection if the answer is there before that.
        command += ["--next", "-sS", "--path-as-is", "-w", "\n%{http_code} %{num_connects}\n", "-H", "Expect:"]
        command += ["-X", "PUT", "--data-binary", f"@{tmp_path / 'file'}", server.url + target]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [line for line in output.splitlines() if line[:1].isdigit()] == ["403 1", "400 0", "201 0"]


@pytest.mark.parametrize(
    "arguments",
    [["-F", "file=@FILE"], ["--data-binary", "@FILE"], ["-d", "@FILE"], ["-X", "POST", "-T", "FILE"], ["-X", "PUT", "-F", "f=@FILE"]],
)  # fmt: skip
def test_who_posts_a_file_is_told_what_to_do(server: HmacFileServer, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"text")
    given = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    target = server.sign_v3("PUT", "posted/file")
    status, body = curl(*given, f"{server.url}{target}")
    assert status == 415
    assert body == "To upload, send the file itself by PUT, as in: curl -T FILE URL; or speak tus 1.0.0.\n"
    assert get(server, "posted/file").status == 404


def test_a_post_to_the_mount_point_is_told_so_too(server: HmacFileServer) -> None:
    assert request(server, "POST", server.prefix, b"x", content_length=1).status == 415


def test_a_wrong_version_of_tus_is_still_412(server: HmacFileServer) -> None:
    target = server.sign_v("posted/tus", 5)
    for headers in ({"tus_resumable": "0.2.2", "upload_length": 5}, {"upload_length": 5}, {"tus_resumable": "9"}):
        answer = request(server, "POST", target, content_length=0, **headers)
        assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")


@pytest.mark.parametrize("command", ["curl", "wget"])
def test_the_type_that_a_client_gives_any_body_is_none(server: HmacFileServer, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_bytes(b"\x89PNG")
    name = f"typed/{command}.png"
    target = server.url + server.sign_v(name, 4)
    if command == "curl":
        assert curl("-X", "PUT", "--data-binary", f"@{tmp_path}/file", target)[0] == 201
    else:
        body = f"--body-file={tmp_path}/file"
        subprocess.run([require_binary("wget"), "-q", "-O", "-", "--method=PUT", body, target], check=True)
    assert get(server, name).headers["Content-Type"] == "image/png"


def test_a_signed_form_type_is_kept(server: HmacFileServer) -> None:
    form = "application/x-www-form-urlencoded"
    answer = request(server, "PUT", server.sign_v2("typed/form", 4, form), b"a=b&", content_type=form)
    assert answer.status == 201
    assert get(server, "typed/form").headers["Content-Type"] == form
