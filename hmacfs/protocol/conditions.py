"""Which part of a file a request gets: preconditions and ranges (RFC 9110 sections 13 and 14). Pure."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

#: Positions may be larger than any file: "bytes=0-9223372036854775807" is how some clients ask for all.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,64})-([0-9]{0,64})|-([0-9]{1,64}))[ \t]*", re.IGNORECASE)
_CONDITIONS = frozenset(
    {
        "HTTP_IF_NONE_MATCH",
        "HTTP_IF_MODIFIED_SINCE",
        "HTTP_IF_MATCH",
        "HTTP_IF_UNMODIFIED_SINCE",
        "HTTP_IF_RANGE",
    }
)
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


#: So much of a list of entity tags is looked at: a hundred of ours.
_TAGS_LIMIT = 4096


class Selection(NamedTuple):
    """What to answer: 200, 206, 304, 412 or 416, and for the first two which bytes."""

    status: HTTPStatus
    offset: int
    length: int


class ByteRange(NamedTuple):
    """A part of a file as a Range header names it (RFC 9110 section 14.1.2): first and last byte, both counted from 0
    and both included. last ``None``: to the end. first ``None``: the last ``last`` bytes."""

    first: int | None
    last: int | None


#: All of a file.
WHOLE = ByteRange(0, None)


def probable_range(environ: Mapping[str, str]) -> ByteRange | None:
    """What a request is going to be answered with, as far as its headers tell without the file; ``None`` for none of
    its bytes, or where a condition has to be judged first."""
    if environ["REQUEST_METHOD"] != "GET":
        return None
    if not has_conditions(environ):
        return WHOLE
    wanted = environ.get("HTTP_RANGE")
    if wanted is None or not _CONDITIONS.isdisjoint(environ):
        return None
    match = _RANGE.fullmatch(wanted)
    if match is None:
        return WHOLE
    first, last, suffix = match.groups()
    if suffix is not None:
        return ByteRange(None, int(suffix))
    if last and int(last) < int(first):
        return WHOLE
    return ByteRange(int(first), int(last) if last else None)


def has_conditions(environ: Mapping[str, str]) -> bool:
    """Whether there is anything that ``evaluate_conditions`` judges: most requests are for a whole file, come what
    may."""
    return (
        "HTTP_RANGE" in environ
        or "HTTP_IF_NONE_MATCH" in environ
        or "HTTP_IF_MODIFIED_SINCE" in environ
        or "HTTP_IF_MATCH" in environ
        or "HTTP_IF_UNMODIFIED_SINCE" in environ
    )


def evaluate_conditions(environ: Mapping[str, str], etag: str, mtime: int, size: int) -> Selection:
    """Judge a GET or HEAD by its headers (as WSGI environ keys) in the order of RFC 9110 section 13.2.2.

    mtime: the file's, in Unix seconds; size: in bytes.
    """
    whole = Selection(HTTPStatus.OK, 0, size)
    if _fails_match(environ, etag, mtime):
        return Selection(HTTPStatus.PRECONDITION_FAILED, 0, 0)
    if _is_not_modified(environ, etag, mtime):
        return Selection(HTTPStatus.NOT_MODIFIED, 0, 0)
    wanted = environ.get("HTTP_RANGE")
    if wanted is None or environ["REQUEST_METHOD"] != "GET" or not _if_range_holds(environ, etag, mtime):
        return whole
    return _part(wanted, size) or whole


def _fails_match(environ: Mapping[str, str], etag: str, mtime: int) -> bool:
    if (tags := environ.get("HTTP_IF_MATCH")) is not None:
        return not _lists(tags, etag, weak=False)
    since = _date(environ.get("HTTP_IF_UNMODIFIED_SINCE"))
    return since is not None and mtime > since


def has_change_conditions(environ: Mapping[str, str]) -> bool:
    """Whether a request that would change a file has a condition: few have."""
    return "HTTP_IF_MATCH" in environ or "HTTP_IF_UNMODIFIED_SINCE" in environ


def fails_change(environ: Mapping[str, str], etag: str | None, mtime: int) -> bool:
    """Whether a condition of a request that would change a file does not hold; ``etag`` is ``None`` if there is no
    file: then any ``If-Match`` fails, and ``If-Unmodified-Since`` says nothing (RFC 9110 section 13.1)."""
    if etag is None:
        return "HTTP_IF_MATCH" in environ
    return _fails_match(environ, etag, mtime)


def _is_not_modified(environ: Mapping[str, str], etag: str, mtime: int) -> bool:
    if (tags := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return _lists(tags, etag, weak=True)
    since = _date(environ.get("HTTP_IF_MODIFIED_SINCE"))
    return since is not None and mtime <= since


def _lists(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names ``etag``, by the weak or the strong comparison (section 8.8.3.2)."""
    if header.strip() == "*":
        return True
    if etag not in header:
        return False
    header = header[:_TAGS_LIMIT]
    return any((weak and tag == f"W/{etag}") or tag == etag for tag in _ENTITY_TAG.findall(header))


def _if_range_holds(environ: Mapping[str, str], etag: str, mtime: int) -> bool:
    value = environ.get("HTTP_IF_RANGE")
    if value is None or value == etag:
        return True
    return _date(value) == mtime


def _part(wanted: str, size: int) -> Selection | None:
    """The single range asked for; ``None`` for several ranges or another unit, which section 14.2 lets us ignore."""
    match = _RANGE.fullmatch(wanted)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
        satisfiable = int(suffix) > 0 and size > 0
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
        satisfiable = start < size
    if not satisfiable:
        return Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0)
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, end - start)


def _date(text: str | None) -> int | None:
    if not text:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(text)
        # The asctime form has no zone: it is UTC as the others are (section 5.6.7).
        return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())
    except (ValueError, OverflowError, TypeError):
        return None
