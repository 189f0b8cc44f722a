"""What one slot and one client can take by uploads that are running (PROTOCOL section 3, "One right, one share")."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

import pytest

from tests.live.client import Client, request
from tests.live.pieces import PIECE_TYPE, TUS
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
MIB = 2**20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with HmacFileServer(tmp_path_factory.mktemp("server"), ReadTimeout="1s") as running:
        yield running
        running.stop()
        assert running.leftovers() == []


def begin_plain(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v("slow", MIB), content_length=MIB)
    return b"x"


def begin_chunked(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v3("PUT", "slow"), transfer_encoding="chunked")
    return b"1\r\nx\r\n"


def begin_chunk_extension(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v3("PUT", "slow"), transfer_encoding="chunked")
    client.send(b"5;")
    return b"x"


def begin_tus_piece(server: HmacFileServer, client: Client) -> bytes:
    made = request(server, "POST", server.sign_v("slow", MIB), content_length=0, upload_length=MIB, **TUS)
    headers = {"upload_offset": 0, "content_type": PIECE_TYPE, **TUS}
    client.head("PATCH", made.headers["Location"], content_length=MIB, **headers)
    return b"x"


def begin_range(server: HmacFileServer, client: Client) -> bytes:
    content_range = f"bytes 0-{MIB - 1}/{2 * MIB}"
    client.head("PUT", server.sign_v("slow-range", 2 * MIB), content_length=MIB, content_range=content_range)
    return b"x"


@pytest.mark.parametrize("begin", [begin_plain, begin_chunked, begin_chunk_extension, begin_tus_piece, begin_range])
def test_a_byte_now_and_then_does_not_outlive_the_read_timeout(
    impatient: HmacFileServer, begin: Callable[[HmacFileServer, Client], bytes]
) -> None:
    with Client(impatient) as client:
        piece = begin(impatient, client)
        ends = time.monotonic() + 20
        while not select.select([client.sock], [], [], 0.2)[0]:
            assert time.monotonic() < ends, "it goes on"
            client.send(piece)
        answer = client.answer()
    assert answer.status == 408
    assert b"too slowly" in answer.body
    assert impatient.stored() == []
