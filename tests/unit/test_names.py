"""The gate for names (docs/protocol.md, section 1)."""

from __future__ import annotations

import unicodedata
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import BadName
from hmacfs.protocol import names as naming
from hmacfs.protocol.names import StoredName, as_seen, is_reserved

PREFIX = "/upload/"


def path_info(raw: bytes) -> str:
    """PATH_INFO as a WSGI server makes it of a path's bytes."""
    return PREFIX + raw.decode("latin-1")


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b",
        "a b",
        "...",
        "a..b",
        "é/☃",
        "a+b",
        "%2e%2e",
        "x" * 255,
        ".hmacfsx/a",
        "a/x.hmacfs",
        "hmacfs",
        "HMACFS~1",
        "\u017f/\u200c",
        "/".join("x" * 64),
        "/".join("é" * 64),
    ],
)
def test_legal_names(path: str) -> None:
    name = StoredName.from_path_info(path_info(path.encode()), PREFIX)
    assert name.path == path
    assert name.segments == tuple(path.split("/"))
    assert name == StoredName.from_text(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"), (b"/", "empty segment"), (b"a//b", "empty segment"), (b"a/", "empty segment"), (b".", "dots"),
        (b"a/../b", "dots"), (b"\x00", "control"), (b"a\nb", "control"), (b"\x7f", "control"), (b"\xc2\x85", "control"),
        (b"\xff", "UTF-8"), (b"\xed\xa0\x80", "UTF-8"), (b"x" * 256, "longer than 255"), ("é".encode() * 128, "longer than 255"),
        (b"/".join([b"y" * 99] * 42), "longer than 4096"), (b".hmacfs", "keeps"), (b".HmAcFs/x", "keeps"), (b"a/.hmacfs/x", "keeps"), (b".hmacfs. ./x", "keeps"),
        (b"a/b/.hmacfs", "keeps"), (b"a/.HMACFS /x", "keeps"), (".HMACF\u017f/x".encode(), "keeps"), (".hm\u200cac\ufefffs".encode(), "keeps"),
        (".hmacfs\ufe0f/x".encode(), "keeps"), (".hmac\uff46s".encode(), "keeps"), (".hmacfs\u00a0/x".encode(), "keeps"),
        (b".hmacfs::$INDEX_ALLOCATION/x", "keeps"), (b".hmacfs.:s", "keeps"),
        (b"/".join([b"x"] * 65), "more than 64"), ("é/".encode() * 64 + b"x", "more than 64"), (b"a/" * 2000 + b"x", "more than 64"),
    ],
)  # fmt: skip
def test_illegal_names(raw: bytes, reason: str) -> None:
    with pytest.raises(BadName, match=reason):
        StoredName.from_path_info(path_info(raw), PREFIX)


def test_a_path_outside_the_prefix_is_refused() -> None:
    with pytest.raises(BadName):
        StoredName.from_path_info("/other/a", PREFIX)


@pytest.mark.parametrize("character", ["\ufdfa", "\u3392", "h", "\u00e9"])
def test_a_name_is_looked_at_only_as_far_as_it_could_be_the_reserved_one(
    monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    """A path of U+FDFA, each of which becomes 18 characters, cost 6 ms without any right."""
    looked: list[str] = []

    def look(one: str) -> str:
        looked.append(one)
        return as_seen(one)

    monkeypatch.setattr(naming, "as_seen", look)
    assert not is_reserved("\u00ad." + 80 * character)
    assert 2 < len(looked) <= 4


@given(st.binary(max_size=300))
def test_whatever_passes_the_gate_is_safe(raw: bytes) -> None:
    try:
        name = StoredName.from_path_info(path_info(raw), PREFIX)
    except BadName as error:
        assert "\n" not in str(error)
        return
    assert name.path.encode() == raw
    assert all(segment not in ("", ".", "..") and len(segment.encode()) <= 255 for segment in name.segments)
    assert not any(unicodedata.category(character) == "Cc" for character in name.path)
    assert all(segment.rstrip(". ").lower() != ".hmacfs" for segment in name.segments)
    assert len(name.segments) <= 64


@given(st.text(min_size=1, max_size=60))
def test_both_ways_in_agree_and_the_way_out_leads_back(text: str) -> None:
    try:
        name = StoredName.from_text(text)
    except BadName:
        with pytest.raises(BadName):
            StoredName.from_path_info(path_info(text.encode("utf-8", "surrogatepass")), PREFIX)
        return
    url = name.url_path(PREFIX)
    assert url.isascii()
    assert unquote_to_bytes(url) == (PREFIX + text).encode()
