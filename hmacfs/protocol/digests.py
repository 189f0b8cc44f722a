"""What a request claims its bytes digest to: ``Content-Digest`` and ``Repr-Digest`` (RFC 9530), ``Content-MD5``
(RFC 1864), and S3's ``x-amz-content-sha256``. Pure: no bytes are read here, only compared.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hmacfs.errors import BadRequest, DigestMismatch, HmacfsError

#: The digest algorithms of RFC 9530 that are not deprecated, by their names in ``hashlib``, and their digests' lengths.
_ALGORITHMS = {"sha-256": ("sha256", 32), "sha-512": ("sha512", 64)}
_KEYS = {algorithm: key for key, (algorithm, _) in _ALGORITHMS.items()}

# Structured fields (RFC 9651): a dictionary's members. Where the key is not one of ours, the value may be of any type.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_BYTES = r":[A-Za-z0-9+/=]*:"
_STRING = r'%?"(?:[ !#-\[\]-~]|\\["\\])*"'
_BARE = rf"{_BYTES}|{_STRING}|[A-Za-z*][!#$%&'*+\-.^_`|~:/0-9A-Za-z]*|@?-?[0-9]{{1,15}}(?:\.[0-9]{{1,3}})?|\?[01]"
_PARAMETERS = rf"(?: *; *{_KEY}(?:=(?:{_BARE}))?)*"
_ITEM = rf"(?:{_BARE}){_PARAMETERS}"
_LIST = rf"\( *(?:{_ITEM}(?: +{_ITEM})* *)?\){_PARAMETERS}"
_MEMBER = re.compile(rf"({_KEY})(?:=(?:({_BYTES}){_PARAMETERS}|{_ITEM}|{_LIST})|{_PARAMETERS})")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
#: Far more than the digests of all algorithms take.
_FIELD_LIMIT = 1024

#: The fields that tell a digest of the body, and the one that tells the whole file's, as keys of a WSGI environ.
_OF_BODY = ("HTTP_CONTENT_DIGEST", "HTTP_CONTENT_MD5", "HTTP_X_AMZ_CONTENT_SHA256")
_OF_FILE = "HTTP_REPR_DIGEST"

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Claim(NamedTuple):
    """A claim that bytes have this digest. field: the header that says so; algorithm: as ``hashlib`` names it; error:
    raised if they have another."""

    field: str
    algorithm: str
    digest: bytes
    error: type[HmacfsError] = DigestMismatch


class Digests:
    """Computes what is claimed of the bytes it is given, each algorithm once."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = tuple(claims)
        self._hashes: dict[str, Any] = {
            algorithm: hashlib.new(algorithm, usedforsecurity=False)
            for algorithm in dict.fromkeys(claim.algorithm for claim in self._claims)
        }

    def update(self, data: memoryview, /) -> None:
        for one in self._hashes.values():
            one.update(data)

    def check(self) -> None:
        """Raise the error of the first claim that does not hold for all bytes given until now."""
        for claim in self._claims:
            if not hmac.compare_digest(self._hashes[claim.algorithm].digest(), claim.digest):
                raise claim.error(f"{claim.field} does not match the bytes received ({claim.algorithm}).")


def digests_of_body(environ: Mapping[str, str], *more: Claim) -> Digests | None:
    """Of the bytes that this request carries, with ``more`` that is claimed of them. ``None`` if nothing is claimed.
    Raises ``BadRequest``."""
    claims = [*more]
    if not environ.keys().isdisjoint(_OF_BODY):
        claims += [*_field(environ, "HTTP_CONTENT_DIGEST", "Content-Digest"), *_content_md5(environ), *_amazon(environ)]
    return Digests(claims) if claims else None


def claims_of_file(environ: Mapping[str, str]) -> str:
    """What is claimed of the whole file, of which this request may carry a part: a ``Repr-Digest`` of the algorithms
    that are known; empty if nothing is claimed. Raises ``BadRequest``."""
    claims = _field(environ, _OF_FILE, "Repr-Digest")
    return ", ".join(f"{_KEYS[one.algorithm]}=:{base64.b64encode(one.digest).decode()}:" for one in claims)


def digests_of_file(claims: str) -> Digests | None:
    """To judge a file by what ``claims_of_file`` gave."""
    return Digests(_field({_OF_FILE: claims}, _OF_FILE, "Repr-Digest")) if claims else None


class PieceDigests(NamedTuple):
    """What a request claims of the piece that it carries, and of the whole file (see ``claims_of_file``)."""

    piece: Digests | None
    file: str


_NOTHING_CLAIMED = PieceDigests(None, "")


def claims_of_piece(environ: Mapping[str, str], *more: Claim) -> PieceDigests:
    """Both, with ``more`` that is claimed of the piece. Raises ``BadRequest``."""
    if not more and _OF_FILE not in environ and environ.keys().isdisjoint(_OF_BODY):
        return _NOTHING_CLAIMED
    return PieceDigests(digests_of_body(environ, *more), claims_of_file(environ))


def digests_of_whole(environ: Mapping[str, str]) -> Digests | None:
    """The same for a request that carries the whole file: both are claimed of its body then."""
    if _OF_FILE in environ:
        return digests_of_body(environ, *_field(environ, _OF_FILE, "Repr-Digest"))
    return None if environ.keys().isdisjoint(_OF_BODY) else digests_of_body(environ)


def _field(environ: Mapping[str, str], key: str, name: str) -> list[Claim]:
    """The claims of an RFC 9530 field. Algorithms that are not known are ignored (section 2)."""
    header = environ.get(key)
    if header is None:
        return []
    found: dict[str, str | None] = {}
    position, header = 0, header.strip(" \t")
    while header:
        match = _MEMBER.match(header, position) if len(header) <= _FIELD_LIMIT else None
        if match is None:
            raise BadRequest(f"{name} is malformed.")
        found[match[1]] = match[2]  # of members with the same key the last counts
        position = match.end()
        if position == len(header):
            break
        comma = _COMMA.match(header, position)
        if comma is None or comma.end() == len(header):
            raise BadRequest(f"{name} is malformed.")
        position = comma.end()
    return [
        Claim(name, algorithm, _decoded((found[key] or "").strip(":"), size, name))
        for key, (algorithm, size) in _ALGORITHMS.items()
        if key in found
    ]


def _content_md5(environ: Mapping[str, str]) -> list[Claim]:
    header = environ.get("HTTP_CONTENT_MD5")
    return [] if header is None else [Claim("Content-MD5", "md5", _decoded(header, 16, "Content-MD5"))]


def _amazon(environ: Mapping[str, str]) -> list[Claim]:
    """S3's clients put other words there too, which say that the body is not signed."""
    header = environ.get("HTTP_X_AMZ_CONTENT_SHA256")
    if header is None or not _HEX_SHA256.fullmatch(header):
        return []
    return [Claim("x-amz-content-sha256", "sha256", bytes.fromhex(header))]


def _decoded(text: str, size: int, name: str) -> bytes:
    try:
        # RFC 9651 section 4.2.7: missing padding should not make it fail.
        digest = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise BadRequest(f"{name} is malformed.")
    return digest
