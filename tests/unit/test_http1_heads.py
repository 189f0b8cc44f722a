"""Request heads (RFC 9112): each example whole, and cut at every byte."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.protocol.http1.heads import BadRequestHead, parse_head

PUT = (
    b"PUT /upload/a%20b?v=1 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n"
    b"X-Thing: one\r\nx-thing: two\r\nX_Thing: three\r\n\r\n"
)


def test_a_head_becomes_an_environ() -> None:
    head = parse_head(PUT + b"hello")
    assert head is not None
    assert head.environ == {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/upload/a b",
        "QUERY_STRING": "v=1",
        "RAW_URI": "/upload/a%20b?v=1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "h:80",
        "CONTENT_LENGTH": "5",
        "CONTENT_TYPE": "text/plain",
        "HTTP_X_THING": "one,two",
    }
    assert (
        head.length,
        head.fields.is_chunked,
        head.fields.keep_alive,
        head.fields.expects_continue,
        head.size,
    ) == (
        5,
        False,
        True,
        False,
        len(PUT),
    )


def test_every_beginning_of_a_head_is_incomplete() -> None:
    for end in range(len(PUT)):
        assert parse_head(PUT[:end]) is None


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""), ("/a?b?c", "/a", "b?c"), ("/%e2%98%83", "/\xe2\x98\x83", ""), ("/%252F", "/%2F", ""), ("/%zz", "/%zz", ""),
        ("http://h/a?b", "/a", "b"), ("HTTPS://h", "/", ""), ("//a", "//a", ""), ("/\xc3\xb6", "/\xc3\xb6", ""),
    ],
)  # fmt: skip
def test_targets(target: str, path: str, query: str) -> None:
    head = parse_head(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1"))
    assert head is not None
    assert (head.environ["PATH_INFO"], head.environ["QUERY_STRING"]) == (path, query)


@pytest.mark.parametrize(
    ("protocol", "connection", "keep_alive"),
    [
        ("1.1", None, True), ("1.0", None, False), ("1.0", "keep-alive", True), ("1.1", "close", False),
        ("1.1", "Upgrade, Close", False), ("1.0", "keep-alive, close", False), ("1.1", "upgrade", True),
    ],
)  # fmt: skip
def test_persistence(protocol: str, connection: str | None, keep_alive: bool) -> None:
    field = f"Connection: {connection}\r\n" if connection else ""
    head = parse_head(f"GET / HTTP/{protocol}\r\nHost: h\r\n{field}\r\n".encode())
    assert head is not None
    assert head.keep_alive is keep_alive


def test_expectations_and_codings() -> None:
    head = parse_head(b"\r\nPUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nTransfer-Encoding: Chunked\r\n\r\n")
    assert head is not None
    assert (head.fields.expects_continue, head.fields.is_chunked, head.length) == (True, True, None)
    old = parse_head(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert old is not None
    assert not old.fields.expects_continue


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /#x HTTP/1.1\r\nHost: h\r\n\r\n", 400), (b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400), (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /\x80\x01 HTTP/1.1\r\nHost: h\r\n\r\n", 400), (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000000000\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: -" + b"9" * 19 + b"\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 19 + b"e\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1,1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"x" * 40_000, 431),
    ],
)  # fmt: skip
def test_refused_heads(head: bytes, status: int) -> None:
    with pytest.raises(BadRequestHead) as caught:
        parse_head(head)
    assert caught.value.status == HTTPStatus(status)


@pytest.mark.parametrize("declared", ["5", "05", "0" * 30 + "5", "0" * 5000 + "5", "9" * 18, "0", "00"])
def test_zeros_in_front_of_a_length_change_nothing(declared: str) -> None:
    head = parse_head(f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {declared}\r\n\r\n".encode())
    assert head is not None
    assert head.length == int(declared.lstrip("0") or "0")
    assert head.environ["CONTENT_LENGTH"] == str(head.length)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ("Content-Length: 7\r\nX-Content-Length: 9", 7), ("X-Content-Length: 9\r\ncontent-length: 7", 7),
        ("X: content-length: 9\r\nContent-Length:7", 7), ("X: content-length: 9", None), ("Content-Length: 7 ", 7),
    ],
)  # fmt: skip
def test_only_a_line_of_its_own_declares_a_length(fields: str, length: int | None) -> None:
    head = parse_head(f"PUT / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n".encode())
    assert head is not None
    assert head.length == length
    assert head.environ.get("CONTENT_LENGTH") == (None if length is None else str(length))


@pytest.mark.parametrize(
    "second", ["Content-Length: 7", "content-length: 8", "Content-Length: 08", "Transfer-Encoding: chunked", "Content-Length: "]
)  # fmt: skip
def test_no_second_word_on_the_framing_passes(second: str) -> None:
    for first, last in (("Content-Length: 7", second), (second, "Content-Length: 7")):
        for _ in range(2):
            with pytest.raises(BadRequestHead) as caught:
                parse_head(f"PUT / HTTP/1.1\r\nHost: h\r\n{first}\r\n{last}\r\n\r\n".encode())
            assert caught.value.status == HTTPStatus.BAD_REQUEST


def test_uploads_of_other_lengths_share_what_their_fields_say() -> None:
    heads = [
        parse_head(f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nX: 1\r\n\r\n".encode())
        for length in (1, 22, 333)
    ]
    assert [head.length for head in heads if head] == [1, 22, 333]
    assert [head.environ["CONTENT_LENGTH"] for head in heads if head] == ["1", "22", "333"]
    assert len({id(head.fields) for head in heads if head}) == 1


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_incomplete_or_a_request(data: bytes) -> None:
    for candidate in (
        data,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + data + b"\r\n\r\n",
        b"GET /" + data + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    ):
        try:
            head = parse_head(candidate)
        except BadRequestHead as error:
            assert error.status >= 400
            continue
        if head is not None:
            assert all(
                "\r" not in value and "\n" not in value and "\0" not in value
                for value in head.environ.values()
                if value != head.environ["PATH_INFO"]
            )
            assert head.size <= len(candidate)
