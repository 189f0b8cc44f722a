"""What is kept with an object, through engines that change some of it."""

from __future__ import annotations

import pytest

from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import Attributes, ObjectInfo
from hmacfs.stores.s3.objects import attributes_of, info_of
from hmacfs.uploads.files import FileMetadata

NAME = StoredName("a/photo.jpg")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/octet-stream",
        "image/jpeg",
        "text/plain;\tcharset=utf-8",
        'text/plain; charset="utf-8"',
        "a/b+c;d=100%25",
    ],
)
@pytest.mark.parametrize("by_engine", ["", "image/jpeg", "text/html"])
def test_the_type_is_what_the_client_said_whatever_the_engine_says(content_type: str | None, by_engine: str) -> None:
    """SeaweedFS forgets "application/octet-stream" and says what the name tells: a browser would show what it shall
    save."""
    kept = attributes_of(NAME, FileMetadata(content_type), "id")
    assert all(value.isascii() and value.isprintable() for value in (kept.content_type, *kept.metadata.values()))
    stored = ObjectInfo(1, 0.0, '"e"', Attributes(by_engine or kept.content_type, kept.metadata))
    assert info_of(stored).metadata.content_type == content_type


@pytest.mark.parametrize("told", ["by-name", "no type", "text/html\n", "", "%0d%0atext/html"])
def test_what_is_no_type_is_none(told: str) -> None:
    stored = ObjectInfo(1, 0.0, '"e"', Attributes("text/html", {"hmacfs-id": "id", "hmacfs-type": told}))
    assert info_of(stored).metadata.content_type is None


def test_of_another_program_s_object_no_type_is_believed() -> None:
    stored = ObjectInfo(1, 0.0, '"e"', Attributes("text/html", {"hmacfs-type": "text/html"}))
    assert info_of(stored).metadata.content_type is None
