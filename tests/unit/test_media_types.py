"""Media types."""

from __future__ import annotations

import pytest

from hmacfs.protocol.media_types import DEFAULT, guess, is_inline, is_media_type, type_by_name


@pytest.mark.parametrize(
    "text",
    [
        "image/png", "text/plain;charset=utf-8", "text/plain ; charset=utf-8 ;", "audio/ogg; codecs=opus",
        'video/mp4; codecs="avc1.42E01E, mp4a.40.2"', "application/vnd.oasis.opendocument.text",
    ],
)  # fmt: skip
def test_media_types(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "png", "image/", "/png", "image/png,text/html", "image/png;a=b,text/html", 'image/png;a="b",text/html',
        'image/png;a="b', 'image/png;a="b\\",text/html"', "image/png\r\nX: y", "image/png; a=\x00", "image/p ng",
        "image/png; a=é", "image/png;" + "a" * 600, "a/" + "b" * 200,
    ],
)  # fmt: skip
def test_what_is_no_media_type(text: str) -> None:
    assert not is_media_type(text)


@pytest.mark.parametrize(
    ("text", "inline"),
    [
        ("IMAGE/PNG", True), ("image/svg+xml ;a", False), ("text/plain;x", True), ("text/html", False),
        ("audio/x+xml", False), ("IMAGE/FOO+XML\t;a=b", False), ("text/xml", False), ("application/XML;a", False),
        ('audio/X+Xml ; codecs="a+b"', False), ("image/xml", True), ("image/x+xml2", True),
        ("image/SVG+xml", False), ("image/x+xml", False), ("video/x+xml;a=b", False), ("image/png;a=b+xml", True),
        ("text/plainer", False), ("Text/HTML", False), ("text/html;x", False), ("application/xhtml+xml", False),
    ],
)  # fmt: skip
def test_what_a_browser_may_show(text: str, inline: bool) -> None:
    assert is_inline(text) is inline


@pytest.mark.parametrize(
    ("name", "bare", "served"),
    [
        ("notes.txt", "text/plain", "text/plain; charset=utf-8"),
        ("NOTES.TXT", "text/plain", "text/plain; charset=utf-8"),
        ("a.csv", "text/csv", "text/csv; charset=utf-8"),
        ("a.json", "application/json", "application/json"),
        ("a.png", "image/png", "image/png"),
        ("txt", DEFAULT, DEFAULT),
    ],
)
def test_text_without_a_recorded_type_is_utf_8(name: str, bare: str, served: str) -> None:
    assert (guess(name), type_by_name(name)) == (bare, served), "signatures are over the bare type"
