"""What each dialect's headers say, and what they may not say (docs/protocol.md, section 6)."""

from __future__ import annotations

import base64
import email.utils
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.dialects import tus
from hmacfs.dialects.content_range import RangePiece, range_piece
from hmacfs.dialects.numbered import NumberedChunk, numbered_chunk
from hmacfs.errors import BadRequest, TooLarge

SIZES = st.integers(0, 10**18 - 1)
#: What a header's value can hold in WSGI: bytes as latin-1 text.
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)


def content_range(value: str, length: int | str = "") -> RangePiece | None:
    return range_piece({"HTTP_CONTENT_RANGE": value, "CONTENT_LENGTH": str(length)})


# -- Content-Range --------------------------------------------------------------------------------


def test_a_request_without_content_range_is_no_piece() -> None:
    assert range_piece({"CONTENT_LENGTH": "5"}) is None


@pytest.mark.parametrize("value", ["bytes 0-4/10", " bytes 0-4/10 ", "Bytes 0-4/10", "bytes 00-04/010"])
def test_a_content_range_gives_the_piece(value: str) -> None:
    assert content_range(value, 5) == RangePiece(0, 5, 10)
    assert content_range(value) == RangePiece(0, 5, 10)


@given(first=SIZES, length=st.integers(1, 10**9), rest=st.integers(0, 10**9))
def test_every_content_range_in_order_is_read_back(first: int, length: int, rest: int) -> None:
    total = first + length + rest
    if total < 10**18:
        expected = RangePiece(first, first + length, total)
        assert content_range(f"bytes {first}-{first + length - 1}/{total}", length) == expected


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes 0-4", "bytes 0-4/*", "bytes */10", "bytes 0-/10", "bytes -4/10", "bytes=0-4/10", "items 0-4/10",
     "bytes 0-4/10, 5-9/10", "bytes +0-4/10", "bytes 0-4/1_0", "bytes 0x0-4/10", "bytes 0-4/\u00b2", "bytes  0-4/10",
     "bytes 0 - 4/10", "bytes 0-4/10\n"[:-1] + "\x00"],
)  # fmt: skip
def test_a_malformed_content_range_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        content_range(value, 5)


@pytest.mark.parametrize("digits", ["1" + "0" * 18, "9" * 19, "9" * 5000])
def test_numbers_that_are_too_large_are_told_so(digits: str) -> None:
    for read in (
        lambda: content_range(f"bytes 0-4/{digits}"),
        lambda: content_range(f"bytes {digits}-{digits}/5"),
        lambda: numbered("1", "3", digits),
        lambda: numbered("1", digits, "3"),
        lambda: numbered(digits, digits),
        lambda: tus.upload_length({"HTTP_UPLOAD_LENGTH": digits}),
    ):
        with pytest.raises(TooLarge):
            read()
    assert tus.upload_offset({"HTTP_UPLOAD_OFFSET": digits}) == 10**18


@pytest.mark.parametrize("zeros", [1, 30, 5000])
def test_zeros_in_front_change_no_number(zeros: int) -> None:
    digits = "0" * zeros + "7"
    assert content_range(f"bytes {'0' * zeros}-6/{digits}") == RangePiece(0, 7, 7)
    assert numbered(digits, digits, digits) == NumberedChunk(7, 7, 7)
    assert tus.upload_length({"HTTP_UPLOAD_LENGTH": digits}) == tus.upload_offset({"HTTP_UPLOAD_OFFSET": digits}) == 7


@pytest.mark.parametrize(
    ("value", "length"),
    [("bytes 4-0/10", ""), ("bytes 0-10/10", ""), ("bytes 0-0/0", ""), ("bytes 0-4/10", 4), ("bytes 0-4/10", 6),
     ("bytes 0-4/10", 0)],
)  # fmt: skip
def test_a_content_range_that_contradicts_itself_or_the_length_is_refused(value: str, length: int | str) -> None:
    with pytest.raises(BadRequest, match="contradicts"):
        content_range(value, length)


@given(VALUES | st.from_regex(r"bytes [0-9]{1,40}-[0-9]{1,40}/[0-9]{1,40}", fullmatch=True))
def test_any_content_range_is_a_piece_or_refused(value: str) -> None:
    try:
        piece = content_range(value)
    except (BadRequest, TooLarge):
        return
    assert piece is not None
    assert 0 <= piece.first < piece.end <= piece.total


# -- numbered chunks ------------------------------------------------------------------------------


