"""Answers that have somebody else send a file: nginx, or the object store to which a client is sent. Pure."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from hmacfs.protocol.names import StoredName
from hmacfs.web.messages import Headers, Response

#: nginx's internal location of the store's folder.
FOLDER_PREFIX = "/hmacfs-internal/"
#: The one that asks an object store.
OBJECT_PATH = "/hmacfs-object"
#: How long a URL is good for: a download that has begun by then goes on.
URL_SECONDS = 3600
#: A client may take the same URL again for so long, and so finds in its cache what it has fetched from there. The rest
#: of the time is for the download to begin.
_REDIRECT_SECONDS = URL_SECONDS // 2


def from_folder(name: StoredName, headers: Headers) -> Response:
    """nginx sends the file, and judges conditions and ranges as well."""
    return Response(HTTPStatus.OK, [*headers, ("X-Accel-Redirect", name.url_path(FOLDER_PREFIX))])


def from_object(url: str, headers: Headers, wanted: str) -> Response:
    """nginx fetches the file from the object store and passes it on, with these headers. wanted: the Range to ask for,
    empty for all. It knows the store's host; what it is told here is never logged."""
    parts = urlsplit(url)
    fields = [*headers, ("X-Accel-Redirect", OBJECT_PATH), ("X-Hmacfs-Source", f"{parts.path}?{parts.query}")]
    if wanted:
        fields.append(("X-Hmacfs-Range", wanted))
    return Response(HTTPStatus.OK, fields)


def at_store(url: str, vary: Headers) -> Response:
    """The client fetches the file there itself, with its Range and conditions."""
    caching = ("Cache-Control", f"private, max-age={_REDIRECT_SECONDS}")
    return Response(HTTPStatus.TEMPORARY_REDIRECT, [caching, *vary, ("Location", url), ("Content-Length", "0")])
