"""Requests of every dialect, and how they are mutated. A case follows from its number and the seed alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

from hmacfs.protocol.keyring import Keyring, sign_v, sign_v2, sign_v3
from hmacfs.protocol.signing import encode_bearer
from tests.servers.hmacfs import FAR_FUTURE

#: In a target or a header: what the server gave this upload last.
LOCATION = b"{location}"
TOKEN = b"{token}"

_TUS = (b"Tus-Resumable", b"1.0.0")
_PIECE_TYPE = (b"Content-Type", b"application/offset+octet-stream")
_NAMES = ("photo.jpg", "h\u00e9llo w\u00f6rld \u2603.jpg", "a+b&c=d;e.txt", "100%.html", "%2e%2e", "n" * 255, "x/y/z")
_TYPES = ("image/jpeg", "text/html", "application/octet-stream", "text/plain; charset=utf-8", "image/svg+xml")
_LONGEST = 3000


@dataclasses.dataclass
class Request:
    """framed: whether its end is where its head says. faithful: whether its body is the part of the file that its head
    says. pauses: where its bytes are parted on the way."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_chunked: bool = False
    framed: bool = True
    faithful: bool = True
    version: bytes = b"HTTP/1.1"
    pauses: tuple[float, ...] = ()
    raw: bytes | None = None

    def on_wire(self) -> bytes:
        if self.raw is not None:
            return self.raw
        lines = [b"%b %b %b" % (self.method, self.target, self.version)]
        lines += [b"%b: %b" % header for header in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    def index(self, name: bytes) -> int | None:
        return next((at for at, (key, _) in enumerate(self.headers) if key.lower() == name), None)


class Right(NamedTuple):
    """A name that this case may store, with this content. ``binds_length``: not with another size."""

    content: bytes
    binds_length: bool


class Case(NamedTuple):
    """rights: by name. secrets: what no log may hold."""

    requests: list[Request]
    rights: dict[str, Right]
    secrets: set[str]


class Mutation(NamedTuple):
    """Of the request ``step``."""

    step: int
    name: str
    seed: str


class Maker:
    """Makes cases for a server. ``canary``: the name of a stored file."""

    def __init__(self, keyring: Keyring, prefix: str, canary: str, seed: int) -> None:
        self._keyring = keyring
        self._prefix = prefix
        self._canary = canary
        self._seed = seed

    def mutations(self, number: int) -> list[Mutation]:
        """Those of the case, none for some."""
        rng = random.Random(f"{self._seed}/{number}/mutations")
        count = rng.choice((0, 1, 1, 1, 2, 2, 3, 5))
        steps = len(self.case(number, []).requests)
        names = sorted(MUTATORS)
        return [Mutation(rng.randrange(steps), rng.choice(names), str(rng.random())) for _ in range(count)]

    def case(self, number: int, mutations: list[Mutation]) -> Case:
        rng = random.Random(f"{self._seed}/{number}")
        upload = _Upload(self._keyring, self._prefix, f"c{number}/{rng.choice(_NAMES)}", rng)
        scenario = rng.choice((_whole, _whole, _whole, _twice, _ranges, _numbered, _tus, _crowd, _download, _others))
        requests = scenario(upload, self._prefix + self._canary)
        for mutation in mutations:
            MUTATORS[mutation.name](requests[mutation.step], random.Random(mutation.seed))
        return Case(requests, {upload.name: Right(upload.content, upload.binds_length)}, upload.secrets)


class _Upload:
    """A file to upload, and the right to it in one scheme."""

    def __init__(self, keyring: Keyring, prefix: str, name: str, rng: random.Random) -> None:
        self.rng = rng
        self.name = name
        self.content = rng.randbytes(rng.choice((0, 1, 5, 100, rng.randrange(_LONGEST))))
        self.type = rng.choice(_TYPES)
        self.scheme = rng.choice(("v", "v", "v2", "token", "v3", "bearer"))
        if self.scheme == "bearer" and name.count("/") != 1:
            self.scheme = "v"
        self.binds_length = self.scheme != "v3"
        self.headers: list[tuple[bytes, bytes]] = [(b"Host", b"files.example.org")]
        self.path = prefix + quote(name, safe=rng.choice(("/", "/+&=;,()'!", "/")))
        self.secrets: set[str] = set()
        self._sign(keyring, prefix)

    @property
    def target(self) -> bytes:
        return self._target.encode()

    def _sign(self, keyring: Keyring, prefix: str) -> None:
        size = len(self.content)
        if self.scheme == "bearer":
            slot, _, filename = self.name.partition("/")
            claims = {"slot": slot, "filename": filename, "filesize": size, "filetype": self.type, "exp": FAR_FUTURE}
            mac = encode_bearer(keyring, claims)
            self.headers.append((b"Authorization", b"Bearer " + mac.encode()))
            self._target = self.path
        elif self.scheme == "v3":
            mac = sign_v3(keyring, "PUT", FAR_FUTURE, prefix + self.name)
            self._target = f"{self.path}?v3={mac}&expires={FAR_FUTURE}"
        else:
            typed = sign_v2(keyring, self.name, size, self.type)
            mac = sign_v(keyring, self.name, size) if self.scheme == "v" else typed
            self._target = f"{self.path}?{self.scheme}={mac}"
        self.secrets.add(mac)

    def put(self, body: bytes, *headers: tuple[bytes, bytes], is_chunked: bool = False) -> Request:
        framing = (b"Transfer-Encoding", b"chunked") if is_chunked else (b"Content-Length", b"%d" % len(body))
        fields = [*self.headers, framing, (b"Content-Type", self.type.encode()), *headers]
        return Request(b"PUT", self.target, fields, chunked(body, self.rng) if is_chunked else body, is_chunked)

    def pieces(self) -> list[tuple[int, bytes]]:
        """Offsets and bytes; at least one piece."""
        size = max(1, len(self.content) // self.rng.randint(1, 4))
        return [(at, self.content[at : at + size]) for at in range(0, max(1, len(self.content)), size)]


def chunked(body: bytes, rng: random.Random) -> bytes:
    size = rng.randint(1, len(body) + 1)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    ending = rng.choice((b"", b"", b";a=b", b' ;a="b"'))
    trailers = rng.choice((b"", b"", b"A: b\r\n", b"Content-Length: 5\r\n"))
    return b"".join(b"%x%b\r\n%b\r\n" % (len(p), ending, p) for p in pieces) + b"0\r\n" + trailers + b"\r\n"


def _get(target: bytes, *headers: tuple[bytes, bytes], method: bytes = b"GET") -> Request:
    return Request(method, target, [(b"Host", b"files.example.org"), *headers])


def _whole(upload: _Upload, _: str) -> list[Request]:
    is_chunked = upload.rng.random() < (0.5 if upload.scheme == "v3" else 0.1)
    sha256 = base64.b64encode(hashlib.sha256(upload.content).digest())
    digest = upload.rng.choice(((), (), ((b"Content-Digest", b"sha-256=:%b:" % sha256),)))
    put = upload.put(upload.content, *digest, is_chunked=is_chunked)
    return [put, _get(upload.path.encode()), _get(upload.path.encode(), method=b"HEAD")]


def _twice(upload: _Upload, _: str) -> list[Request]:
    return [upload.put(upload.content), upload.put(upload.content), _get(upload.target, method=b"DELETE")]


def _ranges(upload: _Upload, _: str) -> list[Request]:
    total = len(upload.content)
    requests = [_get(upload.target, *upload.headers[1:], method=b"HEAD")]
    for at, piece in upload.pieces():
        where = b"bytes %d-%d/%d" % (at, at + len(piece) - 1, total)
        requests += [upload.put(piece, (b"Content-Range", where)), _get(upload.target, method=b"HEAD")]
    return requests


def _numbered(upload: _Upload, _: str) -> list[Request]:
    pieces = upload.pieces()
    more = [(b"X-File-Size", b"%d" % len(upload.content))]
    if upload.rng.random() < 0.3:
        more.append((b"X-Session-Token", TOKEN))
    return [
        upload.put(piece, (b"X-Chunk-ID", b"%d" % number), (b"X-Total-Chunks", b"%d" % len(pieces)), *more)
        for number, (_, piece) in enumerate(pieces, 1)
    ]


def _tus(upload: _Upload, _: str) -> list[Request]:
    create = upload.put(b"", _TUS, (b"Upload-Length", b"%d" % len(upload.content)))
    create.method = b"POST"
    requests = [create, _get(LOCATION, _TUS, method=b"HEAD")]
    for at, piece in upload.pieces():
        patch = _get(
            LOCATION, _TUS, _PIECE_TYPE, (b"Upload-Offset", b"%d" % at), (b"Content-Length", b"%d" % len(piece))
        )
        patch.method, patch.body = b"PATCH", piece
        if upload.rng.random() < 0.3:
            patch.headers.append((b"Upload-Checksum", b"sha1 " + base64.b64encode(hashlib.sha1(piece).digest())))
        requests.append(patch)
    requests.append(_get(LOCATION))
    if upload.rng.random() < 0.3:
        requests.insert(upload.rng.randint(1, len(requests)), _get(LOCATION, _TUS, method=b"DELETE"))
    return requests


def _crowd(upload: _Upload, _: str) -> list[Request]:
    """More uploads of one slot than may be open at once."""
    requests = []
    for number in range(upload.rng.randint(2, 6)):
        create, head, *patches, link = _tus(upload, "")
        requests += [create, head, *patches[: number % 2], link]
    return [*requests, upload.put(upload.content)]


def _download(upload: _Upload, canary: str) -> list[Request]:
    asked = upload.rng.choice((b"bytes=0-9", b"bytes=-5", b"bytes=99999999-", b"bytes=5-2", b"bytes=0-0,2-3", b"x=1-2"))
    return [
        _get(canary.encode(), (b"Range", asked)),
        _get(upload.path.encode(), (b"If-None-Match", b"*"), method=upload.rng.choice((b"GET", b"HEAD"))),
        _get(canary.encode(), (b"If-Modified-Since", b"Fri, 01 Jan 2100 00:00:00 GMT")),
    ]


def _others(upload: _Upload, _: str) -> list[Request]:
    targets = (
        upload.target,
        b"/",
        b"/upload",
        b"/upload/",
        b"*",
        b"/healthz",
        b"/readyz",
        b"/upload/.hmacfs/tus/" + b"a" * 43,
    )
    methods = (b"OPTIONS", b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE", b"TRACE", b"PROPFIND", b"put")
    return [_get(upload.rng.choice(targets), method=upload.rng.choice(methods)) for _ in range(3)]


# -- mutations ------------------------------------------------------------------------------------

#: Headers that say which part of the file a body is.
_POSITIONS = {b"content-range", b"upload-offset", b"x-chunk-id", b"x-total-chunks", b"upload-length", b"x-file-size"}
_FRAMING = {b"content-length", b"transfer-encoding", b"expect"}
_NUMBERS = (
    b"-1",
    b"+5",
    b"0x10",
    b"5e3",
    b"1" * 19,
    b"1" * 5000,
    b"",
    b" 5",
    b"5, 5",
    b"5;q=1",
    b"\xd9\xa5",
    b"5\xa0",
    b"00",
)
_VALUES = (
    *(
        b"",
        b"*",
        b'"',
        b"\xff\xfe",
        b"a" * 4000,
        b",,,,",
        b"=;=;",
        b"%00",
        b"{}",
        b"../../etc/passwd",
        b"\t",
        b'W/"a", "b',
    ),
    *_NUMBERS,
)
_HEADERS = (
    *(b"If-Match: *", b'If-Match: "x"', b"If-None-Match: *", b"If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT"),
    *(
        b"If-Range: x",
        b"Range: bytes=0-",
        b"Content-Encoding: gzip",
        b"Content-Encoding: identity",
        b"Expect: 100-continue",
    ),
    *(b"Content-Digest: sha-256=:YWJj:", b"Repr-Digest: sha-256=:AAAA:", b"Content-MD5: AAAA", b"Want-Digest: sha-256"),
    *(
        b"Upload-Checksum: sha1 AAAA",
        b"Upload-Metadata: filename Li4vLi4vZXRj",
        b"Upload-Concat: partial",
        b"Upload-Defer-Length: 1",
    ),
    *(
        b"X-Forwarded-For: 127.0.0.1",
        b"Forwarded: for=unknown",
        b"X-Accel-Offload: on",
        b"X-Request-ID: a b",
        b"Origin: null",
    ),
    *(
        b"Accept: application/json",
        b"X-HTTP-Method-Override: DELETE",
        b"Connection: close",
        b"Connection: Content-Length",
    ),
    *(b"Authorization: Bearer a.b.c", b"Authorization: Basic YTpi", b"Upgrade: h2c", b"TE: trailers", b"X_Chunk_ID: 1"),
    *(
        b"Tus-Resumable: 0.2.2",
        b"X-Session-Token: ../../x",
        b"Content-Range: bytes 0-4/5",
        b"X-Chunk-ID: 1",
        b"Sec-Fetch-Dest: script",
    ),
    *(
        b"Upload-Complete: ?1",
        b"Upload-Draft-Interop-Version: 6",
        b"Content-Type: multipart/form-data; boundary=a",
        b"Cookie: a=b",
    ),
)
_PATHS = (
    *(
        b"/upload/../x",
        b"/upload/%2e%2e/x",
        b"/upload/a/%2e%2e%2fb",
        b"/upload/.hmacfs/x",
        b"/upload/.HMACFS/tmp",
        b"/upload/%00",
    ),
    *(
        b"/upload/a%0d%0aX:%20y",
        b"/upload//a",
        b"/upload/a/",
        b"/upload/\xc0\xaf",
        b"/upload/%c0%ae%c0%ae/x",
        b"/upload/%ed%a0%80",
    ),
    *(
        b"/upload/" + b"a" * 256,
        b"/upload/" + b"a/" * 65 + b"b",
        b"/upload/" + b"a" * 200 + b"/" + b"b" * 4000,
        b"//upload/a",
        b"/%75pload/a",
    ),
    *(
        b"http://other.example/upload/a",
        b"ftp://x/y",
        b"upload/a",
        b"*",
        b"/upload/a#b",
        b"/upload/a?%",
        b"/upload/%",
        b"/..",
        b"/" + b"?a" * 900,
    ),
)


def _changes(request: Request, name: bytes) -> None:
    request.framed = request.framed and name not in _FRAMING
    request.faithful = request.faithful and name not in _POSITIONS


def _method(request: Request, rng: random.Random) -> None:
    request.method = rng.choice(
        (b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"PuT", b"M" * 33)
    )


def _drop(request: Request, rng: random.Random) -> None:
    name, _ = request.headers.pop(rng.randrange(len(request.headers))) if len(request.headers) > 1 else (b"", b"")
    _changes(request, name.lower())


def _double(request: Request, rng: random.Random) -> None:
    header = rng.choice(request.headers)
    request.headers.insert(rng.randrange(len(request.headers) + 1), header)
    _changes(request, header[0].lower())


def _value(request: Request, rng: random.Random) -> None:
    at = rng.randrange(len(request.headers))
    name, value = request.headers[at]
    start = rng.randrange(len(value) + 1)
    changed = rng.choice(
        (rng.choice(_VALUES), value[:start] + rng.choice(_VALUES) + value[start + 1 :], value.swapcase())
    )
    request.headers[at] = (name, changed)
    _changes(request, name.lower())


def _number(request: Request, rng: random.Random) -> None:
    numbers = [at for at, (_, value) in enumerate(request.headers) if value.isdigit() and len(value) < 19]
    if numbers:
        at = rng.choice(numbers)
        name, value = request.headers[at]
        near = b"%d" % max(0, int(value) + rng.choice((-1, 1, 2, 1000)))
        request.headers[at] = (name, rng.choice((near, rng.choice(_NUMBERS))))
        _changes(request, name.lower())


def _header(request: Request, rng: random.Random) -> None:
    name, _, value = rng.choice(_HEADERS).partition(b": ")
    request.headers.insert(rng.randrange(len(request.headers) + 1), (name, value))
    _changes(request, name.lower())


def _many(request: Request, rng: random.Random) -> None:
    request.headers += [(b"X-%d" % number, b"y" * rng.choice((1, 400))) for number in range(rng.choice((50, 101)))]


def _path(request: Request, rng: random.Random) -> None:
    _, mark, query = request.target.partition(b"?")
    request.target = rng.choice(_PATHS) + mark + query


def _target(request: Request, rng: random.Random) -> None:
    """Other bytes somewhere in the target."""
    at = rng.randrange(len(request.target))
    junk = rng.choice(
        (b"", b"%", b"%2e", b"%2F", b"&", b"=", b"?", b"\xff", b"\xe2\x98\x83", b"/", b".", b"+", b"0", b"a")
    )
    request.target = request.target[:at] + junk + request.target[at + rng.randint(0, 2) :] or b"/"
    request.framed = request.framed and request.target.startswith((b"/", b"{"))


def _query(request: Request, rng: random.Random) -> None:
    path, _, query = request.target.partition(b"?")
    more = rng.choice(
        (
            query,
            b"v=" + b"0" * 64,
            b"v3=" + b"0" * 64 + b"&expires=1",
            b"v2=x",
            b"token=%ff",
            b"&" * 3000,
            b"expires=9",
            b"a=b",
        )
    )
    parts = [query, more] if rng.random() < 0.5 else [more, query]
    request.target = path + b"?" + b"&".join(parts)


def _case(request: Request, rng: random.Random) -> None:
    """The same in other letters: escapes, or the signature."""
    path, mark, query = request.target.partition(b"?")
    if rng.random() < 0.5:
        request.target = path + mark + query.swapcase()
    else:
        request.target = (
            b"".join(b"%%%02x" % byte if byte not in b"/{}" else bytes([byte]) for byte in path) + mark + query
        )


def _body(request: Request, rng: random.Random) -> None:
    """A byte of the body is another one, or there is one more or less of them."""
    at = rng.randrange(len(request.body) + 1)
    junk = rng.choice((b"", b"\0", b"\r\n", b"0\r\n\r\n", rng.randbytes(1)))
    body = request.body[:at] + junk + request.body[at + 1 :]
    request.framed = request.framed and not request.is_chunked and len(body) == len(request.body)
    request.body, request.faithful = body, False


def _cut(request: Request, rng: random.Random) -> None:
    wire = request.on_wire()
    request.raw, request.framed = wire[: rng.randrange(len(wire))], False


def _raw(request: Request, rng: random.Random) -> None:
    """A byte of the head is another one."""
    wire = request.on_wire()
    at = rng.randrange(min(len(wire), 200))
    junk = rng.choice((b"\r", b"\n", b"\r\n", b"\0", b"\t", b" ", b":", b"\x80", b"\r\n ", b"", b"\x0b"))
    request.raw, request.framed, request.faithful = wire[:at] + junk + wire[at + 1 :], False, False


def _framing(request: Request, rng: random.Random) -> None:
    names = (b"Transfer-Encoding", b"Transfer-Encoding", b"Content-Length", b"Transfer-Encoding ", b"Content_Length")
    values = (b"chunked", b"gzip, chunked", b"identity", b"chunked, chunked", b"\x0bchunked", b"CHUNKED", b"5", b"0")
    request.headers.insert(rng.randrange(len(request.headers) + 1), (rng.choice(names), rng.choice(values)))
    request.framed = request.faithful = False


def _version(request: Request, rng: random.Random) -> None:
    request.version = rng.choice((b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 "))
    request.framed = False


def _pause(request: Request, rng: random.Random) -> None:
    request.pauses = tuple(sorted(rng.random() for _ in range(rng.randint(1, 3))))


MUTATORS: dict[str, Callable[[Request, random.Random], None]] = {
    mutator.__name__.strip("_"): mutator
    for mutator in (
        *(_method, _drop, _double, _value, _number, _header, _many, _path, _target, _query, _case, _body, _cut, _raw),
        *(_framing, _version, _pause),
    )
}
