"""PUT on the slot URL: a whole file, or a piece of one (docs/protocol.md, sections 3 and 6)."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus

from hmacfs.errors import LengthRequired
from hmacfs.protocol.digests import digests_of_whole
from hmacfs.uploads.files import NO_METADATA, FileMetadata
from hmacfs.uploads.whole import UploadFile
from hmacfs.web.locations import Locations
from hmacfs.web.messages import Request, Response
from hmacfs.web.slot_views import SlotViews

# On Python 3.11 each look-up of an enum's member is a call in Python.
_CREATED = HTTPStatus.CREATED


@dataclasses.dataclass(frozen=True, slots=True)
class PutView:
    """upload_file: stores a whole file; slots: store a piece of one."""

    upload_file: UploadFile
    slots: SlotViews
    locations: Locations

    def put(self, request: Request) -> Response:
        """Store what a request carries that has passed its checks."""
        if request.piece is not None:
            return self.slots.put(request, request.piece)
        if request.length is None and not request.is_chunked:
            raise LengthRequired  # HTTP/1.1 takes it for an empty body, HTTP/1.0 for one that ends with the connection
        assert request.verified is not None
        info = self.upload_file(
            request.name,
            request.body,
            request.length,
            NO_METADATA if request.file_type is None else FileMetadata(request.file_type),
            binds_length=request.verified.binds_length,
            digest=digests_of_whole(request.environ),
        )
        lines = f"Location: {self.locations.of_file(request.name)}\r\nETag: {info.etag}\r\n"
        return Response(_CREATED, [lines], stored=True)
