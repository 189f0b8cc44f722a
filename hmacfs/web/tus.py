"""tus 1.0.0 (PROTOCOL section 6.3): created on the slot URL, continued on a URL that is a capability of its own."""

from __future__ import annotations

from http import HTTPStatus

from hmacfs.dialects import tus
from hmacfs.digests import Claim, digests_of_body, digests_of_file
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
from hmacfs.filetypes import DEFAULT
from hmacfs.naming import StoredName
from hmacfs.storage.publish import FileFacts
from hmacfs.transfer.body import Body
from hmacfs.uploads.creation import Plan
from hmacfs.uploads.progress import Progress
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import key_of
from hmacfs.web.exchange import TUS_PATH, Exchange, Headers, Reply
from hmacfs.web.locations import Locations
from hmacfs.web.owners import owner_of
from hmacfs.web.unproven import UnprovenLookups


class TusUploads:
    """The views. ``prefix`` is the mount point."""

    def __init__(
        self,
        uploads: ResumableUploads[Body, FileFacts],
        prefix: str,
        locations: Locations,
        unproven: UnprovenLookups,
    ) -> None:
        self._uploads = uploads
        self._unproven = unproven
        self._prefix = prefix
        self._locations = locations

    def create(self, exchange: Exchange, length: int | None, content_type: str | None) -> Reply:
        """POST on the slot URL. The signature was checked; without a ``length`` it covers none."""
        has_body = exchange.is_chunked or bool(exchange.length)
        if has_body:
            tus.check_piece_type(exchange.environ)
        tus.metadata(exchange.environ)
        given = exchange.header("UPLOAD_METADATA") or ""
        owner = owner_of(exchange)
        session = self._uploads.create(
            Plan(exchange.name, length, content_type, owner, by_slot=False, dialect=tus.NAME, metadata=given)
        )
        token = self._uploads.token_of(session)
        assert token is not None  # it was made with this server's secret just now
        location = ("Location", self._locations.of_upload(token))
        if length != 0 and not has_body:
            return Reply(HTTPStatus.CREATED, [location, self._expires(session)])
        try:
            progress = self._append(exchange, session, 0)
        except HmacfsError:
            self._uploads.abort(session)  # the client was not told its URL and cannot go on
            raise
        return Reply(HTTPStatus.CREATED, [location, *self._offset_headers(progress)], stored=progress.facts is not None)

    def head(self, exchange: Exchange) -> Reply:
        tus.check_version(exchange.environ)
        session = self._session(exchange)
        progress = self._uploads.progress(session)
        headers = [*self._offset_headers(progress), ("Cache-Control", "no-store")]
        length = progress.session.length
        headers.append(("Upload-Defer-Length", "1") if length is None else ("Upload-Length", str(length)))
        if session.metadata:
            headers.append(("Upload-Metadata", session.metadata))
        return Reply(HTTPStatus.OK, headers)

    def patch(self, exchange: Exchange) -> Reply:
        tus.check_version(exchange.environ)
        tus.check_piece_type(exchange.environ)
        session = self._session(exchange)
        length = tus.told_length(exchange.environ)
        progress = self._append(exchange, session, tus.upload_offset(exchange.environ), length)
        return Reply(HTTPStatus.NO_CONTENT, self._offset_headers(progress), stored=progress.facts is not None)

    def delete(self, exchange: Exchange) -> Reply:
        tus.check_version(exchange.environ)
        self._uploads.terminate(self._session(exchange))
        return Reply(HTTPStatus.NO_CONTENT, [])

    def stored_name(self, exchange: Exchange) -> StoredName:
        """The file that an upload has become. Raises ``UploadUnfinished``, ``NotFound`` if the file is gone, and what
        the session's look-up raises."""
        session = self._session(exchange)
        try:
            progress = self._uploads.progress(session)
        except (NameTaken, WriterBusy):
            raise UploadUnfinished from None
        if not progress.is_finished:
            raise UploadUnfinished
        if not self._uploads.is_stored(progress.session):
            raise NotFound
        return StoredName.from_text(session.path)

    def _append(
        self, exchange: Exchange, session: Session, offset: int, length: int | None = None
    ) -> Progress[FileFacts]:
        if exchange.length is None and not exchange.is_chunked and exchange.method != "POST":  # which has no body then
            raise LengthRequired
        checksum = tus.checksum(exchange.environ)
        claims = [Claim("Upload-Checksum", *checksum, ChecksumMismatch)] if checksum else []
        return self._uploads.append(
            session,
            offset,
            exchange.body,
            exchange.length,
            digest=digests_of_body(exchange.environ, *claims),
            file_digest=digests_of_file(exchange.environ),
            length=length,
        )

    def _session(self, exchange: Exchange) -> Session:
        token = exchange.environ["PATH_INFO"].removeprefix(self._prefix + TUS_PATH)
        if key_of(token) is None:
            raise SessionUnknown
        if self._unproven.is_known(token):
            session = self._uploads.get(token)
        else:
            with self._unproven.turn(exchange.client):
                session = self._uploads.get(token)
        if session.slot is not None:  # made by another dialect, whose URL is its capability
            raise SessionUnknown
        return session

    def _offset_headers(self, progress: Progress[FileFacts]) -> Headers:
        headers = [("Upload-Offset", str(progress.offset))]
        if not progress.is_finished:
            headers.append(self._expires(progress.session))
        return headers

    def _expires(self, session: Session) -> tuple[str, str]:
        return tus.expires_header(session.expires(self._uploads.limits.ttl))


def is_tus_path(exchange: Exchange, prefix: str) -> bool:
    """Whether the request is for a URL that ``create`` gave out."""
    path: str = exchange.environ["PATH_INFO"]
    return path.startswith(prefix + TUS_PATH)


def declared_length(exchange: Exchange) -> int | None:
    """See ``tus.upload_length``."""
    return tus.upload_length(exchange.environ)


def filetype(exchange: Exchange) -> str | None:
    """The file's type by ``Upload-Metadata``: ``Content-Type`` tells of the request then. Raises ``BadRequest``."""
    found = tus.metadata(exchange.environ)
    return found.get("filetype") or found.get("type")


def signable_types(exchange: Exchange) -> list[str]:
    """The types that the signature of a creation may be over: the file's, if the client tells it; what it calls the
    request's body, though that is none; and what signers take where no type is known. Malformed metadata tell none."""
    body_type = exchange.content_type
    if body_type is not None and tus.is_piece_type(body_type):
        body_type = None
    try:
        told = filetype(exchange)
    except BadRequest:
        told = None
    return [content_type for content_type in (told, body_type, DEFAULT) if content_type]
