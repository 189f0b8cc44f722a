"""What is told of stored files. Pure values, the same for every store."""

from __future__ import annotations

from typing import NamedTuple


class FileMetadata(NamedTuple):
    """What is kept with a file, all of it optional.

    content_type: the type that it is served with; without one its name's extension tells.
    owner: whose it is, such as ``romeo@example.org`` (docs/protocol.md, section 8).
    stored, expires: Unix seconds.
    sha256: of its bytes, in hexadecimal.
    """

    content_type: str | None = None
    owner: str | None = None
    stored: int | None = None
    expires: int | None = None
    sha256: str | None = None

    def completed_by(self, later: FileMetadata) -> FileMetadata:
        """With what is known only later; what that leaves open stays as it is."""
        return self._replace(**{field: value for field, value in later._asdict().items() if value is not None})


NO_METADATA = FileMetadata()


class FileInfo(NamedTuple):
    """What a store tells of a file.

    size: in bytes. modified: Unix seconds. etag: a strong entity tag with its quotes (RFC 9110 section 8.8.3), such as
    ``"66f1c2a4-3039"``, which tells the file from any other that ever had its name. The store gives it.
    """

    size: int
    modified: float
    etag: str
    metadata: FileMetadata
