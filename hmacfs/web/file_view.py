"""How a stored file is served: type, disposition, validators, caching (docs/protocol.md, section 4)."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Callable
from http import HTTPStatus

from hmacfs.caching import bounded_cache
from hmacfs.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from hmacfs.net.send import FileSlice
from hmacfs.protocol.conditions import CHANGE_CONDITIONS, evaluate_conditions, fails_change
from hmacfs.protocol.media_types import is_inline, type_by_name
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileInfo
from hmacfs.web.destinations import VARY
from hmacfs.web.messages import Headers, Request, Response

#: Hostile files are the normal case: no browser may run them, of any type.
_NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
_POLICY = "Content-Security-Policy"
#: What is to be saved and never shown.
_OF_ATTACHMENTS = (_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox")
#: What may be shown. Chrome makes a page around a video or sound that is opened by its own URL: a player that loads
#: this very URL again, with styles inside. In a sandbox, or without media-src, it plays nothing.
_OF_SHOWN = (_POLICY, "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'")
#: nginx's internal location of the store.
X_ACCEL_PREFIX = "/hmacfs-internal/"
_ACCEPT_RANGES = ("Accept-Ranges", "bytes")
_PUBLIC = "public, max-age=31536000, immutable"
_YEAR_1, _YEAR_9999 = -62135596800, 253402300799
_PRIVATE = "private, max-age=31536000, immutable"


class FileView:
    """Answers GET and HEAD from the store.

    rate: bytes per second, 0 for no limit. x_accel: let nginx send the bytes, from its internal location
    ``X_ACCEL_PREFIX``, unless the request says that nginx cannot read the file. clock: gives Unix seconds.
    """

    def __init__(
        self,
        store: FileStore,
        *,
        rate: int = 0,
        x_accel: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._rate = rate
        self._x_accel = x_accel
        self._clock = clock

    def serve(self, request: Request) -> Response:
        """The answer; caches may share it unless it took a signature to get it. Raises ``NotFound``,
        ``PreconditionFailed``, ``RangeNotSatisfiable``."""
        if request.is_folder:
            raise NotFound
        name = request.name
        file = self._store.open(name)
        keep_open = False
        try:
            info = file.info
            content_type = info.metadata.content_type or type_by_name(name.path)
            # RFC 9110 section 8.8.2.1: a time in the future (another machine's, a clock that was set) becomes now.
            modified = min(int(info.modified), int(self._clock()))
            headers = _common_headers(info, modified, content_type, private=request.verified is not None)
            if self._x_accel and request.environ.get("HTTP_X_ACCEL_OFFLOAD") != "off":
                return _by_nginx(name, headers, content_type)
            chosen = evaluate_conditions(request.environ, info.etag, modified, info.size)
            if chosen.status is HTTPStatus.PRECONDITION_FAILED:
                raise PreconditionFailed(info.etag)
            if chosen.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise RangeNotSatisfiable(info.size, info.etag)
            if chosen.status is HTTPStatus.NOT_MODIFIED:
                return Response(chosen.status, headers)
            headers += type_headers(content_type)
            headers.append(("Content-Length", str(chosen.length)))
            if chosen.status is HTTPStatus.PARTIAL_CONTENT:
                last = chosen.offset + chosen.length - 1
                headers.append(("Content-Range", f"bytes {chosen.offset}-{last}/{info.size}"))
            if request.method == "HEAD":
                return Response(chosen.status, headers)
            keep_open = True
            return Response(chosen.status, headers, FileSlice(file, chosen.offset, chosen.length, rate=self._rate))
        finally:
            if not keep_open:
                file.close()

    def check_change(self, request: Request) -> None:
        """Judge the conditions under which a request wants to change a file. Raises ``PreconditionFailed``."""
        environ = request.environ
        if environ.keys().isdisjoint(CHANGE_CONDITIONS):
            return
        info = self._store.stat(request.name)
        if info is None:
            if fails_change(environ, None, 0):
                raise PreconditionFailed(None, "There is no file that the If-Match could name.")
        elif fails_change(environ, info.etag, int(info.modified)):
            raise PreconditionFailed(info.etag)


def _by_nginx(name: StoredName, headers: Headers, content_type: str) -> Response:
    """The answer that has nginx send the file, which then judges conditions and ranges as well."""
    headers = headers + type_headers(content_type)
    headers.remove(_ACCEPT_RANGES)  # nginx says so itself
    return Response(HTTPStatus.OK, [*headers, ("X-Accel-Redirect", name.url_path(X_ACCEL_PREFIX))])


def _common_headers(info: FileInfo, modified: int, content_type: str, *, private: bool) -> Headers:
    """The headers that a 304 has as well: a browser replaces those that it has stored by them."""
    headers: Headers = [
        ("ETag", info.etag),
        ("Last-Modified", http_date(modified)),
        ("Cache-Control", _PRIVATE if private else _PUBLIC),
        _ACCEPT_RANGES,
        _NO_SNIFFING,
    ]
    # A file that may be shown needs no Vary: its type and "nosniff" keep browsers from running it at any destination.
    headers += [_OF_SHOWN] if is_shown(content_type) else [_OF_ATTACHMENTS, VARY]
    return headers


#: Whether a browser may show a file of this type, remembered for the types that are asked for.
is_shown = bounded_cache(256)(is_inline)


@bounded_cache(256)
def type_headers(content_type: str) -> Headers:
    """The type, and whether a browser may show the file or must save it."""
    if is_shown(content_type):
        return [("Content-Type", content_type)]
    return [("Content-Type", content_type), ("Content-Disposition", "attachment")]


@functools.lru_cache(maxsize=256)
def http_date(seconds: int) -> str:
    """A Unix time as an HTTP date (RFC 9110 section 5.6.7), within the years of four digits: file systems know later
    and earlier ones."""
    return email.utils.formatdate(min(max(seconds, _YEAR_1), _YEAR_9999), usegmt=True)
