"""What must hold of the parts without I/O for every input. Each target takes bytes and raises for a violation.

Where a rule is simple enough, a second, independent statement of it stands here as the reference.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote, unquote_to_bytes

from hmacfs.dialects import tus
from hmacfs.dialects.content_range import range_piece
from hmacfs.dialects.numbered import numbered_chunk
from hmacfs.errors import BadBody, BadName, BadRequest, DigestMismatch, HmacfsError, TooLarge
from hmacfs.protocol.conditions import evaluate_conditions, fails_change
from hmacfs.protocol.digests import claims_of_file, digests_of_body, digests_of_file, digests_of_whole
from hmacfs.protocol.forwarded import nodes_of_forwarded, nodes_of_x_forwarded_for
from hmacfs.protocol.http1.chunks import ChunkParser, find_end
from hmacfs.protocol.http1.heads import BadRequestHead, parse_head
from hmacfs.protocol.keyring import Keyring, sign_v, sign_v2, sign_v3
from hmacfs.protocol.media_types import guess, is_inline, is_media_type, type_by_name
from hmacfs.protocol.names import StoredName
from hmacfs.protocol.numerals import DIGITS_LIMIT, byte_count
from hmacfs.protocol.signing import SignedRequest, encode_bearer, schemes_in, verify
from hmacfs.telemetry.logs import escape
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.locations import Locations

SECRET = b"a-horse-is-a-horse-even-is-a-jet"
NOW = 1_700_000_000.0

_KEYRING = Keyring([SECRET])
_PREFIX = "/upload/"
_PATH = "9f1c2d3e/photo.jpg"
_SIZE = 1_048_576
_TYPE = "image/jpeg"
_PROXY = "192.0.2.7"

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\r\n]*)?\r\n")
_TRAILERS = re.compile(rb"(?:[^\r\n]+\r\n){0,63}\r\n")


def spliced(valid: bytes, data: bytes) -> bytes:
    """``valid`` with a piece of it replaced: the first two bytes of ``data`` say where, the third how much."""
    if len(data) < 3:
        return valid
    start = int.from_bytes(data[:2], "big") % (len(valid) + 1)
    return valid[:start] + data[3:] + valid[start + data[2] :]


def _fields(data: bytes, *keys: str) -> dict[str, str]:
    """An environ with these keys: one line of ``data`` each; empty lines are left out."""
    lines = data.decode("latin-1").split("\n")
    return {key: line for key, line in zip(keys, lines, strict=False) if line}


def name(data: bytes) -> None:
    legal = _is_legal(data)
    try:
        found = StoredName.from_path_info(_PREFIX + data.decode("latin-1"), _PREFIX)
    except BadName as refusal:
        too_deep_or_reserved = data.count(b"/") >= 64 or "keeps for itself" in str(refusal)
        assert not legal or too_deep_or_reserved, f"a legal name is refused: {refusal}"
        return
    assert legal, "an illegal name passes"
    assert found.raw == data
    assert StoredName.from_text(found.path) == found
    assert "/".join(found.segments) == found.path
    assert unquote_to_bytes(found.url_path(_PREFIX)) == _PREFIX.encode() + data
    assert unquote_to_bytes(Locations(_PREFIX, "https://a.example/b").of_file(found)) == b"/b/upload/" + data


def _is_legal(raw: bytes) -> bool:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(raw) <= 4096 and all(
        segment not in ("", ".", "..")
        and len(segment.encode()) <= 255
        and re.search("[\x00-\x1f\x7f-\x9f]", segment) is None
        and segment.rstrip(". ").lower() != ".hmacfs"
        for segment in text.split("/")
    )


def head(data: bytes) -> None:
    try:
        found = parse_head(data)
    except BadRequestHead as error:
        assert error.status in {400, 413, 417, 431, 501, 505}
        return
    if found is None:
        assert b"\r\n\r\n" not in data[2:] or len(data) > 32 * 1024
        return
    assert parse_head(data[: found.size]) == found, "what comes after the head changes it"
    for size in {0, 1, found.size // 2, found.size - 1}:
        assert parse_head(data[:size]) is None, "a part of the head is taken for one"
    lines = data[: found.size].removeprefix(b"\r\n").removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert not any(re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line) for line in lines)
    assert all(re.match(rb"[^\s:]+:", line) for line in lines[1:]), "a malformed field passes"
    lengths = [line for line in lines[1:] if line.lower().startswith(b"content-length:")]
    codings = [line for line in lines[1:] if line.lower().startswith(b"transfer-encoding:")]
    assert len(lengths) + len(codings) <= 1, "the framing is ambiguous"
    fields = found.fields
    assert (found.length is not None, fields.is_chunked) == (bool(lengths), bool(codings))
    assert not lengths or int(lengths[0].partition(b":")[2]) == found.length
    again = parse_head(_printed(found.environ))
    assert again is not None
    assert again.environ == found.environ
    assert dataclasses.replace(again.fields, environ={}, length=None) == dataclasses.replace(
        fields, environ={}, length=None
    )
    assert (again.length, again.keep_alive) == (found.length, found.keep_alive)


def _printed(environ: dict[str, str]) -> bytes:
    lines = [f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"]
    for key, value in environ.items():
        if key.startswith("HTTP_") or key in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            lines.append(f"{key.removeprefix('HTTP_').replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunks(data: bytes) -> None:
    expected = dechunked(data)
    assert _parsed([data]) == expected, "the chunks are read differently"
    assert _parsed([data[at : at + 1] for at in range(len(data))]) == expected, "byte by byte they are read differently"
    with contextlib.suppress(BadBody, TooLarge):
        end = find_end(data, 64)
        assert end is None or (expected is not None and end == expected[1]), "discarding it finds another end"


def _parsed(pieces: list[bytes]) -> tuple[bytes, int] | None:
    """What ``ChunkParser`` makes of a stream in these pieces; see ``dechunked``."""
    parser, content, size = ChunkParser(), bytearray(), 0
    with contextlib.suppress(BadBody, TooLarge):
        for piece in pieces:
            position = 0
            while position < len(piece) and not parser.is_complete:
                position = parser.feed(piece, position)
                taken = piece[position : position + parser.content_left]
                content += taken
                position += len(taken)
                parser.advance(len(taken))
            size += position
            if parser.is_complete:
                return bytes(content), size
    return None


def dechunked(data: bytes) -> tuple[bytes, int] | None:
    """The content of a chunked body at the beginning of ``data``, and how many bytes that took; ``None`` if it is
    malformed or not complete. For lines of less than 4,096 bytes."""
    content, position = b"", 0
    while line := _CHUNK_LINE.match(data, position):
        size, position = int(line[1], 16), line.end()
        if size == 0:
            trailers = _TRAILERS.match(data, position)
            return None if trailers is None else (content, trailers.end())
        content += data[position : position + size]
        position += size
        if data[position : position + 2] != b"\r\n":
            return None
        position += 2
    return None


def rechunked(data: bytes) -> None:
    """What is put into chunks comes out again, and nothing of what stands after them."""
    data = data[:60]
    size = 1 + (data[0] if data else 0) % 40
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nA: b\r\n\r\n"
    assert dechunked(body + data) == (data, len(body))
    chunks(body + data)


def signature(data: bytes) -> None:
    """A query is good only if it holds the whole MAC, once, in the highest scheme that it names."""
    kind = data[0] % 4 if data else 0
    expires = 1_800_000_000
    valid = (
        f"v={sign_v(_KEYRING, _PATH, _SIZE)}",
        f"v2={sign_v2(_KEYRING, _PATH, _SIZE, _TYPE)}",
        f"token={sign_v2(_KEYRING, _PATH, _SIZE, _TYPE)}",
        f"v3={sign_v3(_KEYRING, 'PUT', expires, _PREFIX + _PATH)}&expires={expires}",
    )[kind]
    query = spliced(valid.encode(), data[1:]).decode("latin-1")
    request = SignedRequest("PUT", _PREFIX + _PATH, _PATH, _SIZE, _TYPE, query, None)
    try:
        schemes_in(query)
        verified = verify(request, _KEYRING, NOW)
    except HmacfsError:
        assert query != valid, "a valid signature is refused"
        return
    assert verified.scheme == _judged(query), "a wrong signature passes"


def _judged(query: str) -> str | None:
    pairs = [(unquote(name), unquote(value)) for name, _, value in (part.partition("=") for part in query.split("&"))]
    names = [name for name, _ in pairs if name in ("v", "v2", "v3", "token", "expires")]
    if len(set(names)) < len(names):
        return None
    given = dict(pairs)
    typed = f"{_PATH}\0{_SIZE}\0{_TYPE}"
    timed = f"PUT\n{given.get('expires')}\n{_PREFIX}{_PATH}"
    for scheme, message in (("v3", timed), ("v2", typed), ("token", typed), ("v", f"{_PATH} {_SIZE}")):
        if scheme in given:
            mac = hmac.new(SECRET, message.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
            is_late = scheme == "v3" and int(given["expires"]) <= NOW
            return None if is_late or given[scheme].lower() != mac else scheme
    return None


def bearer(data: bytes) -> None:
    """A token is good only if its own bytes say HS256, and the secret signed just those."""
    slot, filename = _PATH.split("/")
    claims = {"slot": slot, "filename": filename, "filesize": _SIZE, "filetype": _TYPE, "exp": NOW + 300}
    valid = encode_bearer(_KEYRING, claims)
    token = spliced(valid.encode(), data).decode("latin-1")
    request = SignedRequest("PUT", _PREFIX + _PATH, _PATH, _SIZE, _TYPE, "", f"Bearer {token}")
    try:
        verify(request, _KEYRING, NOW)
    except HmacfsError:
        assert token != valid, "a valid token is refused"
        return
    header, payload, mac = token.strip().split(".")
    expected = hmac.new(SECRET, f"{header}.{payload}".encode(), hashlib.sha256).digest()
    assert _unpadded(mac) == expected, "a wrong signature passes"
    assert json.loads(_unpadded(header))["alg"] == "HS256"


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims(data: bytes) -> None:
    """A well-signed token with any claims, as an XMPP server that passes on what its user wrote may make."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    with contextlib.suppress(TypeError):
        token = encode_bearer(_KEYRING, value)
        request = SignedRequest("PUT", _PREFIX + _PATH, _PATH, _SIZE, _TYPE, "", f"Bearer {token}")
        with contextlib.suppress(HmacfsError):
            verify(request, _KEYRING, NOW)
            assert f"{value['slot']}/{value['filename']}" == _PATH
            assert value["filesize"] == _SIZE
            assert value["exp"] > NOW


