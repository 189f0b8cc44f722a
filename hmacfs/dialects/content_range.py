"""Pieces as ``Content-Range`` on the slot URL (docs/protocol.md, section 6.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from hmacfs.errors import BadRequest
from hmacfs.protocol.numerals import byte_count

#: As sessions record it.
NAME = "range"

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", re.IGNORECASE)


class RangePiece(NamedTuple):
    """The bytes from ``first`` to before ``end`` of a file of ``total`` bytes."""

    first: int
    end: int
    total: int

    @property
    def begins_file(self) -> bool:
        return self.first == 0


def range_piece(environ: Mapping[str, str]) -> RangePiece | None:
    """The piece that a PUT carries by its headers (WSGI environ keys), ``None`` without Content-Range.

    Raises ``BadRequest`` for a header that is malformed or contradicts itself or Content-Length, ``TooLarge``.
    """
    header = environ.get("HTTP_CONTENT_RANGE")
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        raise BadRequest("The Content-Range is malformed.")
    first, last, total = (byte_count(digits) or 0 for digits in match.groups())
    if not first <= last < total:
        raise BadRequest("The Content-Range contradicts itself.")
    if environ.get("CONTENT_LENGTH", "") not in ("", str(last - first + 1)):
        raise BadRequest("The Content-Range contradicts the Content-Length.")
    return RangePiece(first, last + 1, total)
