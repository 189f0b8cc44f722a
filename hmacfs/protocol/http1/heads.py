"""Understanding the head of an HTTP/1.x request (RFC 9112). Pure: bytes in, values out, no sockets.

Strict where leniency would let another parser on the way see a different message: bare line feeds, folded lines,
blanks before colons, repeated or odd lengths and unknown transfer codings are refused. Lenient in one place: a path
may hold raw UTF-8, which some XMPP servers' download and upload URLs contain.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from hmacfs.caching import bounded_cache
from hmacfs.errors import TooLarge
from hmacfs.protocol.methods import METHODS
from hmacfs.protocol.names import PATH_LIMIT_BYTES
from hmacfs.protocol.numerals import byte_count

#: Method, target, version and all fields together. A path of 4,096 bytes fits even if every byte is escaped, with a
#: token after it.
HEAD_LIMIT = 32 * 1024
FIELDS_LIMIT = 100
#: Bytes of a path that are decoded: those of the longest name, each of them escaped, and the mount point's.
_UNESCAPED_LIMIT = 3 * PATH_LIMIT_BYTES + 1024
#: A Connection field that is longer names no option that anybody uses.
_CONNECTION_LIMIT = 256

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~\x80-\xff]+) (HTTP/1\.[01])")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What a line may hold: no controls but HTAB.
_CHARACTERS = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: A line that declares a length in the usual form.
_LENGTH_LINE = re.compile(r"(?i:(?:\A|\n)content-length): ([1-9][0-9]{0,17})(?:\r|\Z)")
_WITH_BODY = frozenset({"PUT", "PATCH", "POST"})
#: Methods that need no look at their characters.
_METHODS = frozenset({*METHODS, "CONNECT"})

#: Fields of which a message has one; a second one would be read differently by different servers.
_SINGLE = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_TRANSFER_ENCODING", "HTTP_AUTHORIZATION"})


class BadRequestHead(Exception):
    """The head is not acceptable. ``status`` is what to answer before the connection is closed."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(slots=True, repr=False)
class Fields:
    """What the fields of a head say: their part of the ``environ``, which is not to be changed, and the framing.
    ``length`` is ``None`` without a Content-Length; where the head's own has been taken out, it is 0."""

    environ: dict[str, str]
    length: int | None
    is_chunked: bool
    keep_alive: bool
    expects_continue: bool


@dataclasses.dataclass(slots=True, repr=False)
class RequestHead:
    """A request's head. ``environ`` holds what PEP 3333 derives from it; ``length``: the Content-Length, ``None``
    without one; ``keep_alive``: the client can take another response on the connection; ``size``: how many bytes the
    head took."""

    environ: dict[str, Any]
    fields: Fields
    length: int | None
    keep_alive: bool
    size: int


_NO_ENVIRON: Mapping[str, Any] = {}


