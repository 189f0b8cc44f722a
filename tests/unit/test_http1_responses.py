"""Responses that are rendered before, or without, an application (RFC 9112)."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from hmacfs.protocol.http1.responses import (
    CLOSE,
    KEEP_ALIVE,
    Field,
    ServerAndDate,
    closing_response,
    pairs_of,
    refusal,
    rendered,
    response_head,
)

NOW = 784111777.9  # RFC 9110 section 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize("is_head", [False, True])
def test_a_closing_response(is_head: bool) -> None:
    response = closing_response(HTTPStatus.OK, [("Content-Type", "text/plain")], b"four", NOW, is_head=is_head)
    assert response.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Server: hmacfs",
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
        b"Content-Type: text/plain",
        b"Content-Length: 4",
        b"Connection: close",
        b"",
        b"" if is_head else b"four",
    ]


def test_a_refusal_has_its_id_and_a_sentence() -> None:
    response = refusal(HTTPStatus.TOO_MANY_REQUESTS, "Too many.", "0123", NOW, ("Retry-After", "5"))
    head, _, content = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert {b"X-Request-ID: 0123", b"Retry-After: 5", b"Content-Length: 10"} <= set(head.split(b"\r\n"))
    assert content == b"Too many.\n"


PAIRS = [("Access-Control-Allow-Origin", "*"), ("Link", "<a>; rel=b, c: d"), ("X-Empty", "")]


def test_fields_that_were_rendered_are_pairs_again() -> None:
    assert pairs_of([("ETag", '"x"'), rendered(PAIRS), ("Allow", "GET")]) == [("ETag", '"x"'), *PAIRS, ("Allow", "GET")]
    assert pairs_of([]) == []


@pytest.mark.parametrize("fields", [PAIRS, [rendered(PAIRS)], [PAIRS[0], rendered(PAIRS[1:])]])
def test_a_head_is_the_same_however_its_fields_are_given(fields: list[Field]) -> None:
    assert response_head("200 OK", ServerAndDate().at(NOW), fields, 7, KEEP_ALIVE).split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Server: hmacfs",
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
        b"Access-Control-Allow-Origin: *",
        b"Link: <a>; rel=b, c: d",
        b"X-Empty: ",
        b"Content-Length: 7",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        ("200 OK", [], [b"Content-Length: 7"]),
        ("200 OK", [("Content-Length", "9")], [b"Content-Length: 9"]),
        ("200 OK", [rendered([("X-A", "b"), ("Content-Length", "9")])], [b"Content-Length: 9"]),
        ("200 OK", [("Expose", "Content-Length")], [b"Content-Length: 7"]),
        ("204 No Content", [], []),
        ("304 Not Modified", [], []),
        ("304 Not Modified", [("Content-Length", "9")], [b"Content-Length: 9"]),
    ],
)
def test_a_head_has_the_length_once(status: str, fields: list[Field], expected: list[bytes]) -> None:
    lines = response_head(status, "", fields, 7, CLOSE).split(b"\r\n")
    assert [line for line in lines if line.lower().startswith(b"content-length")] == expected
    assert lines[-3:] == [b"Connection: close", b"", b""]


def test_the_date_follows_the_clock_in_both_directions() -> None:
    server_and_date = ServerAndDate()
    seconds = [server_and_date.at(now).split("\r\n")[1][-6:-4] for now in (NOW, NOW + 0.05, NOW + 0.2, NOW - 1, NOW)]
    assert seconds == ["37", "37", "38", "36", "37"]