def conditions(data: bytes) -> None:
    keys = ("RANGE", "IF_RANGE", "IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "IF_UNMODIFIED_SINCE")
    environ = {"REQUEST_METHOD": "GET", **_fields(data, *(f"HTTP_{key}" for key in keys))}
    size = len(data) % 11
    fails_change(environ, None, 0)
    fails_change(environ, '"a"', 1_700_000_000)
    found = evaluate_conditions(environ, '"a"', 1_700_000_000, size)
    if found.status == HTTPStatus.PARTIAL_CONTENT:
        assert found.length > 0
        assert 0 <= found.offset <= found.offset + found.length <= size
        assert environ["HTTP_RANGE"].lower().startswith("bytes=")
    else:
        assert found in [(200, 0, size), (304, 0, 0), (412, 0, 0), (416, 0, 0)]
    assert len(environ) > 1 or found.status == HTTPStatus.OK


def ranges(data: bytes) -> None:
    """A single well-formed range gives the bytes that Python's slice gives."""
    first, last, size = (int.from_bytes(data[start : start + 2], "big") % 300 for start in (0, 2, 4))
    content = bytes(index % 251 for index in range(size))
    for text, wanted in (
        (f"bytes={first}-{last}", content[first : last + 1]),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else b""),
    ):
        found = evaluate_conditions({"REQUEST_METHOD": "GET", "HTTP_RANGE": text}, '"a"', 0, size)
        if found.status == HTTPStatus.PARTIAL_CONTENT:
            assert content[found.offset : found.offset + found.length] == wanted
        elif found.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            assert wanted == b""
        else:
            assert last < first, "a range is ignored"


