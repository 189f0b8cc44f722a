"""How a stored file is served: type, disposition, validators, caching (docs/protocol.md, section 4)."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from hmacfs.caching import bounded_cache
from hmacfs.config import DownloadOffload
from hmacfs.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from hmacfs.net.send import FileSlice
from hmacfs.protocol.conditions import (
    Selection,
    evaluate_conditions,
    fails_change,
    has_change_conditions,
    has_conditions,
    probable_range,
)
from hmacfs.protocol.http1.responses import rendered
from hmacfs.protocol.media_types import is_inline, type_by_name
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileInfo
from hmacfs.web import offloaded
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
_ACCEPT_RANGES = ("Accept-Ranges", "bytes")
# On Python 3.11 each look-up of an enum's member is a call in Python.
_OK, _PARTIAL_CONTENT, _NOT_MODIFIED = HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED
_YEAR_1, _YEAR_9999 = -62135596800, 253402300799


class FileView:
    """Answers GET and HEAD from the store.

    rate: bytes per second, 0 for no limit. offload: who sends the bytes instead; nginx does not if the request says
    that it cannot. clock: gives Unix seconds.
    """

    def __init__(
        self,
        store: FileStore,
        *,
        rate: int = 0,
        offload: DownloadOffload = DownloadOffload.NONE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._rate = rate
        self._offload = offload
        self._clock = clock

    def serve(self, request: Request) -> Response:
        """The answer; caches may share it unless it took a signature to get it. Raises ``NotFound``,
        ``PreconditionFailed``, ``RangeNotSatisfiable``."""
        if request.is_folder:
            raise NotFound
        name, environ = request.name, request.environ
        is_offloaded = self._is_offloaded(environ)
        file = self._store.open(name, None if is_offloaded else probable_range(environ))
        keep_open = False
        try:
            info = file.info
            modified = int(info.modified)
            # RFC 9110 section 8.8.2.1: a time in the future (another machine's, a clock that was set) becomes now.
            if modified > (now := self._clock()):
                modified = int(now)
            content_type = info.metadata.content_type or type_by_name(name.path)
            fixed = public_headers(content_type) if request.verified is None else private_headers(content_type)
            validators = f"ETag: {info.etag}\r\nLast-Modified: {http_date(modified)}\r\n"
            url = None
            if is_offloaded:
                url = self._store.location(name, offloaded.URL_SECONDS, fixed.of_object)
                if url is None:
                    return offloaded.from_folder(name, [validators, *fixed.by_nginx])
            status, offset, length = _OK, 0, info.size
            if has_conditions(environ):
                status, offset, length = _judge(environ, info, modified)
                if status is _NOT_MODIFIED:
                    return Response(status, [validators, *fixed.of_304])
            if url is not None and request.method != "HEAD":
                if self._offload is DownloadOffload.REDIRECT:
                    return offloaded.at_store(url, fixed.vary)
                wanted = f"bytes={offset}-{offset + length - 1}" if status is _PARTIAL_CONTENT else ""
                return offloaded.from_object(url, [validators, *fixed.by_nginx_of_object], wanted)
            headers: Headers = [validators, *fixed.of_file, ("Content-Length", str(length))]
            if status is _PARTIAL_CONTENT:
                headers.append(("Content-Range", f"bytes {offset}-{offset + length - 1}/{info.size}"))
            if request.method == "HEAD":
                return Response(status, headers)
            keep_open = True
            return Response(status, headers, FileSlice(file, offset, length, rate=self._rate))
        finally:
            if not keep_open:
                file.close()

    def _is_offloaded(self, environ: Mapping[str, str]) -> bool:
        """Whether somebody else is to send the file."""
        if self._offload is DownloadOffload.X_ACCEL:
            return environ.get("HTTP_X_ACCEL_OFFLOAD") != "off"
        return self._offload is DownloadOffload.REDIRECT

    def check_change(self, request: Request) -> None:
        """Judge the conditions under which a request wants to change a file. Raises ``PreconditionFailed``."""
        environ = request.environ
        if not has_change_conditions(environ):
            return
        info = self._store.stat(request.name)
        if info is None:
            if fails_change(environ, None, 0):
                raise PreconditionFailed(None, "There is no file that the If-Match could name.")
        elif fails_change(environ, info.etag, int(info.modified)):
            raise PreconditionFailed(info.etag)


def _judge(environ: Mapping[str, str], info: FileInfo, modified: int) -> Selection:
    """What is chosen of the file by the request's conditions and range. Raises ``PreconditionFailed``,
    ``RangeNotSatisfiable``."""
    chosen = evaluate_conditions(environ, info.etag, modified, info.size)
    if chosen.status is HTTPStatus.PRECONDITION_FAILED:
        raise PreconditionFailed(info.etag)
    if chosen.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise RangeNotSatisfiable(info.size, info.etag)
    return chosen


class FixedHeaders(NamedTuple):
    """The headers that all files of a type have. of_304: those that an answer without content has as well, since a
    browser replaces by them what it has stored; of_file: all; by_nginx: those that nginx does not give itself, with a
    folder and with an object store; of_object: what an object store is to answer itself, by name."""

    vary: Headers
    of_304: Headers
    of_file: Headers
    by_nginx: Headers
    by_nginx_of_object: Headers
    of_object: Mapping[str, str]


def _fixed_headers(content_type: str, cache_control: str) -> FixedHeaders:
    caching = ("Cache-Control", cache_control)
    if is_inline(content_type):
        # It needs no Vary: its type and "nosniff" keep browsers from running it at any destination.
        policy, vary, as_what = _OF_SHOWN, [], [("Content-Type", content_type)]
    else:
        policy, vary = _OF_ATTACHMENTS, [VARY]
        as_what = [("Content-Type", content_type), ("Content-Disposition", "attachment")]
    before = rendered([caching, _ACCEPT_RANGES, _NO_SNIFFING, policy])
    type_lines = rendered(as_what)
    # nginx would keep these two of the first answer, whatever comes in its place.
    renamed = [("X-Hmacfs-Cache-Control", cache_control), *((f"X-Hmacfs-{name}", value) for name, value in as_what[1:])]
    return FixedHeaders(
        vary=[*vary],
        of_304=[before, *vary],
        of_file=[before, *vary, type_lines] if vary else [before + type_lines],
        by_nginx=[rendered([caching, _NO_SNIFFING, policy]), *vary, type_lines],
        by_nginx_of_object=[rendered([*renamed, _NO_SNIFFING, policy, as_what[0]]), *vary],
        of_object=dict([*as_what, caching]),
    )


@bounded_cache(256)
def public_headers(content_type: str) -> FixedHeaders:
    """Of a file that everybody may get who knows its name."""
    return _fixed_headers(content_type, "public, max-age=31536000, immutable")


@bounded_cache(256)
def private_headers(content_type: str) -> FixedHeaders:
    """Of a file that it took a signature to get."""
    return _fixed_headers(content_type, "private, max-age=31536000, immutable")


@functools.lru_cache(maxsize=256)
def http_date(seconds: int) -> str:
    """A Unix time as an HTTP date (RFC 9110 section 5.6.7), within the years of four digits: file systems know later
    and earlier ones."""
    return email.utils.formatdate(min(max(seconds, _YEAR_1), _YEAR_9999), usegmt=True)
