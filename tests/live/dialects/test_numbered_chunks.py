"""Numbered chunks (docs/protocol.md, section 6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.client import get, request
from tests.live.dialects.limits import MAX_SIZE
from tests.live.pieces import (
    numbered,
)
from tests.servers.hmacfs import HmacFileServer


def test_chunks_may_be_signed_one_by_one(server: HmacFileServer, name: str) -> None:
    """As the original's clients do: nobody says how long the file will be."""
    parts = [b"one", b"twotwo", b"3"]
    first = numbered(server, name, parts[0], 1, 3)
    token = first.headers["X-Session-Token"]
    assert (first.status, first.headers["Upload-Offset"]) == (202, "3")
    again = numbered(server, name, parts[0], 1, 3)
    assert (again.status, again.headers["Upload-Offset"], again.headers["X-Session-Token"]) == (200, "3", token)
    gap = numbered(server, name, parts[2], 3, 3)
    assert (gap.status, gap.headers["Upload-Offset"]) == (409, "3")
    # A chunk's signature says nothing of the file: only the token shows the progress.
    assert request(server, "HEAD", server.sign_v(name, 3)).status == 404
    probe = request(server, "HEAD", server.path(name), x_session_token=token)
    assert (probe.headers["Upload-Offset"], probe.headers["Upload-Length"]) == ("3", None)
    second = numbered(server, name, parts[1], 2, 3, x_session_token=token)
    assert (second.status, second.headers["Upload-Offset"]) == (202, "9")
    last = numbered(server, name, parts[2], 3, 3)
    assert (last.status, last.headers["Upload-Offset"], last.headers["X-Session-Token"]) == (201, "10", token)
    assert last.headers["Location"] == server.path(name)
    assert get(server, name).body == b"".join(parts)
    # Who lost the last answer asks again.
    answer = numbered(server, name, parts[2], 3, 3, x_session_token=token)
    assert (answer.status, answer.headers["Upload-Offset"]) == (200, "10")
    assert numbered(server, name, parts[2], 3, 3).status == 200
    assert get(server, name).body == b"".join(parts)


def test_chunks_signed_one_by_one_are_no_way_around_the_largest_size(server: HmacFileServer, name: str) -> None:
    half = bytes(MAX_SIZE // 2)
    assert numbered(server, name, half, 1, 9).status == 202
    assert numbered(server, name, half, 2, 9).status == 202
    assert numbered(server, name, b"x", 3, 9).status == 413
    assert numbered(server, name, half, 3, 9).status == 413
    assert get(server, name).status == 404


def test_a_chunk_is_stored_as_it_was_signed(server: HmacFileServer, name: str) -> None:
    headers: dict[str, Any] = {"x_chunk_id": 1, "x_total_chunks": 2}
    assert request(server, "PUT", server.sign_v(name, 4), b"12345", **headers).status == 403
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", x_file_size=10, **headers).status == 403
    assert request(server, "PUT", server.sign_v(name, 10), b"12345", **headers).status == 403
    oversize = MAX_SIZE + 1
    assert request(server, "PUT", server.sign_v(name, oversize), b"1", x_file_size=oversize, **headers).status == 413
    assert request(server, "HEAD", server.sign_v(name, 10)).status == 404


def test_the_last_chunk_must_complete_the_announced_size(server: HmacFileServer, name: str) -> None:
    target = server.sign_v(name, 10)
    for number, status in ((1, 202), (2, 409)):
        headers: dict[str, Any] = {"x_chunk_id": number, "x_total_chunks": 2, "x_file_size": 10}
        assert request(server, "PUT", target, b"1234", **headers).status == status
    assert get(server, name).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"x_chunk_id": 0, "x_total_chunks": 2},
        {"x_chunk_id": 3, "x_total_chunks": 2},
        {"x_chunk_id": -1, "x_total_chunks": 2},
        {"x_chunk_id": 1},
        {"x_total_chunks": 2},
        {"x_chunk_id": "1.0", "x_total_chunks": 2},
        {"x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": "5x"},
    ],
)
def test_numbers_that_make_no_sense_are_refused(server: HmacFileServer, name: str, headers: dict[str, object]) -> None:
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", **headers).status == 400


def test_numbers_that_are_too_large_are_told_so(server: HmacFileServer, name: str) -> None:
    headers: dict[str, Any] = {"x_chunk_id": 1, "x_total_chunks": "9" * 30}
    assert request(server, "PUT", server.sign_v(name, 5), b"12345", **headers).status == 413
