"""The one table that says which HTTP status each error becomes, and how an error answer looks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from hmacfs import errors
from hmacfs.dialects import tus
from hmacfs.protocol.methods import allow
from hmacfs.web.messages import Headers, Response, Status

#: RFC 9457 asks for a URI; a relative one would depend on the request's path.
TYPE_PREFIX = "urn:hmacfs:problem:"

#: tus 1.0.0, extension "checksum". It is in no registry, so ``HTTPStatus`` does not know it.
CHECKSUM_MISMATCH = Status(460, "Checksum Mismatch")

_STATUS: Mapping[type[errors.HmacfsError], HTTPStatus | Status] = {
    errors.BadName: HTTPStatus.BAD_REQUEST,
    errors.BadRequest: HTTPStatus.BAD_REQUEST,
    errors.MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.BadCoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.IsForm: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.DigestMismatch: HTTPStatus.BAD_REQUEST,
    errors.LengthRequired: HTTPStatus.LENGTH_REQUIRED,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BadSignature: HTTPStatus.FORBIDDEN,
    errors.ForPages: HTTPStatus.FORBIDDEN,
    errors.BadToken: HTTPStatus.UNAUTHORIZED,
    errors.TokenExpired: HTTPStatus.GONE,
    errors.SlotMismatch: HTTPStatus.BAD_REQUEST,
    errors.SizeMismatch: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.DeletionForbidden: HTTPStatus.FORBIDDEN,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.NameTaken: HTTPStatus.CONFLICT,
    errors.UploadRunning: HTTPStatus.CONFLICT,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    errors.RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.NoSpace: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.StorageFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.IncompleteBody: HTTPStatus.BAD_REQUEST,
    errors.BadBody: HTTPStatus.BAD_REQUEST,
    errors.PeerTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SessionUnknown: HTTPStatus.NOT_FOUND,
    errors.SessionEnded: HTTPStatus.GONE,
    errors.SessionExpired: HTTPStatus.GONE,
    errors.OffsetMismatch: HTTPStatus.CONFLICT,
    errors.SessionConflict: HTTPStatus.CONFLICT,
    errors.Superseded: HTTPStatus.CONFLICT,
    errors.WriterBusy: HTTPStatus.CONFLICT,
    errors.TooManySessions: HTTPStatus.TOO_MANY_REQUESTS,
    errors.SessionStoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    tus.UnsupportedVersion: HTTPStatus.PRECONDITION_FAILED,
    tus.NotAPiece: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.ChecksumMismatch: CHECKSUM_MISMATCH,
}


#: Transient errors: these say after how many seconds to try again.
_TRANSIENT = (errors.RateLimited, errors.SessionStoreUnavailable, errors.StoreUnavailable, errors.UploadRunning)


def status_of(error: errors.HmacfsError) -> HTTPStatus | Status:
    """The status an error becomes; for a class that is not in the table, its nearest base's."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _extra_headers(error: errors.HmacfsError) -> Iterator[tuple[str, str]]:
    if isinstance(error, errors.MethodNotAllowed):
        yield allow(error.allowed)
    if isinstance(error, errors.BadToken):
        yield "WWW-Authenticate", "Bearer"
    if isinstance(error, _TRANSIENT):
        yield "Retry-After", str(error.retry_after)
    if isinstance(error, errors.BadCoding):
        yield "Accept-Encoding", "identity"  # RFC 9110 section 12.5.3
    if isinstance(error, (errors.PreconditionFailed, errors.RangeNotSatisfiable)) and error.etag is not None:
        yield "ETag", error.etag
    if isinstance(error, errors.RangeNotSatisfiable):
        yield "Content-Range", f"bytes */{error.size}"
    if isinstance(error, errors.OffsetMismatch):
        yield "Upload-Offset", str(error.offset)
    if isinstance(error, tus.UnsupportedVersion):
        yield "Tus-Version", tus.VERSION


def problem(status: HTTPStatus | Status, reason: str, sentence: str, accept: str, headers: Headers) -> Response:
    """An error answer: a line of text, or RFC 9457 for a client that accepts JSON (its ``Accept`` header)."""
    accept = accept.lower()
    if "application/problem+json" in accept or "application/json" in accept:
        content_type = "application/problem+json"
        fields = {"type": TYPE_PREFIX + reason, "title": status.phrase, "status": status.value, "detail": sentence}
        body = json.dumps(fields).encode() + b"\n"
    else:
        content_type = "text/plain; charset=utf-8"
        body = sentence.encode() + b"\n"
    return Response(
        status,
        [
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ],
        body,
        reason=reason,
    )


def problem_of(error: errors.HmacfsError, accept: str) -> Response:
    """The answer to a request that ended in ``error``."""
    return problem(status_of(error), error.reason, str(error), accept, list(_extra_headers(error)))
