"""Clients that upload in pieces, one class for each dialect (docs/protocol.md, section 6), and how a sensible client
goes on whatever happens."""

from __future__ import annotations

import http.client
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hmacfs.uploads.tokens import key_of
from tests.live.client import Answer, request
from tests.servers.hmacfs import HmacFileServer

TUS: dict[str, Any] = {"tus_resumable": "1.0.0"}
PIECE_TYPE = "application/offset+octet-stream"
#: What ``begun`` uploads.
BODY = os.urandom(100_000)
#: Between two tries of a client that was refused or cut off.
PAUSE_SECONDS = 0.1


class Refused(AssertionError):
    """An answer that no sensible client can go on after."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {dict(answer.headers)} {answer.body[:200]!r}")


class Upload(ABC):
    """The upload of ``body`` under ``name``, in pieces of ``size`` bytes. ``headers`` gives those of the next request,
    besides the dialect's own. ``tokens`` are those that the server gave it."""

    dialect: ClassVar[str]
    #: Where its pieces go; empty until it is known. A slot's is signed with ``v``, unless a test sets another.
    url: str
    #: The loopback port of a proxy before the server; the server's own without one.
    proxy: int | None = None

    def __init__(
        self,
        server: HmacFileServer,
        name: str,
        body: bytes,
        size: int,
        headers: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.server = server
        self.name = name
        self.body = body
        self.size = size
        self.acknowledged = 0
        self.tokens: set[str] = set()
        self._headers = headers

    @abstractmethod
    def head_of(self, offset: int) -> tuple[str, dict[str, Any]]:
        """The method and the headers of the piece that begins at ``offset``."""

    def send(self, offset: int) -> Answer:
        """Send that piece."""
        method, headers = self.head_of(offset)
        piece = self.piece(offset)
        return self.ask(method, self.url, piece, content_length=len(piece), **headers)

    @abstractmethod
    def probe(self) -> Answer:
        """Ask how far it is."""

    def piece(self, offset: int) -> bytes:
        return self.body[offset : offset + self.size]

    def ask(self, method: str, target: str, body: bytes = b"", **headers: object) -> Answer:
        answer = request(self.proxy or self.server, method, target, body, **headers, **self._headers())
        token = answer.headers["X-Session-Token"]
        if token is not None:
            self.tokens.add(token)
        return answer

    @property
    def token(self) -> str:
        """The one that the server gave it."""
        (token,) = self.tokens
        return token

    def stored(self) -> Path:
        """With a folder."""
        return self.server.store / self.name

    def content(self) -> bytes:
        """Of the file that it became."""
        return self.server.content(self.name)


class _SlotUpload(Upload):
    """On the slot URL."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.url = self.server.sign_v(self.name, len(self.body))

    def probe(self) -> Answer:
        return self.ask("HEAD", self.url)


class RangeUpload(_SlotUpload):
    dialect = "range"

    def head_of(self, offset: int) -> tuple[str, dict[str, Any]]:
        last = offset + len(self.piece(offset)) - 1
        return "PUT", {"content_range": f"bytes {offset}-{last}/{len(self.body)}"}


class NumberedUpload(_SlotUpload):
    dialect = "numbered"

    def head_of(self, offset: int) -> tuple[str, dict[str, Any]]:
        assert offset % self.size == 0, "no chunk begins there"
        number, count = offset // self.size + 1, -(-len(self.body) // self.size)
        return "PUT", {"x_chunk_id": number, "x_total_chunks": count, "x_file_size": len(self.body)}


class TusUpload(Upload):
    dialect = "tus"

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.url = ""
        self.slot = self.server.sign_v(self.name, len(self.body))

    def create(self, **headers: Any) -> Answer:
        answer = self.ask("POST", self.slot, content_length=0, upload_length=len(self.body), **TUS, **headers)
        if answer.status == 201:
            self.url = answer.headers["Location"]
            self.tokens.add(self.url.rpartition("/")[2])
        return answer

    def head_of(self, offset: int) -> tuple[str, dict[str, Any]]:
        return "PATCH", {"upload_offset": offset, "content_type": PIECE_TYPE, **TUS}

    def probe(self) -> Answer:
        """A client that has no URL yet gets one."""
        return self.ask("HEAD", self.url, **TUS) if self.url else self.create()


DIALECTS: tuple[type[Upload], ...] = (RangeUpload, NumberedUpload, TusUpload)


def begun(
    kind: type[Upload],
    server: HmacFileServer,
    name: str,
    size: int = 40_000,
    headers: Callable[[], dict[str, str]] = dict,
) -> Upload:
    """An upload of ``BODY`` whose first piece is stored."""
    upload = kind(server, name, BODY, size, headers)
    if isinstance(upload, TusUpload):
        assert upload.create().status == 201
    answer = upload.send(0)
    assert answer.status in (202, 204), answer
    assert answer.headers["Upload-Offset"] == str(size)
    return upload


def new_key() -> str:
    """As of a session that nobody knows."""
    return secrets.token_hex(32)


def partial_file(server: HmacFileServer, token: str) -> Path:
    """Where the bytes of an unfinished upload are."""
    key = key_of(token)
    assert key is not None
    return server.store / ".hmacfs" / "partial" / key


def partial_files(server: HmacFileServer) -> list[Path]:
    """What there is of unfinished uploads, in a folder."""
    return list((server.store / ".hmacfs" / "partial").iterdir())


def is_kept(server: HmacFileServer, token: str) -> bool:
    """Whether there is anything of that unfinished upload."""
    return key_of(token) in server.files.unfinished()


def persist(upload: Upload, tally: Counter[str], before_piece: Callable[[Upload], None] = lambda _: None) -> None:
    """Upload it all, trying again after whatever may pass. ``tally`` counts the answers, by their status.

    Raises ``Refused``: for a session that is not known any more, too, which means starting over from scratch.
    """
    deadline = time.monotonic() + 120
    offset = 0 if upload.url else None
    while offset != len(upload.body):
        assert time.monotonic() < deadline, f"{upload.name} stands still at {upload.acknowledged}; {dict(tally)}"
        try:
            if offset is not None:
                before_piece(upload)
            answer = upload.probe() if offset is None else upload.send(offset)
        except (OSError, http.client.HTTPException):
            tally["cut off"] += 1
            answer = None
        if answer is not None:
            tally[str(answer.status)] += 1
        told = None if answer is None else _offset(upload, answer, probed=offset is None)
        if told is None or (answer is not None and answer.status >= 400):
            time.sleep(PAUSE_SECONDS)
        if told is not None:
            assert told >= upload.acknowledged, f"{upload.name} fell back from {upload.acknowledged} to {told}"
            upload.acknowledged = told
        offset = told


def _offset(upload: Upload, answer: Answer, *, probed: bool) -> int | None:
    """Where to go on; ``None`` if the server has to be asked (again)."""
    told = answer.headers["Upload-Offset"]
    if told is not None and answer.status in (200, 201, 202, 204, 409):
        return int(told)
    if answer.status in (408, 409, 503):
        return None
    if probed and answer.status == 200:  # the slot of a complete file
        return int(answer.headers["Content-Length"])
    if probed and answer.status == 404 and not upload.tokens:  # not begun
        return 0
    if answer.status == 201:  # created
        return 0
    raise Refused(answer)


def numbered(server: HmacFileServer, name: str, body: bytes, number: int, count: int, **headers: object) -> Answer:
    """A chunk whose MAC covers it alone, as the original's clients send it."""
    chunk = {"x_chunk_id": number, "x_total_chunks": count}
    return request(server, "PUT", server.sign_v(name, len(body)), body, **chunk, **headers)


def create(server: HmacFileServer, name: str, length: int, body: bytes = b"", **headers: object) -> Answer:
    """A tus creation whose signature is right."""
    target = server.sign_v(name, length)
    return request(server, "POST", target, body, content_length=len(body), upload_length=length, **TUS, **headers)


def patch(server: HmacFileServer, url: str, offset: object, body: bytes = b"", **headers: object) -> Answer:
    headers = {"content_type": PIECE_TYPE, "content_length": len(body), **TUS, **headers}
    return request(server, "PATCH", url, body, upload_offset=offset, **headers)
