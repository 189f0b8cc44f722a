"""Pieces with Content-Range (docs/protocol.md, section 6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.client import Client, get, request
from tests.live.dialects.limits import MAX_SIZE, new_names
from tests.live.pieces import (
    BODY,
    RangeUpload,
    begun,
)
from tests.servers.hmacfs import HmacFileServer


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
    other = next(new_names)
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
