"""Values of headers that no client means well with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.client import request
from tests.live.dialects.limits import new_names
from tests.live.pieces import (
    PIECE_TYPE,
    TUS,
    create,
)
from tests.servers.hmacfs import HmacFileServer

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
    name = next(new_names)
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
    name = next(new_names)
    url = create(server, name, 100).headers["Location"]
    for value in HOSTILE:
        sent = value.encode("utf-8", "surrogateescape").decode("latin-1")
        piece: dict[str, Any] = {"upload_offset": 50, "content_type": PIECE_TYPE, **TUS, header: sent}
        made: dict[str, Any] = {"upload_length": 100, **TUS, header: sent}
        for answer in (
            request(server, "POST", server.sign_v(next(new_names), 100), b"12345", content_length=5, **made),
            request(server, "POST", url, b"12345", content_length=5, **piece),
            request(server, "PATCH", url, b"12345", content_length=5, **piece),
            request(server, "HEAD", url, **{**TUS, header: sent}),
        ):
            assert answer.status < 500, (header, value)
