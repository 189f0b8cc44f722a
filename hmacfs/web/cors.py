"""Cross-origin rules for browser clients (the Fetch standard, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from hmacfs.protocol.http1.responses import rendered
from hmacfs.protocol.methods import METHODS
from hmacfs.web.messages import Headers, Request

#: The headers that a script may send: any, since no credentials are ever allowed. The asterisk says so, but not for
#: ``Authorization``, and not to every browser (Safari before 15.4). So the headers that are of use here, and those that
#: libraries and tracing add by themselves, are named.
_REQUEST_HEADERS = (
    "*",
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Digest",
    "Content-Disposition",
    "Content-MD5",
    "Content-Range",
    "Content-Type",
    "Expires",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Pragma",
    "Prefer",
    "Range",
    "Repr-Digest",
    "traceparent",
    "tracestate",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Complete",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Chunk-ID",
    "X-File-Size",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "X-Requested-With",
    "X-Session-Token",
    "X-Total-Chunks",
)
#: The headers that a script may read besides those that are always readable (the Fetch standard: "CORS-safelisted").
_EXPOSED_HEADERS = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Date",
    "ETag",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Sunset",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-ID",
    "X-Session-Token",
)
MAX_AGE_SECONDS = 7200


class Cors:
    """Adds the headers that ``AllowedOrigins`` calls for. Credentials are never allowed: no cookie plays a part."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.lower() for origin in origins)
        self._exposed = ("Access-Control-Expose-Headers", ", ".join(_EXPOSED_HEADERS))
        self._for_any = rendered([("Access-Control-Allow-Origin", "*"), self._exposed])

    def add_to(self, headers: Headers, request: Request) -> None:
        """Add them to the headers of an answer to this request. They leave one ``Vary``: nginx before 1.23 passes on
        only one."""
        if self._any:
            headers.append(self._for_any)
            return
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is not None and origin.lower() in self._origins:
            headers += [("Access-Control-Allow-Origin", origin), self._exposed]
        # Of fields that are rendered already, this compares the first letter: they hold no ``Vary``.
        others = [field[1] for field in headers if field[0] == "Vary"]
        headers[:] = [field for field in headers if field[0] != "Vary"]
        headers.append(("Vary", ", ".join([*others, "Origin"])))

    def preflight_headers(self) -> Headers:
        """The headers that the answer to OPTIONS has as well."""
        return [
            ("Access-Control-Allow-Methods", ", ".join(METHODS)),
            ("Access-Control-Allow-Headers", ", ".join(_REQUEST_HEADERS)),
            ("Access-Control-Max-Age", str(MAX_AGE_SECONDS)),
        ]
