"""Numbered chunks with the original's headers on the slot URL (PROTOCOL section 6.2). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from hmacfs.errors import BadRequest

_NUMBER = re.compile(r"[0-9]{1,18}")


class NumberedChunk(NamedTuple):
    """Chunk ``number`` (from 1) of ``chunks``; ``total`` bytes in all, ``None`` if the client does not say."""

    number: int
    chunks: int
    total: int | None

    @property
    def is_last(self) -> bool:
        return self.number == self.chunks


def numbered_chunk(environ: Mapping[str, str]) -> NumberedChunk | None:
    """The chunk that a PUT carries by its headers (WSGI environ keys), ``None`` without X-Chunk-ID.

    Raises ``BadRequest`` for headers that are malformed, incomplete or contradict each other.
    """
    number, count = environ.get("HTTP_X_CHUNK_ID"), environ.get("HTTP_X_TOTAL_CHUNKS")
    if number is None and count is None:
        return None
    size = environ.get("HTTP_X_FILE_SIZE")
    for value in (number, count, "1" if size is None else size):
        if value is None or not _NUMBER.fullmatch(value):
            raise BadRequest("X-Chunk-ID, X-Total-Chunks and X-File-Size are whole numbers, the first two both needed.")
    chunk = NumberedChunk(int(number or 0), int(count or 0), None if size is None else int(size))
    if not 1 <= chunk.number <= chunk.chunks:
        raise BadRequest("X-Chunk-ID counts from 1 to X-Total-Chunks.")
    return chunk