def digests(data: bytes) -> None:
    content = data[-20:]
    sha256 = base64.b64encode(hashlib.sha256(content).digest())
    sha512 = base64.b64encode(hashlib.sha512(content).digest())
    valid = b"sha-256=:%b:, sha-512=:%b:" % (sha256, sha512)
    field = spliced(valid, data).decode("latin-1")
    keys = ("HTTP_REPR_DIGEST", "HTTP_CONTENT_MD5", "HTTP_X_AMZ_CONTENT_SHA256")
    with contextlib.suppress(BadRequest):
        digests_of_file(claims_of_file(_fields(data, *keys)))
    with contextlib.suppress(BadRequest):
        digests_of_body(_fields(data, *keys))
    try:
        found = digests_of_whole({"HTTP_CONTENT_DIGEST": field})
        if found is not None:
            found.update(memoryview(content))
            found.check()
    except (BadRequest, DigestMismatch):
        assert field != valid.decode(), "a right digest is refused"


def pieces(data: bytes) -> None:
    """The headers of all dialects."""
    text = data.decode("latin-1")
    with contextlib.suppress(TooLarge):
        digits = re.fullmatch("0*([0-9]+)", text)
        assert byte_count(text) == (int(digits[1]) if digits and len(digits[1]) <= DIGITS_LIMIT else None)
    with contextlib.suppress(BadRequest, TooLarge):
        piece = range_piece(_fields(data, "HTTP_CONTENT_RANGE", "CONTENT_LENGTH"))
        if piece is not None:
            assert 0 <= piece.first < piece.end <= piece.total
            printed = f"bytes {piece.first}-{piece.end - 1}/{piece.total}"
            assert range_piece({"HTTP_CONTENT_RANGE": printed}) == piece
    with contextlib.suppress(BadRequest, TooLarge):
        chunk = numbered_chunk(_fields(data, "HTTP_X_CHUNK_ID", "HTTP_X_TOTAL_CHUNKS", "HTTP_X_FILE_SIZE"))
        assert chunk is None or 1 <= chunk.number <= chunk.chunks
    _tus(data)