def numbered(number: str | None, chunks: str | None, size: str | None = None) -> NumberedChunk | None:
    headers = {"HTTP_X_CHUNK_ID": number, "HTTP_X_TOTAL_CHUNKS": chunks, "HTTP_X_FILE_SIZE": size}
    return numbered_chunk({name: value for name, value in headers.items() if value is not None})


@pytest.mark.parametrize("size", [None, "10"])
def test_a_request_without_a_number_is_no_chunk(size: str | None) -> None:
    assert numbered(None, None, size) is None


@pytest.mark.parametrize(
    ("headers", "expected", "is_last"),
    [
        (("1", "3"), NumberedChunk(1, 3, None), False),
        (("3", "3", "0"), NumberedChunk(3, 3, 0), True),
        (("01", "1", "1000000"), NumberedChunk(1, 1, 1000000), True),
    ],
)
def test_the_headers_give_the_chunk(headers: tuple[str, ...], expected: NumberedChunk, is_last: bool) -> None:
    chunk = numbered(*headers)
    assert chunk == expected
    assert chunk.is_last is is_last


@pytest.mark.parametrize(
    "headers",
    [("1", None), (None, "3"), ("", "3"), ("1", ""), ("1", "3", ""), ("0", "3"), ("4", "3"), ("0", "0"), ("-1", "3"),
     ("+1", "3"), ("1.0", "3"), ("1", "three"), ("1", "3", "-1"), ("1", "3", "1e3"), ("1_0", "30"), (" 1", "3"),
     ("\u00b9", "3"), ("1, 2", "3")],
)  # fmt: skip
def test_malformed_or_contradicting_chunk_headers_are_refused(headers: tuple[str | None, ...]) -> None:
    with pytest.raises(BadRequest):
        numbered(*headers)


@given(VALUES, VALUES, st.none() | VALUES)
def test_any_chunk_headers_are_a_chunk_or_refused(number: str, chunks: str, size: str | None) -> None:
    try:
        chunk = numbered(number, chunks, size)
    except (BadRequest, TooLarge):
        return
    assert chunk is not None
    assert 1 <= chunk.number <= chunk.chunks


# -- tus ------------------------------------------------------------------------------------------


def test_this_version_of_tus_is_spoken() -> None:
    tus.check_version({"HTTP_TUS_RESUMABLE": "1.0.0"})


@pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0", "1.0.0 ", "1.0.0,1.0.0", "2.0.0"])
def test_no_other_version_is(version: str | None) -> None:
    with pytest.raises(tus.UnsupportedVersion):
        tus.check_version({} if version is None else {"HTTP_TUS_RESUMABLE": version})


@given(SIZES)
def test_lengths_and_offsets_are_numbers(number: int) -> None:
    assert tus.upload_length({"HTTP_UPLOAD_LENGTH": str(number)}) == number
    assert tus.upload_offset({"HTTP_UPLOAD_OFFSET": str(number)}) == number


@pytest.mark.parametrize(
    "value", [None, "", "-1", "+1", "1.5", "0x10", "1_0", " 1", "1 ", "\u00b2", "-" + "9" * 19, "1,1"]
)
def test_what_is_no_number_is_refused(value: str | None) -> None:
    for read, key in ((tus.upload_length, "HTTP_UPLOAD_LENGTH"), (tus.upload_offset, "HTTP_UPLOAD_OFFSET")):
        with pytest.raises(BadRequest):
            read({} if value is None else {key: value})


@pytest.mark.parametrize(
    "value", ["application/offset+octet-stream", "Application/Offset+Octet-Stream", tus.PIECE_TYPE + "; charset=x"]
)
def test_a_piece_says_that_it_is_one(value: str) -> None:
    tus.check_piece_type({"CONTENT_TYPE": value})


@pytest.mark.parametrize("value", [None, "", "application/octet-stream", "application/offset+octet-streams"])
def test_what_does_not_say_so_is_none(value: str | None) -> None:
    with pytest.raises(tus.NotAPiece):
        tus.check_piece_type({} if value is None else {"CONTENT_TYPE": value})


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", [None, "", "   "])
def test_there_may_be_no_metadata(header: str | None) -> None:
    assert tus.metadata({} if header is None else {"HTTP_UPLOAD_METADATA": header}) == {}


@given(st.dictionaries(st.from_regex(r"[a-zA-Z0-9_./-]{1,20}", fullmatch=True), st.text(max_size=30), max_size=10))
def test_metadata_is_read_back(values: dict[str, str]) -> None:
    header = ",".join(f"{key} {encoded(value)}" for key, value in values.items())
    assert tus.metadata({"HTTP_UPLOAD_METADATA": header}) == values


