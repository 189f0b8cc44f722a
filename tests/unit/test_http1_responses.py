"""Responses that are rendered before, or without, an application (RFC 9112)."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from hmacfs.protocol.http1.responses import closing_response, refusal

NOW = 784111777.9  # RFC 9110 section 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize("is_head", [False, True])
def test_a_closing_response(is_head: bool) -> None:
    response = closing_response(HTTPStatus.OK, [("Content-Type", "text/plain")], b"four", NOW, is_head=is_head)
    assert response.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Server: hmacfs",
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
        b"Connection: close",
        b"Content-Type: text/plain",
        b"Content-Length: 4",
        b"",
        b"" if is_head else b"four",
    ]


def test_a_refusal_has_its_id_and_a_sentence() -> None:
    response = refusal(HTTPStatus.TOO_MANY_REQUESTS, "Too many.", "0123", NOW, ("Retry-After", "5"))
    head, _, content = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert {b"X-Request-ID: 0123", b"Retry-After: 5", b"Content-Length: 10"} <= set(head.split(b"\r\n"))
    assert content == b"Too many.\n"
