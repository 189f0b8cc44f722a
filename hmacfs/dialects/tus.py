"""tus 1.0.0 (https://tus.io/protocols/resumable-upload): its headers as values and back. Pure."""

from __future__ import annotations

import base64
import email.utils
import re
from collections.abc import Mapping
from typing import NamedTuple

from hmacfs.errors import BadRequest, HmacfsError, TooLarge
from hmacfs.protocol.media_types import DEFAULT
from hmacfs.protocol.numerals import BEYOND_ALL, byte_count

#: As sessions record it.
NAME = "tus"
VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination"
#: Where the signature covers no length.
DEFER_LENGTH = "creation-defer-length"
#: The algorithms, by their names in ``hashlib``, and the length of their digests.
CHECKSUMS = {"sha256": 32, "sha1": 20, "md5": 16}
RESUMABLE = ("Tus-Resumable", VERSION)
PIECE_TYPE = "application/offset+octet-stream"

_METADATA_KEY = re.compile(r"[!-+\--~]+")
METADATA_LIMIT = 4096


class UnsupportedVersion(HmacfsError):
    """The client speaks another version of tus; the answer names this server's."""

    reason = "tus-version"
    sentence = f"This server speaks tus {VERSION}."


class NotAPiece(HmacfsError):
    """A PATCH whose body is not declared as bytes to append."""

    reason = "not-a-piece"
    sentence = f"A piece is sent as {PIECE_TYPE}."


class Checksum(NamedTuple):
    """algorithm: as ``hashlib`` names it."""

    algorithm: str
    digest: bytes


class Piece(NamedTuple):
    """The bytes from ``offset`` on. length: the whole file's, if the piece tells it."""

    offset: int
    length: int | None
    checksum: Checksum | None


def is_spoken(environ: Mapping[str, str]) -> bool:
    """Whether a POST has any of the headers that a tus client creates an upload with."""
    return any(f"HTTP_{key}" in environ for key in ("TUS_RESUMABLE", "UPLOAD_LENGTH", "UPLOAD_DEFER_LENGTH"))


def check_version(environ: Mapping[str, str]) -> None:
    """Raises ``UnsupportedVersion`` unless the request says ``Tus-Resumable: 1.0.0``."""
    if environ.get("HTTP_TUS_RESUMABLE") != VERSION:
        raise UnsupportedVersion


def upload_length(environ: Mapping[str, str]) -> int | None:
    """The whole file's bytes by the headers of a creation; ``None`` if they are to be told later. Raises ``BadRequest``
    if nothing is said, or both; ``TooLarge``."""
    deferred = environ.get("HTTP_UPLOAD_DEFER_LENGTH")
    if deferred is None:
        return _number(environ, "UPLOAD_LENGTH", "Upload-Length")
    if deferred != "1":
        raise BadRequest("Upload-Defer-Length can only be 1.")
    if "HTTP_UPLOAD_LENGTH" in environ:
        raise BadRequest("Upload-Length and Upload-Defer-Length contradict each other.")
    return None


def piece(environ: Mapping[str, str]) -> Piece:
    """The piece that a PATCH carries by its headers. Raises ``BadRequest``, ``TooLarge``."""
    length = _number(environ, "UPLOAD_LENGTH", "Upload-Length") if "HTTP_UPLOAD_LENGTH" in environ else None
    offset = upload_offset(environ)
    return Piece(offset, length, checksum(environ) if "HTTP_UPLOAD_CHECKSUM" in environ else None)


def upload_offset(environ: Mapping[str, str]) -> int:
    """Where the piece begins. A number that is too large for any file is one beyond its end."""
    try:
        return _number(environ, "UPLOAD_OFFSET", "Upload-Offset")
    except TooLarge:
        return BEYOND_ALL


def _number(environ: Mapping[str, str], key: str, name: str) -> int:
    number = byte_count(environ.get(f"HTTP_{key}", ""))
    if number is None:
        raise BadRequest(f"{name} is missing or no number.")
    return number


def check_piece_type(environ: Mapping[str, str]) -> None:
    """Raises ``NotAPiece``."""
    content_type = environ.get("CONTENT_TYPE", "")
    if content_type != PIECE_TYPE and not is_piece_type(content_type):
        raise NotAPiece


def is_piece_type(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == PIECE_TYPE


def metadata(environ: Mapping[str, str]) -> dict[str, str]:
    """``Upload-Metadata``, decoded; values that are no UTF-8 text are left out. Raises ``BadRequest``."""
    header = environ.get("HTTP_UPLOAD_METADATA", "")
    found: dict[str, str] = {}
    if len(header) > METADATA_LIMIT:
        raise BadRequest("Upload-Metadata is too long.")
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not _METADATA_KEY.fullmatch(key) or key in found:
            raise BadRequest("Upload-Metadata is malformed.")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except UnicodeDecodeError:
            continue
        except ValueError as error:  # binascii's is one, and so is that for characters beyond ASCII
            raise BadRequest("Upload-Metadata is malformed.") from error
    return found


def filetype(environ: Mapping[str, str]) -> str | None:
    """The file's type by ``Upload-Metadata``: a creation's ``Content-Type`` is its body's. Raises ``BadRequest``."""
    found = metadata(environ)
    return found.get("filetype") or found.get("type")


def signable_types(environ: Mapping[str, str]) -> list[str]:
    """The types that the signature of a creation may be over: the file's, if the client tells it; what it calls the
    request's body, unless that is a piece; and what signers take where no type is known. Malformed metadata tell
    none."""
    body_type = environ.get("CONTENT_TYPE", "")
    try:
        file_type = filetype(environ)
    except BadRequest:
        file_type = None
    return [each for each in (file_type, "" if is_piece_type(body_type) else body_type, DEFAULT) if each]


def checksum(environ: Mapping[str, str]) -> Checksum | None:
    """``Upload-Checksum``. Raises ``BadRequest`` for an algorithm that was not announced and for what is no digest of
    it."""
    header = environ.get("HTTP_UPLOAD_CHECKSUM")
    if header is None:
        return None
    algorithm, _, digest = header.partition(" ")
    if algorithm not in CHECKSUMS:
        raise BadRequest("The checksum's algorithm is not supported.")
    try:
        found = Checksum(algorithm, base64.b64decode(digest.strip(), validate=True))
    except ValueError as error:
        raise BadRequest("The checksum is malformed.") from error
    if len(found.digest) != CHECKSUMS[algorithm]:
        raise BadRequest("The checksum is malformed.")
    return found


def announcement(max_size: int, *, defers_length: bool) -> list[tuple[str, str]]:
    """What OPTIONS says. defers_length: whether an upload may begin before its length is known."""
    return [
        RESUMABLE,
        ("Tus-Version", VERSION),
        ("Tus-Max-Size", str(max_size)),
        ("Tus-Extension", f"{EXTENSIONS},{DEFER_LENGTH}" if defers_length else EXTENSIONS),
        ("Tus-Checksum-Algorithm", ",".join(CHECKSUMS)),
    ]


def expires_header(when: float) -> tuple[str, str]:
    """``when`` in Unix seconds."""
    return ("Upload-Expires", email.utils.formatdate(when, usegmt=True))