def test_a_value_may_be_left_out_and_spaces_may_stand_around_pairs() -> None:
    header = f"empty, also_empty , filename  {encoded('a b.jpg')}"
    assert tus.metadata({"HTTP_UPLOAD_METADATA": header}) == {"empty": "", "also_empty": "", "filename": "a b.jpg"}


def test_a_value_that_is_no_text_is_left_out() -> None:
    binary = base64.b64encode(b"\xff\xfe").decode()
    assert tus.metadata({"HTTP_UPLOAD_METADATA": f"thumb {binary},filetype {encoded('a/b')}"}) == {"filetype": "a/b"}


@pytest.mark.parametrize(
    "header",
    ["name !!!", "name YQ", "name YQ= =", "name YQ== YQ==", ",", "name YQ==,", "name YQ==,name Yg==", "n\u00e4me YQ==",
     "name \u00e4\u00e4\u00e4\u00e4", "name " + "YWFh" * 1024],
)  # fmt: skip
def test_malformed_metadata_are_refused(header: str) -> None:
    with pytest.raises(BadRequest):
        tus.metadata({"HTTP_UPLOAD_METADATA": header})


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
def test_a_checksum_names_its_algorithm(algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"piece", usedforsecurity=False).digest()
    found = tus.checksum({"HTTP_UPLOAD_CHECKSUM": f"{algorithm} {base64.b64encode(digest).decode()}"})
    assert found == tus.Checksum(algorithm, digest)


def test_there_may_be_no_checksum() -> None:
    assert tus.checksum({}) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha256",
        "crc32 AAAA",
        "SHA256 AAAA",
        "sha256 ???",
        "sha256 AAA",
        "sha1 AAAA",
        "sha256 \u00e4",
        " sha256 AAAA",
    ],
)
def test_a_malformed_or_unknown_checksum_is_refused(header: str) -> None:
    with pytest.raises(BadRequest):
        tus.checksum({"HTTP_UPLOAD_CHECKSUM": header})


@given(VALUES)
def test_any_metadata_and_checksum_are_read_or_refused(header: str) -> None:
    for read, key in ((tus.metadata, "HTTP_UPLOAD_METADATA"), (tus.checksum, "HTTP_UPLOAD_CHECKSUM")):
        try:
            read({key: header})
        except BadRequest as error:
            assert str(error)


def test_the_announcement_says_what_is_there() -> None:
    announced = tus.announcement(12345, defers_length=False)
    assert dict(announced) == {
        "Tus-Resumable": "1.0.0",
        "Tus-Version": "1.0.0",
        "Tus-Max-Size": "12345",
        "Tus-Extension": "creation,creation-with-upload,expiration,checksum,termination",
        "Tus-Checksum-Algorithm": "sha256,sha1,md5",
    }
    deferring = dict(tus.announcement(12345, defers_length=True))
    assert deferring.pop("Tus-Extension").split(",") == [
        *dict(announced)["Tus-Extension"].split(","),
        "creation-defer-length",
    ]
    assert deferring.items() < dict(announced).items()


def test_a_length_may_be_told_later_in_so_many_words() -> None:
    assert tus.upload_length({"HTTP_UPLOAD_DEFER_LENGTH": "1"}) is None
    for value in ("0", "2", "", "true", " 1"):
        with pytest.raises(BadRequest):
            tus.upload_length({"HTTP_UPLOAD_DEFER_LENGTH": value})
    with pytest.raises(BadRequest):
        tus.upload_length({"HTTP_UPLOAD_DEFER_LENGTH": "1", "HTTP_UPLOAD_LENGTH": "5"})
    assert tus.piece({"HTTP_UPLOAD_OFFSET": "3"}) == tus.Piece(3, None, None)
    assert tus.piece({"HTTP_UPLOAD_OFFSET": "3", "HTTP_UPLOAD_LENGTH": "5"}) == tus.Piece(3, 5, None)
    with pytest.raises(BadRequest):
        tus.piece({"HTTP_UPLOAD_OFFSET": "3", "HTTP_UPLOAD_LENGTH": ""})


def test_the_end_of_an_upload_is_an_http_date() -> None:
    name, value = tus.expires_header(1800000000.7)
    assert name == "Upload-Expires"
    assert value.endswith(" GMT")
    assert email.utils.parsedate_to_datetime(value).timestamp() == 1800000000
