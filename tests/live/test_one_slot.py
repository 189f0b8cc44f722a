"""A slot that is used in several ways, and answers that were lost (docs/protocol.md, sections 6.1 and 6.2)."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.client import Answer, Client, get, put, request
from tests.live.pieces import BODY, TUS, NumberedUpload, RangeUpload, TusUpload, Upload, begun, numbered, patch
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]

_names = (f"slot-{number}/a film.bin" for number in itertools.count())
SLOT_DIALECTS: tuple[type[Upload], ...] = (RangeUpload, NumberedUpload)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with HmacFileServer(
        tmp_path_factory.mktemp("server"), Workers=2, MaxSessionsPerClient=10_000, AcceptUnsizedChunks=True
    ) as running:
        yield running
        running.stop()
        (warning,) = running.complaints()
        assert "AcceptUnsizedChunks: a signature over one chunk is good for files of UploadMaxSize" in warning
        assert running.leftovers() == []


@pytest.fixture
def name() -> str:
    return next(_names)


def offset_of(answer: Answer) -> str | None:
    return answer.headers["Upload-Offset"]


# -- one dialect for one slot ---------------------------------------------------------------------


def test_a_range_does_not_go_on_from_a_chunk(server: HmacFileServer, name: str) -> None:
    """As it was found: chunk 1 of 4, then a range that was acknowledged, and whose bytes were dropped."""
    body = os.urandom(100)
    url = server.sign_v(name, 100)

    def chunk(number: int) -> Answer:
        sent = {"x_chunk_id": number, "x_total_chunks": 4, "x_file_size": 100}
        return request(server, "PUT", url, body[25 * (number - 1) : 25 * number], **sent)

    assert (chunk(1).status, offset_of(request(server, "HEAD", url))) == (202, "25")
    for token in (None, request(server, "HEAD", url).headers["X-Session-Token"]):
        refused = request(server, "PUT", url, body[25:75], content_range="bytes 25-74/100", x_session_token=token)
        assert (refused.status, offset_of(refused)) == (409, None)
        assert b"numbered chunks" in refused.body
        assert offset_of(request(server, "HEAD", url)) == "25"
    assert [chunk(number).status for number in (2, 3, 4)] == [202, 202, 201]
    assert get(server, name).body == body


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_chunk_does_not_go_on_from_a_range(server: HmacFileServer, name: str, number: int) -> None:
    upload = begun(RangeUpload, server, name)
    other = NumberedUpload(server, name, BODY, 40_000)
    refused = other.send(40_000 * (number - 1))
    assert (refused.status, offset_of(refused)) == (409, None)
    assert b"Content-Range" in refused.body
    assert offset_of(upload.probe()) == "40000"
    assert upload.send(40_000).status == 202
    assert upload.send(80_000).status == 201
    assert upload.stored().read_bytes() == BODY


def test_of_two_dialects_that_begin_at_once_one_goes_on(server: HmacFileServer) -> None:
    for _ in range(10):
        name = next(_names)
        uploads = [kind(server, name, BODY, 40_000) for kind in SLOT_DIALECTS]
        with Client(server) as one, Client(server) as two:
            for client, upload in ((one, uploads[0]), (two, uploads[1])):
                method, headers = upload.head_of(0)
                client.head(method, upload.url, content_length=40_000, **headers)
            for client in (one, two):
                client.send(BODY[:40_000])
            statuses = [client.answer().status for client in (one, two)]
        assert sorted(statuses) == [202, 409]
        winner = uploads[statuses.index(202)]
        assert offset_of(winner.probe()) == "40000"
        assert [winner.send(offset).status for offset in (40_000, 80_000)] == [202, 201]
        assert winner.stored().read_bytes() == BODY


class Visitor:
    """Sends pieces in a dialect in any order, and knows what was acknowledged to it."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    def step(self, chance: random.Random) -> int | None:
        """The offset that was acknowledged, ``None`` for a refusal."""
        upload = self.upload
        if isinstance(upload, TusUpload):
            if not upload.url:
                assert upload.create().status in (201, 409)
                return None
            told = upload.probe().headers["Upload-Offset"] if chance.random() < 0.8 else "7"
        else:
            told = request(upload.server, "HEAD", upload.url).headers["Upload-Offset"] if chance.random() < 0.8 else "0"
        offset = int(told or 0) // upload.size * upload.size
        if isinstance(upload, NumberedUpload):
            offset = min(offset, (len(upload.body) - 1) // upload.size * upload.size)
        elif chance.random() < 0.3:
            offset = int(told or 0)
        if offset >= len(upload.body):
            return None
        answer = upload.send(offset)
        assert answer.status in (200, 201, 202, 204, 409, 410), answer
        return int(answer.headers["Upload-Offset"]) if answer.status < 300 else None


@pytest.mark.parametrize("seed", range(25))
def test_what_was_acknowledged_is_never_taken_back(server: HmacFileServer, name: str, seed: int) -> None:
    """All ways of uploading are mixed on one slot, by several holders of its signature."""
    chance = random.Random(seed)
    body = chance.randbytes(1000)
    visitors = [Visitor(kind(server, name, body, chance.choice([170, 250, 400]))) for kind in SLOT_DIALECTS]
    visitors.append(Visitor(TusUpload(server, name, body, 300)))
    slot, acknowledged = server.sign_v(name, len(body)), 0
    for _ in range(60):
        visitor = chance.choice(visitors)
        told = visitor.step(chance)
        if chance.random() < 0.01:
            assert put(server, name, body).status in (201, 409)
        if told is not None and not isinstance(visitor.upload, TusUpload):
            acknowledged = max(acknowledged, told)
        head = request(server, "HEAD", slot)
        if head.status == 404:
            assert acknowledged == 0
        else:
            assert int(head.headers["Upload-Offset"] or head.headers["Content-Length"]) >= acknowledged
    assert put(server, name, body).status in (201, 409)
    assert get(server, name).body == body


# -- a whole file beside pieces -------------------------------------------------------------------


@pytest.mark.parametrize("kind", SLOT_DIALECTS)
def test_a_whole_file_may_come_first_and_is_what_the_slot_tells_of(
    server: HmacFileServer, name: str, kind: type[Upload]
) -> None:
    upload = begun(kind, server, name)
    assert put(server, name, BODY).status == 201
    probe = upload.probe()
    assert (probe.status, offset_of(probe), probe.headers["Content-Length"]) == (200, None, str(len(BODY)))
    refused = upload.send(40_000)
    assert (refused.status, offset_of(refused)) == (409, None)
    assert upload.probe().headers["ETag"] == get(server, name).headers["ETag"]


# -- a lost answer --------------------------------------------------------------------------------


def completed(kind: type[Upload], server: HmacFileServer, name: str) -> tuple[Upload, Answer]:
    """With the last piece's answer, which its client has not seen."""
    upload = begun(kind, server, name)
    assert upload.send(40_000).status == 202
    lost = upload.send(80_000)
    assert lost.status == 201
    return upload, lost


@pytest.mark.parametrize("kind", SLOT_DIALECTS)
@pytest.mark.parametrize("with_token", [False, True])
def test_the_last_piece_may_be_sent_again(
    server: HmacFileServer, name: str, kind: type[Upload], *, with_token: bool
) -> None:
    upload, lost = completed(kind, server, name)
    method, headers = upload.head_of(80_000)
    if with_token:
        headers["x_session_token"] = upload.token
    before = get(server, name)
    for _ in range(2):
        again = request(server, method, upload.url, upload.piece(80_000), **headers)
        assert (again.status, offset_of(again)) == (200, str(len(BODY)))
        for header in ("Location", "ETag", "X-Session-Token"):
            assert again.headers[header] == lost.headers[header]
    after = get(server, name)
    assert (after.body, after.headers["ETag"]) == (BODY, before.headers["ETag"])
    wrong = request(server, method, server.sign_v(name, 1), upload.piece(80_000), **headers)
    assert wrong.status == 403
    unsigned = request(server, method, server.path(name), upload.piece(80_000), **headers)
    assert unsigned.status == 403


def test_an_earlier_piece_of_a_complete_file_is_told_where_it_ends(server: HmacFileServer) -> None:
    upload, _ = completed(RangeUpload, server, next(_names))
    earlier = upload.send(40_000)
    assert (earlier.status, offset_of(earlier)) == (409, str(len(BODY)))
    upload, _ = completed(NumberedUpload, server, next(_names))
    earlier = upload.send(40_000)
    assert (earlier.status, offset_of(earlier)) == (200, str(len(BODY)))


@pytest.mark.parametrize("kind", SLOT_DIALECTS)
def test_a_file_that_came_in_another_way_is_not_taken_for_the_upload(
    server: HmacFileServer, kind: type[Upload]
) -> None:
    def last(name: str, of: type[Upload] = kind) -> tuple[int, str | None]:
        answer = of(server, name, BODY, 40_000).send(80_000)
        return answer.status, offset_of(answer)

    name = next(_names)
    assert put(server, name, BODY).status == 201
    assert last(name) == (409, None)
    other = SLOT_DIALECTS[1 - SLOT_DIALECTS.index(kind)]
    upload, _ = completed(other, server, next(_names))
    assert last(upload.name) == (409, None)
    tus = begun(TusUpload, server, next(_names), 80_000)
    assert tus.send(80_000).status == 204
    assert last(tus.name) == (409, None)
    # The operator removed the file, and another came.
    upload, _ = completed(kind, server, next(_names))
    token = {"x_session_token": upload.token}
    upload.stored().unlink()
    method, headers = upload.head_of(80_000)
    assert request(server, method, upload.url, upload.piece(80_000), **headers, **token).status == 404
    assert last(upload.name) == (409, "0")
    assert put(server, upload.name, BODY[::-1]).status == 201
    os.utime(upload.stored(), (1e9, 1e9))
    assert last(upload.name) == (409, None)
    assert request(server, method, upload.url, upload.piece(80_000), **headers, **token).status == 404
    assert upload.stored().read_bytes() == BODY[::-1]


def test_a_lost_answer_is_given_again_after_a_restart(start_server: StartServer) -> None:
    server = start_server()
    uploads = [completed(kind, server, kind.dialect)[0] for kind in SLOT_DIALECTS]
    server.stop()
    server.start()
    for upload in uploads:
        assert upload.send(80_000).status == 200
    assert server.complaints() == []


# -- what chunks say of the whole -----------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"x_total_chunks": 4},
        {"x_total_chunks": 2},
        {"x_file_size": len(BODY) - 1},
        {"x_file_size": len(BODY) + 1},
        {"x_file_size": 40_001},
        {"x_file_size": 39_999},
    ],
)
def test_chunks_that_tell_of_another_whole_are_refused(
    server: HmacFileServer, name: str, changed: dict[str, Any]
) -> None:
    """Each with a good signature."""
    upload = begun(NumberedUpload, server, name)
    said = {"x_chunk_id": 2, "x_total_chunks": 3, "x_file_size": len(BODY), **changed}
    target = server.sign_v(name, said["x_file_size"])
    for token in (None, upload.token):
        refused = request(server, "PUT", target, upload.piece(40_000), **said, x_session_token=token)
        assert (refused.status, offset_of(refused)) == (409, None)
    assert offset_of(upload.probe()) == "40000"
    assert [upload.send(offset).status for offset in (40_000, 80_000)] == [202, 201]
    refused = request(server, "PUT", target, upload.piece(40_000), **said)
    assert (refused.status, offset_of(refused)) == (409, None)
    assert upload.stored().read_bytes() == BODY


