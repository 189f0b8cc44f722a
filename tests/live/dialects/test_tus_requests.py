"""tus: each of its requests, and what is refused (docs/protocol.md, section 6.3)."""

from __future__ import annotations

import base64
import hashlib
from email.utils import parsedate_to_datetime

import pytest

from tests.live.client import Client, get, request
from tests.live.dialects.limits import MAX_SIZE, TTL
from tests.live.pieces import (
    BODY,
    PIECE_TYPE,
    TUS,
    TusUpload,
    begun,
    create,
    partial_file,
    patch,
)
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer


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
