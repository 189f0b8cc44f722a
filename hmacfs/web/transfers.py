"""The upload and download routes (docs/protocol.md, sections 3 to 6)."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus

from werkzeug.exceptions import MethodNotAllowed

from hmacfs.dialects import tus
from hmacfs.errors import (
    BadRequest,
    BadSignature,
    BadToken,
    IsForm,
    LengthRequired,
    NotFound,
    PreconditionFailed,
    SizeMismatch,
    SlotMismatch,
    TokenExpired,
    UploadUnfinished,
)
from hmacfs.protocol.conditions import fails_change, has_change_conditions
from hmacfs.protocol.digests import digests_of_whole
from hmacfs.protocol.methods import allow, methods_of
from hmacfs.protocol.signing import Scheme, schemes_in
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.session import Session
from hmacfs.uploads.whole import UploadFile
from hmacfs.web.content import check_body, recordable_type, type_to_record
from hmacfs.web.cors import Cors
from hmacfs.web.destinations import check_destination
from hmacfs.web.dispatch import ANY_PATH, RequestHandler, TransferBlueprint
from hmacfs.web.file_view import FileView
from hmacfs.web.guards import Guards
from hmacfs.web.locations import Locations
from hmacfs.web.messages import Request, Response, View
from hmacfs.web.rate_limits import RateLimits
from hmacfs.web.slot_views import SlotViews, piece_of
from hmacfs.web.tus_views import TusViews, declared_length, filetype, is_tus_path, signable_types
from hmacfs.web.unproven import UnprovenLookups

#: What a signature that does not show an upload's progress ends in.
_NOT_ENTITLED = (BadSignature, BadToken, TokenExpired, SlotMismatch, SizeMismatch)


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What the routes need. ``prefix``: the mount point; ``signed_downloads``: ``RequireSignedDownloads``."""

    handler: RequestHandler
    guards: Guards
    rates: RateLimits
    cors: Cors
    upload_file: UploadFile
    file_view: FileView
    slots: SlotViews
    tus: TusViews
    locations: Locations
    unproven: UnprovenLookups
    prefix: str
    signed_downloads: bool
    max_size: int


def transfers(services: Services) -> TransferBlueprint:
    """The blueprint of the routes below the mount point."""
    blueprint = TransferBlueprint("transfers", __name__, services.handler, url_prefix=services.prefix.rstrip("/"))
    _add_uploads(blueprint, services)
    _add_downloads(blueprint, services)
    _add_tus(blueprint, services)

    @blueprint.transfer(ANY_PATH, "OPTIONS")
    def options(request: Request) -> Response:
        known = allow(methods_of(request.environ["PATH_INFO"], services.prefix))
        announced = tus.announcement(services.max_size, defers_length=_is_v3(request))
        return Response(HTTPStatus.NO_CONTENT, [known, *announced, *services.cors.preflight_headers()])

    return blueprint


def _is_v3(request: Request) -> bool:
    """Whether the request carries a signature that covers no length."""
    return Scheme.V3 in schemes_in(request.environ.get("QUERY_STRING", ""))


def _add_uploads(blueprint: TransferBlueprint, services: Services) -> None:
    guards, rates = services.guards, services.rates

    @blueprint.transfer(ANY_PATH, "PUT")
    @guards.named
    @rates.signatures
    @guards.signed
    @rates.uploads
    def upload(request: Request) -> Response:
        verified = request.verified
        assert verified is not None
        check_body(request.environ)
        content_type = type_to_record(request.content_type, verified)
        _check_conditions(request, services)
        piece = piece_of(request.environ)
        if piece is not None:
            return services.slots.put(request, piece, content_type)
        if request.length is None and not request.is_chunked:
            raise LengthRequired  # HTTP/1.1 takes it for an empty body, HTTP/1.0 for one that ends with the connection
        info = services.upload_file(
            request.name,
            request.body,
            request.length,
            FileMetadata(content_type),
            binds_length=verified.binds_length,
            digest=digests_of_whole(request.environ),
        )
        return Response(
            HTTPStatus.CREATED,
            [("Location", services.locations.of_file(request.name)), ("ETag", info.etag)],
            stored=True,
        )


def _check_conditions(request: Request, services: Services) -> None:
    """Judge the conditions under which the request wants to change a file. Raises ``PreconditionFailed``."""
    if not has_change_conditions(request.environ):
        return
    info = services.file_view.stat(request.name)
    if info is None:
        if fails_change(request.environ, None, 0):
            raise PreconditionFailed(None, "There is no file that the If-Match could name.")
    elif fails_change(request.environ, info.etag, int(info.modified)):
        raise PreconditionFailed(info.etag)