def test_a_size_that_is_told_for_some_chunks_only_is_refused(server: HmacFileServer, name: str) -> None:
    upload = begun(NumberedUpload, server, name)
    refused = numbered(server, name, upload.piece(40_000), 2, 3)
    assert (refused.status, offset_of(refused)) == (409, None)
    other = next(_names)
    assert numbered(server, other, BODY[:40_000], 1, 3).status == 202
    refused = NumberedUpload(server, other, BODY, 40_000).send(40_000)
    assert (refused.status, offset_of(refused)) == (409, None)


def test_numbers_may_have_leading_zeros(server: HmacFileServer, name: str) -> None:
    url = server.sign_v(name, 10)
    for number, status in (("001", 202), ("01", 200), ("0000000002", 201), ("2", 200)):
        sent: dict[str, Any] = {"x_chunk_id": number, "x_total_chunks": "02", "x_file_size": "0010"}
        assert request(server, "PUT", url, b"12345", **sent).status == status
    assert get(server, name).body == b"1234512345"


# -- the offset comes first -----------------------------------------------------------------------


def test_a_piece_that_starts_elsewhere_and_ends_beyond_is_told_the_offset(server: HmacFileServer, name: str) -> None:
    upload = begun(TusUpload, server, name)
    for offset, size in ((80_000, 40_000), (0, 100_001), (39_999, 60_002), (10**17, 1)):
        answer = patch(server, upload.url, offset, bytes(size))
        assert (answer.status, offset_of(answer)) == (409, "40000")
    assert patch(server, upload.url, 40_000, bytes(60_001)).status == 413
    assert patch(server, upload.url, 40_000, BODY[40_000:]).status == 204
    for offset in (99_999, 40_000):
        answer = patch(server, upload.url, offset, bytes(100))
        assert (answer.status, offset_of(answer)) == (409, "100000")
    assert patch(server, upload.url, 100_000, b"x").status == 413
    assert request(server, "HEAD", upload.url, **TUS).headers["Upload-Offset"] == "100000"
