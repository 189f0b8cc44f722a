"""The routes of uploads and downloads, each with the order of its checks (docs/protocol.md, sections 3 to 6).

A request with several faults is refused for the first of them in this order. What only the store can tell (size, name
taken, space) is checked after these, in the use cases: see ``uploads.whole`` and ``uploads.creation``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from hmacfs.dialects import tus
from hmacfs.protocol.methods import METHODS, allow
from hmacfs.protocol.signing import Scheme, schemes_in
from hmacfs.web.content import check_body, check_creation, check_upload_body
from hmacfs.web.cors import Cors
from hmacfs.web.destinations import check_destination
from hmacfs.web.file_view import FileView
from hmacfs.web.guards import Guards
from hmacfs.web.head_view import HeadView
from hmacfs.web.messages import TUS_PATH, Request, Response, View
from hmacfs.web.put_view import PutView
from hmacfs.web.rate_limits import RateLimits
from hmacfs.web.routes import Covers, Route
from hmacfs.web.tus_views import (
    TusViews,
    check_is_creation,
    check_is_piece,
    check_override,
    check_version,
    refuse_if_match,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Transfers:
    """Makes the routes. prefix: the mount point, with both slashes; max_size: ``UploadMaxSize``."""

    prefix: str
    max_size: int
    guards: Guards
    rates: RateLimits
    cors: Cors
    put: PutView
    file: FileView
    head: HeadView
    tus: TusViews

    def routes(self) -> Iterator[Route]:
        """The rows of the table for the mount point and all paths below it."""
        name = f"{self.prefix}<path>"
        on_files = self._on_files()
        for path, covers, views in (
            (self.prefix, Covers.ALL_BELOW, on_files),
            (self.prefix.removesuffix("/"), Covers.ITSELF, on_files),
            (self.prefix + TUS_PATH, Covers.ALL_BELOW, self._on_tus_uploads()),
            ("*", Covers.ITSELF, {"OPTIONS": self.options}),  # RFC 9110 section 9.3.7
        ):
            for method, view in views.items():
                yield Route(path, covers, (method,), view, name)

    def _on_files(self) -> Mapping[str, View]:
        """On the URL of a file, which is its slot's before it is stored."""
        checked, guards, rates = self.guards.checked, self.guards, self.rates
        put = checked(
            guards.name,  # 400
            guards.upload_signature,  # 401, 403, 410; 411 if it needs a length; 429 after many that were wrong
            rates.uploads,  # 429
            check_upload_body,  # 400, 415
            self.file.check_change,  # 412
        )
        create = checked(
            check_override,  # 405
            check_is_creation,  # 415
            guards.name,
            check_version,  # 412
            guards.creation_signature,
            rates.uploads,
            check_creation,
            self.file.check_change,
        )
        get = checked(
            check_destination,  # 403
            guards.name_or_folder,
            guards.download_signature,
            rates.downloads,
        )
        head = checked(check_destination, guards.name_or_folder)
        return {
            "OPTIONS": self.options,
            "HEAD": head(self.head.head),
            "GET": get(self.file.serve),
            "PUT": put(self.put.put),
            "POST": create(self.tus.create),
        }

    def _on_tus_uploads(self) -> Mapping[str, View]:
        """On the URL of an unfinished tus upload, which is the right to write it. It gives no right to read: the file
        that the upload has become is served as it is under its name."""
        checked, guards, uploads = self.guards.checked, self.guards, self.tus
        get = checked(check_destination, uploads.name_of_file, guards.download_signature, self.rates.downloads)
        piece = checked(refuse_if_match, check_body, check_is_piece)
        views: dict[str, View] = {
            "HEAD": checked(check_destination)(uploads.head_or(self.head.head)),
            "PATCH": piece(uploads.patch),
            "DELETE": checked(refuse_if_match, check_version)(uploads.delete),
        }
        post = uploads.by_override({**views, "HEAD": uploads.head})
        return {"OPTIONS": self.options, "GET": get(self.file.serve), "POST": post, **views}

    def options(self, request: Request) -> Response:
        """Which methods the path has, and what browsers and tus clients ask before a request."""
        known = METHODS if request.environ["PATH_INFO"] == "*" else request.allowed
        # An upload whose signature covers no length may begin before that is known.
        defers_length = Scheme.V3 in schemes_in(request.environ.get("QUERY_STRING", ""))
        announced = tus.announcement(self.max_size, defers_length=defers_length)
        return Response(HTTPStatus.NO_CONTENT, [allow(known), *announced, *self.cors.preflight_headers()])