def _add_downloads(blueprint: TransferBlueprint, services: Services) -> None:
    guards, rates = services.guards, services.rates

    @rates.downloads
    def send(request: Request) -> Response:
        if request.is_folder:
            raise NotFound
        return services.file_view(request, private=request.verified is not None)

    def serve(request: Request) -> Response:
        # The other schemes sign uploads: people paste their slot's URL, and a cache-buster may be called "v" too.
        carried = schemes_in(request.environ.get("QUERY_STRING", ""))
        is_signed = Scheme.V3 in carried
        is_slot = is_signed and _verify_v3(request, guards)
        try:
            if services.signed_downloads and (is_slot or not is_signed):
                raise BadSignature
            return send(request)
        except (BadSignature, NotFound):
            if request.method != "HEAD" or request.is_folder or not (is_slot or _may_be_slot(request, carried)):
                raise
            progress = _progress(request, services, is_verified=is_slot)
            if progress is None:
                raise
            return progress

    fetch = guards.named_or_folder(rates.signatures(serve))
    fetch_upload = _tus_download(services, serve)

    @blueprint.transfer(ANY_PATH, "GET", "HEAD")
    def download(request: Request) -> Response:
        check_destination(request.environ)
        return fetch_upload(request) if is_tus_path(request, services.prefix) else fetch(request)


def _tus_download(services: Services, serve: View) -> View:
    """GET and HEAD of a tus upload's URL: the file that it has become, which ``serve`` serves under its name."""

    @services.rates.signatures
    def fetch(request: Request) -> Response:
        """The URL of an upload gives no right to read: whoever may read the file by its name may do so here."""
        request.name, request.is_folder = services.tus.stored_name(request), False
        return serve(request)

    def download(request: Request) -> Response:
        if request.method == "GET":
            return fetch(request)
        if request.header("TUS_RESUMABLE") is not None:
            return services.tus.head(request)
        try:
            return fetch(request)
        except UploadUnfinished:
            return services.tus.head(request)

    return download


def _verify_v3(request: Request, guards: Guards) -> bool:
    """Check a download's v3 signature and set ``request.verified``. HEAD may carry an upload's as well: true then.
    Raises ``BadSignature``."""
    try:
        request.verified = guards.verify(request, None)
    except BadSignature:
        if request.method != "HEAD":
            raise
        request.verified = guards.verify(request, None, method="PUT")
        return True
    return False


def _may_be_slot(request: Request, carried: frozenset[Scheme]) -> bool:
    """Whether a HEAD without a v3 signature has anything else by which it may ask for an upload's progress."""
    if Scheme.V3 in carried:
        return False
    if carried or request.header("X_SESSION_TOKEN") is not None:
        return True
    return (request.header("AUTHORIZATION") or "").lower().startswith("bearer ")


def _progress(request: Request, services: Services, *, is_verified: bool) -> Response | None:
    """The progress of an unfinished upload, for who holds its slot's signature or its token; to all others it does not
    exist: ``None``."""
    slots = services.slots

    def may_know(session: Session) -> bool:
        if is_verified or slots.knows_token(request, session):
            return True
        if session.length is None:  # the MAC of a numbered chunk covers that chunk alone
            return False
        try:
            services.guards.verify(request, session.length, content_type=session.content_type, method="PUT")
        except _NOT_ENTITLED:
            return False
        return True

    if is_verified or services.unproven.is_known(request.header("X_SESSION_TOKEN") or ""):
        session = slots.unfinished(request, may_know)
    elif _may_be_signed(request, services.guards):
        with services.unproven.turn(request.client):
            session = slots.unfinished(request, may_know)
    else:
        return None
    return slots.probe(session) if session is not None else None


def _may_be_signed(request: Request, guards: Guards) -> bool:
    """Whether the request's signature could be that of an upload of this path: if it covers a length, only the upload's
    record tells which."""
    try:
        guards.verify(request, None, method="PUT")
    except LengthRequired:
        return True
    except _NOT_ENTITLED:
        return False
    return False  # v3, which the caller has judged


def _tus_creation(services: Services) -> View:
    """POST on the slot URL."""
    guards, rates = services.guards, services.rates

    @rates.uploads
    def create(request: Request) -> Response:
        verified = request.verified
        assert verified is not None
        check_body(request.environ)
        length = tus.upload_length(request.environ)
        content_type = recordable_type(verified.content_type or filetype(request))
        _check_conditions(request, services)
        return services.tus.create(request, length, content_type)

    @guards.named
    @rates.signatures
    def create_signed(request: Request) -> Response:
        tus.check_version(request.environ)
        first, *others = signable_types(request)
        try:
            # The slot's URL was signed for PUT, whichever dialect it is used with.
            request.verified = guards.verify_length(
                declared_length, request, content_type=first, other_types=others, method="PUT"
            )
        except LengthRequired:
            raise BadRequest("This signature covers the file's length: send Upload-Length.") from None
        return create(request)

    return create_signed


def _add_tus(blueprint: TransferBlueprint, services: Services) -> None:
    create = _tus_creation(services)

    @blueprint.transfer(ANY_PATH, "POST", "PATCH", "DELETE")
    def resumable(request: Request) -> Response:
        method = request.method
        if method == "POST":
            method = request.header("X_HTTP_METHOD_OVERRIDE") or method
        if is_tus_path(request, services.prefix):
            if method == "HEAD":
                return services.tus.head(request)
            if request.header("IF_MATCH") not in (None, "*"):
                raise PreconditionFailed(None, "An unfinished upload has no entity tag that the If-Match could name.")
            if method == "PATCH":
                check_body(request.environ)
                return services.tus.patch(request)
            if method == "DELETE":
                return services.tus.delete(request)
        elif method == "POST":
            if not tus.is_spoken(request.environ):
                raise IsForm
            return create(request)
        raise MethodNotAllowed(methods_of(request.environ["PATH_INFO"], services.prefix))
