"""Which part of a file a PUT on the slot URL carries, in either dialect. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hmacfs.dialects.content_range import RangePiece, range_piece
from hmacfs.dialects.numbered import NumberedChunk, numbered_chunk
from hmacfs.errors import BadRequest

Piece = RangePiece | NumberedChunk


def piece_of(environ: Mapping[str, str]) -> Piece | None:
    """What part of a file a PUT carries by its headers (WSGI environ keys); ``None`` if it carries a whole one.

    Raises ``BadRequest``, ``TooLarge``.
    """
    if not ("HTTP_CONTENT_RANGE" in environ or "HTTP_X_CHUNK_ID" in environ or "HTTP_X_TOTAL_CHUNKS" in environ):
        return None
    by_range, by_number = range_piece(environ), numbered_chunk(environ)
    if by_range is not None and by_number is not None:
        raise BadRequest("Content-Range and X-Chunk-ID are two ways to say the same: use one.")
    return by_range or by_number
