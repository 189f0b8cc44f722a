"""What one slot and one client can take by uploads that are running (PROTOCOL section 3, "One right, one share")."""

from __future__ import annotations

import contextlib
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.client import Client, request
from tests.live.pieces import PIECE_TYPE, TUS
from tests.servers import wait_until
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


# -- one running upload for a name ----------------------------------------------------------------


def test_a_second_upload_of_a_name_that_is_running_is_refused_in_all_workers(start_server: StartServer) -> None:
    server = start_server(Workers=3)
    body = bytes(MIB)
    url = server.sign_v("file", MIB)
    with Client(server) as first:
        first.head("PUT", url, content_length=MIB, expect="100-continue")
        assert first.informational().startswith(b"HTTP/1.1 100")
        for _ in range(12):
            with Client(server) as second:
                second.head("PUT", url, content_length=MIB, expect="100-continue", accept="application/problem+json")
                refused = second.answer()
            assert (refused.status, refused.headers["Retry-After"]) == (409, "5")
            assert b"upload-running" in refused.body
            small = request(server, "PUT", server.sign_v("file", 3), b"abc")
            assert (small.status, small.headers["Retry-After"]) == (409, "5")
        assert request(server, "PUT", server.sign_v("other", 3), b"abc").status == 201
        first.send(body)
        assert first.answer().status == 201
    taken = request(server, "PUT", url, body)
    assert (taken.status, taken.headers["Retry-After"]) == (409, None)
    assert server.complaints() == []


@pytest.mark.parametrize("length", [MIB, 3], ids=["large", "small"])
def test_an_upload_that_is_silent_gives_way_to_another_of_its_name(start_server: StartServer, length: int) -> None:
    """As a phone that has lost its network comes again."""
    server = start_server(Workers=3)
    with Client(server) as silent, Client(server) as sending:
        for client, name in ((silent, "file"), (sending, "sent")):
            client.head("PUT", server.sign_v(name, 2 * MIB), content_length=2 * MIB, expect="100-continue")
            client.informational()
        silent.send(b"lost")

        def is_stored() -> bool:
            sending.send(b"x")  # what sends now and then is not silent
            assert request(server, "PUT", server.sign_v("sent", 1), b"n").status == 409
            return request(server, "PUT", server.sign_v("file", length), b"n" * length).status == 201

        before = time.monotonic()
        wait_until(is_stored, timeout=25, what="the end of the silent one")
        assert time.monotonic() - before > 4
        assert (server.store / "file").read_bytes() == b"n" * length
        assert silent.answer().status == 409
        assert silent.is_closed()
        assert sending.stays_silent(0.01)
    wait_until(lambda: server.leftovers() == [], what="the end of the other")
    assert server.stored() == ["file"]
    assert server.complaints() == []


def test_the_name_of_a_killed_worker_is_free(start_server: StartServer) -> None:
    server = start_server(Workers=2)
    with Client(server) as client:
        client.head("PUT", server.sign_v("file", MIB), content_length=MIB, expect="100-continue")
        client.informational()
        assert request(server, "PUT", server.sign_v("file", 3), b"abc").status == 409
        for worker in server.workers():
            worker.kill()
        server.wait_until_ready()
        assert request(server, "PUT", server.sign_v("file", 3), b"abc").status == 201


def test_uploads_are_told_apart_after_a_purge_of_what_the_workers_share(start_server: StartServer) -> None:
    server = start_server(Workers=2, RuntimeDir="run")
    with Client(server) as client:
        client.head("PUT", server.sign_v("file", MIB), content_length=MIB, expect="100-continue")
        client.informational()
        shared = server.folder / "run" / "running"
        shared.unlink()
        wait_until(shared.exists, what="another")
        wait_until(lambda: server.log().count("running was removed") == 2, what="both workers' look")
        for _ in range(6):
            assert request(server, "PUT", server.sign_v("file", 3), b"abc").status == 409
        client.send(bytes(MIB))
        assert client.answer().status == 201


def test_a_slot_reserves_its_size_once(start_server: StartServer, small_disk: Path, tmp_path: Path) -> None:
    """As it was attacked: many connections with one slot, and no body, had all that was free."""
    server = start_server(StoreDir=str(small_disk), RuntimeDir=str(tmp_path / "run"), Workers=2, UploadMaxSize="1GB")
    server.store = small_disk
    url = server.sign_v("held", 8 * MIB)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Client(server)) for _ in range(72)]
        for client in attackers:
            client.head("PUT", url, content_length=8 * MIB)
        answers = Counter(client.answer().status for client in attackers if not client.stays_silent(2))
        assert answers == {409: 71}
        for number in range(10):
            assert request(server, "PUT", server.sign_v(f"file{number}", MIB), bytes(MIB)).status == 201
    wait_until(lambda: server.leftovers() == [], what="the end of what was held")
