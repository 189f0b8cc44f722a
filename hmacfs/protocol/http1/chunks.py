"""The framing of chunked bodies (RFC 9112 section 7.1) as a push parser. Pure: bytes in, positions out, no waiting.

Strict where leniency would let another parser on the way see other chunks: bare line feeds, signs, prefixes and blanks
before a size are refused. Extensions and trailers are read and dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from hmacfs.errors import BadBody, TooLarge

#: Of a line (a chunk's size with its extensions, a trailer), in bytes. RFC 9112 asks for a limit and leaves it open.
LINE_LIMIT = 4096
TRAILER_LIMIT = 64
#: Of a chunk's size, in hexadecimal, zeros in front aside: more than any file has.
DIGITS_LIMIT = 15

_HEXADECIMAL = b"0123456789abcdefABCDEF"


class ChunkParser:
    """Takes the framing off a chunked body; the content never passes through it.

    ``content_left``: so many bytes of content follow at the position that ``feed`` returned. The caller moves them,
    calls ``advance``, and feeds the bytes after them. ``is_complete``: the body ends at that position.

    >>> parser = ChunkParser()
    >>> parser.feed(b"5;a=b\\r\\nhello\\r\\n0\\r\\n\\r\\nGET /"), parser.content_left
    (7, 5)
    >>> parser.advance(5)
    >>> parser.feed(b"5;a=b\\r\\nhello\\r\\n0\\r\\n\\r\\nGET /", 12), parser.is_complete
    (19, True)
    """

    __slots__ = ("_begun", "_on_line", "_trailers", "content_left", "is_complete")

    def __init__(self) -> None:
        self.content_left = 0
        self.is_complete = False
        #: The beginning of a line whose end has not come yet.
        self._begun = b""
        self._trailers = 0
        self._on_line: Callable[[bytes], None] = self._on_size

    def feed(self, data: bytes, start: int = 0) -> int:
        """Take the framing that is at ``start`` of ``data``; the position after it. That is the end of ``data`` unless
        content follows, or the body is complete. Not to be called when it is, nor while content is left.

        Raises ``BadBody``; ``TooLarge`` for a chunk that is larger than any file.
        """
        while not self.content_left and not self.is_complete:
            end = data.find(b"\n", start) + 1
            line = self._begun + data[start : end or len(data)] if self._begun else data[start : end or len(data)]
            if len(line) > LINE_LIMIT:
                raise BadBody
            if not end:
                self._begun = line
                return len(data)
            self._begun, start = b"", end
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                raise BadBody
            self._on_line(line[:-2])
        return start

    def advance(self, count: int) -> None:
        """So many bytes of content were moved, at most ``content_left``."""
        self.content_left -= count

    def _on_size(self, line: bytes) -> None:
        digits = line.partition(b";")[0].rstrip(b" \t")
        # int() alone would take "+5", "0x5", "5_0" and spaces, which another parser on the way may read differently.
        if not digits or digits.strip(_HEXADECIMAL):
            raise BadBody
        if len(digits.lstrip(b"0")) > DIGITS_LIMIT:
            raise TooLarge
        self.content_left = int(digits, 16)
        self._on_line = self._on_end_of_chunk if self.content_left else self._on_trailer

    def _on_end_of_chunk(self, line: bytes) -> None:
        if line:
            raise BadBody
        self._on_line = self._on_size

    def _on_trailer(self, line: bytes) -> None:
        self._trailers += 1
        if not line:
            self.is_complete = True
        elif self._trailers == TRAILER_LIMIT:
            raise BadBody


def find_end(data: bytes, chunks_limit: int) -> int | None:
    """Where the chunked body ends with which ``data`` begins; ``None`` if it does not, or has that many chunks.

    Raises what ``ChunkParser.feed`` raises.
    """
    parser, position = ChunkParser(), 0
    for _ in range(chunks_limit):
        position = parser.feed(data, position)
        if parser.is_complete:
            return position
        position += parser.content_left
        parser.advance(parser.content_left)
        if position >= len(data):
            return None
    return None