def parse_head(data: bytes, common: Mapping[str, Any] = _NO_ENVIRON) -> RequestHead | None:
    """The head at the beginning of ``data``, or ``None`` if it is not complete yet. Raises ``BadRequestHead``.

    common: what the environ holds besides, of the server and the connection.
    """
    # RFC 9112 section 2.2: one empty line before it is ignored.
    start = 2 if data.startswith(b"\r\n") else 0
    end = data.find(b"\r\n\r\n", start)
    if end < 0 or end > HEAD_LIMIT:
        if len(data) > HEAD_LIMIT:
            raise BadRequestHead(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.")
        return None
    line, _, text = data[start:end].decode("latin-1").partition("\r\n")
    method, target, version = _request_line(line)
    text, declared = _without_length(text) if method in _WITH_BODY else (text, None)
    fields = _FIELDS_OF[version](text)
    length = fields.length
    if target[0] == "/" and "#" not in target:
        path, _, query = target.partition("?")
    else:
        path, query = _split_target(method, target)
    environ = {**common, **fields.environ}
    environ["REQUEST_METHOD"] = method
    environ["PATH_INFO"] = _unescaped(path) if "%" in path else path
    environ["QUERY_STRING"] = query
    environ["RAW_URI"] = target
    if declared is not None:
        environ["CONTENT_LENGTH"] = declared
        length = int(declared)
    return RequestHead(environ, fields, length, fields.keep_alive and method != "CONNECT", end + 4)


def _without_length(text: str) -> tuple[str, str | None]:
    """The fields with a length of 0 instead of the one that they declare, which differs from upload to upload where all
    else is the same; and that. A length in an odd form stays, and is judged with the rest, as is a second one."""
    match = _LENGTH_LINE.search(text)
    if match is None:
        return text, None
    begin, end = match.span(1)
    return f"{text[:begin]}0{text[end:]}", match[1]


def _request_line(line: str) -> tuple[str, str, str]:
    """Method, target and version."""
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    # Of ASCII, what may stand in a target are the printable characters. The expression takes ten times as long.
    if method in _METHODS and version in _FIELDS_OF and target and target.isascii() and target.isprintable():
        return method, target, version
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if re.search(r" HTTP/[2-9]\.[0-9]$", line):
            raise BadRequestHead(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1.")
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request line is malformed.")
    method, target, version = match.groups()
    return method, target, version


def _parse_fields(text: str, version: str) -> Fields:
    """The fields of a head, which are all its lines but the first."""
    lines = text.split("\r\n") if text else []
    if len(lines) > FIELDS_LIMIT:
        raise BadRequestHead(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request has too many header fields.")
    characters = "".join(lines)
    if not (characters.isascii() and characters.isprintable()) and _CHARACTERS.fullmatch(characters) is None:
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request's head holds a control character.")
    environ = {"SCRIPT_NAME": "", "SERVER_PROTOCOL": version}
    for line in lines:
        name, colon, value = line.partition(":")
        key = _environ_key(name) if colon else ""
        if not key:
            raise BadRequestHead(HTTPStatus.BAD_REQUEST, "A header field is malformed.")
        value = value.strip(" \t")
        if key not in environ:
            environ[key] = value
        elif key in _SINGLE:
            raise BadRequestHead(HTTPStatus.BAD_REQUEST, "A header field is repeated that must not be.")
        else:
            environ[key] += "," + value
    environ.pop(_DROPPED, None)
    return _with_framing(environ, is_1_1=version == "HTTP/1.1")


#: A client repeats its fields in each of its requests, and programs of one kind have the same ones: 300 bytes are
#: looked up in a tenth of the time that it takes to read them. Longer ones are those of browsers, or hold a token.
_FIELDS_OF: Mapping[str, Callable[[str], Fields]] = {
    version: bounded_cache(256, longest=512)(functools.partial(_parse_fields, version=version))
    for version in ("HTTP/1.1", "HTTP/1.0")
}

_DROPPED = "hmacfs.dropped"


@bounded_cache(512)
def _environ_key(name: str) -> str:
    """The environ key of a field name; empty if the name is no token (a blank before the colon, a folded line).

    A name with an underscore is dropped, as nginx and gunicorn do: ``X_Forwarded_For`` would become the same key as
    ``X-Forwarded-For``, which a proxy in front has checked.
    """
    if not _FIELD_NAME.fullmatch(name):
        return ""
    if "_" in name:
        return _DROPPED
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _unescaped(path: str) -> str:
    """The path decoded, once. Its part after ``_UNESCAPED_LIMIT`` stays as it is: the path is too long for a name in
    any case."""
    data = path.encode("latin-1")
    return (unquote_to_bytes(data[:_UNESCAPED_LIMIT]) + data[_UNESCAPED_LIMIT:]).decode("latin-1")


def _split_target(method: str, target: str) -> tuple[str, str]:
    """Path and query of a request target that is not just a path: absolute form, or the asterisk of OPTIONS (RFC 9112
    section 3.2)."""
    if target == "*" and method == "OPTIONS":
        return "*", ""
    if "#" in target:
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request target has a fragment.")
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request target is malformed.")
    return parts.path or "/", parts.query


def _with_framing(environ: dict[str, str], *, is_1_1: bool) -> Fields:
    if is_1_1 and "HTTP_HOST" not in environ:
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The Host header field is missing.")
    declared = environ.get("CONTENT_LENGTH")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    length = _length(declared) if declared is not None else None
    if length is not None and declared is not None and declared.startswith("0"):
        environ["CONTENT_LENGTH"] = str(length)
    if coding is not None:
        # RFC 9112 section 6.1: both at once, or a coding in HTTP/1.0, is how requests are smuggled.
        if declared is not None or not is_1_1:
            raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request's framing is ambiguous.")
        if coding.lower() != "chunked":
            raise BadRequestHead(HTTPStatus.NOT_IMPLEMENTED, "Only the chunked transfer coding is known.")
    expectation = environ.get("HTTP_EXPECT")
    if expectation and expectation.lower() != "100-continue":
        raise BadRequestHead(HTTPStatus.EXPECTATION_FAILED, "Only 100-continue can be expected.")
    connection = environ.get("HTTP_CONNECTION")
    return Fields(
        environ,
        length,
        is_chunked=coding is not None,
        keep_alive=_keep_alive(connection, is_1_1=is_1_1) if connection else is_1_1,
        expects_continue=is_1_1 and bool(expectation),
    )


def _length(declared: str) -> int:
    try:
        length = byte_count(declared)
    except TooLarge:
        raise BadRequestHead(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The Content-Length is too large.") from None
    if length is None:
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The Content-Length is malformed.")
    return length


def _keep_alive(connection: str, *, is_1_1: bool) -> bool:
    if len(connection) > _CONNECTION_LIMIT:
        return False
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (is_1_1 or "keep-alive" in options)
