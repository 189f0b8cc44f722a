"""Requests that carry everything that gives rights, in many spellings: none of it may stand in a log."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit

from tests.live.client import request
from tests.servers.hmacfs import HmacFileServer

#: So much of a secret, wherever it begins, tells nobody anything.
_SHOWN = 11


def _escaped(text: str) -> str:
    """Every letter of it."""
    return "".join(f"%{byte:02x}" if number % 2 else f"%{byte:02X}" for number, byte in enumerate(text.encode()))


def _targets(path: str, token: str, mac: str) -> Iterator[str]:
    """URLs with a tus upload's token or a signature in them."""
    prefix = path.partition(".hmacfs")[0]
    for folder in (".hmacfs/tus/", "%2ehmacfs/tus/", ".hmacf%73/tus/", ".hmacfs%2Ftus%2F", _escaped(".hmacfs/tus/")):
        for shown in (token, _escaped(token)):
            yield f"{prefix}{folder}{shown}"
            yield f"{prefix}{folder}{shown}?x=1"
    yield f"{prefix}.HmacFS/tus/{token}"
    yield f"{prefix}x/.hmacfs/tus/{token}"
    yield f"http://files.example.org{prefix}.hmacfs/tus/{token}"
    for name in ("v", "v2", "token", "v3"):
        yield f"{prefix}name/of.txt?{name}={mac}"
        yield f"{prefix}name/of.txt?x=1&{name}={mac}&expires=1"
        yield f"{prefix}name/of.txt?x=1?{name}={mac}"
        yield f"http://files.example.org{prefix}name/of.txt?{name}={mac}"
    yield f"/?v={mac}"
    yield f"//?v={mac}"
    yield f"{prefix}?v={mac}"


def confide(port: int, server: HmacFileServer) -> list[str]:
    """Send all of that to the port of a proxy. What was secret in it. The upload whose token is told is ended."""
    token, upload = "no-upload-has-such-a-token-as-this-one", ""
    made = request(
        port, "POST", server.sign_v("confided", 10), b"", tus_resumable="1.0.0", upload_length=10, content_length=0
    )
    if made.status == 201:
        upload = urlsplit(made.headers["Location"]).path
        token = upload.rpartition("/")[2]
    mac = server.sign_v("name/of.txt", 1).partition("=")[2]
    jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.c2VjcmV0LXRoYXQtaXMtbm90.bm90LWEtc2lnbmF0dXJlLWF0LWFsbA"
    for method, length in (("GET", ""), ("PUT", "Content-Length: 1\r\n"), ("PATCH", "Content-Length: 1\r\n")):
        for target in _targets(server.prefix, token, mac):
            _send(port, f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}", jwt, f"https://x{target}")
            _send(port, f"{method} {target} HTTP/1.1\r\nHost: x\r\nbad header\r\n", jwt, target)
            _send(port, f"{method} {target} HTTP/1.0\r\n{length}", jwt, f"https://x/{quote(target)}")
    if upload:
        assert request(port, "DELETE", upload, tus_resumable="1.0.0").status == 204
    return [token, mac, jwt]


def _send(port: int, head: str, jwt: str, referer: str) -> None:
    """A request on a connection of its own; what is answered does not matter."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(f"{head}Authorization: Bearer {jwt}\r\nReferer: {referer}\r\nConnection: close\r\n\r\nx".encode())
        while sock.recv(65536):
            pass


def leaks(log: str, secrets: list[str]) -> list[str]:
    """The lines of the log that show something of what was confided."""
    pieces = {secret[at : at + _SHOWN] for secret in secrets for at in range(len(secret) - _SHOWN)}
    return [line for line in log.splitlines() if any(piece in line or piece in unquote(line) for piece in pieces)]
