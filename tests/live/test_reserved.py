"""What is reserved and not built does what docs/protocol.md, section 8 says: nothing by halves."""

from __future__ import annotations

import pytest

from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Client, get, put, request
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer


def bearer(server: HmacFileServer, name: str, size: int, expires: int) -> str:
    slot, filename = name.split("/")
    claims = {"slot": slot, "filename": filename, "filesize": size, "exp": FAR_FUTURE, "expires": expires}
    return f"Bearer {encode_bearer(server.keyring, claims)}"


@pytest.mark.parametrize("parameters", ["max=1", "keep=1", "owner=x", "under=1&files=1"])
def test_parameters_that_would_narrow_a_signature_are_ignored(server: HmacFileServer, parameters: str) -> None:
    name = f"narrow-{parameters[:4]}"
    answer = request(server, "PUT", f"{server.sign_v3('PUT', name)}&{parameters}", b"more than a byte")
    assert answer.status == 201
    assert get(server, name).body == b"more than a byte"


def test_the_time_after_which_a_file_may_be_deleted_deletes_nothing(server: HmacFileServer) -> None:
    name = "reserved/expired"
    answer = request(server, "PUT", server.path(name), b"bytes", authorization=bearer(server, name, 5, expires=1))
    assert answer.status == 201
    kept = get(server, name)
    assert kept.body == b"bytes"
    assert "Sunset" not in kept.headers
    assert "max-age=31536000" in kept.headers["Cache-Control"]


def test_a_stored_file_cannot_be_deleted(server: HmacFileServer) -> None:
    put(server, "reserved/kept", b"bytes")
    answer = request(server, "DELETE", server.sign_v3("DELETE", "reserved/kept"))
    assert answer.status == 405
    assert "DELETE" not in answer.headers["Allow"]
    assert get(server, "reserved/kept").body == b"bytes"


def test_there_is_no_administration_on_the_upload_port(server: HmacFileServer) -> None:
    assert request(server, "GET", "/.hmacfs/admin/v1/files").status == 404


@pytest.mark.parametrize("header", [{"upload_complete": "?0"}, {"upload_incomplete": "?1"}])
def test_a_body_that_is_not_all_is_not_stored_as_the_file(server: HmacFileServer, header: dict[str, str]) -> None:
    with Client(server) as client:
        client.head(
            "PUT",
            server.sign_v("reserved/part", 5),
            content_length=5,
            expect="100-continue",
            upload_draft_interop_version=6,
            **header,
        )
        assert client.informational().startswith(b"HTTP/1.1 400 ")
    assert get(server, "reserved/part").status == 404


def test_no_interim_answer_promises_to_resume(server: HmacFileServer) -> None:
    with Client(server) as client:
        headers = {"upload_complete": "?1", "upload_draft_interop_version": 6}
        client.head("PUT", server.sign_v("reserved/whole", 5), content_length=5, **headers)
        client.send(b"bytes")
        assert client.answer().status == 201
