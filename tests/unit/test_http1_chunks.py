"""The chunked coding (RFC 9112 section 7.1): each vector whole, byte by byte, and with garbage after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import BadBody, HmacfsError, TooLarge
from hmacfs.protocol.http1.chunks import DIGITS_LIMIT, LINE_LIMIT, TRAILER_LIMIT, ChunkParser, find_end

GARBAGE = b"\r\n0\r\n\r\nGET / HTTP/1.1\r\n"

COMPLETE = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "either case": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    "zeros in front": (b"0" * 50 + b"1\r\nx\r\n000\r\n\r\n", b"x"),
    "an extension": (b'1;a="b;c"\r\nx\r\n0;d\r\n\r\n', b"x"),
    "blanks before an extension": (b"1 \t;a\r\nx\r\n0 \r\n\r\n", b"x"),
    "content that looks like framing": (b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
    "trailers": (b"0\r\nA: b\r\nC: d\r\n\r\n", b""),
    "as many trailers as may be": (b"0\r\n" + b"a: b\r\n" * (TRAILER_LIMIT - 1) + b"\r\n", b""),
    "a line as long as may be": (b"1;".ljust(LINE_LIMIT - 2, b"x") + b"\r\nx\r\n0\r\n\r\n", b"x"),
}
MALFORMED = {
    "no size": (b"\r\n", BadBody),
    "an extension alone": (b";a\r\n", BadBody),
    "a sign": (b"+1\r\nx\r\n", BadBody),
    "a minus": (b"-1\r\n", BadBody),
    "a prefix": (b"0x1\r\nx\r\n", BadBody),
    "an underscore": (b"1_0\r\n", BadBody),
    "a blank in front": (b" 1\r\nx\r\n", BadBody),
    "a letter": (b"g\r\n", BadBody),
    "a bare line feed after a size": (b"1\nx\r\n", BadBody),
    "a bare line feed alone": (b"\n", BadBody),
    "a bare line feed after a chunk": (b"1\r\nx\n", BadBody),
    "bare line feeds at the end": (b"1\r\nx\r\n0\n\n", BadBody),
    "a carriage return in a line": (b"1;\r\r\n", BadBody),
    "a chunk longer than its size": (b"1\r\nxy\r\n", BadBody),
    "a larger chunk than any": (b"1" + b"0" * DIGITS_LIMIT + b"\r\n", TooLarge),
    "a line too long": (b"1;".ljust(LINE_LIMIT - 1, b"x") + b"\r\n", BadBody),
    "a line without end": (b"5" * (LINE_LIMIT + 1), BadBody),
    "too many trailers": (b"0\r\n" + b"a: b\r\n" * TRAILER_LIMIT, BadBody),
}
FEEDING: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [data[at : at + 1] for at in range(len(data))],
    "with garbage after it": lambda data: [data + GARBAGE],
    "garbage in a piece of its own": lambda data: [data, GARBAGE],
}


def parsed(pieces: list[bytes]) -> tuple[bytes, int, bool]:
    """Content, the number of bytes that the body took, and whether it is complete."""
    parser, content, size = ChunkParser(), b"", 0
    for piece in pieces:
        position = 0
        while position < len(piece) and not parser.is_complete:
            position = parser.feed(piece, position)
            taken = piece[position : position + parser.content_left]
            content, position = content + taken, position + len(taken)
            parser.advance(len(taken))
        size += position
    return content, size, parser.is_complete


@pytest.mark.parametrize("way", FEEDING)
@pytest.mark.parametrize("kind", COMPLETE)
def test_a_body_has_this_content_and_ends_there(kind: str, way: str) -> None:
    data, content = COMPLETE[kind]
    assert parsed(FEEDING[way](data)) == (content, len(data), True)


@pytest.mark.parametrize("way", FEEDING)
@pytest.mark.parametrize("kind", MALFORMED)
def test_what_another_parser_could_read_differently_is_refused(kind: str, way: str) -> None:
    data, error = MALFORMED[kind]
    with pytest.raises(error) as refusal:
        parsed(FEEDING[way](data))
    assert type(refusal.value) is error


@pytest.mark.parametrize("kind", COMPLETE)
def test_every_beginning_of_a_body_is_incomplete(kind: str) -> None:
    data, content = COMPLETE[kind]
    for end in range(len(data)):
        found, size, is_complete = parsed([data[:end]])
        assert (content.startswith(found), size, is_complete) == (True, end, False)
        assert find_end(data[:end], 64) is None


@pytest.mark.parametrize("kind", COMPLETE)
def test_the_end_is_found_without_the_content(kind: str) -> None:
    data, _ = COMPLETE[kind]
    assert find_end(data + GARBAGE, 64) == len(data)


def test_the_end_of_too_many_chunks_is_not_looked_for() -> None:
    assert find_end(b"1\r\nx\r\n" * 2 + b"0\r\n\r\n", 3) == 17
    assert find_end(b"1\r\nx\r\n" * 3 + b"0\r\n\r\n", 3) is None
    with pytest.raises(HmacfsError):
        find_end(b"1\r\nx\r\nnonsense\r\n", 3)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(0, 500), max_size=8))
def test_however_a_body_is_cut_its_content_is_the_same(chunks: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assert parsed([*pieces, GARBAGE]) == (b"".join(chunks), len(data), True)