def _tus(data: bytes) -> None:
    keys = ("LENGTH", "DEFER_LENGTH", "OFFSET", "METADATA", "CHECKSUM")
    environ = _fields(data, *(f"HTTP_UPLOAD_{key}" for key in keys))
    tus.is_spoken(environ)
    asked: list[Callable[[dict[str, str]], object]] = [tus.upload_length, tus.piece, tus.upload_offset]
    for ask in [*asked, tus.metadata, tus.checksum, tus.check_version, tus.check_piece_type]:
        with contextlib.suppress(BadRequest, TooLarge, tus.UnsupportedVersion, tus.NotAPiece):
            ask(environ)
    with contextlib.suppress(BadRequest):
        for value in tus.metadata(environ).values():
            value.encode("utf-8")


def forwarded(data: bytes) -> None:
    """Whatever a client writes in front: who the trusted proxy says it is comes first."""
    text = data.decode("latin-1")
    assert next(nodes_of_x_forwarded_for(f"{text}, {_PROXY}")) == _PROXY
    assert next(nodes_of_forwarded(f"{text}, for={_PROXY}")) == _PROXY
    for found in (*nodes_of_x_forwarded_for(text), *nodes_of_forwarded(text)):
        assert re.search(r"[\s\x00-\x1f\x7f-\xff,;\"]", found.partition("%")[0]) is None, found
    behind = ClientAddress([ipaddress.ip_network("127.0.0.0/8")])
    local = {"REMOTE_ADDR": "127.0.0.1"}
    assert behind({**local, "HTTP_X_FORWARDED_FOR": f"{text}, {_PROXY}", "HTTP_FORWARDED": text}) == _PROXY
    assert behind({"REMOTE_ADDR": _PROXY, "HTTP_X_FORWARDED_FOR": text, "HTTP_FORWARDED": text}) == _PROXY
    behind({**local, "HTTP_X_FORWARDED_FOR": text})
    behind({**local, "HTTP_FORWARDED": text})


def types(data: bytes) -> None:
    text = data.decode("latin-1")
    assert is_media_type(type_by_name(text))
    assert is_media_type(guess(text))
    shown = is_inline(text)
    if not is_media_type(text):
        return
    unquoted = re.sub(r'"[^"]*"', "", text)
    assert re.fullmatch(r"[\t -~]*", text)
    assert "," not in unquoted, "browsers take this for two types"
    essence = text.partition(";")[0].strip().lower()
    assert not shown or re.match(r"(image|video|audio)/(?!.*\+xml$)|text/plain$", essence), "a document is shown"


def log_text(data: bytes) -> None:
    for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
        line = escape(text)
        assert len((line + "\n").splitlines()) == 1
        line.encode("utf-8")


def everything(data: bytes) -> None:
    """All of them in turn, for a short run in one process: the first byte says which."""
    if data:
        ALL[data[0] % len(ALL)](data[1:])


def control(data: bytes) -> None:
    """Breaks a rule that no input meets by chance, to show that one is found."""
    found = None
    with contextlib.suppress(BadRequest, TooLarge):
        found = range_piece({"HTTP_CONTENT_RANGE": data.decode("latin-1")})
    assert found is None, "there is a piece"


ALL = (
    *(name, head, chunks, rechunked, signature, bearer, claims, conditions, ranges, digests, pieces, forwarded),
    *(types, log_text),
)
TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in (*ALL, everything, control)}
