"""The upload and download routes (PROTOCOL sections 3 to 6)."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus

from werkzeug.exceptions import MethodNotAllowed

from hmacfs.dialects import tus
from hmacfs.digests import digests_of_whole
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
from hmacfs.signing import Scheme, schemes_in
from hmacfs.storage.publish import FileFacts
from hmacfs.transfer.body import Body
from hmacfs.uploads.session import Session
from hmacfs.uploads.whole import StoreWhole
from hmacfs.web.conditional import fails_change, has_change_conditions
from hmacfs.web.content import check_body, recordable_type, type_to_record
from hmacfs.web.cors import Cors
from hmacfs.web.destinations import check_destination
from hmacfs.web.exchange import Exchange, Reply, View
from hmacfs.web.files import ServeFile
from hmacfs.web.guards import Guards
from hmacfs.web.locations import Locations
from hmacfs.web.methods import allow, methods_of
from hmacfs.web.rates import Rates
from hmacfs.web.routing import ANY_PATH, Desk, TransferBlueprint
from hmacfs.web.slots import SlotUploads, piece_of
from hmacfs.web.tus import TusUploads, declared_length, filetype, is_tus_path, signable_types
from hmacfs.web.unproven import UnprovenLookups

#: What a signature that does not show an upload's progress ends in.
_NOT_ENTITLED = (BadSignature, BadToken, TokenExpired, SlotMismatch, SizeMismatch)


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What the routes need. ``prefix``: the mount point; ``signed_downloads``: ``RequireSignedDownloads``."""

    desk: Desk
    guards: Guards
    rates: Rates
    cors: Cors
    store_whole: StoreWhole[Body, FileFacts]
    serve_file: ServeFile
    slots: SlotUploads
    tus: TusUploads
    locations: Locations
    unproven: UnprovenLookups
    prefix: str
    signed_downloads: bool
    max_size: int


def transfers(services: Services) -> TransferBlueprint:
    """The blueprint of the routes below the mount point."""
    blueprint = TransferBlueprint("transfers", __name__, services.desk, url_prefix=services.prefix.rstrip("/"))
    _add_uploads(blueprint, services)
    _add_downloads(blueprint, services)
    _add_tus(blueprint, services)

    @blueprint.transfer(ANY_PATH, "OPTIONS")
    def options(exchange: Exchange) -> Reply:
        known = allow(methods_of(exchange.environ["PATH_INFO"], services.prefix))
        announced = tus.announcement(services.max_size, defers_length=_is_v3(exchange))
        return Reply(HTTPStatus.NO_CONTENT, [known, *announced, *services.cors.preflight_headers()])

    return blueprint


def _is_v3(exchange: Exchange) -> bool:
    """Whether the request carries a signature that covers no length."""
    return Scheme.V3 in schemes_in(exchange.environ.get("QUERY_STRING", ""))


def _add_uploads(blueprint: TransferBlueprint, services: Services) -> None:
    guards, rates = services.guards, services.rates

    @blueprint.transfer(ANY_PATH, "PUT")
    @guards.named
    @rates.signatures
    @guards.signed
    @rates.uploads
    def upload(exchange: Exchange) -> Reply:
        verified = exchange.verified
        assert verified is not None
        check_body(exchange.environ)
        content_type = type_to_record(exchange.content_type, verified)
        _check_conditions(exchange, services)
        piece = piece_of(exchange.environ)
        if piece is not None:
            return services.slots.put(exchange, piece, content_type)
        if exchange.length is None and not exchange.is_chunked:
            raise LengthRequired  # HTTP/1.1 takes it for an empty body, HTTP/1.0 for one that ends with the connection
        facts = services.store_whole(
            exchange.name,
            exchange.body,
            exchange.length,
            content_type,
            binds_length=verified.binds_length,
            digest=digests_of_whole(exchange.environ),
        )
        return Reply(
            HTTPStatus.CREATED,
            [("Location", services.locations.of_file(exchange.name)), ("ETag", facts.etag)],
            stored=True,
        )


def _check_conditions(exchange: Exchange, services: Services) -> None:
    """Judge the conditions under which the request wants to change a file. Raises ``PreconditionFailed``."""
    if not has_change_conditions(exchange.environ):
        return
    try:
        facts = services.serve_file.facts(exchange.name)
    except NotFound:
        if fails_change(exchange.environ, None, 0):
            raise PreconditionFailed(None, "There is no file that the If-Match could name.") from None
    else:
        if fails_change(exchange.environ, facts.etag, int(facts.mtime)):
            raise PreconditionFailed(facts.etag)


def _add_downloads(blueprint: TransferBlueprint, services: Services) -> None:
    guards, rates = services.guards, services.rates

    @rates.downloads
    def send(exchange: Exchange) -> Reply:
        if exchange.is_folder:
            raise NotFound
        return services.serve_file(exchange, private=exchange.verified is not None)

    def serve(exchange: Exchange) -> Reply:
        # The other schemes sign uploads: people paste their slot's URL, and a cache-buster may be called "v" too.
        carried = schemes_in(exchange.environ.get("QUERY_STRING", ""))
        is_signed = Scheme.V3 in carried
        is_slot = is_signed and _verify_v3(exchange, guards)
        try:
            if services.signed_downloads and (is_slot or not is_signed):
                raise BadSignature
            return send(exchange)
        except (BadSignature, NotFound):
            if exchange.method != "HEAD" or exchange.is_folder or not (is_slot or _may_be_slot(exchange, carried)):
                raise
            progress = _progress(exchange, services, is_verified=is_slot)
            if progress is None:
                raise
            return progress

    fetch = guards.named_or_folder(rates.signatures(serve))
    fetch_upload = _tus_download(services, serve)

    @blueprint.transfer(ANY_PATH, "GET", "HEAD")
    def download(exchange: Exchange) -> Reply:
        check_destination(exchange.environ)
        return fetch_upload(exchange) if is_tus_path(exchange, services.prefix) else fetch(exchange)


