"""Where the coverage-guided targets begin."""

from __future__ import annotations

import json

from tests.fuzz.pure import ALL

#: Where each target begins: inputs that reach most of its code.
_SEEDS: dict[str, list[bytes]] = {
    "name": [b"a/b.jpg", "h\u00e9/\u2603".encode(), b"../x", b".hmacfs/x", b"a//b"],
    "head": [
        b"PUT /upload/a?v=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        b"POST http://a/b HTTP/1.0\r\nConnection: keep-alive\r\nX: y\r\nX: z\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\n b\r\nA : b\r\n\r\n",
    ],
    "chunks": [b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", b"0\r\n\r\n", b"00a \r\n0123456789\r\n0\r\n\r\nGET"],
    "signature": [b"\0", b"\1", b"\2\0\0\1", b"\3\0\1\1&expires=1"],
    "bearer": [b"", b"\0\3\1x", b"\0\x60\1="],
    "claims": [
        json.dumps({"slot": "9f1c2d3e", "filename": "photo.jpg", "filesize": 1_048_576, "exp": 1_700_000_009}).encode()
    ],
    "conditions": [b'bytes=0-5\n"a"\n*\nW/"a", "b"', b"bytes=-3\n\n\n\nThu, 01 Jan 2026 00:00:00 GMT"],
    "digests": [b"\0\0\1", b'sha-256=:YQ==:;a=1, b=(1 2);c="d"\nYQ==\n' + b"0" * 64],
    "pieces": [b"bytes 0-4/10\n5", b"1\n2\n10", b"10\n\n0\nfilename YQ==,x\nsha1 YQ=="],
    "forwarded": [b'for="[2001:db8::1]:80";proto=http, for=_x', b"unknown, 192.0.2.1:99, unix:"],
    "types": [b'text/plain; charset="a,b"', b"image/svg+xml", b"a.tar.gz"],
}

#: What is put into inputs as it is.
_WORDS: dict[str, list[str]] = {
    "name": ["/", ".", "..", ".hmacfs", ".HMACFS. ", "\\xe2\\x98\\x83", "\\x00", "%2e"],
    "head": [
        *(
            "\\x0d\\x0a",
            "\\x0d\\x0aContent-Length: 5",
            "\\x0d\\x0aTransfer-Encoding: chunked",
            "\\x0d\\x0aHost: a",
            " HTTP/1.0",
        ),
        *(
            "\\x0d\\x0aExpect: 100-continue",
            "\\x0d\\x0aConnection: close",
            "http://",
            "?",
            "#",
            "%",
            "\\x0a",
            "\\x0d",
            "\\x09",
            "_",
            ":",
        ),
    ],
    "chunks": ["\\x0d\\x0a", "0\\x0d\\x0a", "\\x0d\\x0a\\x0d\\x0a", ";", "\\x0a", "0x", "+", "-", "_", " ", "1"],
    "signature": ["&v=", "&v2=", "&v3=", "&token=", "&expires=", "%76=", "%"],
    "conditions": ["bytes=", "-", ",", "*", "W/", "\\x22", " GMT", "Fri, ", "9999999999"],
    "control": ["bytes 0-1/2"],
    "forwarded": ["for=", ";", ",", "\\x22", "\\x5c", "[", "]", "unknown", "unix:", "%", "_"],
}


def seeds_of(target: str) -> list[bytes]:
    if target != "everything":
        return _SEEDS.get(target, [b"a"])
    return [bytes([number]) + data for number, one in enumerate(ALL) for data in seeds_of(one.__name__)]


def words_of(target: str) -> list[str]:
    if target != "everything":
        return _WORDS.get(target, [" "])
    return sorted({word for words in _WORDS.values() for word in words})
