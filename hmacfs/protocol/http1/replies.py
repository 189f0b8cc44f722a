"""Understanding the head of an HTTP/1.x response (RFC 9112), for a client. Pure: bytes in, values out, no sockets.

As strict as ``heads`` is with requests. ``http.client`` reads heads by the parser of mails, at six times the cost.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from hmacfs.errors import TooLarge
from hmacfs.protocol.numerals import byte_count

#: Status line and all fields together.
HEAD_LIMIT = 64 * 1024
FIELDS_LIMIT = 200

_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: .*)?")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What a line may hold: no controls but HTAB.
_CHARACTERS = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_WITHOUT_BODY = frozenset({204, 304})


class BadReplyHead(ValueError):
    """What came is no head of a response, or not one whose end can be told for sure."""


@dataclasses.dataclass(slots=True)
class ReplyHead:
    """A response's head. fields: by names in lower case; those of one name are joined by commas. length: of the body,
    ``None`` if it ends with the connection or is chunked. keep_alive: the connection can take another request. size:
    how many bytes the head took."""

    status: int
    fields: Mapping[str, str]
    length: int | None
    is_chunked: bool
    keep_alive: bool
    size: int


def parse_reply_head(data: bytes, *, is_head: bool = False) -> ReplyHead | None:
    """The head at the beginning of ``data``, or ``None`` if it is not complete yet. Raises ``BadReplyHead``.

    is_head: the request was HEAD, whose answer has no body.

    >>> head = parse_reply_head(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nETag: \\"a\\"\\r\\n\\r\\nhello")
    >>> head.status, head.length, head.fields["etag"], head.keep_alive, head.size
    (200, 5, '"a"', True, 49)
    """
    end = data.find(b"\r\n\r\n")
    if end < 0 or end > HEAD_LIMIT:
        if len(data) > HEAD_LIMIT:
            raise BadReplyHead("the answer's head is too long")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadReplyHead("what came is no HTTP/1.1")
    fields = _fields_of(lines)
    is_1_1, status = match[1] == "HTTP/1.1", int(match[2])
    length, is_chunked = _framing(fields)
    if is_head or status < 200 or status in _WITHOUT_BODY:
        length, is_chunked = 0, False
    options = fields.get("connection", "").lower()
    keep_alive = (is_1_1 or "keep-alive" in options) and "close" not in options and (is_chunked or length is not None)
    return ReplyHead(status, fields, length, is_chunked, keep_alive, end + 4)


def _fields_of(lines: list[str]) -> dict[str, str]:
    if len(lines) > FIELDS_LIMIT:
        raise BadReplyHead("the answer has too many header fields")
    characters = "".join(lines)
    if not (characters.isascii() and characters.isprintable()) and _CHARACTERS.fullmatch(characters) is None:
        raise BadReplyHead("the answer's head holds a control character")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise BadReplyHead("a header field of the answer is malformed")
        key, value = name.lower(), value.strip(" \t")
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields


def _framing(fields: Mapping[str, str]) -> tuple[int | None, bool]:
    """The declared length, and whether the body is chunked. Two lengths, or both, is how answers are split."""
    declared, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if declared is not None or coding.lower() != "chunked":
            raise BadReplyHead("the answer's framing is ambiguous")
        return None, True
    if declared is None:
        return None, False
    try:
        length = byte_count(declared)
    except TooLarge:
        length = None
    if length is None:
        raise BadReplyHead("the answer's Content-Length is malformed")
    return length, False
