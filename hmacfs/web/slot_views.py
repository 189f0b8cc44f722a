"""Uploads in pieces on the slot URL: Content-Range and numbered chunks (docs/protocol.md, sections 6.1 and 6.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from http import HTTPStatus

from hmacfs.dialects.content_range import NAME as RANGE
from hmacfs.dialects.content_range import RangePiece
from hmacfs.dialects.numbered import NAME as NUMBERED
from hmacfs.dialects.numbered import NumberedChunk
from hmacfs.dialects.pieces import Piece
from hmacfs.errors import BadRequest, LengthRequired, OffsetMismatch, SessionConflict, SessionUnknown
from hmacfs.protocol.digests import claims_of_piece
from hmacfs.protocol.signing import Scheme
from hmacfs.uploads.creation import Plan
from hmacfs.uploads.progress import Progress
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.session import Session, State
from hmacfs.uploads.tokens import is_of
from hmacfs.web.locations import Locations
from hmacfs.web.messages import Headers, Request, Response
from hmacfs.web.owners import owner_of


class SlotViews:
    """Views of uploads in pieces."""

    def __init__(self, uploads: ResumableUploads, locations: Locations) -> None:
        self._uploads = uploads
        self._locations = locations

    def put(self, request: Request, piece: Piece) -> Response:
        """Store a piece."""
        if request.length is None:
            raise LengthRequired
        if isinstance(piece, RangePiece):
            return self._put_range(request, piece)
        return self._put_chunk(request, piece)

    def _put_range(self, request: Request, piece: RangePiece) -> Response:
        claims = claims_of_piece(request.environ)
        session = self._session(request, RANGE) or self._create(request, piece, RANGE)
        if session.length != piece.total:
            raise SessionConflict
        if session.state is State.FINISHED and piece.end == piece.total:
            return self._stored_before(request, session)
        progress = self._uploads.append(
            session, piece.first, request.body, request.length, digest=claims.piece, file_claims=claims.file
        )
        return self._answer(request, progress)

    def _put_chunk(self, request: Request, chunk: NumberedChunk) -> Response:
        if chunk.total is None and request.verified is not None and request.verified.scheme is Scheme.BEARER:
            raise BadRequest("X-File-Size is missing: a bearer token is good for one file of its size.")
        claims = claims_of_piece(request.environ)
        session = self._session(request, NUMBERED)
        if session is None:
            session = self._create(request, chunk, NUMBERED, count=chunk.chunks)
        elif session.state is State.OPEN:
            session = self._uploads.up_to_date(session)
        boundary = session.next_chunk_at
        _check_numbers(session, chunk)
        if session.state is State.FINISHED:
            return self._stored_before(request, session)
        if chunk.number <= session.chunks:
            return Response(HTTPStatus.OK, self._progress_headers(session, boundary))
        if chunk.number > session.chunks + 1:
            raise OffsetMismatch(boundary)

        def after(session: Session, stored: int) -> Session:
            return dataclasses.replace(session, chunks=chunk.number, next_chunk_at=stored)

        progress = self._uploads.append(
            session,
            boundary,
            request.body,
            request.length,
            is_last=chunk.is_last,
            after=after,
            restart=True,
            digest=claims.piece,
            file_claims=claims.file,
        )
        return self._answer(request, progress)

    def _session(self, request: Request, dialect: str) -> Session | None:
        """The session of ``X-Session-Token``, else the slot's; it is open, or has become the file that is stored there
        now. ``None`` if the slot has none.

        Raises ``SessionUnknown`` if the token is another slot's, or that of an upload whose file is gone, and
        ``SessionConflict`` if the session is of another dialect.
        """
        token = request.header("X_SESSION_TOKEN")
        if token is None:
            session = self._uploads.find(request.name)
            if session is None:
                return self._uploads.find_finished(request.name, dialect)
        else:
            session = self._uploads.get(token)
            if session.path != request.name.path or session.slot is None:
                raise SessionUnknown
            if session.state is State.FINISHED and not self._uploads.is_stored(session):
                raise SessionUnknown
        _check_dialect(session, dialect)
        return session

    def _create(self, request: Request, piece: Piece, dialect: str, *, count: int = 0) -> Session:
        """A new session for the first piece of a file; any other has nothing to go on from. Raises ``OffsetMismatch``,
        ``NameTaken``, and ``SessionConflict`` if another dialect was faster. count: how many chunks there will be."""
        if not piece.begins_file:
            self._uploads.check_name(request.name)
            raise OffsetMismatch(0)
        session = self._uploads.create(
            Plan(
                request.name,
                piece.total,
                request.file_type,
                owner_of(request),
                by_slot=True,
                dialect=dialect,
                chunk_count=count,
            )
        )
        _check_dialect(session, dialect)
        return session

    def _answer(self, request: Request, progress: Progress) -> Response:
        headers = self._progress_headers(progress.session, progress.offset)
        if progress.info is None:
            return Response(HTTPStatus.ACCEPTED, headers)
        headers += [("Location", self._locations.of_file(request.name)), ("ETag", progress.info.etag)]
        return Response(HTTPStatus.CREATED, headers, stored=True)

    def _stored_before(self, request: Request, session: Session) -> Response:
        """The answer to a piece of an upload that is complete: the answer that said so was lost."""
        headers = self._progress_headers(session, session.length or 0)
        headers.append(("Location", self._locations.of_file(request.name)))
        if session.etag:
            headers.append(("ETag", session.etag))
        return Response(HTTPStatus.OK, headers)

    def _progress_headers(self, session: Session, offset: int) -> Headers:
        token = self._uploads.token_of(session)
        return [("Upload-Offset", str(offset)), *([("X-Session-Token", token)] if token is not None else [])]

    def unfinished(self, request: Request, may_know: Callable[[Session], bool]) -> Progress | None:
        """The open upload of a slot that is probed with HEAD; ``None`` if there is none that can go on, or if
        ``may_know`` says that the client has no right to know of it. Raises ``SessionExpired``."""
        return self._uploads.unfinished(request.name, may_know)

    def knows_token(self, request: Request, session: Session) -> bool:
        """Whether the request proves its right by the session's token."""
        token = request.header("X_SESSION_TOKEN")
        return token is not None and is_of(session, token)

    def probe(self, found: Progress) -> Response:
        """How far an upload is, for the client to go on from there. found: what ``unfinished`` told."""
        progress = self._uploads.finish_if_complete(found)
        session, offset = found.session, progress.offset
        if session.dialect == NUMBERED and not progress.is_finished:
            # What arrived of a chunk that is not complete is sent again: the client goes on at the chunk's beginning.
            offset = self._uploads.up_to_date(session, offset).next_chunk_at
        headers = [*self._progress_headers(session, offset), ("Cache-Control", "no-store")]
        if session.length is not None:
            headers.append(("Upload-Length", str(session.length)))
        return Response(HTTPStatus.OK, headers)


def _check_dialect(session: Session, dialect: str) -> None:
    """An upload goes on in the dialect that it was begun in: numbered chunks are acknowledged whole and sent again
    otherwise, ranges byte by byte, so neither could go on where the other has stopped.

    Raises ``SessionConflict``, without an offset: this piece would fit at none.
    """
    if session.dialect != dialect:
        raise SessionConflict(
            "This upload was begun with Content-Range: go on with that."
            if session.dialect == RANGE
            else "This upload was begun in numbered chunks: go on with those."
        )


def _check_numbers(session: Session, chunk: NumberedChunk) -> None:
    """All chunks say the same of the whole file. Raises ``SessionConflict``."""
    if session.chunk_count not in (0, chunk.chunks):
        raise SessionConflict(f"X-Total-Chunks was {session.chunk_count} before.")
    if chunk.total != session.length and not (chunk.total is None and session.state is State.FINISHED):
        raise SessionConflict("X-File-Size was another before.")
