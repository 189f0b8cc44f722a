"""The upload and download routes (PROTOCOL sections 3 to 5)."""

from __future__ import annotations

import re
from http import HTTPStatus

from hmacfs.errors import BadSignature
from hmacfs.signing import Scheme, scheme_of
from hmacfs.storage.publish import FileFacts
from hmacfs.transfer.body import Body
from hmacfs.uploads.whole import StoreWhole
from hmacfs.web.cors import METHODS, Cors
from hmacfs.web.exchange import Exchange, Reply
from hmacfs.web.files import ServeFile
from hmacfs.web.guards import Guards
from hmacfs.web.routing import Desk, TransferBlueprint

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:[ \t]*;[\t\x20-\x7e]{0,255})?")


def transfers(
    desk: Desk,
    guards: Guards,
    store_whole: StoreWhole[Body, FileFacts],
    serve_file: ServeFile,
    cors: Cors,
    *,
    prefix: str,
    signed_downloads: bool,
) -> TransferBlueprint:
    """The blueprint of the routes below ``prefix``. ``signed_downloads``: ``RequireSignedDownloads``."""
    blueprint = TransferBlueprint("transfers", __name__, desk, url_prefix=prefix.rstrip("/"))
    route = blueprint.transfer
    any_path = "/<any_path:path>"

    @route(any_path, "PUT", direct=True)
    @guards.named
    @guards.signed
    def upload(exchange: Exchange) -> Reply:
        verified = exchange.verified
        assert verified is not None
        facts = store_whole(
            exchange.name,
            exchange.body,
            exchange.length,
            recordable_type(verified.content_type or exchange.content_type),
            binds_length=verified.binds_length,
        )
        location = exchange.name.url_path(prefix)
        return Reply(HTTPStatus.CREATED, [("Location", location), ("ETag", facts.etag)])

    @route(any_path, "GET", "HEAD", direct=True)
    @guards.named_or_folder
    def download(exchange: Exchange) -> Reply:
        scheme = scheme_of(exchange.environ.get("QUERY_STRING", ""))
        if scheme is Scheme.V3:
            guards.verify(exchange, None)
        elif signed_downloads or scheme is not None:  # the other schemes sign uploads
            raise BadSignature
        if exchange.is_folder:
            return serve_file.folder(exchange)
        return serve_file(exchange, private=scheme is not None)

    @route(any_path, "OPTIONS")
    def options(_: Exchange) -> Reply:
        return Reply(HTTPStatus.NO_CONTENT, [("Allow", ", ".join(METHODS)), *cors.preflight_headers()])

    return blueprint


def recordable_type(content_type: str | None) -> str | None:
    """The type to keep with a file; what is no media type would be no header either and becomes plain bytes."""
    if content_type is None:
        return None
    return content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"
