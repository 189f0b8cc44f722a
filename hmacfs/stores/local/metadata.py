"""What is kept with a file, in its extended attributes (docs/protocol.md, section 8)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from hmacfs.caching import bounded_cache
from hmacfs.protocol.media_types import is_media_type
from hmacfs.stores.local.capabilities import TYPE_ATTRIBUTE
from hmacfs.uploads.files import NO_METADATA, FileMetadata

R = TypeVar("R")

_NONE_BESIDES_TYPE = NO_METADATA[1:]

#: The fields of ``FileMetadata`` after the type, in their order.
_ATTRIBUTES = {
    "owner": "user.hmacfs.owner",
    "stored": "user.hmacfs.stored",
    "expires": "user.hmacfs.expires",
    "sha256": "user.hmacfs.sha256",
}


def keep(fd: int, metadata: FileMetadata) -> None:
    """Write what is known into the file's attributes. Raises ``OSError``."""
    if metadata.content_type is not None:
        os.setxattr(fd, TYPE_ATTRIBUTE, metadata.content_type.encode("latin-1"))
    if metadata[1:] != _NONE_BESIDES_TYPE:
        for field, attribute in _ATTRIBUTES.items():
            value = getattr(metadata, field)
            if value is not None:
                os.setxattr(fd, attribute, str(value).encode())


def type_of(fd: int) -> FileMetadata:
    """The type alone, by one system call: what serving the file needs."""
    try:
        return _with_type(os.getxattr(fd, TYPE_ATTRIBUTE).decode("latin-1"))
    except OSError:  # ENODATA: none recorded
        return NO_METADATA


@bounded_cache(256)
def _with_type(text: str) -> FileMetadata:
    return FileMetadata(text) if is_media_type(text) else NO_METADATA  # anyone may have written it


def all_of(fd: int) -> FileMetadata:
    """All that is kept with the file. What is malformed counts as absent: anyone may have written it."""
    try:
        present = set(os.listxattr(fd))
    except OSError:
        return NO_METADATA
    metadata = type_of(fd) if TYPE_ATTRIBUTE in present else NO_METADATA
    found = {field: _read(fd, name) for field, name in _ATTRIBUTES.items() if name in present}
    return metadata._replace(
        owner=found.get("owner") or None,
        stored=_parsed(int, found.get("stored")),
        expires=_parsed(int, found.get("expires")),
        sha256=_parsed(_digest, found.get("sha256")),
    )


def _read(fd: int, attribute: str) -> str:
    try:
        return os.getxattr(fd, attribute).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _parsed(parse: Callable[[str], R], text: str | None) -> R | None:
    try:
        return parse(text) if text else None
    except ValueError:
        return None


def _digest(text: str) -> str:
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(text)
    return text.lower()
