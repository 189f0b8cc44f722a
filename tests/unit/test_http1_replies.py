"""The heads of responses."""

from __future__ import annotations

import doctest

import pytest

from hmacfs.protocol.http1 import replies
from hmacfs.protocol.http1.replies import FIELDS_LIMIT, HEAD_LIMIT, BadReplyHead, parse_reply_head


def _head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_the_example() -> None:
    assert doctest.testmod(replies).failed == 0


@pytest.mark.parametrize(
    ("lines", "status", "length", "is_chunked", "keep_alive"),
    [
        (["HTTP/1.1 200 OK", "Content-Length: 5"], 200, 5, False, True),
        (["HTTP/1.1 200", "content-length:\t5 "], 200, 5, False, True),
        (["HTTP/1.1 503 Slow Down é", "CONTENT-LENGTH: 005"], 503, 5, False, True),
        (["HTTP/1.1 200 OK"], 200, None, False, False),
        (["HTTP/1.1 200 OK", "Transfer-Encoding: Chunked"], 200, None, True, True),
        (["HTTP/1.1 200 OK", "Content-Length: 0", "Connection: Close"], 200, 0, False, False),
        (["HTTP/1.1 200 OK", "Content-Length: 0", "Connection: x", "Connection: close"], 200, 0, False, False),
        (["HTTP/1.0 200 OK", "Content-Length: 0"], 200, 0, False, False),
        (["HTTP/1.0 200 OK", "Content-Length: 0", "Connection: Keep-Alive"], 200, 0, False, True),
        (["HTTP/1.1 204 No Content"], 204, 0, False, True),
        (["HTTP/1.1 304 Not Modified", "Content-Length: 7"], 304, 0, False, True),
        (["HTTP/1.1 100 Continue"], 100, 0, False, True),
    ],
)
def test_a_head(lines: list[str], status: int, length: int | None, is_chunked: bool, keep_alive: bool) -> None:
    data = _head(*lines)
    for count in range(len(data)):
        assert parse_reply_head(data[:count]) is None
    head = parse_reply_head(data + b"HTTP/1.1 500 \r\n\r\n")
    assert head is not None
    assert (head.status, head.length, head.is_chunked, head.keep_alive) == (status, length, is_chunked, keep_alive)
    assert head.size == len(data)


def test_the_answer_to_head_has_no_body_and_tells_a_length() -> None:
    head = parse_reply_head(_head("HTTP/1.1 200 OK", "Content-Length: 7"), is_head=True)
    assert head is not None
    assert (head.length, head.keep_alive, head.fields) == (0, True, {"content-length": "7"})


def test_names_are_in_lower_case_and_fields_of_one_name_are_one() -> None:
    head = parse_reply_head(_head("HTTP/1.1 200 OK", "X-Amz-Meta-A: 1 2", "ETag:  \xe9\t", "x-amz-meta-a:3", "E:"))
    assert head is not None
    assert head.fields == {"x-amz-meta-a": "1 2, 3", "etag": "\xe9", "e": ""}


@pytest.mark.parametrize(
    "data",
    [
        _head("SSH-2.0-OpenSSH"),
        _head("HTTP/2 200 OK"),
        _head("HTTP/1.1 20 OK"),
        _head("HTTP/1.1 2000 OK"),
        _head("HTTP/1.1 200OK"),
        _head(" HTTP/1.1 200 OK"),
        _head("HTTP/1.1 200 OK", "no field"),
        _head("HTTP/1.1 200 OK", "Name : value"),
        _head("HTTP/1.1 200 OK", ": value"),
        _head("HTTP/1.1 200 OK", "A: b", " folded"),
        _head("HTTP/1.1 200 OK", "A: b\0c"),
        _head("HTTP/1.1 200 OK", "A: b\nContent-Length: 3"),
        _head("HTTP/1.1 200 OK", "A: b\rc"),
        _head("HTTP/1.1 200 OK", "Content-Length: -1"),
        _head("HTTP/1.1 200 OK", "Content-Length: "),
        _head("HTTP/1.1 200 OK", "Content-Length: 9999999999999999999"),
        _head("HTTP/1.1 200 OK", "Content-Length: 3", "Content-Length: 3"),
        _head("HTTP/1.1 200 OK", "Content-Length: 3", "Transfer-Encoding: chunked"),
        _head("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked"),
        _head("HTTP/1.1 200 OK", *(["A: b"] * (FIELDS_LIMIT + 1))),
        b"x" * (HEAD_LIMIT + 1),
        _head("HTTP/1.1 200 OK", f"A: {'b' * HEAD_LIMIT}"),
    ],
)
def test_what_is_no_head(data: bytes) -> None:
    with pytest.raises(BadReplyHead):
        parse_reply_head(data)
