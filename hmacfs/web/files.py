"""How a stored file is served: type, disposition, validators, caching (PROTOCOL section 4)."""

from __future__ import annotations

import email.utils
import functools
from collections.abc import Callable
from http import HTTPStatus

from hmacfs.descriptors import close
from hmacfs.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from hmacfs.filetypes import guess, is_inline
from hmacfs.naming import StoredName
from hmacfs.storage.local import OpenFile
from hmacfs.storage.publish import FileFacts
from hmacfs.transfer.send import FileSlice
from hmacfs.web.conditional import select
from hmacfs.web.exchange import Exchange, Headers, Reply

#: Hostile files are the normal case: no browser may run them, in whatever type they come.
SECURITY_HEADERS: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
]
#: nginx's internal location of the store.
X_ACCEL_PREFIX = "/hmacfs-internal/"
_ACCEPT_RANGES = ("Accept-Ranges", "bytes")
_PUBLIC = "public, max-age=31536000, immutable"
_YEAR_1, _YEAR_9999 = -62135596800, 253402300799
_PRIVATE = "private, max-age=31536000, immutable"


class ServeFile:
    """Answers GET and HEAD from the store.

    rate: bytes per second, 0 for no limit. x_accel: let nginx send the bytes, from its internal location
    ``X_ACCEL_PREFIX``, unless the request says that nginx cannot read the file.
    """

    def __init__(self, open_file: Callable[[StoredName], OpenFile], *, rate: int = 0, x_accel: bool = False) -> None:
        self._open = open_file
        self._rate = rate
        self._x_accel = x_accel

    def __call__(self, exchange: Exchange, *, private: bool) -> Reply:
        """The answer; ``private`` if it took a signature to get it. Raises ``NotFound``, ``IsFolder``,
        ``PreconditionFailed``, ``RangeNotSatisfiable``."""
        name = exchange.name
        file = self._open(name)
        keep_open = False
        try:
            facts = file.facts
            if self._x_accel and exchange.header("X_ACCEL_OFFLOAD") != "off":
                return self._by_nginx(exchange, facts, private=private)
            chosen = select(exchange.environ, facts.etag, int(facts.mtime), facts.size)
            if chosen.status is HTTPStatus.PRECONDITION_FAILED:
                raise PreconditionFailed(facts.etag)
            if chosen.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise RangeNotSatisfiable(facts.size, facts.etag)
            headers = _common_headers(facts, private=private)
            if chosen.status is HTTPStatus.NOT_MODIFIED:
                return Reply(chosen.status, headers)
            headers += type_headers(facts.content_type or guess(name.filename))
            headers.append(("Content-Length", str(chosen.length)))
            if chosen.status is HTTPStatus.PARTIAL_CONTENT:
                last = chosen.offset + chosen.length - 1
                headers.append(("Content-Range", f"bytes {chosen.offset}-{last}/{facts.size}"))
            if exchange.method == "HEAD":
                return Reply(chosen.status, headers)
            keep_open = True
            return Reply(chosen.status, headers, FileSlice(file.fd, chosen.offset, chosen.length, rate=self._rate))
        finally:
            if not keep_open:
                close(file.fd)

    @staticmethod
    def _by_nginx(exchange: Exchange, facts: FileFacts, *, private: bool) -> Reply:
        """Conditions and ranges are nginx's then."""
        headers = _common_headers(facts, private=private) + type_headers(
            facts.content_type or guess(exchange.name.filename)
        )
        headers.remove(_ACCEPT_RANGES)  # nginx says so itself
        return Reply(HTTPStatus.OK, [*headers, ("X-Accel-Redirect", exchange.name.url_path(X_ACCEL_PREFIX))])

    def facts(self, name: StoredName) -> FileFacts:
        """Of a stored file. Raises ``NotFound``, ``IsFolder``."""
        file = self._open(name)
        close(file.fd)
        return file.facts

    def folder(self, exchange: Exchange) -> Reply:
        """The answer to a path with a slash at its end: ``IsFolder`` if there is one, else ``NotFound``."""
        close(self._open(exchange.name).fd)
        raise NotFound


def _common_headers(facts: FileFacts, *, private: bool) -> Headers:
    return [
        ("ETag", facts.etag),
        ("Last-Modified", http_date(int(facts.mtime))),
        ("Cache-Control", _PRIVATE if private else _PUBLIC),
        _ACCEPT_RANGES,
        *SECURITY_HEADERS,
    ]


@functools.lru_cache(maxsize=256)
def type_headers(content_type: str) -> Headers:
    """The type, and whether a browser may show the file or must save it."""
    if is_inline(content_type):
        return [("Content-Type", content_type)]
    return [("Content-Type", content_type), ("Content-Disposition", "attachment")]


@functools.lru_cache(maxsize=256)
def http_date(seconds: int) -> str:
    """A Unix time as an HTTP date (RFC 9110 section 5.6.7), whose years have four digits; file systems know more."""
    return email.utils.formatdate(min(max(seconds, _YEAR_1), _YEAR_9999), usegmt=True)
