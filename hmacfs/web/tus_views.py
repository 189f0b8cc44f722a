"""tus 1.0.0 (docs/protocol.md, section 6.3): created on the slot URL, continued on a URL that is a capability."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from hmacfs.dialects import tus
from hmacfs.errors import (
    ChecksumMismatch,
    HmacfsError,
    IsForm,
    LengthRequired,
    MethodNotAllowed,
    NameTaken,
    NotFound,
    PreconditionFailed,
    SessionUnknown,
    UploadUnfinished,
    WriterBusy,
)
from hmacfs.protocol.digests import Claim, claims_of_piece
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.creation import Plan
from hmacfs.uploads.progress import Progress
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import key_of
from hmacfs.web.locations import Locations
from hmacfs.web.messages import TUS_PATH, Headers, Request, Response, View
from hmacfs.web.owners import owner_of
from hmacfs.web.unproven import UnprovenLookups


class TusViews:
    """prefix: the mount point, with both slashes. unproven: for tokens that may be guesses."""

    def __init__(
        self,
        uploads: ResumableUploads,
        prefix: str,
        locations: Locations,
        unproven: UnprovenLookups,
    ) -> None:
        self._uploads = uploads
        self._unproven = unproven
        self._path = prefix + TUS_PATH
        self._locations = locations

    def create(self, request: Request) -> Response:
        """Create an upload by POST on the slot URL; a body that comes with it is its first piece."""
        has_body = request.is_chunked or bool(request.length)
        if has_body:
            tus.check_piece_type(request.environ)
        length = tus.upload_length(request.environ)
        session = self._uploads.create(
            Plan(
                request.name,
                length,
                request.file_type,
                owner_of(request),
                by_slot=False,
                dialect=tus.NAME,
                metadata=request.header("UPLOAD_METADATA") or "",
            )
        )
        self._unproven.remember(session)
        token = self._uploads.token_of(session)
        assert token is not None  # it was made with this server's secret just now
        location = ("Location", self._locations.of_upload(token))
        if length != 0 and not has_body:
            return Response(HTTPStatus.CREATED, [location, self._expires(session)])
        try:
            progress = self._append(request, session, tus.Piece(0, None, tus.checksum(request.environ)))
        except HmacfsError:
            self._uploads.abort(session)  # the client was not told its URL and cannot go on
            raise
        return Response(
            HTTPStatus.CREATED, [location, *self._offset_headers(progress)], stored=progress.info is not None
        )

    def head(self, request: Request) -> Response:
        """How far the upload is."""
        tus.check_version(request.environ)
        session = self._session(request)
        progress = self._uploads.progress(session)
        headers = [*self._offset_headers(progress), ("Cache-Control", "no-store")]
        length = progress.session.length
        headers.append(("Upload-Defer-Length", "1") if length is None else ("Upload-Length", str(length)))
        if session.metadata:
            headers.append(("Upload-Metadata", session.metadata))
        return Response(HTTPStatus.OK, headers)

    def head_or(self, head_file: View) -> View:
        """The view of HEAD: how far the upload is; to a client that does not speak tus, ``head_file`` of the file that
        it has become."""

        def head(request: Request) -> Response:
            if "HTTP_TUS_RESUMABLE" in request.environ:
                return self.head(request)
            try:
                self.name_of_file(request)
            except UploadUnfinished:
                return self.head(request)
            return head_file(request)

        return head

    def by_override(self, views: Mapping[str, View]) -> View:
        """The view of POST: for clients that can send no other method, and name theirs in a header. It raises
        ``MethodNotAllowed`` for any that is not one of ``views``."""

        def post(request: Request) -> Response:
            view = views.get(request.header("X_HTTP_METHOD_OVERRIDE") or "")
            if view is None:
                raise MethodNotAllowed(request.allowed)
            return view(request)

        return post

    def patch(self, request: Request) -> Response:
        """Append a piece, which has passed ``check_is_piece``."""
        session = self._session(request)
        piece = tus.piece(request.environ)
        if request.length is None and not request.is_chunked and request.method == "PATCH":
            raise LengthRequired  # a POST without a length, which overrides its method, has an empty body
        progress = self._append(request, session, piece)
        return Response(HTTPStatus.NO_CONTENT, self._offset_headers(progress), stored=progress.info is not None)

    def delete(self, request: Request) -> Response:
        """Give the upload up."""
        self._uploads.terminate(self._session(request))
        return Response(HTTPStatus.NO_CONTENT, [])

    def name_of_file(self, request: Request) -> None:
        """Sets ``request.name`` to the file that the upload has become. Raises ``UploadUnfinished``, ``NotFound`` if
        the file is gone, and what the session's look-up raises."""
        session = self._session(request)
        try:
            progress = self._uploads.progress(session)
        except (NameTaken, WriterBusy):
            raise UploadUnfinished from None
        if not progress.is_finished:
            raise UploadUnfinished
        if not self._uploads.is_stored(progress.session):
            raise NotFound
        request.name = StoredName.from_text(session.path)

    def _append(self, request: Request, session: Session, piece: tus.Piece) -> Progress:
        of_tus = [Claim("Upload-Checksum", *piece.checksum, ChecksumMismatch)] if piece.checksum else []
        claims = claims_of_piece(request.environ, *of_tus)
        return self._uploads.append(
            session,
            piece.offset,
            request.body,
            request.length,
            digest=claims.piece,
            file_claims=claims.file,
            length=piece.length,
        )

    def _session(self, request: Request) -> Session:
        """The session that the request's URL names. Raises ``SessionUnknown``, and what the look-up raises."""
        token = request.environ["PATH_INFO"].removeprefix(self._path)
        if self._unproven.is_known(token):
            session = self._uploads.get(token)
        else:
            if key_of(token) is None:
                raise SessionUnknown
            with self._unproven.turn(request.client):
                session = self._uploads.get(token)
            self._unproven.remember(session)
        if session.slot is not None:  # of another dialect, in which the token goes with the slot's URL
            raise SessionUnknown
        return session

    def _offset_headers(self, progress: Progress) -> Headers:
        headers: Headers = [("Upload-Offset", str(progress.offset))]
        if not progress.is_finished:
            headers.append(self._expires(progress.session))
        return headers

    def _expires(self, session: Session) -> tuple[str, str]:
        return tus.expires_header(session.expires(self._uploads.limits.ttl))


# -- checks before the views ----------------------------------------------------------------------


def check_override(request: Request) -> None:
    """On a file's URL a POST creates a tus upload and does nothing else. Raises ``MethodNotAllowed``."""
    if (request.header("X_HTTP_METHOD_OVERRIDE") or "POST") != "POST":
        raise MethodNotAllowed(request.allowed)


def check_is_creation(request: Request) -> None:
    """Raises ``IsForm`` for a POST of another kind than tus clients send."""
    if not tus.is_spoken(request.environ):
        raise IsForm


def check_version(request: Request) -> None:
    """Raises ``tus.UnsupportedVersion``."""
    tus.check_version(request.environ)


def check_is_piece(request: Request) -> None:
    """The version, and the type of the body. Raises ``tus.UnsupportedVersion``, ``tus.NotAPiece``."""
    tus.check_version(request.environ)
    tus.check_piece_type(request.environ)


def refuse_if_match(request: Request) -> None:
    """Raises ``PreconditionFailed`` if the request is for a certain entity tag: an unfinished upload has none."""
    if request.environ.get("HTTP_IF_MATCH", "*") != "*":
        raise PreconditionFailed(None, "An unfinished upload has no entity tag that the If-Match could name.")
