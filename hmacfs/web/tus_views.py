"""tus 1.0.0 (docs/protocol.md, section 6.3): created on the slot URL, continued on a URL that is a capability."""

from __future__ import annotations

from http import HTTPStatus

from hmacfs.dialects import tus
from hmacfs.errors import (
    BadRequest,
    ChecksumMismatch,
    HmacfsError,
    LengthRequired,
    NameTaken,
    NotFound,
    SessionUnknown,
    UploadUnfinished,
    WriterBusy,
)
from hmacfs.protocol.digests import Claim, digests_of_body, digests_of_file
from hmacfs.protocol.media_types import DEFAULT
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.creation import Plan
from hmacfs.uploads.progress import Progress
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import key_of
from hmacfs.web.locations import Locations
from hmacfs.web.messages import TUS_PATH, Headers, Request, Response
from hmacfs.web.owners import owner_of
from hmacfs.web.unproven import UnprovenLookups


class TusViews:
    """The views. ``prefix`` is the mount point."""

    def __init__(
        self,
        uploads: ResumableUploads,
        prefix: str,
        locations: Locations,
        unproven: UnprovenLookups,
    ) -> None:
        self._uploads = uploads
        self._unproven = unproven
        self._prefix = prefix
        self._locations = locations

    def create(self, request: Request, length: int | None, content_type: str | None) -> Response:
        """POST on the slot URL. The signature was checked; without a ``length`` it covers none."""
        has_body = request.is_chunked or bool(request.length)
        if has_body:
            tus.check_piece_type(request.environ)
        tus.metadata(request.environ)
        given = request.header("UPLOAD_METADATA") or ""
        owner = owner_of(request)
        session = self._uploads.create(
            Plan(request.name, length, content_type, owner, by_slot=False, dialect=tus.NAME, metadata=given)
        )
        token = self._uploads.token_of(session)
        assert token is not None  # it was made with this server's secret just now
        location = ("Location", self._locations.of_upload(token))
        if length != 0 and not has_body:
            return Response(HTTPStatus.CREATED, [location, self._expires(session)])
        try:
            progress = self._append(request, session, 0)
        except HmacfsError:
            self._uploads.abort(session)  # the client was not told its URL and cannot go on
            raise
        return Response(
            HTTPStatus.CREATED, [location, *self._offset_headers(progress)], stored=progress.info is not None
        )

    def head(self, request: Request) -> Response:
        tus.check_version(request.environ)
        session = self._session(request)
        progress = self._uploads.progress(session)
        headers = [*self._offset_headers(progress), ("Cache-Control", "no-store")]
        length = progress.session.length
        headers.append(("Upload-Defer-Length", "1") if length is None else ("Upload-Length", str(length)))
        if session.metadata:
            headers.append(("Upload-Metadata", session.metadata))
        return Response(HTTPStatus.OK, headers)

    def patch(self, request: Request) -> Response:
        tus.check_version(request.environ)
        tus.check_piece_type(request.environ)
        session = self._session(request)
        length = tus.told_length(request.environ)
        progress = self._append(request, session, tus.upload_offset(request.environ), length)
        return Response(HTTPStatus.NO_CONTENT, self._offset_headers(progress), stored=progress.info is not None)

    def delete(self, request: Request) -> Response:
        tus.check_version(request.environ)
        self._uploads.terminate(self._session(request))
        return Response(HTTPStatus.NO_CONTENT, [])

    def stored_name(self, request: Request) -> StoredName:
        """The file that an upload has become. Raises ``UploadUnfinished``, ``NotFound`` if the file is gone, and what
        the session's look-up raises."""
        session = self._session(request)
        try:
            progress = self._uploads.progress(session)
        except (NameTaken, WriterBusy):
            raise UploadUnfinished from None
        if not progress.is_finished:
            raise UploadUnfinished
        if not self._uploads.is_stored(progress.session):
            raise NotFound
        return StoredName.from_text(session.path)

    def _append(self, request: Request, session: Session, offset: int, length: int | None = None) -> Progress:
        if request.length is None and not request.is_chunked and request.method != "POST":  # which has no body then
            raise LengthRequired
        checksum = tus.checksum(request.environ)
        claims = [Claim("Upload-Checksum", *checksum, ChecksumMismatch)] if checksum else []
        return self._uploads.append(
            session,
            offset,
            request.body,
            request.length,
            digest=digests_of_body(request.environ, *claims),
            file_digest=digests_of_file(request.environ),
            length=length,
        )

    def _session(self, request: Request) -> Session:
        token = request.environ["PATH_INFO"].removeprefix(self._prefix + TUS_PATH)
        if key_of(token) is None:
            raise SessionUnknown
        if self._unproven.is_known(token):
            session = self._uploads.get(token)
        else:
            with self._unproven.turn(request.client):
                session = self._uploads.get(token)
        if session.slot is not None:  # made by another dialect, whose URL is its capability
            raise SessionUnknown
        return session

    def _offset_headers(self, progress: Progress) -> Headers:
        headers = [("Upload-Offset", str(progress.offset))]
        if not progress.is_finished:
            headers.append(self._expires(progress.session))
        return headers

    def _expires(self, session: Session) -> tuple[str, str]:
        return tus.expires_header(session.expires(self._uploads.limits.ttl))


def is_tus_path(request: Request, prefix: str) -> bool:
    """Whether the request is for a URL that ``create`` gave out."""
    path: str = request.environ["PATH_INFO"]
    return path.startswith(prefix + TUS_PATH)


def declared_length(request: Request) -> int | None:
    """See ``tus.upload_length``."""
    return tus.upload_length(request.environ)


def filetype(request: Request) -> str | None:
    """The file's type by ``Upload-Metadata``: ``Content-Type`` tells of the request then. Raises ``BadRequest``."""
    found = tus.metadata(request.environ)
    return found.get("filetype") or found.get("type")


def signable_types(request: Request) -> list[str]:
    """The types that the signature of a creation may be over: the file's, if the client tells it; what it calls the
    request's body, though that is none; and what signers take where no type is known. Malformed metadata tell none."""
    body_type = request.content_type
    if body_type is not None and tus.is_piece_type(body_type):
        body_type = None
    try:
        told = filetype(request)
    except BadRequest:
        told = None
    return [content_type for content_type in (told, body_type, DEFAULT) if content_type]