def _tus_download(services: Services, serve: View) -> View:
    """GET and HEAD of a tus upload's URL: the file that it has become, which ``serve`` serves under its name."""

    @services.rates.signatures
    def fetch(exchange: Exchange) -> Reply:
        """The URL of an upload gives no right to read: whoever may read the file by its name may do so here."""
        exchange.name, exchange.is_folder = services.tus.stored_name(exchange), False
        return serve(exchange)

    def download(exchange: Exchange) -> Reply:
        if exchange.method == "GET":
            return fetch(exchange)
        if exchange.header("TUS_RESUMABLE") is not None:
            return services.tus.head(exchange)
        try:
            return fetch(exchange)
        except UploadUnfinished:
            return services.tus.head(exchange)

    return download


def _verify_v3(exchange: Exchange, guards: Guards) -> bool:
    """Check a download's v3 signature and set ``exchange.verified``. HEAD may carry an upload's as well: true then.
    Raises ``BadSignature``."""
    try:
        exchange.verified = guards.verify(exchange, None)
    except BadSignature:
        if exchange.method != "HEAD":
            raise
        exchange.verified = guards.verify(exchange, None, method="PUT")
        return True
    return False


def _may_be_slot(exchange: Exchange, carried: frozenset[Scheme]) -> bool:
    """Whether a HEAD without a v3 signature has anything else by which it may ask for an upload's progress."""
    if Scheme.V3 in carried:
        return False
    if carried or exchange.header("X_SESSION_TOKEN") is not None:
        return True
    return (exchange.header("AUTHORIZATION") or "").lower().startswith("bearer ")


def _progress(exchange: Exchange, services: Services, *, is_verified: bool) -> Reply | None:
    """The progress of an unfinished upload, for who holds its slot's signature or its token; to all others it does not
    exist: ``None``."""
    slots = services.slots

    def may_know(session: Session) -> bool:
        if is_verified or slots.knows_token(exchange, session):
            return True
        if session.length is None:  # the MAC of a numbered chunk covers that chunk alone
            return False
        try:
            services.guards.verify(exchange, session.length, content_type=session.content_type, method="PUT")
        except _NOT_ENTITLED:
            return False
        return True

    if is_verified or services.unproven.is_known(exchange.header("X_SESSION_TOKEN") or ""):
        session = slots.unfinished(exchange, may_know)
    elif _may_be_signed(exchange, services.guards):
        with services.unproven.turn(exchange.client):
            session = slots.unfinished(exchange, may_know)
    else:
        return None
    return slots.probe(session) if session is not None else None


def _may_be_signed(exchange: Exchange, guards: Guards) -> bool:
    """Whether the request's signature could be that of an upload of this path: if it covers a length, only the upload's
    record tells which."""
    try:
        guards.verify(exchange, None, method="PUT")
    except LengthRequired:
        return True
    except _NOT_ENTITLED:
        return False
    return False  # v3, which the caller has judged


def _tus_creation(services: Services) -> View:
    """POST on the slot URL."""
    guards, rates = services.guards, services.rates

    @rates.uploads
    def create(exchange: Exchange) -> Reply:
        verified = exchange.verified
        assert verified is not None
        check_body(exchange.environ)
        length = tus.upload_length(exchange.environ)
        content_type = recordable_type(verified.content_type or filetype(exchange))
        _check_conditions(exchange, services)
        return services.tus.create(exchange, length, content_type)

    @guards.named
    @rates.signatures
    def create_signed(exchange: Exchange) -> Reply:
        tus.check_version(exchange.environ)
        first, *others = signable_types(exchange)
        try:
            # The slot's URL was signed for PUT, whichever dialect it is used with.
            exchange.verified = guards.verify_length(
                declared_length, exchange, content_type=first, other_types=others, method="PUT"
            )
        except LengthRequired:
            raise BadRequest("This signature covers the file's length: send Upload-Length.") from None
        return create(exchange)

    return create_signed


def _add_tus(blueprint: TransferBlueprint, services: Services) -> None:
    create = _tus_creation(services)

    @blueprint.transfer(ANY_PATH, "POST", "PATCH", "DELETE")
    def resumable(exchange: Exchange) -> Reply:
        method = exchange.method
        if method == "POST":
            method = exchange.header("X_HTTP_METHOD_OVERRIDE") or method
        if is_tus_path(exchange, services.prefix):
            if method == "HEAD":
                return services.tus.head(exchange)
            if exchange.header("IF_MATCH") not in (None, "*"):
                raise PreconditionFailed(None, "An unfinished upload has no entity tag that the If-Match could name.")
            if method == "PATCH":
                check_body(exchange.environ)
                return services.tus.patch(exchange)
            if method == "DELETE":
                return services.tus.delete(exchange)
        elif method == "POST":
            if not tus.is_spoken(exchange.environ):
                raise IsForm
            return create(exchange)
        raise MethodNotAllowed(methods_of(exchange.environ["PATH_INFO"], services.prefix))
