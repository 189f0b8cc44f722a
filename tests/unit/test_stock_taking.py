"""How often a request of an upload in pieces asks the object store how far that is: each time all parts are listed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hmacfs.dialects.content_range import RangePiece
from hmacfs.dialects.numbered import NumberedChunk
from hmacfs.dialects.pieces import Piece
from hmacfs.protocol.http1.responses import pairs_of
from hmacfs.protocol.keyring import Keyring
from hmacfs.uploads.creation import GIVES_WAY_SECONDS
from hmacfs.web.file_view import FileView
from hmacfs.web.guards import Guards
from hmacfs.web.head_view import HeadView
from hmacfs.web.locations import Locations
from hmacfs.web.messages import TUS_PATH, Request, Response
from hmacfs.web.slot_views import SlotViews
from hmacfs.web.tus_views import TusViews
from hmacfs.web.unproven import UnprovenLookups
from tests.stores.backends import ObjectBackend
from tests.stores.world import CONTENT, NAME, TTL, Body, World
from tests.unit.requests import EMPTY

PREFIX = "/upload/"
#: The bytes of two parts and a remainder, and those of the next piece.
FIRST, NEXT = CONTENT[:40], CONTENT[40:44]
RANGE, NEXT_RANGE = RangePiece(0, 40, 100), RangePiece(40, 44, 100)
CHUNK, NEXT_CHUNK = NumberedChunk(1, 9, 100), NumberedChunk(2, 9, 100)

#: The requests to the engine by which the store tells how far an upload is.
STAT = ["pages", "get", "parts"]
#: Those that a writer begins with: the upload is opened, and its name looked up.
OPEN = ["get", "pages", "parts", "head"]


class Server:
    """Its views. calls: the requests to the engine."""

    def __init__(self) -> None:
        self.world = World("objects")
        assert isinstance(self.world.backend, ObjectBackend)
        self.calls: list[str] = []
        store = self.world.backend.process(self._note)
        self.uploads = uploads = self.world.process(store)
        locations, unproven = Locations(PREFIX), UnprovenLookups(4)
        self.slots = SlotViews(uploads, locations)
        guards = Guards(Keyring([b"a secret of the unit tests"]), prefix=PREFIX)
        self.head = HeadView(FileView(store).serve, guards, self.slots, unproven)
        self.tus = TusViews(uploads, PREFIX, locations, unproven)
        self.token = ""

    def _note(self, name: str, when: str) -> bool:
        self.calls.extend([name] if when == "before" else [])
        return False

    def request(self, method: str, data: bytes | None = None, **headers: str) -> Request:
        environ = {f"HTTP_{key}": value for key, value in headers.items()}
        environ |= {"REQUEST_METHOD": method, "HTTP_TUS_RESUMABLE": "1.0.0"}
        environ["PATH_INFO"] = f"{PREFIX}{TUS_PATH}{self.token}"
        if data is not None:
            environ["CONTENT_LENGTH"] = str(len(data))
        request = Request(environ, "192.0.2.1", EMPTY if data is None else Body(data))
        request.name = NAME
        return request

    def put(self, piece: Piece, data: bytes, **headers: str) -> Response:
        return self.slots.put(self.request("PUT", data, **headers), piece)

    def begin(self, dialect: str) -> None:
        """An upload of which ``FIRST`` is stored."""
        if dialect == "tus":
            request = self.request("POST", FIRST, UPLOAD_LENGTH="100", UPLOAD_OFFSET="0")
            request.environ["CONTENT_TYPE"] = "application/offset+octet-stream"
            told = self.tus.create(request)
            self.token = dict(pairs_of(told.headers))["Location"].rpartition("/")[2]
        else:
            told = self.put(RANGE if dialect == "range" else CHUNK, FIRST)
            self.token = dict(pairs_of(told.headers))["X-Session-Token"]
        self.calls.clear()


def probe(server: Server) -> Response:
    return server.head.head(server.request("HEAD", X_SESSION_TOKEN=server.token))


def probe_by_tus(server: Server) -> Response:
    return server.tus.head(server.request("HEAD"))


def next_range(server: Server) -> Response:
    return server.put(NEXT_RANGE, NEXT)


def next_range_by_token(server: Server) -> Response:
    return server.put(NEXT_RANGE, NEXT, X_SESSION_TOKEN=server.token)


def next_chunk(server: Server) -> Response:
    return server.put(NEXT_CHUNK, NEXT)


def next_by_tus(server: Server) -> Response:
    return server.tus.patch(server.request("PATCH", NEXT, UPLOAD_OFFSET="40"))


def give_up(server: Server) -> Response:
    return server.tus.delete(server.request("DELETE"))


@pytest.mark.parametrize(
    ("dialect", "act", "expected"),
    [
        # the file, whether another upload has its name, and how far this one is
        ("range", probe, ["head", "head", *STAT]),
        ("numbered", probe, ["head", "head", *STAT]),
        ("tus", probe_by_tus, STAT),
        # without a token, whether there is (still) an upload
        ("range", next_range, ["head", *OPEN, "put"]),
        ("range", next_range_by_token, [*OPEN, "put"]),
        ("numbered", next_chunk, ["head", *OPEN, "put"]),
        ("tus", next_by_tus, [*OPEN, "put"]),
    ],
)
def test_a_request_takes_stock_once(dialect: str, act: Callable[[Server], Response], expected: list[str]) -> None:
    server = Server()
    server.begin(dialect)
    told = dict(pairs_of(act(server).headers))
    assert told["Upload-Offset"] == ("44" if "put" in expected else "40")
    assert server.calls == expected


def test_an_upload_that_is_given_up_is_counted_once() -> None:
    server = Server()
    server.begin("tus")
    give_up(server)
    assert server.calls[: len(OPEN)] == OPEN
    assert "parts" not in server.calls[len(OPEN) :]


def test_an_upload_that_is_swept_is_counted_once() -> None:
    """For the time of its last byte."""
    server = Server()
    server.begin("tus")
    server.world.now += 2 * TTL
    assert server.uploads.sweep().sessions == 1
    assert server.calls.count("parts") == 1


def test_each_upload_that_may_have_to_make_room_is_counted_once() -> None:
    server = Server()
    for _ in range(3):
        server.begin("tus")
    server.world.now += GIVES_WAY_SECONDS
    server.tus.create(server.request("POST", UPLOAD_LENGTH="100"))
    assert server.calls.count("parts") == 3 + 1, "the one that goes is opened"
