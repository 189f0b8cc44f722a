"""Responses as bytes (RFC 9112). Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

#: A header field, or several that are always the same as one text that ``rendered`` made.
Field = tuple[str, str] | str
Headers = list[Field]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: How a response's head ends: the connection ends with it, or goes on, which HTTP/1.0 has to be told.
CLOSE = "Connection: close\r\n\r\n"
KEEP_ALIVE = "\r\n"
KEEP_ALIVE_1_0 = "Connection: keep-alive\r\n\r\n"

#: Statuses whose responses have no Content-Length unless the headers tell it (RFC 9110 section 8.6).
_WITHOUT_LENGTH = ("1", "204", "304")


def rendered(fields: Iterable[tuple[str, str]]) -> str:
    """The lines of these fields, each with its end. What asks for a field by its name does not see it in them: they
    must hold no ``Vary`` (see ``web.cors``)."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields])


def pairs_of(headers: Iterable[Field]) -> list[tuple[str, str]]:
    """All fields as WSGI has them."""
    pairs = []
    for field in headers:
        if isinstance(field, str):
            for line in field.split("\r\n")[:-1]:
                name, _, value = line.partition(": ")
                pairs.append((name, value))
        else:
            pairs.append(field)
    return pairs


class ServerAndDate:
    """Makes the two lines that all responses begin with, once in a second."""

    __slots__ = ("_lines", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._lines = ""

    def at(self, now: float) -> str:
        """now: in seconds since 1970."""
        if not self._second <= now < self._second + 1:
            self._second = int(now)
            self._lines = f"Server: hmacfs\r\nDate: {formatdate(self._second, usegmt=True)}\r\n"
        return self._lines


def response_head(status: str, server_and_date: str, headers: Iterable[Field], length: int, end: str) -> bytes:
    """A response's head, with the length of its body unless the headers tell it already, or the status has none.

    status: with its phrase. end: one of ``CLOSE``, ``KEEP_ALIVE``, ``KEEP_ALIVE_1_0``.
    """
    lines = [f"HTTP/1.1 {status}\r\n", server_and_date]
    lines += [field if isinstance(field, str) else f"{field[0]}: {field[1]}\r\n" for field in headers]
    text = "".join(lines)
    if "\r\nContent-Length:" in text or status.startswith(_WITHOUT_LENGTH):
        return (text + end).encode("latin-1")
    return f"{text}Content-Length: {length}\r\n{end}".encode("latin-1")


def closing_response(
    status: HTTPStatus, headers: Iterable[Field], content: bytes, now: float, *, is_head: bool = False
) -> bytes:
    """A whole response that is the last one of its connection. is_head: the request's method is HEAD."""
    head = response_head(f"{status.value} {status.phrase}", ServerAndDate().at(now), headers, len(content), CLOSE)
    return head if is_head else head + content


def refusal(status: HTTPStatus, text: str, request_id: str, now: float, *headers: tuple[str, str]) -> bytes:
    """A closing response to what did not become a request."""
    fields: Headers = [("X-Request-ID", request_id), ("Content-Type", "text/plain; charset=utf-8"), *headers]
    return closing_response(status, fields, f"{text}\n".encode(), now)
