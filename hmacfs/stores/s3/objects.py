"""What is kept with an object, as its metadata and back. Pure.

``hmacfs-id`` names the upload that an object is of: it settles each doubt about who stored it. Without it an object is
another program's, and nothing that it says is believed. With ``hmacfs-claim`` instead it is a *placeholder*: the name
is taken by an upload of which the bytes are not there yet, and to readers there is nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import TypeGuard
from urllib.parse import quote, unquote

from hmacfs.errors import NameTaken
from hmacfs.protocol.media_types import is_media_type, type_by_name
from hmacfs.protocol.names import RESERVED_FOLDER, StoredName
from hmacfs.stores.s3.bucket import Attributes, ObjectInfo, Part
from hmacfs.uploads.files import NO_METADATA, FileInfo, FileMetadata

#: Of unfinished uploads, in the reserved folder.
PARTIAL_FOLDER = "partial"
_ID, _CLAIM, _UPLOAD, _PARTS = "hmacfs-id", "hmacfs-claim", "hmacfs-upload", "hmacfs-parts"
_SESSION = "hmacfs-session"
_TYPE, _OWNER, _STORED, _EXPIRES, _SHA256 = (
    *("hmacfs-type", "hmacfs-owner", "hmacfs-stored"),
    *("hmacfs-expires", "hmacfs-sha256"),
)
#: Of a file that came without a type (and no media type itself): its object has that of the extension, for other
#: programs.
_BY_NAME = "by-name"
_SECONDS = re.compile(r"[0-9]{1,12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: An owner is a few hundred bytes at most; engines allow 2 KiB of metadata in all.
_OWNER_LIMIT = 1024


def new_identity() -> str:
    return secrets.token_hex(16)


def attributes_of(name: StoredName, metadata: FileMetadata, identity: str) -> Attributes:
    """Of the file's object."""
    content_type = metadata.content_type
    told = {_ID: identity, _TYPE: _BY_NAME if content_type is None else quote(content_type, safe="/ ;=+")}
    if metadata.owner is not None:
        told[_OWNER] = quote(metadata.owner, safe="@/")[:_OWNER_LIMIT]
    for field, value in ((_STORED, metadata.stored), (_EXPIRES, metadata.expires)):
        if value is not None:
            told[field] = str(value)
    if metadata.sha256 is not None:
        told[_SHA256] = metadata.sha256
    # A tab is white space in a type (RFC 9110 section 5.6.3), and in a header that a proxy may refuse.
    return Attributes((content_type or type_by_name(name.path)).replace("\t", " "), told)


def info_of(stored: ObjectInfo) -> FileInfo:
    """What is told of the file."""
    return FileInfo(stored.size, stored.modified, stored.etag, _metadata_of(stored.attributes))


def _metadata_of(attributes: Attributes) -> FileMetadata:
    told = attributes.metadata
    if _ID not in told:
        return NO_METADATA
    # Not the object's own: SeaweedFS takes "application/octet-stream" for none, and guesses by the name.
    content_type = unquote(told.get(_TYPE, _BY_NAME))
    return FileMetadata(
        content_type if is_media_type(content_type) else None,
        unquote(told[_OWNER]) if _OWNER in told else None,
        _seconds(told, _STORED),
        _seconds(told, _EXPIRES),
        told[_SHA256] if _DIGEST.fullmatch(told.get(_SHA256, "")) else None,
    )


def _seconds(told: Mapping[str, str], field: str) -> int | None:
    return int(told[field]) if _SECONDS.fullmatch(told.get(field, "")) else None


def placeholder_of(identity: str, upload_id: str, etags: Mapping[int, str]) -> Attributes:
    """etags: by number, of the parts that are to replace it."""
    told = {_CLAIM: identity, _UPLOAD: quote(upload_id, safe=""), _PARTS: seal(etags)}
    return Attributes("application/octet-stream", told)


def seal(etags: Mapping[int, str]) -> str:
    """Tells a list of parts from all others, and how many there are."""
    listed = " ".join(f"{number}:{etags[number]}" for number in sorted(etags))
    return f"{hashlib.sha256(listed.encode()).hexdigest()}-{len(etags)}"


def seal_of(placeholder: ObjectInfo) -> str:
    """Of the parts that are to replace it."""
    return placeholder.attributes.metadata.get(_PARTS, "")


def sealed_parts(sealed: str, parts: Iterable[Part]) -> Mapping[int, str]:
    """By number the entity tags of those of the ``parts`` that have this seal; none if they are not all there as they
    were."""
    count = sealed.rpartition("-")[2]
    etags = {part.number: part.etag for part in parts if count.isdecimal() and part.number <= int(count)}
    return etags if seal(etags) == sealed else {}


def identity_of(stored: ObjectInfo) -> str:
    """Of the upload that became this object; empty if it is no file of ours."""
    return stored.attributes.metadata.get(_ID, "")


def claimant_of(stored: ObjectInfo) -> str:
    """Of the upload that this is a placeholder of; empty if it is none."""
    return stored.attributes.metadata.get(_CLAIM, "")


def upload_id_of(stored: ObjectInfo) -> str:
    """The id of the multipart upload that is to replace a placeholder."""
    return unquote(stored.attributes.metadata.get(_UPLOAD, ""))


def with_upload_key(attributes: Attributes, upload_key: str) -> Attributes:
    """Of a file that comes in pieces."""
    return attributes._replace(metadata={**attributes.metadata, _SESSION: upload_key})


def upload_key_of(stored: ObjectInfo) -> str:
    """Of the unfinished upload that became this file; empty if it came whole, or is no file of ours."""
    return stored.attributes.metadata.get(_SESSION, "") if identity_of(stored) else ""


def own_etag(stored: ObjectInfo | None, identity: str) -> str:
    """The entity tag if this is the upload's file; empty if it is none, or none yet. Raises ``NameTaken``."""
    if not is_file(stored):
        return ""
    if identity_of(stored) != identity:
        raise NameTaken
    return stored.etag


def is_file(stored: ObjectInfo | None) -> TypeGuard[ObjectInfo]:
    """Whether this is a file, and no placeholder of one."""
    return stored is not None and not claimant_of(stored)


class Keys:
    """The keys of objects. An *upload key* is none: it names an unfinished upload, and is that of its session, or a
    random text if it has none. prefix: ``S3Prefix``, empty or with a slash at its end."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.reserved = f"{prefix}{RESERVED_FOLDER}/"
        self.partial = f"{self.reserved}{PARTIAL_FOLDER}/"

    def of(self, name: StoredName) -> str:
        return self.prefix + name.path

    def folder_of(self, upload_key: str) -> str:
        """What the keys of an unfinished upload's notes begin with."""
        return f"{self.partial}{upload_key}/"
