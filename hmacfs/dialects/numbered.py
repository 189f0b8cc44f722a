"""Numbered chunks with the original's headers on the slot URL (docs/protocol.md, section 6.2). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hmacfs.errors import BadRequest
from hmacfs.protocol.numerals import byte_count

#: As sessions record it.
NAME = "numbered"


class NumberedChunk(NamedTuple):
    """Chunk ``number`` (from 1) of ``chunks``; ``total`` bytes in all, ``None`` if the client does not say."""

    number: int
    chunks: int
    total: int | None

    @property
    def begins_file(self) -> bool:
        return self.number == 1

    @property
    def is_last(self) -> bool:
        return self.number == self.chunks


def numbered_chunk(environ: Mapping[str, str]) -> NumberedChunk | None:
    """The chunk that a PUT carries by its headers (WSGI environ keys), ``None`` without X-Chunk-ID.

    Raises ``BadRequest`` for headers that are malformed, incomplete or contradict each other, ``TooLarge`` for numbers
    that no file has of bytes or chunks.
    """
    if "HTTP_X_CHUNK_ID" not in environ and "HTTP_X_TOTAL_CHUNKS" not in environ:
        return None
    number = byte_count(environ.get("HTTP_X_CHUNK_ID", ""))
    count = byte_count(environ.get("HTTP_X_TOTAL_CHUNKS", ""))
    size = environ.get("HTTP_X_FILE_SIZE")
    total = None if size is None else byte_count(size)
    if number is None or count is None or (size is not None and total is None):
        raise BadRequest("X-Chunk-ID, X-Total-Chunks and X-File-Size are whole numbers, the first two both needed.")
    chunk = NumberedChunk(number, count, total)
    if not 1 <= chunk.number <= chunk.chunks:
        raise BadRequest("X-Chunk-ID counts from 1 to X-Total-Chunks.")
    return chunk
