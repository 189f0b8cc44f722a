"""Responses as bytes (RFC 9112). Pure: time is an argument."""

from __future__ import annotations

import functools
from email.utils import formatdate
from http import HTTPStatus

Headers = list[tuple[str, str]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@functools.lru_cache(maxsize=2)
def server_and_date(now: int) -> str:
    """The two lines that all responses begin with. now: in whole seconds since 1970."""
    return f"Server: hmacfs\r\nDate: {formatdate(now, usegmt=True)}\r\n"


def closing_response(
    status: HTTPStatus, headers: Headers, content: bytes, now: float, *, is_head: bool = False
) -> bytes:
    """A whole response that is the last one of its connection. is_head: the request's method is HEAD."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}\r\n{server_and_date(int(now))}Connection: close\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    lines.append(f"Content-Length: {len(content)}\r\n\r\n")
    return "".join(lines).encode("latin-1") + (b"" if is_head else content)


def refusal(status: HTTPStatus, text: str, request_id: str, now: float, *headers: tuple[str, str]) -> bytes:
    """A closing response to what did not become a request."""
    fields = [("X-Request-ID", request_id), ("Content-Type", "text/plain; charset=utf-8"), *headers]
    return closing_response(status, fields, f"{text}\n".encode(), now)
