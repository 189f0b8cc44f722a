"""Understanding the head of an HTTP/1.x request (RFC 9112). Pure: bytes in, values out, no sockets.

Strict where leniency would let another parser on the way see a different message: bare line feeds, folded lines,
blanks before colons, repeated or odd lengths and unknown transfer codings are refused. Lenient in one place: a path
may hold raw UTF-8, which some XMPP servers' download and upload URLs contain.
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from hmacfs.caching import LONGEST_KEY
from hmacfs.errors import TooLarge
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

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What a line may hold: no controls but HTAB.
_LINE_BYTES = bytes(byte for byte in range(256) if byte in b"\t" or (byte >= 0x20 and byte != 0x7F))

#: Fields of which a message has one; a second one would be read differently by different servers.
_SINGLE = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_TRANSFER_ENCODING", "HTTP_AUTHORIZATION"})


class BadRequestHead(Exception):
    """The head is not acceptable. ``status`` is what to answer before the connection is closed."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestHead(NamedTuple):
    """A request's head. ``environ`` holds what PEP 3333 derives from it; ``length`` is ``None`` without a
    Content-Length; ``size`` is how many bytes the head took."""

    environ: dict[str, str]
    length: int | None
    is_chunked: bool
    keep_alive: bool
    expects_continue: bool
    size: int


def parse_head(data: bytes) -> RequestHead | None:
    """The head at the beginning of ``data``, or ``None`` if it is not complete yet. Raises ``BadRequestHead``."""
    start = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 section 2.2: one empty line before it is ignored
    end = data.find(b"\r\n\r\n", start)
    if end < 0 or end > HEAD_LIMIT:
        if len(data) > HEAD_LIMIT:
            raise BadRequestHead(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.")
        return None
    text = data[start:end]
    request_line, *lines = text.decode("latin-1").split("\r\n")
    # Besides the line ends nothing may be left; a regular expression that looks for it takes ten times as long.
    if text.translate(None, _LINE_BYTES) != b"\r\n" * len(lines):
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request's head holds a control character.")
    environ = _request_line(request_line)
    if len(lines) > FIELDS_LIMIT:
        raise BadRequestHead(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request has too many header fields.")
    for line in lines:
        name, colon, value = line.partition(":")
        key = (_environ_key if len(name) <= LONGEST_KEY else _environ_key.__wrapped__)(name) if colon else ""
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
    return _with_framing(environ, end + 4)


_DROPPED = "hmacfs.dropped"


@functools.lru_cache(maxsize=512)
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


def _request_line(line: str) -> dict[str, str]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if re.search(r" HTTP/[2-9]\.[0-9]$", line):
            raise BadRequestHead(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1.")
        raise BadRequestHead(HTTPStatus.BAD_REQUEST, "The request line is malformed.")
    method, target, minor = match.groups()
    if target[0] == "/" and "#" not in target:
        path, _, query = target.partition("?")
    else:
        path, query = _split_target(method, target)
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": _unescaped(path) if "%" in path else path,
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_PROTOCOL": f"HTTP/1.{minor}",
    }


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


def _with_framing(environ: dict[str, str], size: int) -> RequestHead:
    is_1_1 = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
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
    expectation = environ.get("HTTP_EXPECT", "").lower()
    if expectation and expectation != "100-continue":
        raise BadRequestHead(HTTPStatus.EXPECTATION_FAILED, "Only 100-continue can be expected.")
    connection = environ.get("HTTP_CONNECTION", "")
    return RequestHead(
        environ,
        length,
        coding is not None,
        (_keep_alive(connection, is_1_1=is_1_1) if connection else is_1_1) and environ["REQUEST_METHOD"] != "CONNECT",
        is_1_1 and bool(expectation),
        size,
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
